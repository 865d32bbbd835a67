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
from gesturepose.structures import ClipBatch, precise


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


def video_logits(
    outputs: Iterable[tuple[ClipBatch, Tensor]], data: PreparedData, videos: Sequence[Video]
) -> NDArray[np.float32]:
    """The clips' logits [B, A], as `engine.infer` gives them, → [V, A], the mean of each video's clips.

    As in `engine.predict`, a clip without a frame that counts is left out, and a video without any has zeros.
    """
    place = np.full(len(data.videos), -1, dtype=np.int64)  # prepared video → its place in `videos`
    positions = {video.key: position for position, video in enumerate(data.videos)}
    place[[positions[video.key] for video in videos]] = np.arange(len(videos))
    sums = np.zeros((len(videos), len(data.gestures)))
    clips = np.zeros(len(videos))
    for batch, logits in outputs:
        seen = batch.frame_valid.any(dim=1).cpu().numpy()
        of_video = place[batch.video_index.cpu().numpy()][seen]
        np.add.at(sums, of_video, logits.double().cpu().numpy()[seen])
        np.add.at(clips, of_video, 1)
    return (sums / np.maximum(clips, 1)[:, None]).astype(np.float32)
