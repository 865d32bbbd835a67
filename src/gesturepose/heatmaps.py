"""Heatmaps and points; PyTorch, pure functions.

A heatmap pixel's centre is an integer, as in the crop, and one heatmap pixel covers `stride` crop pixels:
uv_heatmap_px = (uv_crop_px + 0.5) / stride − 0.5.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Share of the maximum below which a neighbour counts as this much; a Gaussian of σ = 1 px has more, 0.14 or above.
_LEAST_NEIGHBOUR = 0.01


def crop_to_heatmap(uv_crop_px: Tensor, stride: int) -> Tensor:
    """[..., 2] crop px → [..., 2] heatmap px."""
    return (uv_crop_px + 0.5) / stride - 0.5


def heatmap_to_crop(uv_heatmap_px: Tensor, stride: int) -> Tensor:
    """[..., 2] heatmap px → [..., 2] crop px; the inverse of `crop_to_heatmap`."""
    return (uv_heatmap_px + 0.5) * stride - 0.5


def gaussian_heatmaps(uv_heatmap_px: Tensor, height: int, width: int) -> Tensor:
    """[..., J, 2] heatmap px → [..., J, H, W] Gaussians with peak 1 at the sub-pixel centre and σ = H/32 px,
    at least 1 px: a narrower one is a single bright pixel, and the all-zero map a minimum that training hardly leaves.

    The Gaussian is separable: two vectors and their outer product.
    """
    sigma = max(height / 32.0, 1.0)
    columns = torch.arange(width, device=uv_heatmap_px.device, dtype=uv_heatmap_px.dtype)
    rows = torch.arange(height, device=uv_heatmap_px.device, dtype=uv_heatmap_px.dtype)
    along_u = torch.exp(-((columns - uv_heatmap_px[..., 0:1]) ** 2) / (2.0 * sigma**2))  # [..., J, W]
    along_v = torch.exp(-((rows - uv_heatmap_px[..., 1:2]) ** 2) / (2.0 * sigma**2))  # [..., J, H]
    return along_v[..., :, None] * along_u[..., None, :]


def decode_heatmaps(heatmaps: Tensor) -> Tensor:
    """[..., H, W] heatmaps → [..., 2] peak in heatmap px, sub-pixel.

    A parabola through the logarithms of the maximum and its two neighbours, along each axis: exact for a Gaussian of
    any σ (the idea of DARK, Zhang et al., CVPR 2020, without its blur). No shift along an axis on which the maximum
    lies at the border, nor in a map without a positive value.
    """
    height, width = heatmaps.shape[-2:]
    maps = heatmaps.float().reshape(-1, height, width)
    peak_value, peak = maps.flatten(1).max(dim=1)
    row, column = peak // width, peak % width  # [N]
    every = torch.arange(len(maps), device=maps.device)

    def shift(before: Tensor, after: Tensor, inner: Tensor) -> Tensor:
        floor = (_LEAST_NEIGHBOUR * peak_value).clamp(min=torch.finfo(maps.dtype).tiny)
        log_peak = torch.maximum(peak_value, floor).log()
        log_before, log_after = torch.maximum(before, floor).log(), torch.maximum(after, floor).log()
        curvature = 2.0 * log_peak - log_before - log_after
        offset = 0.5 * (log_after - log_before) / curvature.clamp(min=1e-6)
        return torch.where(inner & (peak_value > 0), offset.clamp(-0.5, 0.5), 0.0)

    left, right = (column - 1).clamp(min=0), (column + 1).clamp(max=width - 1)
    above, below = (row - 1).clamp(min=0), (row + 1).clamp(max=height - 1)
    u = column + shift(maps[every, row, left], maps[every, row, right], (column > 0) & (column < width - 1))
    v = row + shift(maps[every, above, column], maps[every, below, column], (row > 0) & (row < height - 1))
    return torch.stack([u, v], dim=1).reshape(*heatmaps.shape[:-2], 2)
