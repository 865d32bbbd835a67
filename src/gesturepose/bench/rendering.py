"""The renderer, in single-threaded processes as the generator starts them."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from gesturepose.bench.measure import Row, Section, Unit, Values, alternately, milliseconds_each, rates, row
from gesturepose.bench.workplace import SMALL_WIDTH, Case, Workplace
from gesturepose.geometry import FPHA_CAMERA, Camera
from gesturepose.synthetic.motion import VideoPlan, joints_cam_mm, plan
from gesturepose.synthetic.plan import Size
from gesturepose.synthetic.renderer import BACKGROUND, render_video, segment_video

RENDERER: Final = Section(
    title="Renderer",
    about="Pictures of the generator, in two processes against one; half the time for each is all that two can give.",
)
WORKERS: Final = 2
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


def sample_videos(size: Size, count: int, frames: int = _FRAMES) -> list[VideoPlan]:
    """`count` videos of a size of the generator, of different gestures and subjects, with at least `frames` frames."""
    videos = [video for video in plan(size, 0) if video.frames >= frames]
    return videos[:: len(videos) // count][:count]


def _covered(joints_mm: NDArray[np.float64], camera: Camera, video: VideoPlan) -> NDArray[np.float64]:
    """The shares of the first and the last frame that are not background."""
    labels = segment_video(joints_mm[[0, -1]], camera, seed=video.seed, scenario=video.scenario)
    return (labels != BACKGROUND).mean(axis=(1, 2))


def _render_square(view: _View, workplace: Workplace) -> list[Row]:
    centre = (_SIDE - 1) / 2
    camera = Camera(view.focal_px, view.focal_px, centre, centre, _SIDE, _SIDE)
    scenes = []
    for video in sample_videos("demo", _VIDEOS):
        joints_mm = joints_cam_mm(video)[:_FRAMES]
        joints_mm += (0.0, 0.0, _DISTANCE_MM) - joints_mm.mean(axis=(0, 1))
        scenes.append((joints_mm, camera, video.seed, video.scenario))
        covered = _covered(joints_mm, camera, video)
        if covered.min() < view.least or covered.max() > view.most:
            raise RuntimeError(f"{video.key} covers {covered.round(2)} of the picture; {view.name} is meant")
    seconds = rendering_seconds(scenes, workplace.few())
    milliseconds = {name: milliseconds_each(_VIDEOS * _FRAMES, values) for name, values in seconds.items()}
    return _rows(f"{_SIDE}x{_SIDE}, {view.name}", milliseconds, "ms/frame")


def _render_demo(workplace: Workplace) -> list[Row]:
    camera = FPHA_CAMERA.scaled(SMALL_WIDTH / FPHA_CAMERA.width)
    scenes = [
        (joints_cam_mm(video)[:_FRAMES], camera, video.seed, video.scenario) for video in sample_videos("demo", _VIDEOS)
    ]
    seconds = rendering_seconds(scenes, workplace.few())
    speed = {name: rates(_VIDEOS * _FRAMES, values) for name, values in seconds.items()}
    return _rows(f"{camera.width}x{camera.height}, the demo's videos", speed, "frames/s")


def _rows(what: str, values: dict[str, list[float]], unit: Unit) -> list[Row]:
    one, several = values
    return RENDERER.rows([row(f"{what}, {several}", values[several], unit, Values(one, values[one]))])


Scene = tuple[NDArray[np.float64], Camera, int, int]  # joints [T, 21, 3] camera mm, camera, seed, scenario


def rendering_seconds(scenes: list[Scene], repeats: int) -> dict[str, list[float]]:
    """Seconds for all scenes in one process, and in `WORKERS`; the processes start before."""
    with renderers(1) as one, renderers(WORKERS) as several:
        return alternately(
            {
                "one process": lambda: list(one.map(render_scene, scenes)),
                f"{WORKERS} processes": lambda: list(several.map(render_scene, scenes)),
            },
            repeats,
        )


def renderers(workers: int) -> ProcessPoolExecutor:
    """Processes of one thread each."""
    context = multiprocessing.get_context("spawn")  # a fork would inherit locks of PyTorch's threads
    return ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,))


def render_scene(scene: Scene, device: str = "cpu") -> int:
    """Renders, and keeps the pictures to itself: sending them is no part of the work."""
    joints_mm, camera, seed, scenario = scene
    return len(render_video(joints_mm, camera, seed=seed, scenario=scenario, device=device))


CASES: Final = (
    Case("render 256x256 small hand", partial(_render_square, _SMALL)),
    Case("render 256x256 filling hand", partial(_render_square, _FILLING)),
    Case("render 480x270", _render_demo),
)
