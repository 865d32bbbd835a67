"""What networks of gestures alone have in common: their criterion, their inputs, and the scores of videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gesturepose.data.clips import BatchLoader
from gesturepose.data.prepared import PreparedData, Video
from gesturepose.losses import Losses, gesture_loss
from gesturepose.parallel import ALONE, World
from gesturepose.params import AugmentSettings
from gesturepose.structures import ClipBatch, Predictions, precise


class GestureCriterion:
    """Lc alone. Without other terms its weight does not matter to Adam, so it has none."""

    def __call__(self, logits: Tensor, batch: ClipBatch, world: World = ALONE) -> Losses:
        """[B, A] against the clips' classes."""
        loss = gesture_loss(precise(logits), batch, world)
        return Losses(loss, torch.zeros_like(loss), torch.zeros_like(loss), loss)


class FrameInput(Protocol):
    """What a network reads of each frame in place of its picture."""

    def __call__(self, video_index: Tensor, frame_index: Tensor) -> Tensor:
        """Positions in PreparedData.videos [B] and frame numbers within them [B, T] → [B, T, …]."""
        ...

    def augment(self, batch: ClipBatch, settings: AugmentSettings, *, seed: int, epoch: int) -> ClipBatch:
        """A training batch that holds it, changed at random."""
        ...


class OtherInput:
    """The batches of a loader with a `FrameInput` as their `video`; clips, order and labels stay."""

    def __init__(self, batches: BatchLoader, frame_input: FrameInput) -> None:
        self.batches = batches
        self.frame_input = frame_input

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[ClipBatch]:
        for batch in self.batches:
            yield replace(batch, video=self.frame_input(batch.video_index, batch.frame_index))


def rows_of(data: PreparedData, video_index: Tensor, frame_index: Tensor) -> NDArray[np.int64]:
    """[B] videos and [B, T] frame numbers → [B, T] rows of `data`'s arrays."""
    starts = np.array([video.start for video in data.videos], dtype=np.int64)
    rows: NDArray[np.int64] = starts[video_index.cpu().numpy()][:, None] + frame_index.cpu().numpy()
    return rows


def gesture_predictions(
    outputs: Iterable[tuple[ClipBatch, Tensor]], data: PreparedData, videos: Sequence[Video]
) -> Predictions:
    """The clips' logits [B, A], as `engine.infer` gives them, gathered as `engine.predict` does; poses are NaN.

    A video's logits are the mean of its clips'. A clip without a frame that counts is left out, and a video without any
    has zeros.
    """
    place = np.full(len(data.videos), -1, dtype=np.int64)  # prepared video → its place in `videos`
    positions = {video.key: position for position, video in enumerate(data.videos)}
    place[[positions[video.key] for video in videos]] = np.arange(len(videos))
    lengths = np.array([video.frames for video in videos], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    sums = np.zeros((len(videos), len(data.gestures)))
    clips = np.zeros(len(videos))
    frame_valid = np.zeros(offsets[-1], dtype=np.bool_)
    for batch, logits in outputs:
        valid = batch.frame_valid.cpu().numpy()
        of_video = place[batch.video_index.cpu().numpy()]
        frame_valid[(offsets[of_video][:, None] + batch.frame_index.cpu().numpy())[valid]] = True
        seen = valid.any(axis=1)
        np.add.at(sums, of_video[seen], logits.double().cpu().numpy()[seen])
        np.add.at(clips, of_video[seen], 1)
    source = np.concatenate([np.arange(video.start, video.start + video.frames) for video in videos])
    nothing = np.full_like(data.joints_cam_mm[source], np.nan)
    return Predictions(
        video_of_frame=np.repeat(np.arange(len(videos), dtype=np.int64), lengths),
        frame=np.concatenate([np.arange(length, dtype=np.int64) for length in lengths]),
        frame_valid=frame_valid,
        uv_px=nothing[..., :2],
        joints_cam_mm=nothing,
        true_uv_px=data.joints_uv_px[source],
        true_joints_cam_mm=data.joints_cam_mm[source],
        keys=np.array([video.key for video in videos]),
        subject=np.array([video.subject for video in videos], dtype=np.int64),
        gesture=np.array([video.gesture for video in videos], dtype=np.int64),
        logits=(sums / np.maximum(clips, 1)[:, None]).astype(np.float32),
    )
