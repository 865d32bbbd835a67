"""A study's account of its trials: dead ones are tried again and not for ever, and `cheapest` takes what holds."""

import dataclasses
import sqlite3
import subprocess
import sys
import time

import numpy as np
import optuna
import psutil
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from gesturepose.errors import InputError
from gesturepose.processes import ProcessIdentity
from gesturepose.search import study as study_module
from gesturepose.search.report import best_words, importances
from gesturepose.search.storage import VARIABLE, open_storage, storage_reported
from gesturepose.search.study import (
    SCORES,
    SEEN,
    Progress,
    Search,
    best_trials,
    complete_trials,
    dead_trials,
    directions,
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


def test_a_machine_that_has_been_silent_for_long_is_taken_for_dead(project, params, gone):
    search = search_of(params, trials=2)
    elsewhere = next_trial(search)
    own(search, elsewhere, dataclasses.replace(gone, host="another"))
    assert dead_trials(search) == []
    search.study._storage.set_trial_user_attr(elsewhere._trial_id, SEEN, time.time() - 601)
    assert [trial.number for trial in dead_trials(search)] == [0]
    again = next_trial(search)
    assert again.params == elsewhere.params and search.study.trials[0].state is TrialState.FAIL
    # A live process of this machine is not dead for having been silent, as after a night with the lid closed.
    search.study._storage.set_trial_user_attr(again._trial_id, SEEN, 0.0)
    assert dead_trials(search) == []


def test_a_trial_too_many_is_handed_back(project, params, monkeypatch):
    """Two machines that each see one trial missing, at the same moment."""
    search = search_of(params, trials=2)
    first, last = next_trial(search), next_trial(search)
    a_moment_before = Progress(done=0, running=(1,), failed=0, states={})
    with monkeypatch.context() as patch:
        patch.setattr(study_module, "progress", lambda search: a_moment_before)
        assert next_trial(search) is None
    for trial in (first, last):
        search.study.tell(trial, 0.5)
    now = progress(search)
    assert (now.done, now.failed, now.running) == (2, 0, ()) and next_trial(search) is None


def test_a_storage_that_breaks_later_is_named(project, params, monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/studies.db")
    search = search_of(params, trials=2)
    connection = sqlite3.connect(tmp_path / "studies.db")
    connection.execute("DROP TABLE trials")
    connection.close()
    with pytest.raises(InputError, match=r"the storage of studies sqlite.* does not work"), storage_reported():
        next_trial(search)


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


@pytest.mark.parametrize("objective", ["value", "front", "cheapest"])
def test_the_setting_that_decides_is_the_important_one(params, objective):
    """One setting decides which trial is the best, another which is the worst; whatever the study's objectives are."""
    space = {"loss.heatmap": {"low": 0.0, "high": 1.0}, "loss.depth": {"low": 0.0, "high": 1.0}}
    space |= {"labels.gesture": {"choices": [0.5, 1.0]}} if objective == "cheapest" else {}
    params = searched(params, objective=objective, space=space)
    search = Search(optuna.create_study(directions=list(directions(params))), "", params)
    drawn = np.random.default_rng(0).random((60, 2))
    for best, worst in drawn:
        value = float(best**8 - worst**8)
        scores = {"accuracy": value, "pck_30": value, "value": value, "label_cost": 1.0, "epoch": 1}
        parameters = {"loss.heatmap": float(best), "loss.depth": float(worst)}
        search.study.add_trial(
            optuna.trial.create_trial(
                values=values_of(search.params, scores),
                params=parameters,
                distributions={name: FloatDistribution(0.0, 1.0) for name in parameters},
                user_attrs={SCORES: scores},
            )
        )
    found = importances(search)
    assert found["loss.heatmap"] > 0.8 > 0.2 > found["loss.depth"]
