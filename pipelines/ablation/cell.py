"""Train a row of the tables that is a collaborative network: `cell.py ROW SEED`."""

from __future__ import annotations

from pathlib import Path

import typer

from gesturepose.ablation.rows import CROP_ROW, network_rows, row_settings
from gesturepose.ablation.training import row_training
from gesturepose.data.prepared import PreparedData
from gesturepose.errors import InputError, exit_on_input_error
from gesturepose.experiment import load_trunk, network_header, uses_gpu
from gesturepose.parallel import processes
from gesturepose.params import load_params
from gesturepose.provenance import file_digest
from gesturepose.stages import run_training
from gesturepose.tracking import stage_run

PREPARED = Path("data/prepared")
OTHER_CROP = Path("data/ablation")
FINETUNED = Path("data/weak/finetuned")
CELLS = Path("data/ablation/cells")


def main(row: str, seed: int) -> None:
    params = load_params()
    if row not in network_rows(params.ablation):
        raise InputError(
            f"no row {row!r}; params.yaml has {', '.join(network_rows(params.ablation))}", hint="See ablation.rows."
        )
    with (
        processes(on_gpu=uses_gpu(params.runtime)) as world,
        stage_run(
            f"{row}-{seed}",
            params=params,
            sections=("network", "loss", "augment", "runtime", "ablation"),
            cell={"row": row, "seed": seed},
            resume=True,
            world=world,
        ) as run,
    ):
        prepared, trunk = PREPARED, FINETUNED / f"all-{seed}.safetensors"
        for crop in params.ablation.crops:
            if row == CROP_ROW.format(crop):
                prepared, trunk = OTHER_CROP / f"prepared_{crop}", OTHER_CROP / f"finetuned/{crop}-{seed}.safetensors"
        data = PreparedData.open(prepared)
        run.log_dataset(data.name, data.fingerprint, prepared, context="training")
        training = row_training(params, data, load_trunk(params.network, trunk), row, seed, world)
        weights = CELLS / f"{row}-{seed}.safetensors"
        header = network_header(row_settings(row, params.network), data)
        run_training(training, run, weights=weights, state=training.weights, header=header)
        if world.leads:
            run.log_final_metrics({"gesturepose": {"weights": file_digest(weights)}})


if __name__ == "__main__":
    with exit_on_input_error():
        typer.run(main)
