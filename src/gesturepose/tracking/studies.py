"""Studies and their trials as runs: a parent a study, a child a trial, whose states follow the study's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from mlflow.entities import Metric, Param, Run

from gesturepose.params import flatten
from gesturepose.processes import ProcessIdentity
from gesturepose.provenance import git_state, project_root
from gesturepose.tracking.executions import PARENT
from gesturepose.tracking.link import COMMIT
from gesturepose.tracking.store import STORE_ERRORS, Store, open_store, store_error

STUDY, TRIAL, STATE = "gesturepose.study", "gesturepose.trial", "gesturepose.trial.state"
_ERROR = "gesturepose.error"
_BATCH_PARAMS = 100  # MLflow's limit on one request
_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "FINISHED", "FAIL": "FAILED"}


@dataclass(frozen=True)
class EndedTrial:
    """What a study knows of a trial that has ended."""

    number: int
    state: str  # COMPLETE, PRUNED or FAIL
    killed: bool  # its process died, and another trial has taken its values up
    error: str


class TrialRun:
    """What a running trial logs to."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.run_id = run_id
        self._store = store

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the values of one epoch in one batch."""
        now_ms = int(time.time() * 1000)
        with reported(self._store):
            self._store.client.log_batch(
                self.run_id, metrics=[Metric(name, float(value), now_ms, step) for name, value in metrics.items()]
            )

    def end(self, ended: EndedTrial) -> None:
        with reported(self._store):
            _end(self._store, self.run_id, ended)


def open_study_run(study: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """The id of a study's parent run, found or created, and marked as running for this process.

    Args:
        params: settings of the study, nested or with dotted keys.

    Raises:
        InputError: the store does not answer.
    """
    store = open_store()
    git = git_state(project_root())
    tags = {**tags, "gesturepose.kind": "study", STUDY: study, COMMIT: git.commit}
    tags |= {"gesturepose.git.dirty": str(git.dirty).lower(), **ProcessIdentity.of(psutil.Process()).tags()}
    with reported(store), store.lock:
        found = store.search(f"tags.`{STUDY}` = '{study}' and tags.`gesturepose.kind` = 'study'")
        if found:
            run_id = found[-1].info.run_id
            store.client.update_run(run_id, status="RUNNING")
            store.tag(run_id, tags)
            return run_id
        run_id = store.client.create_run(store.experiment_id, tags=tags, run_name=study).info.run_id
        _log_params(store, run_id, params)
        return run_id


def open_trial_run(parent_id: str, study: str, number: int, params: Mapping[str, Any]) -> TrialRun:
    """The run of a trial that begins now, in this process."""
    store = open_store()
    tags = {"gesturepose.kind": "trial", STUDY: study, TRIAL: str(number), PARENT: parent_id}
    tags |= ProcessIdentity.of(psutil.Process()).tags()
    with reported(store):
        with store.lock:
            run_id = store.client.create_run(store.experiment_id, tags=tags, run_name=f"{study} {number}").info.run_id
        _log_params(store, run_id, params)
    return TrialRun(store, run_id)


def settle_trials(parent_id: str, study: str, ended: Iterable[EndedTrial]) -> None:
    """Bring the runs of ended trials to the states that the study has, whatever their processes came to.

    A trial whose process died before it opened a run gets one.
    """
    store = open_store()
    with reported(store), store.lock:
        runs = {int(run.data.tags[TRIAL]): run for run in trial_runs(store, study)}
        for trial in ended:
            run = runs.get(trial.number)
            if run is None:
                tags = {"gesturepose.kind": "trial", STUDY: study, TRIAL: str(trial.number), PARENT: parent_id}
                run = store.client.create_run(store.experiment_id, tags=tags, run_name=f"{study} {trial.number}")
            if run.data.tags.get(STATE) != trial.state or run.info.status == "RUNNING":
                _end(store, run.info.run_id, trial)


def close_study_run(parent_id: str, status: str, values: Mapping[str, float]) -> None:
    """End a study's run, unless its status is to stay RUNNING, with its best values."""
    store = open_store()
    now_ms = int(time.time() * 1000)
    with reported(store):
        metrics = [Metric(name, float(value), now_ms, 0) for name, value in values.items()]
        store.client.log_batch(parent_id, metrics=metrics)
        if status != "RUNNING":
            store.client.set_terminated(parent_id, status)


def log_study_files(parent_id: str, files: Iterable[Path]) -> None:
    """Keep the files that show a study with its run."""
    store = open_store()
    with reported(store):
        for file in files:
            store.client.log_artifact(parent_id, str(file))


def trial_runs(store: Store, study: str) -> list[Run]:
    """All runs of a study's trials, newest first."""
    return store.search(f"tags.`{STUDY}` = '{study}' and tags.`gesturepose.kind` = 'trial'")


@contextmanager
def reported(store: Store) -> Iterator[None]:
    """A failure of the store as what a user can do about it."""
    try:
        yield
    except STORE_ERRORS as error:
        raise store_error(store.uri, error) from error


def _end(store: Store, run_id: str, ended: EndedTrial) -> None:
    tags = {STATE: ended.state}
    if ended.error:
        tags[_ERROR] = ended.error[-4000:]
    store.tag(run_id, tags)
    store.client.set_terminated(run_id, "KILLED" if ended.killed else _STATUS[ended.state])


def _log_params(store: Store, run_id: str, params: Mapping[str, Any]) -> None:
    entries = [Param(name, value if isinstance(value, str) else json.dumps(value)) for name, value in flatten(params)]
    for start in range(0, len(entries), _BATCH_PARAMS):
        store.client.log_batch(run_id, params=entries[start : start + _BATCH_PARAMS])
