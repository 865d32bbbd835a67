"""From a planned video to the hand's joints in the camera's frame: handshapes, motions, subjects' styles and views.

A video's movement is a function of its own time, 0 to 1, so `release` is exactly `form` run backwards: no single frame
tells them apart. `snap` follows form's path with an accelerating timing, `shake` follows wave's at more than twice its
speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gesturepose.geometry import FPHA_CAMERA
from gesturepose.synthetic.hand import Array, anatomy, pose_hand, within_limits
from gesturepose.synthetic.plan import VideoPlan, plan

__all__ = ["VideoPlan", "joints_cam_mm", "plan"]

_STYLE_STREAM: Final = 22
_FRAMES_PER_SECOND: Final = 30.0

# Angles in degrees, columns as in `hand.ANGLES`: thumb (radial, palmar, roll, mcp, ip), then four fingers
# (abduction, mcp, pip, dip). Each thumb was fitted so that its tip meets a finger
# without passing through it.
_CURLED: Final = ((0, 78, 100, 60), (0, 80, 102, 60), (0, 80, 102, 60), (0, 78, 98, 58))


def _shape(thumb: tuple[int, ...], *fingers: tuple[int, ...]) -> Array:
    return np.array([*thumb, *(angle for finger in fingers for angle in finger)], dtype=np.float64)


_REST_DEG: Final = _shape((34, 32, 20, 14, 18), (-3, 22, 30, 14), (0, 25, 33, 15), (3, 27, 34, 15), (7, 27, 32, 15))
_HANDSHAPES_DEG: Final[dict[str, Array]] = {
    "palm": _shape((58, 8, 10, 0, -6), (-16, -4, 3, 2), (-2, -4, 3, 2), (11, -4, 3, 2), (23, -4, 3, 2)),
    "fist": _shape((37, 37, 35, 49, 77), *_CURLED),
    "vee": _shape((12, 60, 0, 35, 85), (-15, 0, 2, 2), (14, 0, 2, 2), *_CURLED[2:]),
    "thumb": _shape((70, 2, 0, -12, -18), *_CURLED),
    "point": _shape((43, 70, 0, 37, 85), (0, 0, 2, 2), *_CURLED[1:]),
    "pinch": _shape((33, 47, 11, 17, 21), (-3, 55, 42, 20), *_CURLED[1:]),
    "ring": _shape((41, 50, 14, 27, 36), (-2, 48, 58, 32), (2, 4, 6, 4), (10, 0, 4, 4), (19, -4, 4, 4)),
    "horns": _shape((43, 70, 0, 37, 85), (-8, 0, 2, 2), *_CURLED[1:3], (14, 0, 2, 2)),
    "grasp": _shape((40, 58, 10, 18, 28), (-10, 38, 52, 30), (-1, 40, 54, 30), (7, 40, 52, 30), (14, 38, 48, 28)),
}
_LOOSEST: Final = 0.12  # where form starts between the resting hand (0) and the shape (1)

# The egocentric view: fingers point away from the camera, up and to the left, the back of the hand is seen.
_FINGERS_CAM: Final = (-0.32, -0.66, 0.56)
_BACK_CAM: Final = (-0.15, -0.45, -0.85)
_VIEW_MEAN_DEG: Final = (0.0, 12.0, 0.0)  # about the hand's x (pitch), y (roll) and z (yaw)
_VIEW_SPREAD_DEG: Final = (13.0, 20.0, 15.0)

# The rigid part of the two paths in the hand's frame: rotation vectors about a point in the forearm, and displacements.
_PIVOT_MM: Final = np.array([0.0, -70.0, 0.0])
_REACH_DEG: Final = np.array([-34.0, 8.0, -6.0])
_REACH_MM: Final = np.array([-12.0, 38.0, 22.0])
_WAVE_DEG: Final = np.array([4.0, 10.0, 24.0])
_WAVE_MM: Final = np.array([-9.0, 0.0, 0.0])
_CYCLES: Final = {"wave": 1.1, "shake": 2.6}
_SNAP_EXPONENT: Final = 3.2

# Wrist depth over FPHA: median 355 mm, 1–99 % 172–540 mm. The picture's centre of a hand, px at 1920×1080.
_DEPTH_MM: Final = (355.0, 78.0, 168.0, 560.0)  # mean, standard deviation, least, greatest
_NEAREST_MM: Final = 95.0  # no joint comes closer to the camera
_CENTRE_PX: Final = ((985.0, 340.0), (620.0, 160.0))


@dataclass(frozen=True)
class _Style:
    """How one subject moves: the same in all videos of theirs."""

    shape_deg: Array  # [21] added to every articulation
    view_deg: Array  # [3]
    amplitude: float
    start: float  # share of the video before the movement begins
    end: float  # … and at which it is over
    ease: float  # 0 even speed, 1 soft start and stop
    lag: Array  # [5] by how much of the movement each finger is late
    phase: float  # rad, of wave and shake


def _style(subject: int) -> _Style:
    rng = np.random.default_rng([_STYLE_STREAM, subject])
    return _Style(
        shape_deg=3.5 * rng.standard_normal(21),
        view_deg=6.0 * rng.standard_normal(3),
        amplitude=rng.uniform(0.88, 1.14),
        start=rng.uniform(0.0, 0.08),
        end=rng.uniform(0.92, 1.0),
        ease=rng.uniform(0.2, 0.8),
        lag=rng.uniform(0.0, 0.12, 5),
        phase=0.2 * rng.standard_normal(),
    )


def joints_cam_mm(video: VideoPlan) -> Array:
    """[T, 21, 3] joints in the camera's frame, mm; a function of the plan alone."""
    rng = np.random.default_rng([video.seed])
    shape, motion = video.action.rsplit("_", 1)
    time = np.arange(video.frames) / max(video.frames - 1, 1)
    if motion == "release":
        time, motion = time[::-1], "form"
    seconds = time * (video.frames - 1) / _FRAMES_PER_SECOND

    style = _style(video.subject)
    amplitude = style.amplitude * rng.uniform(0.88, 1.12)
    ease = float(np.clip(style.ease + rng.normal(0.0, 0.15), 0.0, 1.0))
    start, end = style.start + rng.uniform(0.0, 0.05), style.end - rng.uniform(0.0, 0.05)
    phase = style.phase + rng.normal(0.0, 0.2)
    own_deg = style.shape_deg + 4.0 * rng.standard_normal(21)
    firmness = rng.uniform(0.93, 1.04)
    view = _view(rng, style.view_deg)
    articulation_tremor_deg = 1.5 * _tremor(rng, seconds, 21)
    rotation_tremor_deg = 1.5 * _tremor(rng, seconds, 3)
    position_tremor_mm = 1.5 * _tremor(rng, seconds, 3)
    drift_cam_mm = (time - 0.5)[:, None] * rng.normal(0.0, 10.0, 3)

    progress = np.clip((time - start) / (end - start), 0.0, 1.0)
    if motion in _CYCLES:
        swing = amplitude * np.sin(2.0 * np.pi * _CYCLES[motion] * progress + phase)[:, None]
        rotation_deg, offset_mm = swing * _WAVE_DEG, swing * _WAVE_MM
        formed = np.full((video.frames, 5), firmness)
    else:
        progress = progress**_SNAP_EXPONENT if motion == "snap" else _eased(progress, ease)
        reach = amplitude * (progress - 0.5)[:, None]
        rotation_deg, offset_mm = reach * _REACH_DEG, reach * _REACH_MM
        late = np.clip((progress[:, None] - style.lag) / (1.0 - style.lag), 0.0, 1.0)
        formed = firmness * (_LOOSEST + (1.0 - _LOOSEST) * late)

    by_angle = np.concatenate([np.repeat(formed[:, :1], 5, axis=1), np.repeat(formed[:, 1:], 4, axis=1)], axis=1)
    angles_deg = _REST_DEG + by_angle * (_HANDSHAPES_DEG[shape] - _REST_DEG) + own_deg + articulation_tremor_deg
    joints_mm = pose_hand(anatomy(video.subject), within_limits(angles_deg))
    turns = Rotation.from_rotvec(rotation_deg + rotation_tremor_deg, degrees=True).as_matrix()
    joints_mm = (joints_mm - _PIVOT_MM) @ turns.swapaxes(1, 2) + _PIVOT_MM
    joints_mm += (offset_mm + position_tremor_mm)[:, None]
    return _place(rng, joints_mm @ view.T + drift_cam_mm[:, None])


def _eased(progress: Array, ease: float) -> Array:
    """Between even speed and a soft start and stop; the same backwards."""
    return (1.0 - ease) * progress + ease * progress**2 * (3.0 - 2.0 * progress)


def _tremor(rng: np.random.Generator, seconds: Array, columns: int) -> Array:
    """[T, columns] smooth unrest of unit variance: four slow sinusoids each."""
    hertz = rng.uniform(0.2, 1.6, (4, columns))
    phase = rng.uniform(0.0, 2.0 * np.pi, (4, columns))
    return np.sin(2.0 * np.pi * hertz * seconds[:, None, None] + phase).sum(axis=1) / np.sqrt(2.0)


def _view(rng: np.random.Generator, subject_deg: Array) -> NDArray[np.float64]:
    """[3, 3] rotation from the hand's frame to the camera's."""
    fingers = np.array(_FINGERS_CAM) / np.linalg.norm(_FINGERS_CAM)
    back = np.array(_BACK_CAM) - fingers * (np.array(_BACK_CAM) @ fingers)
    back /= np.linalg.norm(back)
    egocentric = np.stack([np.cross(fingers, back), fingers, back], axis=1)
    unrest_deg = np.array(_VIEW_SPREAD_DEG) * rng.standard_normal(3).clip(-2.2, 2.2)
    turn = Rotation.from_euler("xyz", np.array(_VIEW_MEAN_DEG) + subject_deg + unrest_deg, degrees=True)
    return egocentric @ turn.as_matrix()


def _place(rng: np.random.Generator, joints_mm: Array) -> Array:
    """Move the clip to a depth and a place in the picture drawn from FPHA's statistics."""
    mean, spread, least, greatest = _DEPTH_MM
    depth_mm = np.clip(rng.normal(mean, spread), least, greatest)
    centre_px = [rng.normal(*place) for place in _CENTRE_PX]
    shift_z = max(depth_mm - joints_mm[:, 0, 2].mean(), _NEAREST_MM - joints_mm[..., 2].min())
    middle = joints_mm.mean(axis=(0, 1))
    depth_of_middle = middle[2] + shift_z
    shift_x = (centre_px[0] - FPHA_CAMERA.cx) / FPHA_CAMERA.fx * depth_of_middle - middle[0]
    shift_y = (centre_px[1] - FPHA_CAMERA.cy) / FPHA_CAMERA.fy * depth_of_middle - middle[1]
    return joints_mm + np.array([shift_x, shift_y, shift_z])
