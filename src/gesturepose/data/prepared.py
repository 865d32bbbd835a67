"""Prepared data read back: crops, boxes, poses and the index of videos."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from gesturepose.errors import InputError
from gesturepose.geometry import Camera
from gesturepose.skeleton import JOINTS

FRAMES_FILE: Final = "frames.npy"
BOXES_FILE: Final = "boxes.npy"
READABLE_FILE: Final = "readable.npy"
POSES_FILE: Final = "poses.npz"
INDEX_FILE: Final = "index.json"
REPORT_FILE: Final = "report.json"
PREPARED_FILES: Final = (FRAMES_FILE, BOXES_FILE, READABLE_FILE, POSES_FILE, INDEX_FILE, REPORT_FILE)
# What lies outside a picture is mid-grey. Repeating the border would draw a hand that it cuts as bars, like fingers.
OUTSIDE: Final = 128
_PREPARE_AGAIN: Final = "Run the prepare stage again."


@dataclass(frozen=True)
class Video:
    """One video of the prepared data: frames `start` … `start + frames - 1` of its arrays."""

    key: str
    subject: int
    gesture: int
    split: Literal["train", "validation", "test"]
    start: int
    frames: int


class Index(BaseModel):
    """index.json: everything about the prepared data but the arrays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    protocol: str
    camera: Camera
    image_size: int
    crop: Literal["clip", "frame"]
    gestures: tuple[str, ...]
    videos: tuple[Video, ...]
    missing: tuple[str, ...]
    excluded: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True, eq=False)
class PreparedData:
    """What the prepare stage wrote; F frames of all videos, one video after the other."""

    folder: Path
    index: Index
    frames: NDArray[np.uint8]  # [F, S, S, 3] RGB, memory-mapped
    boxes: NDArray[np.float32]  # [F, 3] left, top, side, image px (see geometry.image_to_crop)
    readable: NDArray[np.bool_]  # [F]
    joints_cam_mm: NDArray[np.float32]  # [F, J, 3]
    joints_uv_px: NDArray[np.float32]  # [F, J, 2] image px

    @classmethod
    def open(cls, folder: str | Path) -> PreparedData:
        """The prepared data in `folder`; the frames stay on disk.

        Raises:
            InputError: a file is missing or broken, or the files do not belong together.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError("no such folder of prepared data", file=folder, hint="Run the prepare stage first.")
        index = _read_index(folder / INDEX_FILE)
        try:
            with _load(folder / POSES_FILE) as poses:
                joints_cam_mm, joints_uv_px = poses["joints_cam_mm"], poses["joints_uv_px"]
        except (KeyError, ValueError, zipfile.BadZipFile):
            message = "expected the arrays joints_cam_mm and joints_uv_px"
            raise InputError(message, file=folder / POSES_FILE, hint=_PREPARE_AGAIN) from None
        data = cls(
            folder=folder,
            index=index,
            frames=_load(folder / FRAMES_FILE, mapped=True),
            boxes=_load(folder / BOXES_FILE),
            readable=_load(folder / READABLE_FILE),
            joints_cam_mm=joints_cam_mm,
            joints_uv_px=joints_uv_px,
        )
        data._check()
        return data

    @property
    def name(self) -> str:
        return self.index.name

    @property
    def protocol(self) -> str:
        return self.index.protocol

    @property
    def camera(self) -> Camera:
        return self.index.camera

    @property
    def image_size(self) -> int:
        """Side of the square crops, px."""
        return self.index.image_size

    @property
    def gestures(self) -> tuple[str, ...]:
        """Class names by id."""
        return self.index.gestures

    @property
    def videos(self) -> tuple[Video, ...]:
        return self.index.videos

    @property
    def fingerprint(self) -> str:
        """sha256 of all contents."""
        return self.index.fingerprint

    def split(self, name: Literal["train", "validation", "test"]) -> tuple[Video, ...]:
        """The videos of one side, in the order of `videos`."""
        return tuple(video for video in self.videos if video.split == name)

    def _check(self) -> None:
        count, size = sum(video.frames for video in self.videos), self.image_size
        expected: tuple[tuple[str, NDArray[Any], tuple[int, ...], type], ...] = (
            (FRAMES_FILE, self.frames, (count, size, size, 3), np.uint8),
            (BOXES_FILE, self.boxes, (count, 3), np.float32),
            (READABLE_FILE, self.readable, (count,), np.bool_),
            (POSES_FILE, self.joints_cam_mm, (count, JOINTS, 3), np.float32),
            (POSES_FILE, self.joints_uv_px, (count, JOINTS, 2), np.float32),
        )
        for file, array, shape, dtype in expected:
            if array.shape != shape or array.dtype != dtype:
                message = f"{array.dtype} {list(array.shape)}; by {INDEX_FILE} it is {dtype.__name__} {list(shape)}"
                raise InputError(message, file=self.folder / file, hint=_PREPARE_AGAIN)
        start = 0
        for video in self.videos:
            if video.start != start or video.frames < 1 or not 0 <= video.gesture < len(self.gestures):
                message = f"{video.key} does not follow the video before it, or has no frames or no known class"
                raise InputError(message, file=self.folder / INDEX_FILE, hint=_PREPARE_AGAIN)
            start += video.frames


def _read_index(path: Path) -> Index:
    try:
        return Index.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError("no such file", file=path, hint="Run the prepare stage first.") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{place or 'index'}: {first['msg']}", file=path, hint=_PREPARE_AGAIN) from None


def _load(path: Path, *, mapped: bool = False) -> Any:
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise InputError("no such file", file=path, hint=_PREPARE_AGAIN) from None
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"not a whole NumPy file: {error}", file=path, hint=_PREPARE_AGAIN) from None
