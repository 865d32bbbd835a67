"""Random changes of a training clip: the crop's place and size, colour, blur; one draw a clip, the same for its frames.

No flips: only right hands are annotated, and a mirrored screwing motion would be another gesture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from gesturepose.data.prepared import OUTSIDE
from gesturepose.params import AugmentSettings
from gesturepose.structures import ClipBatch

BLUR_SIGMA: Final = (0.005, 0.015)  # of the crop's side: 0.3–1 px of 64, 1.3–3.8 px of 256
_LUMA: Final = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in JPEG
_STREAM: Final = 1  # keeps these draws apart from the choice of frames, which has the same seed, epoch and video


@dataclass(frozen=True)
class Augmentation:
    """What is done to each of B clips; the identity is 0, 0, 1, 1, 1, 1, 0."""

    shift_u: Tensor  # [B], of the crop's side, to the right
    shift_v: Tensor  # [B], of the crop's side, down
    scale: Tensor  # [B], about the crop's centre; above 1 enlarges
    brightness: Tensor  # [B], factor of all colours
    contrast: Tensor  # [B], factor of the distance from the clip's mean grey
    saturation: Tensor  # [B], factor of the distance from each pixel's own grey
    blur_sigma: Tensor  # [B], of the crop's side; 0 leaves it sharp

    @classmethod
    def draw(cls, settings: AugmentSettings, video_index: list[int], *, seed: int, epoch: int) -> Augmentation:
        """Draws for the clips of these videos, on the CPU; each a function of seed, epoch and video alone."""
        rows = []
        for video in video_index:
            # All are drawn whatever the settings, so that setting one to 0 leaves the others as they were.
            u, v, scale, brightness, contrast, saturation, blurred, sigma = np.random.default_rng(
                (seed, epoch, video, _STREAM)
            ).random(8)
            rows.append(
                (
                    settings.shift * (2 * u - 1),
                    settings.shift * (2 * v - 1),
                    1 + settings.scale * (2 * scale - 1),
                    1 + settings.brightness * (2 * brightness - 1),
                    1 + settings.contrast * (2 * contrast - 1),
                    1 + settings.saturation * (2 * saturation - 1),
                    (BLUR_SIGMA[0] + (BLUR_SIGMA[1] - BLUR_SIGMA[0]) * sigma) * (blurred < settings.blur),
                )
            )
        return cls(*torch.tensor(rows, dtype=torch.float32).reshape(-1, len(fields(cls))).unbind(1))

    def to(self, device: torch.device) -> Augmentation:
        moved = torch.stack([getattr(self, field.name) for field in fields(self)]).to(device, non_blocking=True)
        return Augmentation(*moved.unbind(0))


def augment(batch: ClipBatch, settings: AugmentSettings, *, seed: int, epoch: int) -> ClipBatch:
    """The batch with its clips changed at random, on the batch's device.

    The video becomes float32 0–255, and `joints_uv_crop_px` moves with it; everything else stays. A clip comes out the
    same in any batch.
    """
    drawn = Augmentation.draw(settings, batch.video_index.tolist(), seed=seed, epoch=epoch).to(batch.video.device)
    video = warp_video(batch.video, drawn)
    video = change_colours(video, batch.frame_valid, drawn)
    uv_crop_px = warp_points(batch.joints_uv_crop_px, drawn, batch.video.shape[-1])
    return replace(batch, video=video.clamp_(0.0, 255.0), joints_uv_crop_px=uv_crop_px)


def warp_points(uv_crop_px: Tensor, drawn: Augmentation, size: int) -> Tensor:
    """Where `warp_video` takes points [B, T, J, 2], crop px (pixel centres are integers)."""
    centre = (size - 1) / 2
    shift = torch.stack([drawn.shift_u, drawn.shift_v], dim=-1) * size
    return (uv_crop_px - centre) * drawn.scale[:, None, None, None] + centre + shift[:, None, None]


def warp_video(video: Tensor, drawn: Augmentation) -> Tensor:
    """Shift, scale and blur [B, T, 3, S, S], 0–255 of any type → float32; outside the crop is mid-grey.

    Bilinear sampling on an upright grid and a Gaussian both treat rows and columns apart, so all three together are
    one S×S matrix for the rows and one for the columns.
    """
    size = video.shape[-1]
    columns = _resampling(drawn.shift_u, drawn.scale, drawn.blur_sigma, size)
    rows = _resampling(drawn.shift_v, drawn.scale, drawn.blur_sigma, size)
    # About mid-grey, what the matrices leave out at the border counts as mid-grey.
    centred = video.float() - OUTSIDE
    clips, frames = video.shape[:2]
    across = torch.bmm(centred.reshape(clips, frames * 3 * size, size), columns.mT)
    down = torch.matmul(rows[:, None, None], across.view(clips, frames, 3, size, size))
    return down + OUTSIDE


def _resampling(shift: Tensor, scale: Tensor, blur_sigma: Tensor, size: int) -> Tensor:
    """[B, S, S]: output pixel i is the sum over j of entry (i, j) times input pixel j."""
    pixel = torch.arange(size, dtype=torch.float32, device=shift.device)
    centre = (size - 1) / 2
    source = (pixel - centre - shift[:, None] * size) / scale[:, None] + centre  # [B, S]
    bilinear = (1 - (source[:, :, None] - pixel).abs()).clamp(min=0.0)
    reach = math.ceil(3 * BLUR_SIGMA[1] * size)
    offset = torch.arange(-reach, reach + 1, dtype=torch.float32, device=shift.device)
    sigma_px = (blur_sigma * size).clamp(min=0.05)[:, None]  # at 0.05 px only the middle is left: e⁻²⁰⁰ is 0
    gaussian = torch.softmax(-0.5 * (offset / sigma_px) ** 2, dim=1)  # [B, K]
    distance = (pixel[:, None] - pixel).long() + reach  # [S, S]
    blur = torch.where((distance >= 0) & (distance <= 2 * reach), gaussian[:, distance.clamp(0, 2 * reach)], 0.0)
    return torch.bmm(blur, bilinear)


def change_colours(video: Tensor, frame_valid: Tensor, drawn: Augmentation) -> Tensor:
    """Brightness, contrast and saturation of [B, T, 3, S, S], not yet clamped.

    In this order: towards or from each pixel's grey, times brightness, towards or from the mean grey of the clip's
    valid frames. All three are linear in the colours, so they are one pass.
    """
    red, green, blue = video.unbind(2)
    grey = red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]  # [B, T, S, S]
    valid = frame_valid.to(grey.dtype)
    mean_grey = (grey.mean(dim=(2, 3)) * valid).sum(1) / valid.sum(1).clamp(min=1.0)  # [B]
    factor = drawn.brightness * drawn.contrast
    of_grey = factor * (1 - drawn.saturation)
    constant = (1 - drawn.contrast) * drawn.brightness * mean_grey
    rest = grey * of_grey[:, None, None, None] + constant[:, None, None, None]
    return video * (factor * drawn.saturation)[:, None, None, None, None] + rest[:, :, None]
