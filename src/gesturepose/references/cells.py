"""How a reference system is built, trained for a fixed number of steps, read back and asked about videos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from gesturepose.checkpoint import load_into, load_weights
from gesturepose.data.clips import BatchLoader, Stream, evaluation_loader
from gesturepose.data.delivery import Prefetched
from gesturepose.data.prepared import PreparedData, Video
from gesturepose.engine import Criterion, infer, predict
from gesturepose.errors import InputError
from gesturepose.experiment import Training, prepare_execution
from gesturepose.losses import CollaborativeCriterion
from gesturepose.models.collaborative import build_trunk
from gesturepose.models.trunk import Trunk
from gesturepose.parallel import ALONE, World
from gesturepose.params import NetworkSettings, Params
from gesturepose.references.gesture_only import FrameInput, GestureCriterion, OtherInput, gesture_predictions
from gesturepose.references.hand_object import HandObjectNetwork, build_hand_object
from gesturepose.references.pose_lstm import PoseLstm
from gesturepose.references.two_stream import colour_stream, flow_stream
from gesturepose.steps import StepTraining, step_training
from gesturepose.structures import ClipBatch, Predictions

LSTMS: Final = ("lstm_annotated", "lstm_predicted")
STREAM_NAMES: Final = ("colour", "flow")  # they know no pose: their first weights are not fine-tuned on any
HAND_OBJECTS: Final = ("hp", "hp_ac")
_HEADER: Final = "reference"


@dataclass
class ReferenceTraining(StepTraining):
    """A training on what stands in place of the pictures, where something does."""

    frame_input: FrameInput | None = None

    def batches(self, epoch: int) -> BatchLoader:
        batches = super().batches(epoch)
        return batches if self.frame_input is None else OtherInput(batches, self.frame_input)

    def changed(self, batch: ClipBatch) -> ClipBatch:
        if self.frame_input is None:
            return super().changed(batch)
        return self.frame_input.augment(batch, self.augment, seed=self.settings.seed, epoch=self.step)


def build_reference(name: str, settings: NetworkSettings, trunk: Trunk, data: PreparedData) -> nn.Module:
    """The network of a reference system; `trunk` gives what it has in common with the collaborative network."""
    gestures = len(data.gestures)
    if name in LSTMS:
        return PoseLstm(gestures)
    if name in STREAM_NAMES:
        return (colour_stream if name == "colour" else flow_stream)(trunk, gestures=gestures)
    return build_hand_object(
        settings, trunk, gestures=gestures, image_size=data.image_size, frame_actions=name == "hp_ac"
    )


def reference_training(
    params: Params,
    data: PreparedData,
    trunk: Trunk,
    name: str,
    seed: int,
    frame_input: FrameInput | None,
    world: World = ALONE,
) -> Training:
    """The training of a reference system, with all labels, on the clips that the rows of its seed see.

    Args:
        trunk: fine-tuned on the poses of all training videos; the initial one for the streams, which know no pose and
            have fine-tuning's steps added to theirs.
        frame_input: the poses of an LSTM, or the flow of the stream on it.
    """
    settings = params.ablation
    steps, learning_rate = settings.train_steps, settings.learning_rate
    if name in STREAM_NAMES:
        steps += params.weak.finetune_steps
    elif name in LSTMS:
        steps, learning_rate = settings.lstm_steps, settings.lstm_learning_rate
    criterion: Criterion = CollaborativeCriterion(params.loss) if name in HAND_OBJECTS else GestureCriterion()
    torch.manual_seed(seed)
    network = build_reference(name, params.network, trunk, data)
    # Small networks; and a recurrent one is not one program.
    runtime = params.runtime.model_copy(update={"compile": False})
    return step_training(
        params.model_copy(update={"runtime": runtime}),
        data,
        network,
        criterion,
        settings,
        world,
        streams=(Stream(data.split("train"), settings.clips_per_batch),),
        steps=steps,
        learning_rate=learning_rate,
        seed=seed,
        kind=ReferenceTraining,
        frame_input=frame_input,
    )


def reference_header(name: str, data: PreparedData) -> dict[str, Any]:
    """What `load_reference` needs beside the tensors."""
    return {_HEADER: name, "gestures": list(data.gestures), "image_size": data.image_size}


def load_reference(path: Path, settings: NetworkSettings, data: PreparedData) -> tuple[str, nn.Module]:
    """A reference system's name and network from its weights.

    Raises:
        InputError: no such weights, not of a reference system, or of other classes, crops or settings.
    """
    state, header = load_weights(path)
    name = str(header.get(_HEADER))
    if name not in (*LSTMS, *STREAM_NAMES, *HAND_OBJECTS):
        raise InputError("not the weights of a reference system", file=path)
    for key, found in reference_header(name, data).items():
        if header.get(key) != found:
            raise InputError(
                f"trained with {key} {header.get(key)}, but the prepared data has {found}",
                file=path,
                hint="`gesturepose matrix ablation` trains it on this data.",
            )
    network = build_reference(name, settings, build_trunk(settings), data)
    load_into(network, state, path)
    return name, network


def predict_with_reference(
    network: nn.Module, frame_input: FrameInput | None, data: PreparedData, videos: tuple[Video, ...], params: Params
) -> Predictions:
    """Every frame of `videos` once; poses are NaN where the network says none."""
    runtime = params.runtime.model_copy(update={"compile": False})
    execution = prepare_execution(runtime)
    memory_format = torch.channels_last if runtime.channels_last else torch.contiguous_format
    network.to(execution.device).to(memory_format=memory_format)
    batches: BatchLoader = evaluation_loader(
        data, videos, segments=params.ablation.segments, clips_per_batch=params.evaluate.clips_per_batch
    )
    if frame_input is not None:
        batches = OtherInput(batches, frame_input)
    outputs = infer(network, Prefetched(batches, execution.device), execution, title="predict")
    gather = predict if isinstance(network, HandObjectNetwork) else gesture_predictions
    return gather(outputs, data, videos)
