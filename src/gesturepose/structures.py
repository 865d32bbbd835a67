"""What travels between data, network, criterion and evaluation.

Axes: B clips, T frames of a clip, J joints, C channels, H W rows and columns, A gestures, V videos, F frames.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SYNTHETIC_NAME = "synthetic"  # the generator's data; of any other, no frame and no video's name enters a tracked file
DEPTH_UNIT_MM = 100.0  # the network's depths are (Z − Z_wrist) in units of 100 mm, so that L3d and L2d start alike


@dataclass(frozen=True)
class ClipBatch:
    """A batch of clips with whatever labels they have. A masked label may hold anything, NaN included."""

    video: Tensor  # uint8 or float [B, T, 3, H, W]; float is 0–255 as well
    frame_valid: Tensor  # bool [B, T], False past a video's end or where the picture could not be read
    joints_uv_crop_px: Tensor  # float [B, T, J, 2]
    depth_rel: Tensor  # float [B, T, J], root-relative, in units of 100 mm
    joint_valid: Tensor  # bool [B, T, J], the joint has a pose label (and its frame is valid)
    gesture: Tensor  # int64 [B]
    gesture_valid: Tensor  # bool [B]
    video_index: Tensor  # int64 [B], position in PreparedData.videos
    frame_index: Tensor  # int64 [B, T], frame number within its video

    def to(self, device: torch.device) -> ClipBatch:
        return ClipBatch(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})

    def pinned(self) -> ClipBatch:
        """In page-locked memory, from which a GPU copies while the CPU goes on; what is on a GPU stays there."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return ClipBatch(**{name: x if x.is_cuda else x.pin_memory() for name, x in tensors.items()})


@dataclass(frozen=True)
class IterationOutput:
    """What one collaborative iteration says (Sec. 3.1, stages 2–4); every iteration returns the same type."""

    heatmaps: Tensor  # float [B, T, J, H, W]
    depth_rel: Tensor  # float [B, T, J], root-relative, in units of 100 mm
    logits: Tensor  # float [B, A]


@dataclass(frozen=True)
class Predictions:
    """Everything `evaluate` needs of one split: each frame of each video once, V videos with F frames in all."""

    video_of_frame: NDArray[np.int64]  # [F] position in `keys`
    frame: NDArray[np.int64]  # [F] frame number within its video
    frame_valid: NDArray[np.bool_]  # [F] the picture could be read
    uv_px: NDArray[np.float32]  # [F, J, 2] predicted, image px
    joints_cam_mm: NDArray[np.float32]  # [F, J, 3] predicted, with the true wrist depth
    true_uv_px: NDArray[np.float32]  # [F, J, 2]
    true_joints_cam_mm: NDArray[np.float32]  # [F, J, 3]
    keys: NDArray[np.str_]  # [V]
    subject: NDArray[np.int64]  # [V]
    gesture: NDArray[np.int64]  # [V] true class
    logits: NDArray[np.float32]  # [V, A], mean over the video's clips


def precise(values: Tensor) -> Tensor:
    """At least fp32: what is squared, summed over pixels or normalised does not live in bf16."""
    return values if values.dtype == torch.float64 else values.float()
