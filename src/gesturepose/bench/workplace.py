"""What the cases share: settings, a temporary folder, and recordings to work on that are made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from gesturepose.bench.measure import Row
from gesturepose.data.fpha import Root, open_root
from gesturepose.data.prepare import prepare
from gesturepose.data.prepared import PreparedData
from gesturepose.geometry import FPHA_CAMERA
from gesturepose.params import Params, PrepareSettings
from gesturepose.synthetic.motion import joints_cam_mm, plan
from gesturepose.synthetic.plan import Size
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
    _roots: dict[tuple[int, int | None], Root] = field(default_factory=dict)
    _prepared: dict[int, PreparedData] = field(default_factory=dict)

    def few(self, most: int = 3) -> int:
        """Repeats of what takes long."""
        return min(self.repeats, most)

    def root(self, width: int, frames: int | None = None) -> Root:
        """The first videos of the generated set with at least `frames` frames, or all, pictures `width` px wide.

        The annotations are the generator's. The pictures are a few rendered ones in turn, each frame a file of its
        own: decoding and cutting take the same time as if all were different.
        """
        if (width, frames) not in self._roots:
            path = self.folder / f"root_{width}_{frames or 'all'}"
            write_root(path, size=self.size, image_width=width, seed=0, workers=CROP_WORKERS, annotations_only=True)
            root = open_root(path, validation=self.params.data.validation, need_frames=False)
            root = root if frames is None else first_videos(root, frames)
            _write_pictures(root, self._rendered)
            self._roots[width, frames] = root
        return self._roots[width, frames]

    @property
    def size(self) -> Size:
        """The generator's set that is worked on: the demo, or the smaller one of the `test` profile."""
        return "test" if self.params.generate.size == "test" else "demo"

    @cached_property
    def _rendered(self) -> list[NDArray[np.uint8]]:
        """Frames of different videos of the set, uint8 [H, W, 3] RGB, `_RENDERED_WIDTH` px wide."""
        camera = FPHA_CAMERA.scaled(_RENDERED_WIDTH / FPHA_CAMERA.width)
        videos = plan(self.size, 0)
        pictures = []
        for video in videos[:: len(videos) // _DISTINCT_PICTURES][:_DISTINCT_PICTURES]:
            middle = joints_cam_mm(video)[video.frames // 2 :][:1]
            pictures.append(render_video(middle, camera, seed=video.seed, scenario=video.scenario)[0])
        return pictures

    @property
    def prepared(self) -> PreparedData:
        """Crops of all of the set's videos, as params.yaml has them."""
        return self.prepared_at(self.params.prepare.image_size)

    def prepared_at(self, size: int) -> PreparedData:
        """Crops of `size` px of all of the set's videos, with its split into train, validation and test."""
        if size not in self._prepared:
            out = self.folder / f"prepared_{size}"
            prepare(self.root(SMALL_WIDTH), out, self.crops(size), workers=CROP_WORKERS)
            self._prepared[size] = PreparedData.open(out)
        return self._prepared[size]

    def crops(self, size: int) -> PrepareSettings:
        """params.yaml's settings with crops of `size` px."""
        return self.params.prepare.model_copy(update={"image_size": size})


@dataclass(frozen=True)
class Case:
    """Rows that are measured together."""

    name: str
    measure: Callable[[Workplace], list[Row]]


@contextmanager
def switches_kept() -> Iterator[None]:
    """PyTorch's process-wide switches, which `prepare_execution` sets, are afterwards as they were."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    backends = torch.backends
    benchmark, tf32 = backends.cudnn.benchmark, (backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        backends.cudnn.benchmark = benchmark
        backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = tf32


def first_videos(root: Root, frames: int) -> Root:
    """`root` with the first videos of its split file that hold at least `frames` frames."""
    total, count = 0, 0
    for sequence in root.sequences:
        if total >= frames:
            break
        total += len(root.read_joints_world_mm(sequence))
        count += 1
    return replace(root, sequences=root.sequences[:count])


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
