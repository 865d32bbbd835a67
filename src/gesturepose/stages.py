"""What all training stages have in common: epochs are logged as they come, and then the results are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gesturepose.checkpoint import save_weights, write_atomically
from gesturepose.experiment import Training, fit, history_table
from gesturepose.tracking import StageRun


def run_training(
    training: Training,
    run: StageRun,
    *,
    weights: Path,
    state: Callable[[], Mapping[str, Tensor]],
    header: Mapping[str, Any],
    history: Path | None = None,
) -> None:
    """Train to the end, from the checkpoint of an interrupted attempt where there is one.

    Args:
        weights: the file that gets `state()` of the trained network, with `header`.
        history: the table that gets the losses and scores of each epoch, which MLflow has in any case.
    """
    leads = training.execution.world.leads
    for epoch in fit(training, run.checkpoint):
        if leads:
            print(epoch, flush=True)
        run.log_metrics(epoch.metrics, step=epoch.number)
    if not leads:
        return
    save_weights(weights, state(), header)
    if history is not None:
        table = history_table(training.history).round(6)
        write_atomically(history, table.to_csv(index=False, lineterminator="\n").encode())
        run.log_artifact(history)
    run.drop_checkpoint()
