"""Which frames make a clip, and clips in batches with their labels.

A training clip holds one random frame of each of K equal segments of a video (TSN). Tests take frames at spacing
⌈L/K⌉ from every offset, so that each frame of a video is seen exactly once. What is drawn depends on the seed, the
epoch and the video alone: a resumed run sees the same clips as an uninterrupted one, without any generator's state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gesturepose.data.prepared import PreparedData, Video
from gesturepose.errors import InputError
from gesturepose.geometry import image_to_crop
from gesturepose.parallel import ALONE, World
from gesturepose.skeleton import WRIST
from gesturepose.structures import DEPTH_UNIT_MM, ClipBatch


def training_frames(length: int, segments: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """One random frame of each of K = `segments` equal segments of a video of L = `length` frames, int64 [K], rising.

    Where L < K a segment is shorter than a frame: each frame is then repeated ⌊K/L⌋ or ⌈K/L⌉ times, in order.
    """
    edges = np.arange(segments + 1) * length // segments
    widths = np.maximum(np.diff(edges), 1)
    return edges[:-1] + (rng.random(segments) * widths).astype(np.int64)


def test_clips(length: int, segments: int) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """All clips of a video at test time: (frames int64 [K], valid bool [K]) for each offset below ⌈L/K⌉.

    Over the clips the valid entries name each of the L frames exactly once. Positions past the end repeat the last
    frame and are not valid.
    """
    spacing = math.ceil(length / segments)
    clips = []
    for offset in range(spacing):
        frames = offset + spacing * np.arange(segments, dtype=np.int64)
        clips.append((np.minimum(frames, length - 1), frames < length))
    return clips


test_clips.__test__ = False  # type: ignore[attr-defined]  # pytest takes an imported test_… for a test


# Batches


class BatchLoader(Protocol):
    """Batches of clips, as many as `len` says; each iteration gives the same ones."""

    def __iter__(self) -> Iterator[ClipBatch]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class _Clip:
    video_index: int
    frames: NDArray[np.int64]  # [T]
    valid: NDArray[np.bool_]  # [T]


class _Batches:
    """A fixed list of clips, gathered and labelled a whole batch at a time."""

    def __init__(
        self,
        data: PreparedData,
        batches: list[list[_Clip]],
        pixels: Tensor | None,
        pose_labelled: frozenset[str] | None = None,
        gesture_labelled: frozenset[str] | None = None,
    ) -> None:
        self.data = data
        self.pixels = pixels
        self.batches = batches
        self.pose_labelled = _known(pose_labelled, data, "pose_labelled")
        self.gesture_labelled = _known(gesture_labelled, data, "gesture_labelled")

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[ClipBatch]:
        return map(self._gather, self.batches)

    def _gather(self, clips: list[_Clip]) -> ClipBatch:
        data = self.data
        videos = [data.videos[clip.video_index] for clip in clips]
        frame_index = np.stack([clip.frames for clip in clips])
        rows = frame_index + np.array([video.start for video in videos])[:, None]  # [B, T] into the arrays

        frame_valid = np.stack([clip.valid for clip in clips]) & data.readable[rows]
        pose_given = _given(videos, self.pose_labelled)
        gesture_given = _given(videos, self.gesture_labelled)

        joints_cam_mm = data.joints_cam_mm[rows]
        joints_uv_crop_px = image_to_crop(data.joints_uv_px[rows], data.boxes[rows][:, :, None], data.image_size)
        depth_rel = (joints_cam_mm[..., 2] - joints_cam_mm[..., WRIST, None, 2]) / np.float32(DEPTH_UNIT_MM)
        # A joint behind the camera has no place in the picture (see prepare.project_joints).
        joint_valid = (joints_cam_mm[..., 2] > 0) & (frame_valid & pose_given[:, None])[..., None]
        gesture = np.array([video.gesture for video in videos], dtype=np.int64)
        # A label that is withheld is not there at all: where one leaks, the loss is NaN or the class out of range.
        joints_uv_crop_px[~pose_given] = np.nan
        depth_rel[~pose_given] = np.nan
        gesture[~gesture_given] = -1
        return ClipBatch(
            # The pixels stay as they lie on disk, which is channels-last order.
            video=self._pixels(rows).permute(0, 1, 4, 2, 3),
            frame_valid=torch.from_numpy(frame_valid),
            joints_uv_crop_px=torch.from_numpy(joints_uv_crop_px),
            depth_rel=torch.from_numpy(depth_rel),
            joint_valid=torch.from_numpy(joint_valid),
            gesture=torch.from_numpy(gesture),
            gesture_valid=torch.from_numpy(gesture_given),
            video_index=torch.tensor([clip.video_index for clip in clips]),
            frame_index=torch.from_numpy(frame_index),
        )

    def _pixels(self, rows: NDArray[np.int64]) -> Tensor:
        if self.pixels is None:
            return torch.from_numpy(self.data.frames[rows])
        return self.pixels[torch.from_numpy(rows).to(self.pixels.device, non_blocking=True)]


def training_loader(
    data: PreparedData,
    videos: Sequence[Video],
    *,
    segments: int,
    clips_per_batch: int,
    seed: int,
    epoch: int,
    pose_labelled: frozenset[str] | None = None,
    gesture_labelled: frozenset[str] | None = None,
    pixels: Tensor | None = None,
    world: World = ALONE,
) -> BatchLoader:
    """One epoch: one clip of each video of `videos`, in random order.

    A clip's frames and its place in the order come from (seed, epoch, video) alone. So a smaller choice of videos
    gives the same clips in the same order, without the others.

    The clips that do not fill a batch are left out of the epoch, others each time: every step then has the same shape
    and every clip the same weight, and batch normalisation never sees fewer clips than asked for. Only where `videos`
    holds less than one batch is that batch given.

    pose_labelled, gesture_labelled: keys of the videos whose labels may be used; None means all. The others' poses
    are NaN and their gesture is -1, masked by `joint_valid` and `gesture_valid`.
    pixels: `data.frames` as a tensor, wherever its device is; None reads them from disk.
    world: of each batch, which is the same for any number of processes, this process gets its share.

    Raises:
        InputError: the batches cannot be divided evenly among the processes.
    """
    batches = _batched(_drawn_clips(data, videos, segments, seed, epoch), clips_per_batch)
    if len(batches) > 1 and len(batches[-1]) < clips_per_batch:
        batches.pop()
    shares = [batch[world.share(len(batch), "a batch")] for batch in batches]
    return _Batches(data, shares, pixels, pose_labelled, gesture_labelled)


@dataclass(frozen=True)
class Stream:
    """Videos that give `clips_per_batch` clips to each batch of a `step_loader`."""

    videos: Sequence[Video]
    clips_per_batch: int


def step_loader(
    data: PreparedData,
    streams: Sequence[Stream],
    *,
    segments: int,
    first_step: int,
    steps: int,
    seed: int,
    pose_labelled: frozenset[str] | None = None,
    gesture_labelled: frozenset[str] | None = None,
    pixels: Tensor | None = None,
    world: World = ALONE,
) -> BatchLoader:
    """Batches number `first_step` … `first_step + steps - 1` of an endless training on several streams at once.

    A stream goes through its videos again and again, each time in a new order, and each batch takes up where the one
    before it ended. What a stream gives does not depend on the others: trainings with and without unlabelled videos
    see the same labelled clips in the same order. The other arguments are those of `training_loader`.
    """
    batches: list[list[_Clip]] = [[] for _ in range(steps)]
    for stream in streams:
        count, length = stream.clips_per_batch, len(stream.videos)
        if not count:
            continue
        if not length:
            raise InputError(f"a stream of no videos has to give {count} clips a batch")
        first, last = first_step * count, (first_step + steps) * count  # in the endless sequence of clips
        passes = range(first // length, -(-last // length))
        clips = [clip for number in passes for clip in _drawn_clips(data, stream.videos, segments, seed, number)]
        start = first - passes.start * length
        for step, batch in enumerate(batches):
            of_stream = clips[start + step * count : start + (step + 1) * count]
            batch += of_stream[world.share(count, "a batch")]
    return _Batches(data, batches, pixels, pose_labelled, gesture_labelled)


def evaluation_loader(
    data: PreparedData,
    videos: Sequence[Video],
    *,
    segments: int,
    clips_per_batch: int,
    pixels: Tensor | None = None,
    world: World = ALONE,
) -> BatchLoader:
    """All `test_clips` of `videos`, in order, so that each frame of each video is valid in exactly one place.

    The last batch may be smaller. Frames that could not be read are there and not valid. Several processes take whole
    batches in turn. `pixels` as for `training_loader`.
    """
    positions = _positions(data)
    clips = [
        _Clip(positions[video.key], frames, valid)
        for video in videos
        for frames, valid in test_clips(video.frames, segments)
    ]
    return _Batches(data, _batched(clips, clips_per_batch)[world.rank :: world.size], pixels)


def _drawn_clips(data: PreparedData, videos: Sequence[Video], segments: int, seed: int, epoch: int) -> list[_Clip]:
    """One clip of each video, in random order; place and frames come from (seed, epoch, video) alone."""
    positions = _positions(data)
    drawn: list[tuple[float, _Clip]] = []
    for video in videos:
        video_index = positions[video.key]
        rng = np.random.default_rng((seed, epoch, video_index))
        place = rng.random()
        frames = training_frames(video.frames, segments, rng)
        drawn.append((place, _Clip(video_index, frames, np.ones(segments, dtype=np.bool_))))
    drawn.sort(key=lambda entry: (entry[0], entry[1].video_index))
    return [clip for _, clip in drawn]


def _batched(clips: list[_Clip], clips_per_batch: int) -> list[list[_Clip]]:
    return [clips[start : start + clips_per_batch] for start in range(0, len(clips), clips_per_batch)]


def _positions(data: PreparedData) -> dict[str, int]:
    return {video.key: position for position, video in enumerate(data.videos)}


def _given(videos: list[Video], labelled: frozenset[str] | None) -> NDArray[np.bool_]:
    return np.array([labelled is None or video.key in labelled for video in videos])


def _known(keys: frozenset[str] | None, data: PreparedData, name: str) -> frozenset[str] | None:
    """The keys, refused where one names no video: it would withhold a label without a word."""
    if keys is not None and (unknown := sorted(keys - {video.key for video in data.videos})):
        raise ValueError(f"{name} names videos that are not in the prepared data: {', '.join(unknown[:5])}")
    return keys
