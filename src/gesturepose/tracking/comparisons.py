"""Comparisons of revisions as runs, and the runs behind the cells that they compare."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from mlflow.entities import Metric

from gesturepose.processes import ProcessIdentity
from gesturepose.tracking.store import STORE_ERRORS, Store, open_store, store_error

WEIGHTS = "gesturepose.weights"
_LOCAL_PAGES = "http://127.0.0.1:5000"  # where `gesturepose ui` serves them
_BATCH_METRICS = 1000  # MLflow's limit on one request


def find_trained(digests: Iterable[str], store: Store | None = None) -> dict[str, str]:
    """The address on MLflow's pages of the run that trained each weights file, by the file's SHA-256.

    One search for all; a digest that no run of this store has is left out, and of several runs the newest counts.
    """
    wanted = set(digests)
    store = store or open_store()
    try:
        runs = store.search(f"tags.`{WEIGHTS}` LIKE '%'") if wanted else []
    except STORE_ERRORS as error:
        raise store_error(store.uri, error) from error
    found: dict[str, str] = {}
    for run in runs:  # newest first
        digest = run.data.tags[WEIGHTS]
        if digest in wanted:
            found.setdefault(digest, run_address(store, run.info.run_id))
    return found


def run_address(store: Store, run_id: str) -> str:
    """A run on MLflow's pages: the server's, or those that `gesturepose ui` serves."""
    parts = urlsplit(store.uri)
    pages = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.scheme.startswith("http") else _LOCAL_PAGES
    return f"{pages}/#/experiments/{store.experiment_id}/runs/{run_id}"


def log_comparison(
    revisions: Mapping[str, str], gains: Mapping[str, float], files: Iterable[Path], store: Store | None = None
) -> str:
    """Keep a comparison as a finished run of kind `comparison`.

    Args:
        revisions: commit by name, in order; tags `gesturepose.revision.0` and so on hold both.
        gains: metrics by name.
        files: the page and its picture.

    Returns:
        The run's id.
    """
    store = store or open_store()
    tags = {"gesturepose.kind": "comparison", **ProcessIdentity.of(psutil.Process()).tags()}
    tags |= {f"gesturepose.revision.{n}": f"{name} {sha}" for n, (name, sha) in enumerate(revisions.items())}
    now_ms = int(time.time() * 1000)
    metrics = [Metric(name, value, now_ms, 0) for name, value in gains.items()]
    try:
        with store.lock:
            run = store.client.create_run(store.experiment_id, tags=tags, run_name=" | ".join(revisions)[:200])
        run_id = run.info.run_id
        for start in range(0, len(metrics), _BATCH_METRICS):
            store.client.log_batch(run_id, metrics=metrics[start : start + _BATCH_METRICS])
        for file in files:
            store.client.log_artifact(run_id, str(file))
        store.client.set_terminated(run_id, "FINISHED")
    except STORE_ERRORS as error:
        raise store_error(store.uri, error) from error
    return run_id
