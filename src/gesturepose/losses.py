"""The criterion of Sec. 3.5: predictions and labels in, losses out.

With λ = 1 / 0.001 / 0.001 the reductions decide what the weights mean; the paper leaves them open. Here L2d is the mean
over pixels and joints, L3d the sum over joints of squared depths in units of 100 mm, Lc the mean cross-entropy: the
weighted three then start within a factor of two of each other (0.0031, 0.0019, 0.0038 for 64×64 maps and 45 classes).
Denominators are the valid entries of the whole batch; a masked label never reaches a loss, not even as NaN. Where
several processes share a batch, the mean of their losses is the loss of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gesturepose.heatmaps import crop_to_heatmap, gaussian_heatmaps
from gesturepose.parallel import ALONE, World
from gesturepose.params import HEATMAP_STRIDE, LossSettings
from gesturepose.structures import ClipBatch, IterationOutput, precise


@dataclass(frozen=True)
class Losses:
    """Scalars; `total` is Eq. 5, the others are its unweighted terms, each the mean over iterations."""

    total: Tensor
    heatmap: Tensor
    depth: Tensor
    gesture: Tensor


def heatmap_loss(heatmaps: Tensor, batch: ClipBatch, world: World = ALONE) -> Tensor:
    """L2d: [B, T, J, H, W] against Gaussians; joints without a label or outside the crop are left out."""
    height, width = heatmaps.shape[-2:]
    uv = crop_to_heatmap(batch.joints_uv_crop_px, HEATMAP_STRIDE)
    inside = (uv >= -0.5).all(dim=-1) & (uv[..., 0] <= width - 0.5) & (uv[..., 1] <= height - 0.5)
    valid = batch.joint_valid & inside  # a comparison with NaN is False
    target = gaussian_heatmaps(torch.where(valid[..., None], uv, 0.0).to(heatmaps.dtype), height, width)
    per_joint = (heatmaps - target).square().mean(dim=(-2, -1))
    return _masked_mean(per_joint, valid, world)


def depth_loss(depth_rel: Tensor, batch: ClipBatch, world: World = ALONE) -> Tensor:
    """L3d: [B, T, J] root-relative depths; the sum over joints, averaged over frames (J × the mean over labels)."""
    valid = batch.joint_valid
    target = torch.where(valid, batch.depth_rel, 0.0).to(depth_rel.dtype)
    return depth_rel.shape[-1] * _masked_mean((depth_rel - target).square(), valid, world)


def gesture_loss(logits: Tensor, batch: ClipBatch, world: World = ALONE) -> Tensor:
    """Lc: [B, A] mean cross-entropy over the clips with a gesture label."""
    target = torch.where(batch.gesture_valid, batch.gesture, 0)
    return _masked_mean(F.cross_entropy(logits, target, reduction="none"), batch.gesture_valid, world)


class CollaborativeCriterion:
    """Eq. 5 on every iteration with equal weight. λ is not rescaled by the share of labels (Sec. 3.5)."""

    def __init__(self, settings: LossSettings) -> None:
        self.settings = settings

    def __call__(self, outputs: Sequence[IterationOutput], batch: ClipBatch, world: World = ALONE) -> Losses:
        heatmap = _mean([heatmap_loss(precise(output.heatmaps), batch, world) for output in outputs])
        depth = _mean([depth_loss(precise(output.depth_rel), batch, world) for output in outputs])
        gesture = _mean([gesture_loss(precise(output.logits), batch, world) for output in outputs])
        weights = self.settings
        total = weights.heatmap * heatmap + weights.depth * depth + weights.gesture * gesture
        return Losses(total, heatmap, depth, gesture)


class HeatmapCriterion:
    """L2d alone, for fine-tuning the trunk."""

    def __call__(self, heatmaps: Tensor, batch: ClipBatch, world: World = ALONE) -> Losses:
        loss = heatmap_loss(precise(heatmaps), batch, world)
        return Losses(loss, loss, torch.zeros_like(loss), torch.zeros_like(loss))


def _masked_mean(values: Tensor, valid: Tensor, world: World) -> Tensor:
    """The mean over valid entries, 0 if there is none.

    Among several processes the divisor is their mean number of valid entries, of which some may have none.
    """
    count = world.sum(valid.sum()).clamp(min=1)
    return torch.where(valid, values, 0.0).sum() / (count / world.size)


def _mean(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).mean()
