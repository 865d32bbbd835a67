"""One pass over batches: with an optimiser it trains, without one it predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from gesturepose import metrics
from gesturepose.data.clips import PreparedData, Video
from gesturepose.errors import InputError
from gesturepose.geometry import back_project, crop_to_image
from gesturepose.heatmaps import decode_heatmaps, heatmap_to_crop
from gesturepose.losses import Losses
from gesturepose.params import HEATMAP_STRIDE
from gesturepose.skeleton import JOINTS, WRIST
from gesturepose.structures import DEPTH_UNIT_MM, ClipBatch, IterationOutput, Predictions

Criterion = Callable[[Any, ClipBatch], Losses]
LOSS_NAMES = ("loss", "loss_heatmap", "loss_depth", "loss_gesture")


class Batches(Protocol):
    """What a loader is to the engine."""

    def __iter__(self) -> Iterator[ClipBatch]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Execution:
    """Where and in which precision a network runs."""

    device: torch.device
    precision: torch.dtype

    def autocast(self) -> torch.autocast:
        enabled = self.precision != torch.float32
        return torch.autocast(self.device.type, dtype=self.precision, enabled=enabled)


@dataclass
class LossMeans:
    """Means of the losses over clips."""

    clips: int = 0
    sums: Tensor = field(default_factory=lambda: torch.zeros(len(LOSS_NAMES), dtype=torch.float64))

    def add(self, losses: Losses, clips: int) -> None:
        values = torch.stack([losses.total, losses.heatmap, losses.depth, losses.gesture])
        self.sums = self.sums.to(values.device) + values.detach().double() * clips
        self.clips += clips

    def means(self) -> dict[str, float]:
        return dict(zip(LOSS_NAMES, (self.sums / max(self.clips, 1)).tolist(), strict=True))


def train_epoch(
    network: nn.Module,
    criterion: Criterion,
    optimiser: Optimizer,
    batches: Batches,
    execution: Execution,
    *,
    augment: Callable[[ClipBatch], ClipBatch],
    title: str,
) -> dict[str, float]:
    """One epoch of optimisation; the mean losses over its clips.

    Raises:
        InputError: the loss is no longer finite.
    """
    network.train()
    means = LossMeans()
    for batch in tqdm(batches, desc=title, unit="batch", leave=False, disable=None):
        moved = augment(batch.to(execution.device))
        with execution.autocast():
            losses = criterion(network(moved.video, moved.frame_valid), moved)
        optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        optimiser.step()
        means.add(losses, len(moved.gesture))
    result = means.means()
    if not np.isfinite(result["loss"]):
        raise InputError(
            f"{title}: the loss is {result['loss']}",
            hint="Lower the learning rate or use runtime.precision: float32, then run again.",
        )
    return result


@torch.inference_mode()
def infer(network: nn.Module, batches: Batches, execution: Execution, *, title: str) -> Iterator[tuple[ClipBatch, Any]]:
    """The network's outputs, batch after batch, in evaluation mode."""
    network.eval()
    for batch in tqdm(batches, desc=title, unit="batch", leave=False, disable=None):
        moved = batch.to(execution.device)
        with execution.autocast():
            yield moved, network(moved.video, moved.frame_valid)


def predict(
    outputs: Iterable[tuple[ClipBatch, Sequence[IterationOutput]]], data: PreparedData, videos: Sequence[Video]
) -> Predictions:
    """Gather the last iteration's outputs over all clips of `videos` (see `clips.evaluation_loader`).

    Heatmap peaks go crop → image → camera, with the true wrist depth; a video's logits are the mean of its clips'.
    Frames that could not be read keep NaN.
    """
    positions = {video.key: position for position, video in enumerate(data.videos)}
    lengths = np.array([video.frames for video in videos], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    row_of_video = np.full(len(data.videos), -1, dtype=np.int64)  # prepared video → its first row here
    place_of_video = np.full(len(data.videos), -1, dtype=np.int64)  # prepared video → its place in `videos`
    for place, video in enumerate(videos):
        row_of_video[positions[video.key]] = offsets[place]
        place_of_video[positions[video.key]] = place

    frames = int(offsets[-1])
    uv_crop_px = np.full((frames, JOINTS, 2), np.nan, dtype=np.float32)
    depth_rel_mm = np.full((frames, JOINTS), np.nan, dtype=np.float32)
    frame_valid = np.zeros(frames, dtype=np.bool_)
    logits_sum: np.ndarray | None = None
    clip_count = np.zeros(len(videos), dtype=np.int64)
    for batch, iterations in outputs:
        last = iterations[-1]
        if logits_sum is None:
            logits_sum = np.zeros((len(videos), last.logits.shape[1]), dtype=np.float64)
        valid = batch.frame_valid.cpu().numpy()
        video_index = batch.video_index.cpu().numpy()
        rows = (row_of_video[video_index][:, None] + batch.frame_index.cpu().numpy())[valid]
        uv_crop = heatmap_to_crop(decode_heatmaps(last.heatmaps), HEATMAP_STRIDE)
        uv_crop_px[rows] = uv_crop.cpu().numpy()[valid]
        depth_rel_mm[rows] = last.depth_rel.float().cpu().numpy()[valid] * DEPTH_UNIT_MM
        frame_valid[rows] = True
        seen = valid.any(axis=1)
        np.add.at(logits_sum, place_of_video[video_index[seen]], last.logits.double().cpu().numpy()[seen])
        np.add.at(clip_count, place_of_video[video_index[seen]], 1)
    if logits_sum is None:
        raise InputError("there is no video to predict")

    source = np.concatenate([np.arange(video.start, video.start + video.frames) for video in videos])
    true_joints = data.joints_cam_mm[source]
    uv_px = crop_to_image(uv_crop_px, data.boxes[source][:, None], data.image_size)
    depth_mm = true_joints[:, WRIST : WRIST + 1, 2] + depth_rel_mm
    return Predictions(
        video_of_frame=np.repeat(np.arange(len(videos), dtype=np.int64), lengths),
        frame=np.concatenate([np.arange(length, dtype=np.int64) for length in lengths]),
        frame_valid=frame_valid,
        uv_px=uv_px.astype(np.float32),
        joints_cam_mm=back_project(uv_px, depth_mm, data.camera.intrinsics).astype(np.float32),
        true_uv_px=data.joints_uv_px[source],
        true_joints_cam_mm=true_joints,
        keys=np.array([video.key for video in videos]),
        subject=np.array([video.subject for video in videos], dtype=np.int64),
        gesture=np.array([video.gesture for video in videos], dtype=np.int64),
        logits=(logits_sum / np.maximum(clip_count, 1)[:, None]).astype(np.float32),
    )


def quick_scores(predictions: Predictions) -> dict[str, float]:
    """What a training watches on its validation videos: `accuracy`, and `pck_30` root-aligned over 21 joints."""
    valid = predictions.frame_valid
    errors_mm = metrics.joint_errors(
        metrics.root_aligned(predictions.joints_cam_mm[valid]),
        metrics.root_aligned(predictions.true_joints_cam_mm[valid]),
    )
    counted = np.asarray(np.isfinite(predictions.true_joints_cam_mm[valid]).all(axis=-1))
    sums = metrics.pose_sums(errors_mm, counted, [30.0], predictions.video_of_frame[valid], len(predictions.keys))
    seen = np.unique(predictions.video_of_frame[valid])
    correct = predictions.logits[seen].argmax(axis=1) == predictions.gesture[seen]
    return {"accuracy": float(correct.mean()), "pck_30": float(metrics.pck(metrics.over_all_videos(sums), 30.0))}
