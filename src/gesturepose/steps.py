"""Trainings that are compared with each other: a fixed number of steps and schedule, on streams of videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gesturepose.data.augment import augment
from gesturepose.data.clips import BatchLoader, Stream, step_loader
from gesturepose.data.prepared import PreparedData
from gesturepose.engine import Criterion
from gesturepose.errors import InputError
from gesturepose.experiment import Training, build_training
from gesturepose.losses import HeatmapCriterion
from gesturepose.models.collaborative import build_heatmap_network
from gesturepose.models.trunk import Trunk
from gesturepose.parallel import ALONE, World
from gesturepose.params import CellSettings, FinetuneSettings, Params
from gesturepose.structures import ClipBatch


@dataclass
class StepTraining(Training):
    """A training of so many steps, some of whose labels are withheld.

    What `fit` calls an epoch is `steps_an_epoch` of them. What is drawn at random depends on seed, step and video, not
    on the length of such an epoch.
    """

    streams: tuple[Stream, ...] = ()
    steps_an_epoch: int = 1
    pose_labelled: frozenset[str] | None = None  # None: all
    gesture_labelled: frozenset[str] | None = None
    step: int = 0  # that was prepared last, from 1

    def batches(self, epoch: int) -> BatchLoader:
        """This process's part of the batches of an epoch."""
        self.step = (epoch - 1) * self.steps_an_epoch
        return step_loader(
            self.data,
            self.streams,
            segments=self.settings.segments,
            first_step=self.step,
            steps=self.steps_an_epoch,
            seed=self.settings.seed,
            pose_labelled=self.pose_labelled,
            gesture_labelled=self.gesture_labelled,
            pixels=self.pixels,
            world=self.execution.world,
        )

    def prepare(self, batch: ClipBatch, epoch: int) -> ClipBatch:
        """The batch of the next step as the network sees it."""
        self.step += 1
        return self.changed(batch)

    def changed(self, batch: ClipBatch) -> ClipBatch:
        """The batch of the present step, changed at random: a video that comes again comes out otherwise."""
        return augment(batch, self.augment, seed=self.settings.seed, epoch=self.step)


def step_training(
    params: Params,
    data: PreparedData,
    network: nn.Module,
    criterion: Criterion,
    settings: CellSettings,
    world: World,
    *,
    streams: Sequence[Stream],
    steps: int,
    learning_rate: float,
    seed: int,
    kind: type[StepTraining] = StepTraining,
    **fields: Any,
) -> Training:
    """`steps` steps on `streams` by the schedule of `settings`; no validation video is seen.

    Args:
        kind: the class of the result, and `fields` what it has beyond these.

    Raises:
        InputError: see `build_training`; or a stream cannot be shared evenly by the processes.
    """
    check_shared_evenly(streams, world)
    runtime = params.runtime.model_copy(update={"threads": settings.threads})
    schedule = FinetuneSettings(
        seed=seed,
        epochs=steps // settings.log_every,
        clips_per_batch=streams[0].clips_per_batch,
        segments=settings.segments,
        learning_rate=learning_rate,
        schedule="step",
        steps_at=settings.steps_at,
        patience=1,
        stop_below=0.0,
    )
    return build_training(
        params.model_copy(update={"runtime": runtime}),
        data,
        network,
        criterion,
        schedule,
        world,
        section="",  # its one message is said above
        kind=kind,
        validation_videos=(),
        streams=tuple(streams),
        steps_an_epoch=settings.log_every,
        **fields,
    )


def check_shared_evenly(streams: Sequence[Stream], world: World) -> None:
    """Refuse streams whose clips of a batch the processes cannot share.

    Raises:
        InputError: which.
    """
    for stream in streams:
        if stream.clips_per_batch % world.size:
            raise InputError(
                f"{stream.clips_per_batch} clips of a batch cannot be shared evenly by {world.size} processes",
                hint="Choose multiples for the clips of a batch in params.yaml, or change runtime.launcher.",
            )


def step_finetuning(
    params: Params,
    data: PreparedData,
    trunk: Trunk,
    *,
    pose_labelled: frozenset[str],
    seed: int,
    world: World = ALONE,
) -> Training:
    """Fine-tuning of the trunk under L2d on the labelled videos alone, as section `weak` says; no other is seen."""
    settings = params.weak
    torch.manual_seed(seed)
    videos = tuple(video for video in data.split("train") if video.key in pose_labelled)
    return step_training(
        params,
        data,
        build_heatmap_network(params.network, trunk),
        HeatmapCriterion(),
        settings,
        world,
        streams=(Stream(videos, settings.labelled_clips),),
        steps=settings.finetune_steps,
        learning_rate=settings.finetune_learning_rate,
        seed=seed,
        pose_labelled=pose_labelled,
        gesture_labelled=frozenset(),
    )
