"""Every stage run as an MLflow run, child of one run per pipeline execution."""

from __future__ import annotations

import os

# Read by MLflow when it is imported: a pipeline opens no connection that nobody asked for.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines a stage, with a server

from mlflow.data.dataset_source_registry import register_dataset_source

from gesturepose.tracking.comparisons import find_trained, log_comparison
from gesturepose.tracking.datasets import DvcDatasetSource
from gesturepose.tracking.durations import FinishedStage, finished_stages
from gesturepose.tracking.executions import dead_runs, reap_dead_runs
from gesturepose.tracking.link import StageLink, link_cached_runs
from gesturepose.tracking.stage_run import StageRun, stage_run
from gesturepose.tracking.store import EXPERIMENT, FOLDER, open_store, shown_uri, tracking_uri

# So that `mlflow.data.get_source(…)` knows our data. An entry point cannot do it: MLflow loads those in the middle
# of its own import, when its client is not yet there.
register_dataset_source(DvcDatasetSource)  # type: ignore[arg-type]  # annotated as an instance; it takes classes

__all__ = [
    "EXPERIMENT",
    "FOLDER",
    "DvcDatasetSource",
    "FinishedStage",
    "StageLink",
    "StageRun",
    "dead_runs",
    "find_trained",
    "finished_stages",
    "link_cached_runs",
    "log_comparison",
    "open_store",
    "reap_dead_runs",
    "shown_uri",
    "stage_run",
    "tracking_uri",
]
