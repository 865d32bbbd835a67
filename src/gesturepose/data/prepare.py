"""The prepare stage: square crops around the hand, cut once and packed for memory-mapping (files: data.prepared).

The box of a crop stands in for a hand detector's. It comes from the annotated joints and is stored apart from them, so
that the pose labels can be withheld while the box stays.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gesturepose.data.crops import Unreadable, clip_box, frame_boxes, project_joints, read_crop, usable_joints
from gesturepose.data.fpha import Root
from gesturepose.data.prepared import (
    BOXES_FILE,
    FRAMES_FILE,
    INDEX_FILE,
    POSES_FILE,
    PREPARED_FILES,
    READABLE_FILE,
    REPORT_FILE,
    Index,
    Video,
)
from gesturepose.errors import InputError
from gesturepose.geometry import Camera, image_to_crop
from gesturepose.params import PrepareSettings

_FRAMES_A_TASK: Final = 16
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NAMED: Final = 5  # unreadable frames in the error message; the report has them all


@dataclass(frozen=True)
class _Labels:
    """Everything of a root but its pictures; F frames of all videos, one video after the other."""

    videos: tuple[Video, ...]
    pictures: tuple[Path, ...]  # F
    joints_cam_mm: NDArray[np.float32]  # [F, J, 3]
    joints_uv_px: NDArray[np.float32]  # [F, J, 2]
    boxes: NDArray[np.float32]  # [F, 3]
    found: NDArray[np.bool_]  # [F] the box comes from joints of this frame (crop: clip, of this video)


def prepare(root: Root, out: Path, settings: PrepareSettings, *, workers: int) -> None:
    """Cut and pack every frame of `root` into the folder `out`; an older result there is replaced.

    The contents depend on `root` and `settings` alone, to the bit, whatever the number of `workers` (threads).

    Raises:
        InputError: a bad skeleton, a picture of another size than the camera's, too many unreadable frames, no space,
            or `out` holds something else. Whatever stood at `out` then still stands there.
    """
    _check_replaceable(out)
    labels = _read_labels(root, settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    label_bytes = sum(a.nbytes for a in (labels.joints_cam_mm, labels.joints_uv_px, labels.boxes, labels.found))
    needed = len(labels.pictures) * settings.image_size**2 * 3 + label_bytes
    if shutil.disk_usage(out.parent).free < needed:
        raise _no_space(out, needed)
    unfinished = out.with_name(out.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a run that was killed
    try:
        unfinished.mkdir()
        _write(root, labels, unfinished, settings, workers)
        if out.exists():
            shutil.rmtree(out)
        unfinished.replace(out)
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise _no_space(out, needed) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_replaceable(out: Path) -> None:
    if not out.exists():
        return
    strange = [out.name] if not out.is_dir() else sorted({entry.name for entry in out.iterdir()} - set(PREPARED_FILES))
    if strange:
        message = f"is to be replaced by prepared data, but holds {', '.join(strange[:_NAMED])}"
        raise InputError(message, file=out, hint="Give a folder of its own.")


def _no_space(out: Path, needed: int) -> InputError:
    message = f"no space left: the prepared data takes {needed / 1e6:,.1f} MB"
    return InputError(message, file=out.parent, hint="Free that much, or choose a smaller prepare.image_size.")


# Labels and boxes


def _read_labels(root: Root, settings: PrepareSettings) -> _Labels:
    videos: list[Video] = []
    pictures: list[Path] = []
    cam, uv, boxes, found = [], [], [], []
    for sequence in root.sequences:
        joints_cam_mm = root.camera.world_to_cam(root.read_joints_world_mm(sequence))
        joints_uv_px = project_joints(joints_cam_mm, root.camera)
        usable = usable_joints(joints_uv_px, joints_cam_mm[..., 2], root.camera)
        box = (clip_box if settings.crop == "clip" else frame_boxes)(
            joints_uv_px, usable, root.camera, settings.box_margin
        )
        count = len(joints_cam_mm)
        videos.append(
            Video(sequence.key, sequence.subject, sequence.gesture, sequence.split, start=len(pictures), frames=count)
        )
        pictures += [root.frame_path(sequence, frame) for frame in range(count)]
        cam.append(joints_cam_mm.astype(np.float32))
        uv.append(joints_uv_px.astype(np.float32))
        boxes.append(np.broadcast_to(box, (count, 3)).astype(np.float32))
        seen = usable.any(axis=1)
        found.append(seen if settings.crop == "frame" else np.full(count, seen.any()))
    return _Labels(
        videos=tuple(videos),
        pictures=tuple(pictures),
        joints_cam_mm=np.concatenate(cam),
        joints_uv_px=np.concatenate(uv),
        boxes=np.concatenate(boxes),
        found=np.concatenate(found),
    )


# Pictures


def _pack(labels: _Labels, path: Path, camera: Camera, size: int, workers: int) -> tuple[NDArray[np.bool_], list[str]]:
    """Write the crops to `path`. Returns which frames are readable [F], and each frame's reason (or "")."""
    count = len(labels.pictures)
    shape = (count, size, size, 3)
    offset = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).offset
    # Written by position, not through the map: a full disk then is an error and not a fatal signal.
    file = os.open(path, os.O_WRONLY)

    def pack_some(start: int) -> list[str]:
        reasons = []
        for row in range(start, min(start + _FRAMES_A_TASK, count)):
            try:
                crop = read_crop(labels.pictures[row], labels.boxes[row], size, camera)
            except Unreadable as reason:
                reasons.append(str(reason))  # the pixels stay zero
                continue
            reasons.append("")
            _write_at(file, crop.tobytes(), offset + row * size * size * 3)
        return reasons

    reasons: list[str] = []
    threads_before = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the workers are the parallelism
    executor = ThreadPoolExecutor(workers)  # OpenCV releases the interpreter lock while it decodes
    try:
        with tqdm(total=count, desc="prepare", unit="frame", disable=None) as progress:
            for some in executor.map(pack_some, range(0, count, _FRAMES_A_TASK)):
                reasons += some
                progress.update(len(some))
    finally:
        executor.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads_before)
        os.close(file)
    return np.array([not reason for reason in reasons]), reasons


def _write_at(file: int, content: bytes, offset: int) -> None:
    while content:
        written = os.pwrite(file, content, offset)
        content, offset = content[written:], offset + written


# The folder


def _write(root: Root, labels: _Labels, folder: Path, settings: PrepareSettings, workers: int) -> None:
    readable, reasons = _pack(labels, folder / FRAMES_FILE, root.camera, settings.image_size, workers)
    _check_share(labels, reasons, settings.max_unreadable)
    _write_array(folder / BOXES_FILE, labels.boxes)
    _write_array(folder / READABLE_FILE, readable)
    np.savez(folder / POSES_FILE, joints_cam_mm=labels.joints_cam_mm, joints_uv_px=labels.joints_uv_px)
    index = Index(
        name=root.name,
        protocol=root.protocol,
        camera=root.camera,
        image_size=settings.image_size,
        crop=settings.crop,
        gestures=root.gestures,
        videos=labels.videos,
        missing=root.missing,
        excluded=root.excluded,
        fingerprint="",
    )
    index = index.model_copy(update={"fingerprint": _fingerprint(folder, labels, readable, index)})
    _write_json(folder / INDEX_FILE, index.model_dump(mode="json"))
    _write_json(folder / REPORT_FILE, _report(root.camera, settings, labels, reasons))


def _check_share(labels: _Labels, reasons: list[str], allowed: float) -> None:
    bad = [row for row, reason in enumerate(reasons) if reason]
    if len(bad) <= allowed * len(reasons):
        return
    named = "".join(f"\n  {labels.pictures[row]}: {reasons[row]}" for row in bad[:_NAMED])
    more = f"\n  and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    raise InputError(
        f"{len(bad)} of {len(reasons)} frames cannot be read, more than the share {allowed:g} allowed:{named}{more}",
        hint="Restore the files, exclude their sequences (data.exclude), or raise prepare.max_unreadable.",
    )


def _fingerprint(folder: Path, labels: _Labels, readable: NDArray[np.bool_], index: Index) -> str:
    """sha256 over all arrays in order and the index without the fingerprint."""
    digest = hashlib.sha256()
    with (folder / FRAMES_FILE).open("rb") as file:  # its header says type and shape
        while part := file.read(1 << 22):
            digest.update(part)
    for array in (labels.boxes, readable, labels.joints_cam_mm, labels.joints_uv_px):
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(json.dumps(index.model_dump(mode="json", exclude={"fingerprint"}), sort_keys=True).encode())
    return digest.hexdigest()


def _report(camera: Camera, settings: PrepareSettings, labels: _Labels, reasons: list[str]) -> dict[str, Any]:
    """What a reader of results should know of the data: counts per side, unreadable frames, joints outside."""
    uv_px = labels.joints_uv_px
    uv_crop_px = image_to_crop(uv_px, labels.boxes[:, None], settings.image_size)
    out_of_image = ~_inside(uv_px, camera.width, camera.height)
    out_of_crop = ~_inside(uv_crop_px, settings.image_size, settings.image_size)
    splits: dict[str, Counter[str]] = {}
    unreadable = []
    for video in labels.videos:
        rows = slice(video.start, video.start + video.frames)
        bad = [(frame, reason) for frame, reason in enumerate(reasons[rows]) if reason]
        unreadable += [{"video": video.key, "frame": frame, "reason": reason} for frame, reason in bad]
        splits.setdefault(video.split, Counter()).update(
            {
                "videos": 1,
                "frames": video.frames,
                "unreadable_frames": len(bad),
                "frames_with_a_joint_outside_the_image": int(out_of_image[rows].any(axis=1).sum()),
                "frames_with_all_joints_outside_the_image": int(out_of_image[rows].all(axis=1).sum()),
                "frames_with_a_joint_outside_the_crop": int(out_of_crop[rows].any(axis=1).sum()),
                "frames_without_a_joint_for_the_box": int((~labels.found[rows]).sum()),
                "joints_behind_the_camera": int((labels.joints_cam_mm[rows, :, 2] <= 0).sum()),
            }
        )
    return {"splits": splits, "unreadable": unreadable}


def _inside(uv_px: NDArray[np.floating], width: int, height: int) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (uv_px >= -0.5) & (uv_px <= np.array([width, height]) - 0.5)
    return np.all(inside, axis=-1)


def _write_array(path: Path, array: NDArray[Any]) -> None:
    """As np.save, which says nothing where the disk is full: it writes through a C stream that nobody checks."""
    content = io.BytesIO()
    np.save(content, array)
    path.write_bytes(content.getvalue())


def _write_json(path: Path, tree: dict[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
