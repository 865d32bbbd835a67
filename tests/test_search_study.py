"""A study's account of its trials: dead ones are tried again and not for ever, and `cheapest` takes what holds."""

import dataclasses
import subprocess
import sys
import time

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from gesturepose.processes import ProcessIdentity
from gesturepose.search import storage
from gesturepose.search.report import best_words
from gesturepose.search.storage import VARIABLE, open_storage
from gesturepose.search.study import (
    SCORES,
    Search,
    best_trials,
    complete_trials,
    dead_trials,
    next_trial,
    progress,
    values_of,
)
from gesturepose.search.trial import _constrain
from test_search import searched


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)


def search_of(params, **changes):
    study = optuna.create_study(study_name="gesturepose-test", storage=open_storage())
    return Search(study, "gesturepose-test", searched(params, **changes))


@pytest.fixture
def gone():
    """A process of this host that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = ProcessIdentity.of(psutil.Process(process.pid))
    process.communicate()
    return identity


def own(search, trial, identity):
    for key, value in identity.tags().items():
        search.study._storage.set_trial_user_attr(trial._trial_id, key, value)


def test_a_trial_whose_process_dies_is_tried_three_times(project, params, gone):
    search = search_of(params, trials=2)
    first = next_trial(search)
    own(search, first, gone)
    assert [trial.number for trial in dead_trials(search)] == [0]
    for attempt in (2, 3):
        again = next_trial(search)
        assert again.params == first.params and again.user_attrs["gesturepose.attempt"] == attempt
        assert progress(search).done == 0
        own(search, again, gone)
    other = next_trial(search)
    assert other.params != first.params and "gesturepose.attempt" not in other.user_attrs
    now = progress(search)
    assert (now.done, now.failed, now.running) == (1, 1, (psutil.Process().pid,))
    assert next_trial(search) is None  # two trials in all: one failed for good, one is running
    assert now.states == {"FAIL": 3, "RUNNING": 1}


def test_a_host_that_has_been_silent_for_long_is_taken_for_dead(project, params, monkeypatch, tmp_path, gone):
    monkeypatch.setattr(storage, "_SILENT_S", 1)
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/studies.db")
    search = search_of(params, trials=2)
    elsewhere = next_trial(search)
    own(search, elsewhere, dataclasses.replace(gone, host="another"))
    assert dead_trials(search) == []
    time.sleep(2.5)  # the database's clock counts seconds
    assert [trial.number for trial in dead_trials(search)] == [0]
    again = next_trial(search)
    assert again.params == elsewhere.params and search.study.trials[0].state is TrialState.FAIL
    again.storage.record_heartbeat(again._trial_id)
    assert dead_trials(search) == []


def test_cheapest_is_the_least_labels_among_those_that_hold_the_value(project, params):
    search = search_of(
        params, space={"labels.gesture": {"choices": [0.2, 0.5, 1.0]}}, objective="cheapest", hold=0.6, trials=9
    )
    assert best_words(search) == "no trial is complete"
    for value, cost in ((0.5, 0.6), (0.7, 1.0), (0.6, 0.75), (0.9, 1.0)):
        if value == 0.7:
            assert best_words(search) == "no trial holds what it has to" and best_trials(search) == []
        trial = next_trial(search)
        scores = {"accuracy": value, "pck_30": value, "value": value, "label_cost": cost, "epoch": 1}
        trial.set_user_attr(SCORES, scores)
        _constrain(search, trial, value)
        search.study.tell(trial, values_of(search.params, scores))
    assert [trial.number for trial in best_trials(search)] == [2] == [search.study.best_trial.number]
    assert [trial.number for trial in complete_trials(search)] == [2, 3, 1, 0]
    assert "label cost 0.750" in best_words(search)
