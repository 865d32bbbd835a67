"""One pass over batches: with an optimiser it trains, without one it predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from gesturepose import metrics
from gesturepose.data.clips import BatchLoader
from gesturepose.data.prepared import PreparedData, Video
from gesturepose.errors import InputError
from gesturepose.geometry import back_project, crop_to_image
from gesturepose.heatmaps import decode_heatmaps, heatmap_to_crop
from gesturepose.losses import Losses
from gesturepose.parallel import ALONE, World
from gesturepose.params import HEATMAP_STRIDE
from gesturepose.skeleton import JOINTS, WRIST
from gesturepose.structures import DEPTH_UNIT_MM, ClipBatch, IterationOutput, Predictions

Criterion = Callable[[Any, ClipBatch, World], Losses]
LOSS_NAMES = ("loss", "loss_heatmap", "loss_depth", "loss_gesture")


@dataclass(frozen=True)
class Execution:
    """Where, in which precision and beside which other processes a network runs, and whether it is compiled."""

    device: torch.device
    precision: torch.dtype
    compiled: bool = False
    world: World = ALONE

    def autocast(self) -> torch.autocast:
        enabled = self.precision == torch.bfloat16
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` as one program for each shape it meets, on a GPU one CUDA graph; unchanged unless `compiled`."""
        if not self.compiled:
            return function
        mode = "reduce-overhead" if self.device.type == "cuda" else None
        return torch.compile(function, dynamic=False, mode=mode)

    def begin_step(self) -> None:
        """What the compiled programs gave in the step before has been used up."""
        if self.compiled:  # the first call imports the compiler, which takes seconds
            torch.compiler.cudagraph_mark_step_begin()

    def bar(self, batches: BatchLoader, title: str) -> tqdm[ClipBatch]:
        """A progress bar over `batches`, in the leading process of a terminal."""
        return tqdm(batches, desc=title, unit="batch", leave=False, disable=None if self.world.leads else True)


@dataclass
class LossMeans:
    """Means of the losses over clips."""

    rows: list[Tensor] = field(default_factory=list)  # for each batch the losses times its clips, and its clips

    def add(self, losses: Losses, clips: int) -> None:
        values = torch.stack([losses.total, losses.heatmap, losses.depth, losses.gesture]).detach().double()
        self.rows.append(torch.cat([values, values.new_ones(1)]) * clips)

    def means(self, world: World) -> dict[str, float]:
        """Over all processes' batches, which the processes took in turn: summed up in the order of the batches."""
        width = len(LOSS_NAMES) + 1
        own = torch.stack(self.rows) if self.rows else torch.zeros(0, width, dtype=torch.float64)
        count = int(world.sum(torch.tensor(len(own))))
        table = own.new_zeros(count, width)
        table[world.rank :: world.size] = own
        totals = world.sum(table).sum(dim=0)
        return dict(zip(LOSS_NAMES, (totals[:-1] / totals[-1].clamp(min=1)).tolist(), strict=True))


def losses_of(network: nn.Module, criterion: Criterion, batch: ClipBatch, execution: Execution) -> Losses:
    """Forward and criterion, of this process's part of a batch."""
    with execution.autocast():
        return criterion(network(batch.video, batch.frame_valid), batch, execution.world)


def outputs_of(network: nn.Module, batch: ClipBatch, execution: Execution) -> Any:
    """Forward alone."""
    with execution.autocast():
        return network(batch.video, batch.frame_valid)


def train_epoch(
    network: nn.Module,
    criterion: Criterion,
    optimiser: Optimizer,
    batches: BatchLoader,
    execution: Execution,
    *,
    prepare: Callable[[ClipBatch], ClipBatch],
    title: str,
) -> dict[str, float]:
    """One epoch of optimisation; the mean losses over its clips.

    Raises:
        InputError: the loss is no longer finite.
    """
    network.train()
    forward = execution.compile(losses_of)
    means = LossMeans()
    for batch in execution.bar(batches, title):
        moved = prepare(batch.to(execution.device))
        execution.begin_step()
        losses = forward(network, criterion, moved, execution)
        optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        optimiser.step()
        means.add(losses, len(moved.gesture))
    result = means.means(execution.world)
    if not np.isfinite(result["loss"]):
        raise InputError(
            f"{title}: the loss is {result['loss']}",
            hint="Lower the learning rate or use runtime.precision: float32, then run again.",
        )
    return result


@torch.inference_mode()
def infer(
    network: nn.Module, batches: BatchLoader, execution: Execution, *, title: str
) -> Iterator[tuple[ClipBatch, Any]]:
    """The network's outputs, batch after batch, in evaluation mode; to be used up before the next is asked for."""
    network.eval()
    forward = execution.compile(outputs_of)
    for batch in execution.bar(batches, title):
        moved = batch.to(execution.device)
        execution.begin_step()
        yield moved, forward(network, moved, execution)


def predict(
    outputs: Iterable[tuple[ClipBatch, Sequence[IterationOutput]]],
    data: PreparedData,
    videos: Sequence[Video],
    world: World = ALONE,
) -> Predictions:
    """Gather the last iteration's outputs over all clips of `videos` (see `clips.evaluation_loader`).

    Heatmap peaks go crop → image → camera, with the true wrist depth; a video's logits are the mean of its clips'.
    Frames that could not be read keep NaN. Among several processes each has all of the result.
    """
    if not videos:
        raise InputError("there is no video to predict")
    lengths = np.array([video.frames for video in videos], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    frames = int(offsets[-1])
    positions = {video.key: position for position, video in enumerate(data.videos)}
    place_of_video = np.full(len(data.videos), -1, dtype=np.int64)  # prepared video → its place in `videos`
    place_of_video[[positions[video.key] for video in videos]] = np.arange(len(videos))

    uv_crop_px = np.zeros((frames, JOINTS, 2), dtype=np.float32)
    depth_rel_mm = np.zeros((frames, JOINTS), dtype=np.float32)
    frame_seen = np.zeros(frames, dtype=np.int64)
    # A clip of a test is known by its first frame's row (see `clips.test_clips`).
    clip_logits = np.zeros((frames, len(data.gestures)), dtype=np.float64)
    clip_seen = np.zeros(frames, dtype=np.int64)
    for batch, iterations in outputs:
        last = iterations[-1]
        valid = batch.frame_valid.cpu().numpy()
        row = offsets[place_of_video[batch.video_index.cpu().numpy()]][:, None] + batch.frame_index.cpu().numpy()
        uv_crop = heatmap_to_crop(decode_heatmaps(last.heatmaps), HEATMAP_STRIDE)
        uv_crop_px[row[valid]] = uv_crop.cpu().numpy()[valid]
        depth_rel_mm[row[valid]] = last.depth_rel.float().cpu().numpy()[valid] * DEPTH_UNIT_MM
        frame_seen[row[valid]] = 1
        seen = valid.any(axis=1)
        clip_logits[row[seen, 0]] = last.logits.double().cpu().numpy()[seen]
        clip_seen[row[seen, 0]] = 1
    # Each entry comes from one process and is zero in the others, so that the sum is exact.
    for array in (uv_crop_px, depth_rel_mm, frame_seen, clip_logits, clip_seen):
        array[...] = world.sum(torch.from_numpy(array)).numpy()
    frame_valid = frame_seen.astype(np.bool_)
    uv_crop_px[~frame_valid] = depth_rel_mm[~frame_valid] = np.nan
    video_of_frame = np.repeat(np.arange(len(videos), dtype=np.int64), lengths)
    logits = np.zeros((len(videos), len(data.gestures)), dtype=np.float64)
    np.add.at(logits, video_of_frame, clip_logits)
    clips = np.bincount(video_of_frame, weights=clip_seen, minlength=len(videos))

    source = np.concatenate([np.arange(video.start, video.start + video.frames) for video in videos])
    true_joints = data.joints_cam_mm[source]
    uv_px = crop_to_image(uv_crop_px, data.boxes[source][:, None], data.image_size)
    depth_mm = true_joints[:, WRIST : WRIST + 1, 2] + depth_rel_mm
    return Predictions(
        video_of_frame=video_of_frame,
        frame=np.concatenate([np.arange(length, dtype=np.int64) for length in lengths]),
        frame_valid=frame_valid,
        uv_px=uv_px.astype(np.float32),
        joints_cam_mm=back_project(uv_px, depth_mm, data.camera.intrinsics).astype(np.float32),
        true_uv_px=data.joints_uv_px[source],
        true_joints_cam_mm=true_joints,
        keys=np.array([video.key for video in videos]),
        subject=np.array([video.subject for video in videos], dtype=np.int64),
        gesture=np.array([video.gesture for video in videos], dtype=np.int64),
        logits=(logits / np.maximum(clips, 1)[:, None]).astype(np.float32),
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
