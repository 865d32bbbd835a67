"""Writes roots in FPHA's layout: synthetic ones, and pictures for anybody's annotations.

A root grows in a hidden folder beside its place, `.<name>.unfinished`, and moves there when it is complete. A run that
was stopped leaves that folder; the next run with the same content goes on with the video where it ended.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import cv2
import filelock
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from gesturepose.data.fpha import Root, Sequence, open_root
from gesturepose.data.fpha_files import (
    ANNOTATION_FOLDERS,
    CAMERA_FILE,
    SPLIT_FILE,
    VIDEO_FOLDER,
    frame_folder,
    nearest,
    parse_skeleton,
    read_bytes,
    read_skeleton,
)
from gesturepose.errors import InputError
from gesturepose.geometry import FPHA_CAMERA, Camera
from gesturepose.synthetic.layout import Entry, action_text, camera_text, skeleton_text, split_text, subject_text
from gesturepose.synthetic.motion import joints_cam_mm
from gesturepose.synthetic.plan import SCENARIOS, Size, plan
from gesturepose.synthetic.renderer import render_batches

Device = Literal["cpu", "cuda"]

NAME: Final = "synthetic"  # in camera.json
MARK_FILE: Final = "generated.txt"  # a folder with it may be replaced by a new run
_MARK: Final = "Written by gesturepose. A new run may replace this folder.\n"
_SUBJECT_FOLDER: Final = "Subjects_info"
_ACTION_FILE: Final = "action_object_info.txt"
_OWN_NAMES: Final = frozenset(
    {SPLIT_FILE, CAMERA_FILE, ANNOTATION_FOLDERS[0], VIDEO_FOLDER, _SUBJECT_FOLDER, _ACTION_FILE, MARK_FILE}
)
_FINGERPRINT_FILE: Final = "fingerprint.txt"  # of the unfinished folder alone
_LOCK_FILE: Final = "lock"
_JPEG_QUALITY: Final = 92
_LEAST_WIDTH: Final = 64  # px
_MOST_ON_GPU: Final = 8  # processes: each holds a context and a batch in the GPU's memory


def write_root(
    out: Path,
    *,
    size: Size,
    image_width: int,
    seed: int,
    workers: int,
    device: Device = "cpu",
    annotations_only: bool = False,
) -> None:
    """Write a whole synthetic root of one of the sizes of `plan`, with FPHA's camera at another resolution.

    The result depends on size, image_width, seed and, in the pictures' last bits, the device, not on `workers`, the
    number of processes (on a GPU at most 8). Raises InputError where the device is not there, where `out` holds
    anything but an earlier result, and where it cannot be written; nothing then stands in its place.
    """
    camera = _scaled(FPHA_CAMERA, image_width)
    entries, skeletons = [], {}
    for video in plan(size, seed):
        entries.append(Entry(video.key, video.gesture, video.split, video.frames, video.scenario, video.seed))
        skeletons[video.key] = skeleton_text(camera.cam_to_world(joints_cam_mm(video))).encode()
    _write(out, NAME, camera, tuple(entries), skeletons, device, workers, pictures=not annotations_only)


def render_root(
    annotations: Path,
    out: Path,
    *,
    image_width: int | None,
    seed: int,
    workers: int,
    device: Device = "cpu",
    subjects: Iterable[int] = (),
    actions: Iterable[str] = (),
    limit: int | None = None,
    allow_missing: bool = False,
) -> None:
    """Write a root with rendered pictures for annotations in FPHA's layout, or for a part of them.

    subjects, actions: only these, all if empty. limit: at most so many videos, spread evenly over the split file.
    image_width: px, None for the annotations' own camera. The skeletons are copied byte by byte; the split file lists
    what was rendered, with class ids renumbered from 0 where classes are left out. Raises InputError like `open_root`
    and `write_root`, and where a subject or an action does not exist or nothing is left.
    """
    source = open_root(annotations, validation=0.0, need_frames=False, allow_missing=allow_missing)
    _check_apart(source.path.resolve(), Path(out).resolve())
    chosen = _choose(source, tuple(subjects), tuple(actions), limit)
    camera = source.camera if image_width is None else _scaled(source.camera, image_width)
    skeletons = {sequence.key: read_bytes(source.skeleton_path(sequence)) for sequence in chosen}
    renumbered = {gesture: i for i, gesture in enumerate(sorted({sequence.gesture for sequence in chosen}))}
    entries = []
    for sequence in chosen:
        joints_world_mm = parse_skeleton(skeletons[sequence.key])
        if joints_world_mm is None:
            joints_world_mm = source.read_joints_world_mm(sequence)  # raises with the line
        own_seed = int.from_bytes(hashlib.sha256(f"{seed}/{sequence.key}".encode()).digest()[:4], "little")
        gesture, scenario = renumbered[sequence.gesture], own_seed % SCENARIOS
        split = "train" if sequence.split == "train" else "test"
        entries.append(Entry(sequence.key, gesture, split, len(joints_world_mm), scenario, own_seed))  # type: ignore[arg-type]
    _write(out, f"{source.name}, rendered", camera, tuple(entries), skeletons, device, workers, pictures=True)


def _scaled(camera: Camera, image_width: int) -> Camera:
    if image_width < _LEAST_WIDTH:
        raise InputError(f"image_width is {image_width}; expected at least {_LEAST_WIDTH} px")
    return replace(camera.scaled(image_width / camera.width), width=image_width)


def _check_apart(source: Path, out: Path) -> None:
    if source == out or source in out.parents or out in source.parents:
        message = f"lies within the annotations at {source}, or around them"
        raise InputError(message, file=out, hint="Name another folder.")


def _choose(
    source: Root, subjects: tuple[int, ...], actions: tuple[str, ...], limit: int | None
) -> tuple[Sequence, ...]:
    known = sorted({sequence.subject for sequence in source.sequences})
    for subject in subjects:
        if subject not in known:
            raise InputError(f"no subject {subject}; there are {', '.join(map(str, known))}", file=source.path)
    for action in actions:
        if action not in source.gestures:
            raise InputError(f"no action {action!r}{nearest(action, source.gestures)}", file=source.path)
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; expected at least 1 video")
    chosen = [
        sequence
        for sequence in source.sequences
        if (not subjects or sequence.subject in subjects) and (not actions or sequence.action in actions)
    ]
    if not chosen:
        raise InputError("no sequence has one of these subjects and one of these actions", file=source.path)
    if limit is not None and limit < len(chosen):
        chosen = [chosen[(2 * i + 1) * len(chosen) // (2 * limit)] for i in range(limit)]
    return tuple(chosen)


def _write(
    out: Path,
    name: str,
    camera: Camera,
    entries: tuple[Entry, ...],
    skeletons: dict[str, bytes],
    device: Device,
    workers: int,
    *,
    pictures: bool,
) -> None:
    """`skeletons`: the content of each entry's skeleton.txt, by key."""
    if workers < 1:
        raise InputError(f"workers is {workers}; expected at least 1")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but no CUDA device is there", hint="Use cpu.")
    out = Path(out).resolve()
    _check_replaceable(out)
    files = _files(name, camera, entries, skeletons)
    unfinished = out.parent / f".{out.name}.unfinished"
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(unfinished / _LOCK_FILE, timeout=0):
            _start_or_resume(unfinished, _fingerprint(files, entries, device, pictures))
            for path, content in files.items():
                (unfinished / path).parent.mkdir(parents=True, exist_ok=True)
                (unfinished / path).write_bytes(content)
            if pictures:
                _render_all(unfinished, camera, entries, device, workers)
            _move(unfinished, out)
    except filelock.Timeout:
        raise InputError("another process is writing this root", file=out, hint="Wait until it is done.") from None
    except OSError as error:
        hint = f"Make room or choose another place. The videos done so far wait in {unfinished} for the next run."
        message = f"cannot be written: {error.strerror or error}"
        raise InputError(message, file=error.filename or out, hint=hint) from error


def _files(name: str, camera: Camera, entries: tuple[Entry, ...], skeletons: dict[str, bytes]) -> dict[str, bytes]:
    """Path in the root → content of everything but the pictures."""
    texts = {
        CAMERA_FILE: camera_text(name, camera),
        SPLIT_FILE: split_text(entries),
        _ACTION_FILE: action_text(entries),
        MARK_FILE: _MARK,
    }
    for subject in sorted({entry.subject for entry in entries}):
        texts[f"{_SUBJECT_FOLDER}/{subject}_info.txt"] = subject_text(subject, entries)
    files = {path: text.encode() for path, text in texts.items()}
    return files | {f"{ANNOTATION_FOLDERS[0]}/{key}/skeleton.txt": content for key, content in skeletons.items()}


def _check_replaceable(out: Path) -> None:
    """Only an empty folder and an earlier result may be replaced: the same place could hold somebody's recordings."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError("is a file; expected a new folder", file=out)
    names = {entry.name for entry in out.iterdir()}
    if names and (MARK_FILE not in names or names - _OWN_NAMES):
        strange = ", ".join(sorted(names - _OWN_NAMES)[:5]) or f"no {MARK_FILE}"
        message = f"would be replaced, but is not an earlier result alone ({strange})"
        raise InputError(message, file=out, hint="Name a new folder, or remove this one.")


def _fingerprint(files: dict[str, bytes], entries: tuple[Entry, ...], device: Device, pictures: bool) -> str:
    """Of all that the pictures depend on: annotations, camera, seeds, device, and the code that draws them."""
    versions = torch.__version__, cv2.__version__
    digest = hashlib.sha256(repr((entries, device, pictures, _JPEG_QUALITY, versions)).encode())
    sources = {path.name: path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))}
    for path, content in (files | sources).items():
        digest.update(f"{path} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _start_or_resume(unfinished: Path, fingerprint: str) -> None:
    """Keep what an earlier run of the same content left, and nothing of any other."""
    path = unfinished / _FINGERPRINT_FILE
    if path.is_file() and path.read_text() == fingerprint:
        return
    for entry in unfinished.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != _LOCK_FILE:
            entry.unlink()
    path.write_text(fingerprint)


def _move(unfinished: Path, out: Path) -> None:
    (unfinished / _FINGERPRINT_FILE).unlink()
    (unfinished / _LOCK_FILE).unlink()
    earlier = out.parent / f".{out.name}.earlier"
    shutil.rmtree(earlier, ignore_errors=True)  # of a run that was stopped between the next two steps
    if out.exists():
        out.replace(earlier)
    unfinished.replace(out)
    shutil.rmtree(earlier, ignore_errors=True)


# Pictures


def _render_all(root: Path, camera: Camera, entries: tuple[Entry, ...], device: Device, workers: int) -> None:
    """Render what is not there yet, longest videos first, in spawned processes: OpenCV and PyTorch do not fork well.

    On a GPU, too, several processes share the work: while one paints a background or waits for its kernels to start,
    another one's run.
    """
    todo = sorted((e for e in entries if not frame_folder(root, e.key).exists()), key=lambda e: (-e.frames, e.key))
    if not todo:
        return
    processes = min(workers, len(todo), _MOST_ON_GPU if device == "cuda" else workers)
    context = multiprocessing.get_context("spawn")
    few = "give fewer workers or a smaller image_width."
    with (
        ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker) as pool,
        tqdm(total=sum(entry.frames for entry in todo), unit="frame", desc="rendering", smoothing=0.05) as bar,
    ):
        running = {pool.submit(_render_one, root, camera, entry, device): entry for entry in todo}
        try:
            for done in as_completed(running):
                done.result()
                bar.update(running[done].frames)
        except BrokenProcessPool:
            raise InputError("a rendering process was killed", hint=f"Most often memory ran out: {few}") from None
        except torch.cuda.OutOfMemoryError:
            raise InputError("the GPU's memory ran out", hint=few.capitalize()) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Sums on several threads may differ in their last bit; the processes are parallel already."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")  # TF32, which an environment may turn on, is too coarse for places
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot stop its workers, which would go on writing beside the next run's."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _render_one(root: Path, camera: Camera, entry: Entry, device: Device) -> None:
    """One video's folder, complete or not there. A batch is encoded while the next one is rendered."""
    joints_world_mm = read_skeleton(root / ANNOTATION_FOLDERS[0] / entry.key / "skeleton.txt")
    joints_mm = camera.world_to_cam(joints_world_mm)
    folder = frame_folder(root, entry.key)
    partial = folder.with_name("color.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    frame = 0
    earlier: Future[None] | None = None
    with ThreadPoolExecutor(1) as encoder:
        for pictures in render_batches(joints_mm, camera, seed=entry.seed, scenario=entry.scenario, device=device):
            if earlier:
                earlier.result()  # no more than one batch waits
            earlier = encoder.submit(_encode, partial, frame, pictures)
            frame += len(pictures)
        if earlier:
            earlier.result()
    partial.replace(folder)


def _encode(folder: Path, first: int, pictures: NDArray[np.uint8]) -> None:
    """uint8 [B, H, W, 3] RGB → files of the frames from number `first` on."""
    for frame, picture in enumerate(pictures, start=first):
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        good, jpeg = cv2.imencode(".jpeg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        if not good:
            raise RuntimeError(f"OpenCV could not encode frame {frame} of {folder}")
        (folder / f"color_{frame:04d}.jpeg").write_bytes(jpeg.tobytes())
