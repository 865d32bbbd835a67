"""Small roots in FPHA's layout for tests: a moving hand of plausible size, tiny JPEGs, a split file, a camera."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from gesturepose.skeleton import TO_FPHA

WIDTH, HEIGHT = 97, 61  # px
CAMERA = {"name": "tiny", "width": WIDTH, "height": HEIGHT, "fx": 73.0, "fy": 71.0, "cx": 48.0, "cy": 30.0}
ANNOTATIONS = "Hand_pose_annotation_v1"


@dataclass(frozen=True)
class Video:
    key: str
    gesture: int
    split: str  # "train" or "test"
    frames: int = 7


def videos(subjects: int = 3, actions: tuple[str, ...] = ("open_box", "wave"), takes: int = 3) -> list[Video]:
    """Every subject does every action; the last take of each is for testing. Lengths differ."""
    return [
        Video(f"Subject_{s}/{action}/{t}", a, "test" if t == takes else "train", 5 + (s + 2 * a + 3 * t) % 4)
        for s in range(1, subjects + 1)
        for a, action in enumerate(actions)
        for t in range(1, takes + 1)
    ]


def hand_mm(frames: int, subject: int = 1, seed: int = 0) -> np.ndarray:
    """[T, 21, 3] world mm in this project's joint order: a flat hand, 355 mm away, that drifts a few mm a frame."""
    rng = np.random.default_rng([seed, subject])
    scale = 1.0 - 0.03 * subject
    hand = np.zeros((21, 3))
    for finger in range(5):
        for segment, reach in enumerate((70.0, 105.0, 130.0, 150.0)):
            angle = 0.25 * (finger - 2)
            hand[1 + 4 * finger + segment] = scale * reach * np.array([np.sin(angle), -np.cos(angle), 0.1])
    start = np.array([0.0, 60.0, 355.0]) + rng.uniform(-5, 5, 3)
    return hand + start + np.cumsum(rng.uniform(-3, 3, (frames, 1, 3)), axis=0)


def skeleton_text(joints_world_mm: np.ndarray) -> str:
    """The file's text: frame number and 21 × (x, y, z) in FPHA's joint order."""
    rows = joints_world_mm[:, TO_FPHA].reshape(len(joints_world_mm), -1)
    return "".join(f"{t} " + " ".join(f"{value:.4f}" for value in row) + "\n" for t, row in enumerate(rows))


def write_split(root: Path, listed: list[Video]) -> None:
    text = ""
    for title, split in (("Training", "train"), ("Test", "test")):
        side = [video for video in listed if video.split == split]
        text += f"{title} {len(side)}\n" + "".join(f"{video.key} {video.gesture}\n" for video in side)
    (root / "data_split_action_recognition.txt").write_text(text)


def skeleton_path(root: Path, key: str, folder: str = ANNOTATIONS) -> Path:
    return root / folder / key / "skeleton.txt"


def write_skeleton(root: Path, video: Video, folder: str = ANNOTATIONS) -> None:
    path = skeleton_path(root, video.key, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    subject, _, _ = video.key.split("/")
    hand = hand_mm(video.frames, int(subject.removeprefix("Subject_")), seed=sum(map(ord, video.key)))
    path.write_text(skeleton_text(hand))


def frame_path(root: Path, key: str, frame: int) -> Path:
    return root / "Video_files" / key / "color" / f"color_{frame:04d}.jpeg"


def write_frame(path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.add.outer(np.arange(height), np.arange(width)) % 256
    cv2.imwrite(str(path), np.repeat(picture[..., None].astype(np.uint8), 3, axis=2))


def write_subject_info(root: Path, listed: list[Video]) -> None:
    folder = root / "Subjects_info"
    folder.mkdir(exist_ok=True)
    for subject in {video.key.split("/")[0] for video in listed}:
        own = [video for video in listed if video.key.startswith(subject + "/")]
        lines = [f"{v.key.split('/')[1]:<32}{v.key.split('/')[2]:<6}{v.frames}" for v in own]
        head = [f"{subject}", f"{len(own)} sequences", "action                  seq   nframes"]
        (folder / f"{subject}_info.txt").write_text("\n".join(head + lines) + "\n")


def write_root(
    root: Path, listed: list[Video], *, frames: bool = True, camera: dict | None = CAMERA, folder: str = ANNOTATIONS
) -> Path:
    """A complete and clean root."""
    root.mkdir(parents=True, exist_ok=True)
    write_split(root, listed)
    write_subject_info(root, listed)
    if camera is not None:
        (root / "camera.json").write_text(json.dumps(camera, indent=2))
    for video in listed:
        write_skeleton(root, video, folder)
        for frame in range(video.frames if frames else 0):
            write_frame(frame_path(root, video.key, frame))
    return root
