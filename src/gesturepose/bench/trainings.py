"""Trainings to measure: the network or the plain one under given settings, and batches of noise for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import torch

from gesturepose.backbone import initial_trunk
from gesturepose.bench.plain import PlainNetwork
from gesturepose.data.augment import augment
from gesturepose.data.clips import BatchLoader
from gesturepose.data.prepared import PreparedData
from gesturepose.engine import infer, train_epoch
from gesturepose.experiment import Training, prepare_execution
from gesturepose.models.collaborative import CollaborativeNetwork
from gesturepose.params import Params, RuntimeSettings, read_profile
from gesturepose.structures import ClipBatch
from gesturepose.trainings import collaborative_training

PAPER_SIZE: Final = 256  # px, side of the paper's crops
PAPER_CLIPS: Final = 4  # a batch
PAPER_FRAMES: Final = 8  # a clip
PLAIN: Final = "plain float32 eager"


@dataclass(frozen=True)
class Variant:
    """One way to compute a training step; `plain` is the network as one would write it first."""

    runtime: RuntimeSettings
    plain: bool = False


def plain_variant(runtime: RuntimeSettings, **changes: Any) -> Variant:
    """The plain network, float32, channels first, eager, with the device and the threads of `runtime`."""
    slow = {"precision": "float32", "channels_last": False, "compile": False, "checkpoint_iterations": False}
    return Variant(runtime.model_copy(update=slow | changes), plain=True)


def variant(runtime: RuntimeSettings, **changes: Any) -> Variant:
    """The network under `runtime` with some settings changed."""
    return Variant(runtime.model_copy(update=changes))


def switching(variants: Mapping[str, Variant]) -> Callable[[str], object]:
    """What sets the process-wide switches of the variant of a name."""
    return lambda name: prepare_execution(variants[name].runtime)


def build_training(params: Params, data: PreparedData, chosen: Variant, **network_changes: Any) -> Training:
    """A training at its start; the speed does not depend on where the weights come from."""
    network = params.network.model_copy(update={"weights": "none", **network_changes})
    params = params.model_copy(update={"runtime": chosen.runtime, "network": network})
    training = collaborative_training(params, data, initial_trunk(network, seed=params.train.seed))
    if not chosen.plain:
        return training
    assert isinstance(training.network, CollaborativeNetwork)
    plain = PlainNetwork(training.network)
    return replace(training, network=plain, replica=plain)


def paper_params(params: Params) -> Params:
    """The network and the augmented crops of the `paper` profile, everything else as in `params`."""
    network = params.network.model_copy(update=read_profile("paper")["network"])
    return params.model_copy(update={"network": network})


def steps_at_once(device: torch.device) -> int:
    """Steps that are timed together: on a GPU one alone would be over before it is launched as in a training."""
    return 20 if device.type == "cuda" else 1


def step(training: Training, batch: ClipBatch, count: int = 1) -> Callable[[], object]:
    """`count` optimisation steps, augmentation included, on a batch that is on the device before."""
    return train_on(training, [batch.to(training.execution.device)] * count)


def train_on(training: Training, batches: BatchLoader) -> Callable[[], object]:
    """An optimisation step on each of `batches`, augmentation included; it ends when the device has."""
    return partial(
        train_epoch,
        training.replica,
        training.criterion,
        training.optimiser,
        batches,
        training.execution,
        prepare=augmentation(training),
        title="training steps",
    )


def augmentation(training: Training) -> Callable[[ClipBatch], ClipBatch]:
    """That of the training's first epoch."""
    return partial(augment, settings=training.augment, seed=training.settings.seed, epoch=1)


def inference(training: Training, batches: list[ClipBatch]) -> Callable[[], object]:
    """The network's outputs for `batches`, fetched from the device."""

    def run() -> None:
        for _, outputs in infer(training.network, batches, training.execution, title="inference"):
            outputs[-1].logits.cpu()  # waits for the device

    return run
