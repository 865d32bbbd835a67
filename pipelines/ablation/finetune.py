"""Fine-tune a seed's trunk on all poses of the training videos, on another choice of crop: `finetune.py frame SEED`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer

from gesturepose.data.prepared import PreparedData
from gesturepose.errors import exit_on_input_error
from gesturepose.experiment import load_trunk, uses_gpu
from gesturepose.parallel import processes
from gesturepose.params import load_params
from gesturepose.stages import run_training
from gesturepose.steps import step_finetuning
from gesturepose.tracking import stage_run

PREPARED = "data/ablation/prepared_{}"
TRUNKS = Path("data/weak/trunks")
FINETUNED = Path("data/ablation/finetuned")


def main(crop: Literal["frame"], seed: int) -> None:
    params = load_params()
    with (
        processes(on_gpu=uses_gpu(params.runtime)) as world,
        stage_run(
            f"finetune-{crop}-{seed}",
            params=params,
            sections=("network", "augment", "runtime", "weak"),
            cell={"crop": crop, "seed": seed},
            resume=True,
            world=world,
        ) as run,
    ):
        folder = Path(PREPARED.format(crop))
        data = PreparedData.open(folder)
        run.log_dataset(data.name, data.fingerprint, folder, context="training")
        trunk = load_trunk(params.network, TRUNKS / f"{seed}.safetensors")
        every = frozenset(video.key for video in data.split("train"))
        run_training(
            step_finetuning(params, data, trunk, pose_labelled=every, seed=seed, world=world),
            run,
            weights=FINETUNED / f"{crop}-{seed}.safetensors",
            state=trunk.state_dict,
            header={"backbone": params.network.backbone},
        )


if __name__ == "__main__":
    with exit_on_input_error():
        typer.run(main)
