"""A crop's box, which stands in for a hand detector's, and its pixels."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from gesturepose.data.jpeg import inspect_jpeg
from gesturepose.data.prepared import OUTSIDE
from gesturepose.errors import InputError
from gesturepose.geometry import Array, Camera, project

Mask = NDArray[np.bool_]

NEAREST_MM: Final = 1.0  # joints at or behind the camera are projected from here, which keeps their pixels finite
REACH: Final = 0.25  # joints this far (of the longer side) out of the image still count for the box
SMALLEST_BOX: Final = 0.1  # of the longer side; FPHA's small hands (1 % below 190 px of 1920) stay above it
OUTLIERS: Final = 0.02  # share of a video's frames whose extents may lie beyond its box before the margin is added
_REDUCED: Final = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


# Boxes


def project_joints(joints_cam_mm: Array, camera: Camera) -> Array:
    """[..., 3] camera mm → [..., 2] image px, finite for every joint.

    A joint at or behind the camera has no picture: it is projected from `NEAREST_MM` in front and so lands far away.
    Clips mask it (its Z says so).
    """
    near = joints_cam_mm.copy()
    near[..., 2] = np.maximum(near[..., 2], NEAREST_MM)
    return project(near, camera.intrinsics)


def usable_joints(joints_uv_px: Array, depth_mm: Array, camera: Camera) -> Mask:
    """[T, J] the joint is in or near the image. Without this one joint close to the camera makes boxes of 15,000 px."""
    reach = REACH * max(camera.width, camera.height)
    largest = np.array([camera.width, camera.height]) - 0.5 + reach
    inside = ((joints_uv_px >= -0.5 - reach) & (joints_uv_px <= largest)).all(axis=-1)
    return inside & (depth_mm > 0)


def clip_box(joints_uv_px: Array, usable: Mask, camera: Camera, margin: float) -> Array:
    """One box (left, top, side) [3] around the usable joints of a video, [T, J, 2] px with `usable` [T, J].

    The side is `margin` times the longest extent of the joints over all frames, but for the `OUTLIERS` share of the
    frames at either end, so that one jump of the annotation does not widen the box of a whole video and shrink its
    hand. It is at most the image's longer side and at least `SMALLEST_BOX` of it, and the centre is in the image.
    Without any usable joint it is the square around the whole image.
    """
    seen = usable.any(axis=1)
    if not seen.any():
        return _square(np.array([camera.width - 1, camera.height - 1]) / 2, math.inf, camera)
    lowest, highest = _extents(joints_uv_px[seen], usable[seen])
    low, high = np.quantile(lowest, OUTLIERS, axis=0), np.quantile(highest, 1 - OUTLIERS, axis=0)
    return _square((low + high) / 2, margin * (high - low).max(), camera)


def frame_boxes(joints_uv_px: Array, usable: Mask, camera: Camera, margin: float) -> Array:
    """A box [T, 3] for each frame, limited as in `clip_box`.

    A frame without any usable joint has the box of the frame before it; before the first box, the whole image.
    """
    box = _square(np.array([camera.width - 1, camera.height - 1]) / 2, math.inf, camera)
    boxes = np.empty((len(joints_uv_px), 3))
    for frame in range(len(boxes)):
        if usable[frame].any():
            low, high = _extents(joints_uv_px[frame], usable[frame])
            box = _square((low + high) / 2, margin * (high - low).max(), camera)
        boxes[frame] = box
    return boxes


def _extents(joints_uv_px: Array, usable: Mask) -> tuple[Array, Array]:
    """Lowest and highest usable (u, v) of each frame, two [..., 2] of [..., J, 2]."""
    lowest = np.where(usable[..., None], joints_uv_px, math.inf).min(axis=-2)
    highest = np.where(usable[..., None], joints_uv_px, -math.inf).max(axis=-2)
    return lowest, highest


def _square(centre_px: Array, side_px: float, camera: Camera) -> Array:
    longer = max(camera.width, camera.height)
    side = min(max(side_px, SMALLEST_BOX * longer), longer)
    centre = np.clip(centre_px, 0, np.array([camera.width - 1, camera.height - 1]))
    return np.array([*(centre - side / 2), side])


# Pixels


class Unreadable(Exception):
    """A picture that cannot be decoded; the message says why."""


def read_crop(path: Path, box: Array, size: int, camera: Camera) -> NDArray[Any]:
    """The crop `box` (left, top, side) of a JPEG file, uint8 [size, size, 3] RGB.

    The decoder halves the picture (up to three times) as long as `size` px across the box are left, so that no detail
    is lost. Raises Unreadable, or InputError for a picture of another size than the camera's.

    The decoder patches damage within the coded pixels; what is noticed is a lost end or a broken header.
    """
    fault, image_size = inspect_jpeg(path)
    if fault:
        raise Unreadable(fault)
    if image_size != (camera.width, camera.height):
        width, height = image_size or (0, 0)
        message = f"the picture has {width}x{height} px; by the camera it is {camera.width}x{camera.height}"
        raise InputError(message, file=path, hint="Resized copies need a camera.json with their size and focal length.")
    left, top, side = (float(value) for value in box)
    reduction = next(factor for factor in (8, 4, 2, 1) if factor == 1 or side >= factor * size)
    flags = _REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION  # the calibration is of the sensor, however it was held
    try:
        image = cv2.imread(str(path), flags)
    except cv2.error:
        image = None
    if image is None:
        raise Unreadable("the decoder refuses it")
    # Pixel i of the reduced picture is the mean of pixels r·i … r·i + r - 1.
    corner = ((left + 0.5) / reduction - 0.5, (top + 0.5) / reduction - 0.5)
    return cv2.cvtColor(_cut(image, corner, side / reduction, size), cv2.COLOR_BGR2RGB)


def _cut(image: NDArray[Any], corner: tuple[float, float], side: float, size: int) -> NDArray[Any]:
    """The square with the outer `corner` (left, top) and `side`, as [size, size, 3].

    Bilinear sampling alone aliases where it shrinks. So the square is sampled finely enough that no pixel is skipped,
    and whole blocks of samples are averaged.
    """
    blocks = max(1, math.ceil(side / size - 1e-6))
    grey = (OUTSIDE, OUTSIDE, OUTSIDE)
    maps = _sampling(*corner, side, size * blocks)
    fine = cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=grey)
    return fine if blocks == 1 else cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)


@lru_cache(maxsize=8)  # a video's frames share one box
def _sampling(left: float, top: float, side: float, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Where a square is sampled, `count` times each way, in OpenCV's fixed-point form (1/32 px), its fastest."""
    steps = (np.arange(count) + 0.5) * (side / count)
    across, down = np.meshgrid((left + steps).astype(np.float32), (top + steps).astype(np.float32))
    first, second = cv2.convertMaps(across, down, cv2.CV_16SC2)
    return first, second
