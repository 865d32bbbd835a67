"""Fine-tune a seed's trunk on the poses of a label subset, or of all training videos: `finetune.py RATIO|all SEED`."""

from __future__ import annotations

from pathlib import Path

import typer

from gesturepose.data.labels import LabelSubset
from gesturepose.data.prepared import PreparedData
from gesturepose.errors import exit_on_input_error
from gesturepose.experiment import load_trunk, uses_gpu
from gesturepose.parallel import processes
from gesturepose.params import load_params
from gesturepose.stages import run_training
from gesturepose.steps import step_finetuning
from gesturepose.tracking import stage_run

PREPARED = Path("data/prepared")
LABELS = Path("data/weak/labels")
TRUNKS = Path("data/weak/trunks")
FINETUNED = Path("data/weak/finetuned")


def main(ratio: str, seed: int) -> None:
    params = load_params()
    sections = ("network", "augment", "runtime", "weak")
    with (
        processes(on_gpu=uses_gpu(params.runtime)) as world,
        stage_run(
            f"finetune-{ratio}-{seed}",
            params=params,
            sections=sections,
            cell={"ratio": ratio, "seed": seed},
            resume=True,
            world=world,
        ) as run,
    ):
        data = PreparedData.open(PREPARED)
        run.log_dataset(data.name, data.fingerprint, PREPARED, context="training")
        if ratio == "all":
            pose_labelled = frozenset(video.key for video in data.split("train"))
        else:
            pose_labelled = frozenset(LabelSubset.read(LABELS, data, ratio=float(ratio), seed=seed).pose)
        trunk = load_trunk(params.network, TRUNKS / f"{seed}.safetensors")
        run_training(
            step_finetuning(params, data, trunk, pose_labelled=pose_labelled, seed=seed, world=world),
            run,
            weights=FINETUNED / f"{ratio}-{seed}.safetensors",
            state=trunk.state_dict,
            header={"backbone": params.network.backbone},
        )


if __name__ == "__main__":
    with exit_on_input_error():
        typer.run(main)
