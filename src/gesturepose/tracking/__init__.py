"""Every stage run as an MLflow run, child of one run per pipeline execution."""

from __future__ import annotations

import os

# Read by MLflow when it is imported: a pipeline opens no connection that nobody asked for.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from gesturepose.tracking.datasets import DvcDatasetSource
from gesturepose.tracking.executions import reap_dead_runs
from gesturepose.tracking.link import StageLink, link_cached_runs
from gesturepose.tracking.stage_run import StageRun, stage_run
from gesturepose.tracking.store import EXPERIMENT, tracking_uri

__all__ = [
    "EXPERIMENT",
    "DvcDatasetSource",
    "StageLink",
    "StageRun",
    "link_cached_runs",
    "reap_dead_runs",
    "stage_run",
    "tracking_uri",
]
