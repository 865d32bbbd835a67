"""Lineage for results that DVC took from its run-cache: such a stage does not run, so no run names its commit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gesturepose.provenance import UNKNOWN, GitState, git_state, project_root, read_pipeline
from gesturepose.tracking.store import STORE_ERRORS, Store, open_store, store_error

COMMIT = "gesturepose.git.commit"
FURTHER_COMMITS = "gesturepose.commits"
FINGERPRINT = "gesturepose.fingerprint"
_TAG_LIMIT = 8000  # characters, MLflow's


@dataclass(frozen=True)
class StageLink:
    """The run that made a stage's present result; `run_id` is None where no finished run has its fingerprint."""

    stage: str
    fingerprint: str
    run_id: str | None
    linked: bool  # the commit was added now


def link_cached_runs(root: Path | None = None) -> tuple[StageLink, ...]:
    """For each stage of the workspace, find its finished run and note the present commit on it.

    With uncommitted changes the commit does not describe the results: runs are found, and nothing is noted.
    """
    root = root or project_root()
    pipeline = read_pipeline(root)
    git = git_state(root, pipeline)
    store = open_store()
    try:
        with store.lock:
            return tuple(
                _link(store, git, stage.address, pipeline.fingerprint(stage.address)) for stage in pipeline.stages
            )
    except STORE_ERRORS as error:
        raise store_error(store.uri, error) from error


def _link(store: Store, git: GitState, stage: str, fingerprint: str) -> StageLink:
    runs = store.search(f"tags.`{FINGERPRINT}` = '{fingerprint}' and attributes.status = 'FINISHED'")
    if not runs:
        return StageLink(stage, fingerprint, None, False)
    run = runs[0]
    known = run.data.tags.get(FURTHER_COMMITS, "").split()
    # A run of a dirty tree came from its commit and a patch, which is not the commit.
    clean = run.data.tags.get("gesturepose.git.dirty") == "false"
    new = git.commit not in known and not (clean and run.data.tags.get(COMMIT) == git.commit)
    if git.dirty or git.commit == UNKNOWN or not new:
        return StageLink(stage, fingerprint, run.info.run_id, False)
    commits = " ".join([*known, git.commit])
    if len(commits) > _TAG_LIMIT:
        commits = commits[-_TAG_LIMIT:].partition(" ")[2]
    store.tag(run.info.run_id, {FURTHER_COMMITS: commits})
    return StageLink(stage, fingerprint, run.info.run_id, True)
