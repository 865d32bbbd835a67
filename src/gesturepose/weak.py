"""Weakly supervised training (Sec. 3.4, 4.2): few videos show the labels of one task, all show the other's.

What the cells of one direction, ratio and seed share makes them comparable: the label subset, the labelled clips and
their order, the number of steps with fine-tuning's; in the pose direction the fine-tuned trunk and all first weights,
too. The weak method has unlabelled clips on top in each batch. The last step counts; no validation label is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from gesturepose.cells import Cell
from gesturepose.data.clips import Stream
from gesturepose.data.labels import LabelSubset
from gesturepose.data.prepared import PreparedData, Video
from gesturepose.experiment import Training
from gesturepose.losses import CollaborativeCriterion
from gesturepose.models.collaborative import CollaborativeNetwork, build_network
from gesturepose.models.trunk import Trunk
from gesturepose.parallel import ALONE, World
from gesturepose.params import LossSettings, Params
from gesturepose.steps import StepTraining, step_training
from gesturepose.structures import ClipBatch
from gesturepose.teacher import MeanTeacher


@dataclass
class TaughtTraining(StepTraining):
    """The weak method with a mean teacher's poses for the clips without pose labels."""

    teacher_decay: float = 0.0
    teacher_confidence: float = 0.0
    teacher: MeanTeacher = field(init=False)

    def __post_init__(self) -> None:
        assert isinstance(self.network, CollaborativeNetwork)
        self.teacher = MeanTeacher.of(self.network, decay=self.teacher_decay, confidence=self.teacher_confidence)

    def prepare(self, batch: ClipBatch, epoch: int) -> ClipBatch:
        """A batch as the network sees it, labelled by the teacher of the steps before."""
        self.teacher.follow(self.network)
        assert self.pose_labelled is not None
        keys = [self.data.videos[index].key for index in batch.video_index.tolist()]
        unlabelled = torch.tensor([key not in self.pose_labelled for key in keys], device=batch.video.device)
        return super().prepare(self.teacher.label(batch, unlabelled, self.execution.autocast()), epoch)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.teacher.load_state_dict(state["teacher"])


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
    further: dict[str, Any] = {}
    if cell.method == "teacher":
        further = {
            "kind": TaughtTraining,
            "teacher_decay": settings.teacher_decay,
            "teacher_confidence": settings.teacher_confidence,
        }
    return step_training(
        params,
        data,
        network,
        CollaborativeCriterion(_loss(params.loss, cell)),
        settings,
        world,
        streams=streams,
        steps=steps,
        learning_rate=settings.learning_rate,
        seed=cell.seed,
        pose_labelled=pose_labelled,
        gesture_labelled=gesture_labelled,
        **further,
    )


def _loss(weights: LossSettings, cell: Cell) -> LossSettings:
    """Eq. 5 without the task that a baseline does not have."""
    if cell.method != "baseline":
        return weights
    if cell.direction == "pose":
        return weights.model_copy(update={"gesture": 0.0})
    return weights.model_copy(update={"heatmap": 0.0, "depth": 0.0})


def _chosen(videos: Sequence[Video], keys: frozenset[str]) -> tuple[Video, ...]:
    return tuple(video for video in videos if video.key in keys)
