"""Heatmaps and points; PyTorch, pure functions.

A heatmap pixel's centre is an integer, as in the crop, and one heatmap pixel covers `stride` crop pixels:
uv_heatmap_px = (uv_crop_px + 0.5) / stride − 0.5.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_DECODE_RADIUS = 2  # px around the peak that the sub-pixel centroid sees


def crop_to_heatmap(uv_crop_px: Tensor, stride: int) -> Tensor:
    """[..., 2] crop px → [..., 2] heatmap px."""
    return (uv_crop_px + 0.5) / stride - 0.5


def heatmap_to_crop(uv_heatmap_px: Tensor, stride: int) -> Tensor:
    """[..., 2] heatmap px → [..., 2] crop px; the inverse of `crop_to_heatmap`."""
    return (uv_heatmap_px + 0.5) * stride - 0.5


def gaussian_heatmaps(uv_heatmap_px: Tensor, height: int, width: int) -> Tensor:
    """[..., J, 2] heatmap px → [..., J, H, W] Gaussians with peak 1 at the sub-pixel centre and σ = H/32 px.

    The Gaussian is separable: two vectors and their outer product.
    """
    sigma = height / 32.0
    columns = torch.arange(width, device=uv_heatmap_px.device, dtype=uv_heatmap_px.dtype)
    rows = torch.arange(height, device=uv_heatmap_px.device, dtype=uv_heatmap_px.dtype)
    along_u = torch.exp(-((columns - uv_heatmap_px[..., 0:1]) ** 2) / (2.0 * sigma**2))  # [..., J, W]
    along_v = torch.exp(-((rows - uv_heatmap_px[..., 1:2]) ** 2) / (2.0 * sigma**2))  # [..., J, H]
    return along_v[..., :, None] * along_u[..., None, :]


def decode_heatmaps(heatmaps: Tensor) -> Tensor:
    """[..., H, W] heatmaps → [..., 2] peak in heatmap px, sub-pixel.

    The centroid of the positive part in a 5 × 5 window around the maximum. A map without a positive value
    gives its maximum's pixel.
    """
    height, width = heatmaps.shape[-2:]
    leading = heatmaps.shape[:-2]
    maps = heatmaps.float().reshape(-1, height, width)
    peak = maps.flatten(1).argmax(dim=1)
    row, column = peak // width, peak % width  # [N]
    offsets = torch.arange(-_DECODE_RADIUS, _DECODE_RADIUS + 1, device=maps.device)
    padded = F.pad(maps.clamp(min=0.0), [_DECODE_RADIUS] * 4)
    rows = (row[:, None] + offsets + _DECODE_RADIUS)[:, :, None]  # [N, 5, 1]
    columns = (column[:, None] + offsets + _DECODE_RADIUS)[:, None, :]  # [N, 1, 5]
    window = padded[torch.arange(len(maps), device=maps.device)[:, None, None], rows, columns]  # [N, 5, 5]
    total = window.sum(dim=(1, 2)).clamp(min=torch.finfo(maps.dtype).tiny)
    shift_u = (window.sum(dim=1) * offsets).sum(dim=1) / total
    shift_v = (window.sum(dim=2) * offsets).sum(dim=1) / total
    return torch.stack([column + shift_u, row + shift_v], dim=1).reshape(*leading, 2)
