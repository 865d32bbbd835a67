"""One parent run per pipeline execution, and the end of runs whose process is gone.

DVC calls nothing when an execution starts or ends, so the execution is the dvc process, or what runs several of them:
stages that find the same one share a parent, whose status is set again after each of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import psutil
from mlflow.entities import Run

from gesturepose.processes import ProcessIdentity, enclosing_dvc_process, enclosing_runner
from gesturepose.tracking.store import STORE_ERRORS, Store, open_store, store_error

PARENT = "mlflow.parentRunId"
_UNFINISHED = ("RUNNING", "SCHEDULED")


def join_execution(store: Store, git_tags: Mapping[str, str]) -> str:
    """The id of this execution's parent run, found or created, and marked as running. Call under the store's lock."""
    runner, dvc = enclosing_runner(), enclosing_dvc_process()
    owner = ProcessIdentity.of(runner.process if runner else dvc or psutil.Process())
    same_pid = store.search(f"tags.`gesturepose.pid` = '{owner.pid}' and tags.`gesturepose.kind` = 'execution'")
    for run in same_pid:
        identity = ProcessIdentity.from_tags(run.data.tags)
        if identity is not None and identity.same_process(owner):
            store.client.update_run(run.info.run_id, status="RUNNING")
            return run.info.run_id
    own_name = runner.name if runner else "dvc" if dvc else "single stage"
    name = os.environ.get("DVC_EXP_NAME") or own_name
    tags = {"gesturepose.kind": "execution", **owner.tags(), **git_tags}
    run = store.client.create_run(
        store.experiment_id, tags=tags, run_name=f"{name} {git_tags['gesturepose.git.commit'][:7]}"
    )
    return run.info.run_id


def settle_execution(store: Store, parent_id: str) -> bool:
    """Set the parent's status from its children's; it stays as it is, and False is returned, while one of them runs."""
    with store.lock:
        children = {run.info.status for run in store.search(f"tags.`{PARENT}` = '{parent_id}'")}
        if children & set(_UNFINISHED):
            return False
        status = "FINISHED" if children == {"FINISHED"} else "FAILED" if children else "KILLED"
        store.client.set_terminated(parent_id, status)
        return True


def dead_runs(store: Store | None = None) -> list[Run]:
    """The unfinished runs of this host whose process is gone (by SIGKILL, or a loss of power)."""
    store = store or open_store()
    try:
        return [run for run in store.search("attributes.status = 'RUNNING'") if _owner_is_dead(run)]
    except STORE_ERRORS as error:
        raise store_error(store.uri, error) from error


def reap_dead_runs(store: Store | None = None) -> list[str]:
    """End `dead_runs` as KILLED.

    Returns:
        The ids of the ended runs of stages, studies and trials, and of the executions that were settled.
    """
    store = store or open_store()
    ended: list[str] = []
    try:
        with store.lock:
            parents: dict[str, None] = {}
            for run in dead_runs(store):
                if run.data.tags.get("gesturepose.kind") in ("study", "trial"):  # a search settles its own
                    store.client.set_terminated(run.info.run_id, "KILLED")
                    ended.append(run.info.run_id)
                    continue
                parent_id = run.data.tags.get(PARENT)
                if parent_id is not None:
                    store.tag(run.info.run_id, {"gesturepose.error": "the process ended without a word"})
                    store.client.set_terminated(run.info.run_id, "KILLED")
                    ended.append(run.info.run_id)
                parents[parent_id or run.info.run_id] = None
            ended += [parent_id for parent_id in parents if settle_execution(store, parent_id)]
    except STORE_ERRORS as error:
        raise store_error(store.uri, error) from error
    return ended


def _owner_is_dead(run: Run) -> bool:
    owner = ProcessIdentity.from_tags(run.data.tags)
    return owner is not None and owner.is_dead()
