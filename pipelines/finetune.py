"""Make the backbone sensitive to hand joints: L2d alone (Sec. 3.5)."""

from __future__ import annotations

from pathlib import Path

from gesturepose.data.prepared import PreparedData
from gesturepose.errors import exit_on_input_error
from gesturepose.experiment import load_trunk, uses_gpu
from gesturepose.parallel import processes
from gesturepose.params import load_params
from gesturepose.stages import run_training
from gesturepose.tracking import stage_run
from gesturepose.trainings import finetuning

PREPARED = Path("data/prepared")
BACKBONE = Path("data/models/backbone.safetensors")
WEIGHTS = Path("data/models/finetune.safetensors")
HISTORY = Path("reports/finetune/history.csv")


def main() -> None:
    params = load_params()
    sections = ("network", "augment", "runtime", "labels", "finetune")
    with (
        processes(on_gpu=uses_gpu(params.runtime)) as world,
        stage_run("finetune", params=params, sections=sections, resume=True, world=world) as run,
    ):
        data = PreparedData.open(PREPARED)
        run.log_dataset(data.name, data.fingerprint, PREPARED, context="training")
        trunk = load_trunk(params.network, BACKBONE)
        run_training(
            finetuning(params, data, trunk, world),
            run,
            weights=WEIGHTS,
            state=trunk.state_dict,
            header={"backbone": params.network.backbone},
            history=HISTORY,
        )


if __name__ == "__main__":
    with exit_on_input_error():
        main()
