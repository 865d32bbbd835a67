"""The text files of FPHA's layout, as strings: what `data.fpha_files` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gesturepose.geometry import Camera
from gesturepose.skeleton import JOINTS, TO_FPHA


@dataclass(frozen=True)
class Entry:
    """One sequence of a root: what the lists say of it and what its pictures depend on."""

    key: str  # Subject_1/fist_form/2
    gesture: int  # class id, 0-based
    split: Literal["train", "test"]
    frames: int
    scenario: int
    seed: int

    @property
    def subject(self) -> str:
        return self.key.split("/")[0]

    @property
    def action(self) -> str:
        return self.key.split("/")[1]


def skeleton_text(joints_world_mm: NDArray[np.floating]) -> str:
    """[T, 21, 3] world mm, our joint order → skeleton.txt: frame number and 63 coordinates in FPHA's order."""
    coordinates = joints_world_mm[:, TO_FPHA].reshape(len(joints_world_mm), 3 * JOINTS)
    row = "%d" + " %.4f" * (3 * JOINTS) + "\n"
    return "".join(row % (frame, *values) for frame, values in enumerate(coordinates.tolist()))


def split_text(entries: Iterable[Entry]) -> str:
    """data_split_action_recognition.txt: both sides, each under its header, class ids from 0."""
    entries = tuple(entries)
    lines = []
    for title, split in (("Training", "train"), ("Test", "test")):
        side = [entry for entry in entries if entry.split == split]
        lines += [f"{title} {len(side)}", *(f"{entry.key} {entry.gesture}" for entry in side)]
    return "\n".join(lines) + "\n"


def action_text(entries: Iterable[Entry]) -> str:
    """action_object_info.txt: id (from 1, unlike the split's), action and object; held objects are not told apart."""
    actions = sorted({(entry.gesture, entry.action) for entry in entries})
    return "".join(f"{gesture + 1} {action} unspecified\n" for gesture, action in actions)


def subject_text(subject: str, entries: Iterable[Entry]) -> str:
    """Subject_<n>_info.txt: three header lines, then action, take and number of frames of each sequence."""
    own = sorted((entry.action, entry.key.split("/")[2], entry.frames) for entry in entries if entry.subject == subject)
    header = f"{subject}\n{len(own)} sequences\n{'Action':<32}{'Sequence':<12}Frames\n"
    return header + "".join(f"{action:<32}{take:<12}{frames}\n" for action, take, frames in own)


def camera_text(name: str, camera: Camera) -> str:
    """camera.json: the recordings' name and the camera with its pose."""
    return json.dumps({"name": name, **asdict(camera)}, indent=2) + "\n"
