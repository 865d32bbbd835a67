"""Cameras, projections and square crops; NumPy, pure functions, float64 unless the caller gives something else.

Frames of reference and units
    world   the dataset's frame (FPHA: the depth camera), mm
    cam     the colour camera, mm: x right, y down, z forward
    uv      colour image, px: the centre of the top left pixel is (0, 0)
    uv_crop the square crop, px, same convention, so its extent is [-0.5, size - 0.5]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion, and its pose: X_cam = rotation · X_world + translation_mm."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    rotation: tuple[tuple[float, float, float], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    translation_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def intrinsics(self) -> Array:
        """[3, 3] calibration matrix, px."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def world_to_cam(self, joints_world_mm: Array) -> Array:
        """[..., 3] world mm → [..., 3] camera mm."""
        return joints_world_mm @ np.asarray(self.rotation).T + np.asarray(self.translation_mm)

    def cam_to_world(self, joints_cam_mm: Array) -> Array:
        """[..., 3] camera mm → [..., 3] world mm."""
        return (joints_cam_mm - np.asarray(self.translation_mm)) @ np.asarray(self.rotation)

    def scaled(self, factor: float) -> Camera:
        """The same camera with an image `factor` times as large (pixel centres are integers, hence the half pixels)."""
        return Camera(
            fx=self.fx * factor,
            fy=self.fy * factor,
            cx=(self.cx + 0.5) * factor - 0.5,
            cy=(self.cy + 0.5) * factor - 0.5,
            width=round(self.width * factor),
            height=round(self.height * factor),
            rotation=self.rotation,
            translation_mm=self.translation_mm,
        )


# One calibration for all subjects, from the dataset's own documentation.
FPHA_CAMERA = Camera(
    fx=1395.749023,
    fy=1395.749268,
    cx=935.732544,
    cy=540.681030,
    width=1920,
    height=1080,
    rotation=(
        (0.999988496304, -0.00468848412856, 0.000982563360594),
        (0.00469115935266, 0.999985218048, -0.00273845880292),
        (-0.000969709653873, 0.00274303671904, 0.99999576807),
    ),
    translation_mm=(25.7, 1.22, 3.902),
)


def project(joints_cam_mm: Array, intrinsics: Array) -> Array:
    """[..., 3] camera mm → [..., 2] image px. `intrinsics` [..., 3, 3] broadcasts over the leading axes."""
    xyz = joints_cam_mm
    u = intrinsics[..., 0, 0] * xyz[..., 0] / xyz[..., 2] + intrinsics[..., 0, 2]
    v = intrinsics[..., 1, 1] * xyz[..., 1] / xyz[..., 2] + intrinsics[..., 1, 2]
    return np.stack([u, v], axis=-1)


def back_project(uv_px: Array, depth_mm: Array, intrinsics: Array) -> Array:
    """[..., 2] image px and [...] depth along z in mm → [..., 3] camera mm; the inverse of `project`."""
    x = (uv_px[..., 0] - intrinsics[..., 0, 2]) / intrinsics[..., 0, 0] * depth_mm
    y = (uv_px[..., 1] - intrinsics[..., 1, 2]) / intrinsics[..., 1, 1] * depth_mm
    return np.stack([x, y, depth_mm], axis=-1)


def image_to_crop(uv_px: Array, box: Array, size: int) -> Array:
    """[..., 2] image px → [..., 2] crop px.

    `box` [..., 3] is (left, top, side): the square's outer edges in image px, so that the image itself starts at -0.5;
    it broadcasts over the leading axes of `uv_px`. `size` is the crop's side in px.
    """
    return (uv_px - box[..., :2]) * (size / box[..., 2:]) - 0.5


def crop_to_image(uv_crop_px: Array, box: Array, size: int) -> Array:
    """[..., 2] crop px → [..., 2] image px; the inverse of `image_to_crop`."""
    return (uv_crop_px + 0.5) * (box[..., 2:] / size) + box[..., :2]
