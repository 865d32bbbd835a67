"""The renderer, in as many single-threaded processes as the generator would start on two cores."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from gesturepose.bench.measure import Row, milliseconds_each, rates, row
from gesturepose.bench.workplace import SMALL_WIDTH, Case, Workplace
from gesturepose.geometry import FPHA_CAMERA, Camera
from gesturepose.synthetic.motion import VideoPlan, joints_cam_mm, plan
from gesturepose.synthetic.renderer import BACKGROUND, render_video, segment_video

_WORKERS: Final = 2
_VIDEOS: Final = 4
_FRAMES: Final = 6
_SIDE: Final = 256  # px
_DISTANCE_MM: Final = 450.0


@dataclass(frozen=True)
class _View:
    """A square picture of the hand's middle at `_DISTANCE_MM`, and the shares of the picture it must cover."""

    name: str
    focal_px: float
    least: float
    most: float


_SMALL: Final = _View("the hand covers at most 15 %", focal_px=220.0, least=0.05, most=0.15)
_FILLING: Final = _View("the hand fills it (at least 70 %)", focal_px=2400.0, least=0.7, most=1.0)


def _videos() -> list[VideoPlan]:
    """Videos of the demo with different gestures and subjects."""
    videos = [video for video in plan("demo", 0) if video.frames >= _FRAMES]
    return videos[:: len(videos) // _VIDEOS][:_VIDEOS]


def _covered(joints_mm: NDArray[np.float64], camera: Camera, video: VideoPlan) -> NDArray[np.float64]:
    """The shares of the first and the last frame that are not background."""
    labels = segment_video(joints_mm[[0, -1]], camera, seed=video.seed, scenario=video.scenario)
    return (labels != BACKGROUND).mean(axis=(1, 2))


def _render_square(view: _View, workplace: Workplace) -> list[Row]:
    centre = (_SIDE - 1) / 2
    camera = Camera(view.focal_px, view.focal_px, centre, centre, _SIDE, _SIDE)
    scenes = []
    for video in _videos():
        joints_mm = joints_cam_mm(video)[:_FRAMES]
        joints_mm += (0.0, 0.0, _DISTANCE_MM) - joints_mm.mean(axis=(0, 1))
        scenes.append((joints_mm, camera, video.seed, video.scenario))
        covered = _covered(joints_mm, camera, video)
        if covered.min() < view.least or covered.max() > view.most:
            raise RuntimeError(f"{video.key} covers {covered.round(2)} of the picture; {view.name} is meant")
    seconds = _render(scenes, workplace)
    name = f"render, {_SIDE}x{_SIDE}, {view.name}, {_WORKERS} processes"
    return [row(name, milliseconds_each(_VIDEOS * _FRAMES, seconds), "ms/frame")]


def _render_demo(workplace: Workplace) -> list[Row]:
    camera = FPHA_CAMERA.scaled(SMALL_WIDTH / FPHA_CAMERA.width)
    scenes = [(joints_cam_mm(video)[:_FRAMES], camera, video.seed, video.scenario) for video in _videos()]
    seconds = _render(scenes, workplace)
    name = f"render, {camera.width}x{camera.height}, the demo's videos, {_WORKERS} processes"
    return [row(name, rates(_VIDEOS * _FRAMES, seconds), "frames/s")]


_Scene = tuple[NDArray[np.float64], Camera, int, int]


def _render(scenes: list[_Scene], workplace: Workplace) -> list[float]:
    context = multiprocessing.get_context("spawn")  # a fork would inherit locks of PyTorch's threads
    with ProcessPoolExecutor(_WORKERS, context, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        return workplace.alternately({"render": lambda: list(executor.map(_render_scene, scenes))})["render"]


def _render_scene(scene: _Scene) -> int:
    """Renders, and keeps the pictures to itself: sending them is no part of the work."""
    joints_mm, camera, seed, scenario = scene
    return len(render_video(joints_mm, camera, seed=seed, scenario=scenario))


CASES: Final = (
    Case("render 256x256 small hand", partial(_render_square, _SMALL)),
    Case("render 256x256 filling hand", partial(_render_square, _FILLING)),
    Case("render 480x270", _render_demo),
)
