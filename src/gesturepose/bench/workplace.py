"""What the cases share: settings, a temporary folder, and recordings to work on that are made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from gesturepose.bench.measure import Row, alternately
from gesturepose.data.clips import PreparedData
from gesturepose.data.fpha import Root, open_root
from gesturepose.data.prepare import prepare
from gesturepose.geometry import FPHA_CAMERA
from gesturepose.params import Params, PrepareSettings
from gesturepose.synthetic.motion import joints_cam_mm, plan
from gesturepose.synthetic.renderer import render_video
from gesturepose.synthetic.writer import write_root

CROP_WORKERS: Final = 2
SMALL_WIDTH: Final = 480  # px, the demo's pictures
SMALL_FRAMES: Final = 600
_RENDERED_WIDTH: Final = 480
_DISTINCT_PICTURES: Final = 4
_GRAIN: Final = 3.0  # grey levels of noise, which enlarging the rendered pictures takes from them
_JPEG_QUALITY: Final = 92


@dataclass
class Workplace:
    """The folder and the settings of one run of the bench."""

    folder: Path
    params: Params
    project: Path
    repeats: int
    advance: Callable[[], object] = lambda: None  # called after each round of a measurement
    _roots: dict[tuple[int, int], Root] = field(default_factory=dict)

    def alternately(self, sides: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
        """Seconds of each side; see `measure.alternately`."""
        return alternately(sides, self.repeats, after_round=self.advance)

    def root(self, width: int, frames: int) -> Root:
        """Videos of the generator's demo with at least `frames` frames in all, pictures `width` px wide.

        The annotations are the generator's. The pictures are a few rendered ones in turn, each frame a file of its
        own: decoding and cutting take the same time as if all were different.
        """
        if (width, frames) not in self._roots:
            path = self.folder / f"root_{width}"
            write_root(path, size="demo", image_width=width, seed=0, workers=CROP_WORKERS, annotations_only=True)
            root = first_videos(open_root(path, validation=0.0, need_frames=False), frames)
            _write_pictures(root, self._rendered)
            self._roots[width, frames] = root
        return self._roots[width, frames]

    @cached_property
    def _rendered(self) -> list[NDArray[np.uint8]]:
        """Frames of different videos of the demo, uint8 [H, W, 3] RGB, `_RENDERED_WIDTH` px wide."""
        camera = FPHA_CAMERA.scaled(_RENDERED_WIDTH / FPHA_CAMERA.width)
        videos = plan("demo", 0)
        pictures = []
        for video in videos[:: len(videos) // _DISTINCT_PICTURES][:_DISTINCT_PICTURES]:
            middle = joints_cam_mm(video)[video.frames // 2 :][:1]
            pictures.append(render_video(middle, camera, seed=video.seed, scenario=video.scenario)[0])
        return pictures

    @cached_property
    def prepared(self) -> PreparedData:
        """Crops of the demo's pictures, as params.yaml has them."""
        out = self.folder / "prepared"
        prepare(self.root(SMALL_WIDTH, SMALL_FRAMES), out, self.params.prepare, workers=CROP_WORKERS)
        return PreparedData.open(out)

    def crops(self, size: int) -> PrepareSettings:
        """params.yaml's settings with crops of `size` px."""
        return self.params.prepare.model_copy(update={"image_size": size})


@dataclass(frozen=True)
class Case:
    """Rows that are measured together, in one call of `Workplace.alternately`."""

    name: str
    measure: Callable[[Workplace], list[Row]]


def first_videos(root: Root, frames: int) -> Root:
    """`root` with the first videos of its split file that hold at least `frames` frames."""
    total, count = 0, 0
    for sequence in root.sequences:
        if total >= frames:
            break
        total += len(root.read_joints_world_mm(sequence))
        count += 1
    return replace(root, sequences=root.sequences[:count])


def frame_count(root: Root) -> int:
    """Frames of all videos."""
    return sum(len(root.read_joints_world_mm(sequence)) for sequence in root.sequences)


def _write_pictures(root: Root, rendered: list[NDArray[np.uint8]]) -> None:
    pictures = _encoded(rendered, root.camera.width, root.camera.height)
    written = 0
    for sequence in root.sequences:
        root.frame_path(sequence, 0).parent.mkdir(parents=True)
        for frame in range(len(root.read_joints_world_mm(sequence))):
            root.frame_path(sequence, frame).write_bytes(pictures[written % len(pictures)])
            written += 1


def _encoded(rendered: list[NDArray[np.uint8]], width: int, height: int) -> list[bytes]:
    """JPEG files of RGB pictures, enlarged to `width` × `height` px, with grain."""
    rng = np.random.default_rng(0)
    files = []
    for picture in rendered:
        enlarged = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        enlarged += _GRAIN * rng.standard_normal(enlarged.shape, dtype=np.float32)
        pixels = enlarged.clip(0, 255).astype(np.uint8)[..., ::-1]
        _, content = cv2.imencode(".jpeg", np.ascontiguousarray(pixels), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        files.append(content.tobytes())
    return files
