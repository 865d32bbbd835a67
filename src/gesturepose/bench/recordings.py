"""Reading recordings: cutting crops, and parsing annotations of FPHA's size."""

from __future__ import annotations

from functools import partial
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from gesturepose.bench.measure import Row, Section, Values, alternately, rates, row
from gesturepose.bench.workplace import CROP_WORKERS, SMALL_FRAMES, SMALL_WIDTH, Case, Workplace
from gesturepose.data.fpha import Root, open_root
from gesturepose.data.prepare import prepare
from gesturepose.data.prepared import PreparedData
from gesturepose.synthetic.writer import write_root

RECORDINGS: Final = Section(
    title="Recordings",
    about="Cutting crops of recordings once, and reading annotations, against the loops one would write first.",
)
_LARGE_WIDTH: Final = 1920  # px, FPHA's pictures
_LARGE_FRAMES: Final = 200


def _prepare(width: int, frames: int, size: int, workplace: Workplace) -> list[Row]:
    """Frames a second of the prepare stage against the loop one would write first."""
    root = workplace.root(width, frames)
    out = workplace.folder / f"crops_{width}"
    settings = workplace.crops(size)
    prepare(root, out, settings, workers=CROP_WORKERS)
    data = PreparedData.open(out)
    boxes = np.array(data.boxes)
    seconds = alternately(
        {
            "prepare": lambda: prepare(root, out, settings, workers=CROP_WORKERS),
            "loop": lambda: _plain_loop(root, data, boxes, size),
        },
        workplace.repeats,
    )
    count = len(boxes)
    name = f"prepare, {root.camera.width}x{root.camera.height} to crops of {size} px, {CROP_WORKERS} workers"
    baseline = Values("cv2.imread and cv2.warpAffine in one process", rates(count, seconds["loop"]))
    return RECORDINGS.rows([row(name, rates(count, seconds["prepare"]), "frames/s", baseline)])


def _plain_loop(root: Root, data: PreparedData, boxes: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """The same crops without any of prepare's care: decode at full size, sample bilinearly."""
    crops = np.empty((len(boxes), size, size, 3), dtype=np.uint8)
    for sequence, video in zip(root.sequences, data.videos, strict=True):
        for frame in range(video.frames):
            image = cv2.imread(str(root.frame_path(sequence, frame)))
            assert image is not None
            left, top, side = boxes[video.start + frame].tolist()
            scale = size / side
            to_crop = np.array([[scale, 0.0, -left * scale - 0.5], [0.0, scale, -top * scale - 0.5]])
            crops[video.start + frame] = cv2.warpAffine(image, to_crop, (size, size), flags=cv2.INTER_LINEAR)
    return crops


def _annotations(workplace: Workplace) -> list[Row]:
    """Seconds to open a root of FPHA's size and to parse all of its skeletons."""
    path = workplace.folder / "annotations"
    write_root(path, size="full", image_width=_LARGE_WIDTH, seed=0, workers=CROP_WORKERS, annotations_only=True)
    files = [root.skeleton_path(sequence) for root in [_open(workplace)] for sequence in root.sequences]
    rows = sum(len(joints) for joints in _parse(workplace))
    seconds = alternately(
        {"parse": lambda: _parse(workplace), "loadtxt": lambda: [np.loadtxt(file) for file in files]},
        workplace.few(),
    )
    name = f"annotations, open a root and parse {len(files):,} skeletons of {rows:,} rows"
    baseline = Values("np.loadtxt over the same files", seconds["loadtxt"])
    return RECORDINGS.rows([row(name, seconds["parse"], "s", baseline)])


def _open(workplace: Workplace) -> Root:
    return open_root(workplace.folder / "annotations", need_frames=False)


def _parse(workplace: Workplace) -> list[NDArray[np.float64]]:
    root = _open(workplace)
    return [root.read_joints_world_mm(sequence) for sequence in root.sequences]


CASES: Final = (
    Case("prepare 1920x1080", partial(_prepare, _LARGE_WIDTH, _LARGE_FRAMES, 256)),
    Case("prepare 480x270", partial(_prepare, SMALL_WIDTH, SMALL_FRAMES, 64)),
    Case("annotations", _annotations),
)
