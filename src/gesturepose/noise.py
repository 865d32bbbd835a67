"""Batches of noise, for measuring what a step costs where there is no data."""

from __future__ import annotations

import torch

from gesturepose.skeleton import JOINTS
from gesturepose.structures import ClipBatch


def random_batch(clips: int, frames: int, size: int, gestures: int) -> ClipBatch:
    """A batch of noise with every label, crops of `size` px."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (clips, frames, size, size, 3), dtype=torch.uint8, generator=rng)
    return ClipBatch(
        video=pixels.permute(0, 1, 4, 2, 3),
        frame_valid=torch.ones(clips, frames, dtype=torch.bool),
        joints_uv_crop_px=(size - 1) * torch.rand(clips, frames, JOINTS, 2, generator=rng),
        depth_rel=torch.randn(clips, frames, JOINTS, generator=rng),
        joint_valid=torch.ones(clips, frames, JOINTS, dtype=torch.bool),
        gesture=torch.randint(gestures, (clips,), generator=rng),
        gesture_valid=torch.ones(clips, dtype=torch.bool),
        video_index=torch.arange(clips),
        frame_index=torch.arange(frames).expand(clips, frames),
    )
