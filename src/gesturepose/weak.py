"""Weakly supervised training (Sec. 3.4, 4.2): few videos show the labels of one task, all show the other's.

A cell is one training of the curves of Fig. 4 (middle and right): a direction (which task has few labels), a method, a
share of labelled videos and a seed. What the cells of one ratio and seed share makes them comparable: label subset,
first weights, the labelled clips and their order, the number of steps and the schedule. The weak method has unlabelled
clips on top in each batch. The last step counts; no validation label is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gesturepose.cells import Cell
from gesturepose.data.clips import BatchLoader, Stream, step_loader
from gesturepose.data.labels import LabelSubset
from gesturepose.data.prepared import PreparedData, Video
from gesturepose.experiment import Training, build_training
from gesturepose.losses import CollaborativeCriterion, HeatmapCriterion
from gesturepose.models.collaborative import build_heatmap_network, build_network
from gesturepose.models.trunk import Trunk
from gesturepose.parallel import ALONE, World
from gesturepose.params import FinetuneSettings, LossSettings, Params, WeakSettings
from gesturepose.structures import ClipBatch
from gesturepose.teacher import MeanTeacher


@dataclass
class StepTraining(Training):
    """A training of so many steps on streams of videos, some of whose labels are withheld.

    What `fit` calls an epoch is `steps_an_epoch` of them.
    """

    streams: tuple[Stream, ...] = ()
    steps_an_epoch: int = 1
    pose_labelled: frozenset[str] | None = None  # None: all
    gesture_labelled: frozenset[str] | None = None

    def batches(self, epoch: int) -> BatchLoader:
        """This process's part of the batches of an epoch."""
        return step_loader(
            self.data,
            self.streams,
            segments=self.settings.segments,
            first_step=(epoch - 1) * self.steps_an_epoch,
            steps=self.steps_an_epoch,
            seed=self.settings.seed,
            pose_labelled=self.pose_labelled,
            gesture_labelled=self.gesture_labelled,
            pixels=self.pixels,
            world=self.execution.world,
        )


@dataclass
class TaughtTraining(StepTraining):
    """The weak method with a mean teacher's poses for the clips without pose labels."""

    teacher: MeanTeacher = None  # type: ignore[assignment]  # a field after ones with defaults needs one

    def prepare(self, batch: ClipBatch, epoch: int) -> ClipBatch:
        """A batch as the network sees it, labelled by the teacher of the steps before."""
        self.teacher.follow(self.network)
        shown = self.pose_labelled or frozenset()
        keys = [self.data.videos[index].key for index in batch.video_index.tolist()]
        unlabelled = torch.tensor([key not in shown for key in keys], device=batch.video.device)
        return super().prepare(self.teacher.label(batch, unlabelled, self.execution.autocast()), epoch)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.teacher.load_state_dict(state["teacher"])


def weak_finetuning(
    params: Params,
    data: PreparedData,
    trunk: Trunk,
    *,
    pose_labelled: frozenset[str],
    seed: int,
    world: World = ALONE,
) -> Training:
    """Fine-tuning of the trunk under L2d on the labelled videos alone; no other video is seen."""
    settings = params.weak
    torch.manual_seed(seed)
    return build_training(
        for_cells(params),
        data,
        build_heatmap_network(params.network, trunk),
        HeatmapCriterion(),
        _schedule(settings, seed, settings.finetune_steps, settings.finetune_learning_rate),
        world,
        section="weak",
        kind=StepTraining,
        validation_videos=(),
        streams=(Stream(_chosen(data.split("train"), pose_labelled), settings.labelled_clips),),
        steps_an_epoch=settings.log_every,
        pose_labelled=pose_labelled,
        gesture_labelled=frozenset(),
    )


def weak_training(
    params: Params, data: PreparedData, trunk: Trunk, cell: Cell, labels: LabelSubset, world: World = ALONE
) -> Training:
    """The training of a cell.

    Args:
        trunk: fine-tuned on the poses that the cell may see; without any, that is for the baseline of the gesture
            direction, the initial one. That baseline gets the steps of fine-tuning added.
        labels: the subset of the cell's ratio and seed.
    """
    settings = params.weak
    videos = data.split("train")
    every = frozenset(video.key for video in videos)
    few = frozenset(labels.pose if cell.direction == "pose" else labels.gesture)
    alone = cell.method == "baseline"
    other = frozenset[str]() if alone else every  # with labels of the other task
    pose_labelled, gesture_labelled = (few, other) if cell.direction == "pose" else (other, few)
    streams = [Stream(_chosen(videos, few), settings.labelled_clips)]
    if not alone and few != every:
        streams.append(Stream(_chosen(videos, every - few), settings.unlabelled_clips))
    steps = settings.train_steps
    if alone and cell.direction == "gesture":
        steps += settings.finetune_steps
    torch.manual_seed(cell.seed)
    network = build_network(params.network, trunk, gestures=len(data.gestures), image_size=data.image_size)
    taught = cell.method == "teacher"
    training = build_training(
        for_cells(params),
        data,
        network,
        CollaborativeCriterion(_loss(params.loss, cell)),
        _schedule(settings, cell.seed, steps, settings.learning_rate),
        world,
        section="weak",
        kind=TaughtTraining if taught else StepTraining,
        validation_videos=(),
        streams=tuple(streams),
        steps_an_epoch=settings.log_every,
        pose_labelled=pose_labelled,
        gesture_labelled=gesture_labelled,
    )
    if isinstance(training, TaughtTraining):
        training.teacher = MeanTeacher.of(network, decay=settings.teacher_decay, confidence=settings.teacher_confidence)
    return training


def for_cells(params: Params) -> Params:
    """The settings with the threads of a cell."""
    runtime = params.runtime.model_copy(update={"threads": params.weak.threads})
    return params.model_copy(update={"runtime": runtime})


def _loss(weights: LossSettings, cell: Cell) -> LossSettings:
    """Eq. 5 without the task that a baseline does not have."""
    if cell.method != "baseline":
        return weights
    if cell.direction == "pose":
        return weights.model_copy(update={"gesture": 0.0})
    return weights.model_copy(update={"heatmap": 0.0, "depth": 0.0})


def _schedule(settings: WeakSettings, seed: int, steps: int, learning_rate: float) -> FinetuneSettings:
    return FinetuneSettings(
        seed=seed,
        epochs=steps // settings.log_every,
        clips_per_batch=settings.labelled_clips,
        segments=settings.segments,
        learning_rate=learning_rate,
        schedule="step",
        steps_at=settings.steps_at,
        patience=1,
        stop_below=0.0,
    )


def _chosen(videos: Sequence[Video], keys: frozenset[str]) -> tuple[Video, ...]:
    return tuple(video for video in videos if video.key in keys)
