"""Train one cell of the label-efficiency curves: `cell.py pose|gesture METHOD RATIO SEED`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import typer

from gesturepose.cells import Cell, all_cells
from gesturepose.data.labels import LabelSubset
from gesturepose.data.prepared import PreparedData
from gesturepose.errors import InputError, exit_on_input_error
from gesturepose.experiment import load_trunk, network_header, uses_gpu
from gesturepose.parallel import processes
from gesturepose.params import load_params
from gesturepose.provenance import file_digest
from gesturepose.stages import run_training
from gesturepose.tracking import stage_run
from gesturepose.weak import weak_training

PREPARED = Path("data/prepared")
LABELS = Path("data/weak/labels")
TRUNKS = Path("data/weak/trunks")
FINETUNED = Path("data/weak/finetuned")
CELLS = Path("data/weak/cells")


def main(
    direction: Literal["pose", "gesture"], method: Literal["baseline", "weak", "teacher"], ratio: float, seed: int
) -> None:
    params = load_params()
    cell = Cell(direction, method, ratio, seed)
    if cell not in all_cells(params.weak):
        raise InputError(
            f"{cell.name} is no cell of params.yaml", hint="See ratios, seeds and methods in section weak."
        )
    sections = ("network", "loss", "augment", "runtime", "weak")
    with (
        processes(on_gpu=uses_gpu(params.runtime)) as world,
        stage_run(cell.name, params=params, sections=sections, cell=asdict(cell), resume=True, world=world) as run,
    ):
        data = PreparedData.open(PREPARED)
        run.log_dataset(data.name, data.fingerprint, PREPARED, context="training")
        labels = LabelSubset.read(LABELS, data, ratio=ratio, seed=seed)
        if cell.direction == "pose":
            start = FINETUNED / f"{ratio}-{seed}.safetensors"
        elif cell.method == "baseline":  # it knows no pose
            start = TRUNKS / f"{seed}.safetensors"
        else:
            start = FINETUNED / f"all-{seed}.safetensors"
        training = weak_training(params, data, load_trunk(params.network, start), cell, labels, world)
        weights = CELLS / f"{cell.name}.safetensors"
        run_training(
            training, run, weights=weights, state=training.weights, header=network_header(params.network, data)
        )
        if world.leads:
            run.log_final_metrics({"gesturepose": {"weights": file_digest(weights)}})


if __name__ == "__main__":
    with exit_on_input_error():
        typer.run(main)
