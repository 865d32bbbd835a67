"""`python -m gesturepose.matrix.probe`: what one training step takes here, and how large the networks' weights are.

A process of its own: threads and GPU memory are the step's alone, and who asks need not load PyTorch. Reads a list of
`Question`s as JSON from standard input and writes the `Answer`s and the seconds that all of it took.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import nn

from gesturepose.data.augment import augment
from gesturepose.engine import train_epoch
from gesturepose.errors import exit_on_input_error
from gesturepose.experiment import prepare_execution
from gesturepose.losses import CollaborativeCriterion, HeatmapCriterion
from gesturepose.models.collaborative import build_heatmap_network, build_network, build_trunk
from gesturepose.models.trunk import Trunk
from gesturepose.noise import random_batch
from gesturepose.optim import build_optimiser
from gesturepose.params import Params, load_params

NetworkKind = Literal["trunk", "whole"]
_GESTURES = 45  # FPHA's; the head is a small part of the whole
_STEPS = 3


@dataclass(frozen=True)
class Question:
    """A training: the trunk under heatmaps alone, or the whole network, on clips of `segments` frames."""

    network: NetworkKind
    clips_per_batch: int
    segments: int
    threads: int
    measure: bool  # else `step_seconds` is 0


@dataclass(frozen=True)
class Answer:
    """Seconds of one step, not compiled, and bytes of the parameters and buffers that such a training leaves."""

    step_seconds: float
    weight_bytes: int


def answer(params: Params, question: Question) -> Answer:
    """Measure as `question` says, on noise; training steps draw from no generator but their own."""
    return Answer(_step_seconds(params, question) if question.measure else 0.0, weight_bytes(params, question.network))


def weight_bytes(params: Params, network: NetworkKind) -> int:
    """Bytes of the parameters and buffers of the network of `params`.

    It is built in memory: on the meta device the network cannot check its hand parts, whose values it reads.
    """
    trunk = build_trunk(params.network)
    built: nn.Module = trunk if network == "trunk" else _whole(params, trunk)
    return sum(tensor.numel() * tensor.element_size() for tensor in built.state_dict().values())


def _whole(params: Params, trunk: Trunk) -> nn.Module:
    return build_network(params.network, trunk, gestures=_GESTURES, image_size=params.prepare.image_size)


def _step_seconds(params: Params, question: Question) -> float:
    runtime = params.runtime.model_copy(update={"threads": question.threads})
    # Compiling takes minutes, and is left out: the steps are then faster than measured here.
    execution = replace(prepare_execution(runtime), compiled=False)
    trunk = build_trunk(params.network)
    of_trunk = question.network == "trunk"
    network: nn.Module = build_heatmap_network(params.network, trunk) if of_trunk else _whole(params, trunk)
    criterion = HeatmapCriterion() if of_trunk else CollaborativeCriterion(params.loss)
    memory_format = torch.channels_last if runtime.channels_last else torch.contiguous_format
    network.to(execution.device).to(memory_format=memory_format)
    optimiser = build_optimiser(network, params.train)
    batch = random_batch(question.clips_per_batch, question.segments, params.prepare.image_size, _GESTURES)
    draw = partial(augment, settings=params.augment, seed=0, epoch=1)

    def train(steps: int) -> None:
        train_epoch(network, criterion, optimiser, [batch] * steps, execution, prepare=draw, title="measuring")

    train(1)
    begun = time.perf_counter()
    train(_STEPS)
    return (time.perf_counter() - begun) / _STEPS


def main() -> None:
    begun = time.perf_counter()
    params = load_params()
    answers = [asdict(answer(params, Question(**question))) for question in json.load(sys.stdin)]
    json.dump({"answers": answers, "seconds": time.perf_counter() - begun}, sys.stdout)


if __name__ == "__main__":
    with exit_on_input_error():
        main()
