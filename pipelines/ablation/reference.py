"""Train a reference system: `reference.py NAME SEED`."""

from __future__ import annotations

from pathlib import Path

import typer

from gesturepose.ablation.rows import COMPLETE, reference_rows
from gesturepose.data.prepared import PreparedData
from gesturepose.errors import InputError, exit_on_input_error
from gesturepose.experiment import load_network, load_trunk, predict_videos, uses_gpu
from gesturepose.parallel import World, processes
from gesturepose.params import Params, load_params
from gesturepose.provenance import file_digest
from gesturepose.references.cells import STREAM_NAMES, reference_header, reference_training
from gesturepose.references.flow import FlowStacks
from gesturepose.references.gesture_only import FrameInput
from gesturepose.references.pose_lstm import FramePoses
from gesturepose.stages import run_training
from gesturepose.tracking import stage_run

PREPARED = Path("data/prepared")
FLOW = Path("data/ablation/flow.npy")
TRUNKS = Path("data/weak/trunks")
FINETUNED = Path("data/weak/finetuned")
CELLS = Path("data/ablation/cells")


def main(name: str, seed: int) -> None:
    params = load_params()
    if name not in reference_rows(params.ablation):
        raise InputError(
            f"no reference system {name!r}; params.yaml has {', '.join(reference_rows(params.ablation)) or 'none'}",
            hint="See ablation.references.",
        )
    with (
        processes(on_gpu=uses_gpu(params.runtime)) as world,
        stage_run(
            f"{name}-{seed}",
            params=params,
            sections=("network", "loss", "augment", "runtime", "ablation"),
            cell={"row": name, "seed": seed},
            resume=True,
            world=world,
        ) as run,
    ):
        data = PreparedData.open(PREPARED)
        run.log_dataset(data.name, data.fingerprint, PREPARED, context="training")
        start = TRUNKS / f"{seed}.safetensors" if name in STREAM_NAMES else FINETUNED / f"all-{seed}.safetensors"
        trunk = load_trunk(params.network, start)
        frame_input = frame_input_of(name, seed, params, data, world)
        training = reference_training(params, data, trunk, name, seed, frame_input, world)
        weights = CELLS / f"{name}-{seed}.safetensors"
        run_training(training, run, weights=weights, state=training.weights, header=reference_header(name, data))
        if world.leads:
            run.log_final_metrics({"gesturepose": {"weights": file_digest(weights)}})


def frame_input_of(name: str, seed: int, params: Params, data: PreparedData, world: World) -> FrameInput | None:
    """What the system reads in place of the training videos' pictures."""
    if name == "flow":
        return FlowStacks.open(FLOW, data)
    if name == "lstm_annotated":
        return FramePoses.annotated(data)
    if name != "lstm_predicted":
        return None
    predictions = predict_videos(
        load_network(CELLS / f"{COMPLETE}-{seed}.safetensors", data),
        data,
        data.split("train"),
        params.runtime,
        segments=params.ablation.segments,
        clips_per_batch=params.evaluate.clips_per_batch,
        world=world,
    )
    return FramePoses.predicted(data, predictions)


if __name__ == "__main__":
    with exit_on_input_error():
        typer.run(main)
