"""Compute the optical flow of the prepared crops for the temporal stream."""

from __future__ import annotations

from pathlib import Path

from gesturepose.data.prepared import PreparedData
from gesturepose.errors import exit_on_input_error
from gesturepose.params import load_params
from gesturepose.references.flow import write_flow
from gesturepose.tracking import stage_run

PREPARED = Path("data/prepared")
FLOW = Path("data/ablation/flow.npy")


def main() -> None:
    params = load_params()
    with stage_run("flow", params=params, sections=()) as run:
        data = PreparedData.open(PREPARED)
        run.log_dataset(data.name, data.fingerprint, PREPARED, context="preparation")
        write_flow(data, FLOW, workers=params.runtime.workers)


if __name__ == "__main__":
    with exit_on_input_error():
        main()
