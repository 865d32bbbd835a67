"""Train the whole collaborative network end to end (Eq. 5)."""

from __future__ import annotations

from pathlib import Path

from gesturepose.data.prepared import PreparedData
from gesturepose.errors import exit_on_input_error
from gesturepose.experiment import load_trunk, network_header, uses_gpu
from gesturepose.parallel import processes
from gesturepose.params import load_params
from gesturepose.stages import run_training
from gesturepose.tracking import stage_run
from gesturepose.trainings import collaborative_training

PREPARED = Path("data/prepared")
FINETUNED = Path("data/models/finetune.safetensors")
WEIGHTS = Path("data/models/train.safetensors")
HISTORY = Path("reports/train/history.csv")


def main() -> None:
    params = load_params()
    sections = ("network", "loss", "augment", "runtime", "labels", "train")
    with (
        processes(on_gpu=uses_gpu(params.runtime)) as world,
        stage_run("train", params=params, sections=sections, resume=True, world=world) as run,
    ):
        data = PreparedData.open(PREPARED)
        run.log_dataset(data.name, data.fingerprint, PREPARED, context="training")
        training = collaborative_training(params, data, load_trunk(params.network, FINETUNED), world)
        run_training(
            training,
            run,
            weights=WEIGHTS,
            state=training.weights,
            header=network_header(params.network, data),
            history=HISTORY,
        )


if __name__ == "__main__":
    with exit_on_input_error():
        main()
