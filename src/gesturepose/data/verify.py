"""Check a root without stopping at the first fault: `verify_root` → `VerifyReport`.

Three levels: *broken* (a file is absent, malformed or contradicts another: a stage would refuse it), *suspicious*
(readable, but not what a hand does) and *note* (worth knowing, nothing to mend). Only the first two count against it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gesturepose.data.contact_sheet import Tile, check_suffix, write_contact_sheet
from gesturepose.data.fpha_files import (
    ANNOTATION_FOLDERS,
    CAMERA_FILE,
    FPHA_GESTURES,
    FPHA_NAME,
    SPLIT_FILE,
    VIDEO_FOLDER,
    WHERE_TO_ASK,
    SplitLine,
    annotation_folder,
    frame_folder,
    frame_numbers,
    parse_skeleton,
    parse_split,
    read_bytes,
    read_camera,
    skeleton_faults,
    skeletons_on_disk,
)
from gesturepose.data.jpeg import inspect_jpeg
from gesturepose.errors import InputError
from gesturepose.geometry import Camera, project
from gesturepose.skeleton import BONES, JOINT_NAMES, MIDDLE_MCP, WRIST

Level = Literal["broken", "suspicious", "note"]
Joints = NDArray[np.float64]

FROZEN_SHARE: Final = 0.3  # of rows equal to the row before; a magnetic tracker's noise never repeats a whole hand
LONGEST_BONE_MM: Final = 130.0  # FPHA's longest true bone, wrist to middle MCP, is 77 mm
BONE_RATIO: Final = 1.6  # a bone may differ from its subject's median by this factor …
BONE_SLACK_MM: Final = 8.0  # … or by this much, whichever allows more
PALM_SLACK_MM: Final = 3.0  # wrist to middle MCP is constant per subject in FPHA
HAND_PALM_MM: Final = (40.0, 110.0)  # outside: not a hand, or not in mm
JUMP_MM: Final = 300.0  # between consecutive frames: 9 m/s at 30 fps
OUTSIDE_SHARE: Final = 0.5  # of frames with every joint outside the image

PUBLISHED: Final = {"sequences": 1175, "train": 600, "test": 575, "frames": 105_459, "classes": 45, "subjects": 6}
KNOWN: Final = {  # the published annotations' own peculiarities
    "Subject_2/close_milk/4": "empty outside the split",
    "Subject_2/put_tea_bag/2": "empty outside the split",
    "Subject_4/flip_sponge/2": "empty outside the split",
    "Subject_5/use_flash/6": "frozen for 85 % of its frames",
    "Subject_4/read_letter/3": "every row identical",
    "Subject_1/unfold_glasses/5": "a 199 mm bone",
    "Subject_2/open_letter/2": "a 620 mm jump",
}
_TEMPLATE_ENTRIES = {
    *ANNOTATION_FOLDERS,
    *("Object_6D_pose_annotation_v1", "Object_6D_pose_annotation_v1_1", "Object_models", "Subjects_info"),
    *(VIDEO_FOLDER, SPLIT_FILE, CAMERA_FILE, "action_object_info.txt", "generated.txt"),
}


@dataclass(frozen=True)
class Finding:
    """One thing found: where (a path relative to the root, with `:line`, or a sequence's key) and what."""

    level: Level
    where: str
    message: str


@dataclass
class VerifyReport:
    """Everything found in a root."""

    root: Path
    name: str
    counts: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    sheet: Path | None = None

    def add(self, level: Level, where: str, message: str) -> None:
        known = KNOWN.get(where) if self.name == FPHA_NAME and level == "suspicious" else None
        self.findings.append(
            Finding(level, where, message + (f" (the published data is known for: {known})" if known else ""))
        )

    def of(self, level: Level) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == level]

    @property
    def exit_code(self) -> int:
        """0 clean, 1 suspicious, 2 broken."""
        return 2 if self.of("broken") else 1 if self.of("suspicious") else 0

    def to_text(self) -> str:
        """Counts, beside the published ones where the root is FPHA, then every finding, the worst first."""
        lines = [f"{self.name}: {self.root}", ""]
        for name, count in self.counts.items():
            published = PUBLISHED.get(name) if self.name == FPHA_NAME else None
            beside = (
                "" if published is None else f"   published {published:>9,}" + (" ✓" if published == count else " ✗")
            )
            lines.append(f"  {name:<24}{count:>9,}{beside}")
        for level in ("broken", "suspicious", "note"):
            if found := self.of(level):
                lines += ["", f"{level} ({len(found)})"]
                lines += [f"  {finding.where}: {finding.message}" for finding in found]
        verdict = ("clean", "suspicious", "broken")[self.exit_code]
        lines += ["", f"{verdict}: {len(self.of('broken'))} broken, {len(self.of('suspicious'))} suspicious"]
        if self.sheet is not None:
            lines.append(f"contact sheet: {self.sheet}")
        return "\n".join(lines)


def verify_root(root: str | Path, *, sheet: Path | None = None, progress: bool = True) -> VerifyReport:
    """Check every file of a root in FPHA's layout, with or without frames.

    sheet: where to write a contact sheet of skeletons over frames (over grey, where there are none).
    Raises InputError only if `root` is no folder or the sheet cannot be written; all else is a finding.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError("no such folder" if not root.exists() else "not a folder", file=root, hint=WHERE_TO_ASK)
    if sheet is not None:
        check_suffix(sheet)
    report = VerifyReport(root, FPHA_NAME)
    camera = _camera(root, report)
    lines = _split(root, report)
    folder = annotation_folder(root)
    on_disk = skeletons_on_disk(root / folder)
    _folders(root, folder, on_disk, report)
    listed = {line.key for line in lines}
    for line in lines:
        if line.key not in on_disk:
            report.add(
                "broken", f"{SPLIT_FILE}:{line.line}", f"{line.key} is missing: no {folder}/{line.key}/skeleton.txt"
            )

    frames = any((root / VIDEO_FOLDER).glob("Subject_*"))
    if not frames:
        report.add("note", VIDEO_FOLDER, "no frames; the pictures were not checked")
    poses: dict[str, Joints] = {}
    rows: dict[str, int] = {}
    for key, path in tqdm(on_disk.items(), desc="verify", unit="sequence", disable=not progress):
        content = _content(path, report)
        if content is None:
            continue
        rows[key] = len(content.rstrip().splitlines())
        if rows[key] == 0 and key not in listed:
            report.add("suspicious", key, "empty skeleton, not in the split: ignored")
            continue
        joints = parse_skeleton(content)
        if joints is None:
            for fault in skeleton_faults(content):
                place = path.relative_to(root).as_posix()
                report.add("broken", place if fault.line is None else f"{place}:{fault.line}", fault.message)
        else:
            poses[key] = joints
            _motion(key, joints, camera, report)
        if frames and (key in listed or frame_folder(root, key).is_dir()):
            _pictures(root, key, rows[key], camera, report)
    _bones(poses, report)
    _subject_info(root, rows, report)
    _outside_split(sorted(key for key in on_disk.keys() - listed if rows.get(key)), report)
    _count(report, lines, rows, poses, camera)
    if sheet is not None:
        flagged = {finding.where for finding in report.findings if finding.level != "note"}
        tiles = [Tile(key, pose, frame_folder(root, key), key in flagged) for key, pose in poses.items()]
        write_contact_sheet(sheet, tiles, camera)
        report.sheet = sheet
    return report


# Files of the root


def _content(path: Path, report: VerifyReport) -> bytes | None:
    """A file's content, or None and a finding."""
    try:
        return read_bytes(path)
    except InputError as error:
        report.add("broken", path.relative_to(report.root).as_posix(), str(error).removeprefix(f"{path}: "))
        return None


def _camera(root: Path, report: VerifyReport) -> Camera | None:
    try:
        report.name, camera = read_camera(root)
    except InputError as error:
        report.name = "unknown"
        report.add("broken", CAMERA_FILE, str(error).removeprefix(f"{root / CAMERA_FILE}:").strip())
        return None
    return camera


def _split(root: Path, report: VerifyReport) -> list[SplitLine]:
    if not (root / SPLIT_FILE).is_file():
        report.add("broken", SPLIT_FILE, f"the split file is missing; expected {root / SPLIT_FILE}. {WHERE_TO_ASK}")
        return []
    gestures = FPHA_GESTURES if report.name == FPHA_NAME else None
    lines, faults = parse_split(_content(root / SPLIT_FILE, report) or b"", gestures)
    for fault in faults:
        report.add("broken", SPLIT_FILE if fault.line is None else f"{SPLIT_FILE}:{fault.line}", fault.message)
    return list({line.key: line for line in reversed(lines)}.values())[::-1]  # a duplicate counts once


def _folders(root: Path, folder: str, on_disk: dict[str, Path], report: VerifyReport) -> None:
    if not on_disk:
        expected = root / folder / "Subject_1/<action>/<take>/skeleton.txt"
        report.add("broken", folder, f"no annotations; expected {expected}. {WHERE_TO_ASK}")
    if all((root / name).is_dir() for name in ANNOTATION_FOLDERS):
        report.add("note", folder, "taken, as it holds the data; the root has both annotation folders")
    stray = sorted(path.name for path in root.iterdir() if path.name not in _TEMPLATE_ENTRIES)
    for parent in (folder, VIDEO_FOLDER):
        stray += sorted(p.relative_to(root).as_posix() for p in (root / parent).glob("*") if not _is_subject(p))
        stray += sorted(p.relative_to(root).as_posix() for p in (root / parent).glob("Subject_*/*") if not p.is_dir())
    if stray:
        report.add("note", ".", f"{len(stray)} stray items, ignored: {', '.join(stray)}")


def _is_subject(path: Path) -> bool:
    return path.is_dir() and path.name.startswith("Subject_")


def _outside_split(keys: list[str], report: VerifyReport) -> None:
    if keys:
        report.add("note", ".", f"{len(keys)} sequences are not in the split: {', '.join(keys)}")


def _subject_info(root: Path, rows: dict[str, int], report: VerifyReport) -> None:
    """Subject_<n>_info.txt: three header lines, then action, take and number of frames, spaced apart."""
    if not (root / "Subjects_info").is_dir():
        report.add("note", "Subjects_info", "not there; the numbers of frames were not compared with it")
    for subject in sorted({key.split("/")[0] for key in rows}):
        path = root / "Subjects_info" / f"{subject}_info.txt"
        if not path.is_file():
            continue
        table = (_content(path, report) or b"").decode("utf-8", "replace").split("\n")
        for number, text in enumerate(table[3:], start=4):
            where = f"Subjects_info/{path.name}:{number}"
            match text.split():
                case []:
                    pass
                case [action, take, frames] if frames.isascii() and frames.isdigit():
                    key = f"{subject}/{action}/{take}"
                    if rows.get(key) and str(rows[key]) != (frames.lstrip("0") or "0"):
                        report.add("suspicious", where, f"{key} has {frames} frames here and {rows[key]} skeleton rows")
                case _:
                    report.add("suspicious", where, f"malformed line {text.strip()!r}; expected action, take, frames")


def _count(
    report: VerifyReport, lines: list[SplitLine], rows: dict[str, int], poses: dict[str, Joints], camera: Camera | None
) -> None:
    """Counts of the split's sequences that are there; FPHA's are held against the published ones."""
    there = [line for line in lines if rows.get(line.key)]
    sides = Counter(line.split for line in there)
    report.counts |= {
        "sequences": len(there),
        "train": sides["train"],
        "test": sides["test"],
        "frames": sum(rows[line.key] for line in there),
        "classes": len({line.action for line in there}),
        "subjects": len({line.subject for line in there}),
    }
    if report.name == FPHA_NAME:
        for name, published in PUBLISHED.items():
            if report.counts[name] != published:
                report.add("suspicious", ".", f"{report.counts[name]:,} {name}; published {published:,}")
    if camera is not None:
        inside = [_inside(camera, poses[line.key]) for line in there if line.key in poses]
        report.counts["frames, part outside"] = sum(int((~mask.all(axis=1)).sum()) for mask in inside)
        report.counts["frames, all outside"] = sum(int((~mask.any(axis=1)).sum()) for mask in inside)


# Poses


def _inside(camera: Camera, joints_world_mm: Joints) -> NDArray[np.bool_]:
    """[T, 21, 3] world mm → [T, 21], the joint is before the camera and projects into the image."""
    joints_cam_mm = camera.world_to_cam(joints_world_mm)
    before = joints_cam_mm[..., 2] > 0
    uv_px = project(np.where(before[..., None], joints_cam_mm, 1.0), camera.intrinsics)
    return before & ((uv_px >= -0.5) & (uv_px < np.array([camera.width, camera.height]) - 0.5)).all(axis=-1)


def _motion(key: str, joints_world_mm: Joints, camera: Camera | None, report: VerifyReport) -> None:
    """Frozen rows, jumps, joints behind the camera, hands outside the image."""
    frames = len(joints_world_mm)
    if frames > 1:
        steps_mm = np.linalg.norm(np.diff(joints_world_mm, axis=0), axis=-1)  # [T-1, 21]
        frozen = float((steps_mm == 0).all(axis=1).mean())
        if frozen >= FROZEN_SHARE:
            report.add("suspicious", key, f"frozen: {frozen:.0%} of its rows repeat the row before")
        frame, joint = np.unravel_index(steps_mm.argmax(), steps_mm.shape)
        if steps_mm[frame, joint] > JUMP_MM:
            jump = f"{JOINT_NAMES[joint]} moves {steps_mm[frame, joint]:.0f} mm from frame {frame} to {frame + 1}"
            report.add("suspicious", key, f"jump: {jump} ({int((steps_mm > JUMP_MM).any(axis=1).sum())} frames in all)")
    if camera is None:
        return
    behind = (camera.world_to_cam(joints_world_mm)[..., 2] <= 0).any(axis=1)
    if behind.any():
        message = f"joints behind the camera (depth ≤ 0) in {behind.sum()} frames, first in {behind.argmax()}"
        report.add("suspicious", key, message)
    outside = ~_inside(camera, joints_world_mm).any(axis=1)
    if outside.any():
        level: Level = "suspicious" if outside.mean() > OUTSIDE_SHARE else "note"
        report.add(level, key, f"all joints outside the image in {outside.sum()} of {frames} frames")


def _bones(poses: dict[str, Joints], report: VerifyReport) -> None:
    """Bones that are no hand's, or not this subject's: each sequence's worst, against its subject's median."""
    parents, children = (list(joints) for joints in zip(*BONES, strict=True))
    palm = BONES.index((WRIST, MIDDLE_MCP))
    lengths_mm = {key: np.linalg.norm(pose[:, children] - pose[:, parents], axis=-1) for key, pose in poses.items()}
    for subject in sorted({key.split("/")[0] for key in poses}):
        own = {key: bones for key, bones in lengths_mm.items() if key.split("/")[0] == subject}
        median = np.median(np.concatenate(list(own.values())), axis=0)  # [20]
        if not HAND_PALM_MM[0] <= median[palm] <= HAND_PALM_MM[1]:
            message = f"wrist to middle MCP is {median[palm]:.3g} mm; a hand's is 60 to 80. Are the skeletons in mm?"
            report.add("suspicious", subject, message)
        longest = np.minimum(np.maximum(median * BONE_RATIO, median + BONE_SLACK_MM), LONGEST_BONE_MM)
        shortest = np.minimum(median / BONE_RATIO, np.maximum(median - BONE_SLACK_MM, 0.0))
        longest[palm], shortest[palm] = median[palm] + PALM_SLACK_MM, median[palm] - PALM_SLACK_MM
        for key, bones in own.items():
            excess = np.maximum(bones - longest, shortest - bones)  # [T, 20], above 0 is impossible
            frame, bone = np.unravel_index(excess.argmax(), excess.shape)
            if excess[frame, bone] > 0:
                name = " to ".join(JOINT_NAMES[joint] for joint in BONES[bone])
                usual = f"the subject's median is {median[bone]:.0f} mm"
                count = int((excess > 0).any(axis=1).sum())
                message = f"impossible bone: {name} is {bones[frame, bone]:.0f} mm in frame {frame}, {usual}"
                report.add("suspicious", key, f"{message} ({count} frames in all)")


# Pictures


def _pictures(root: Path, key: str, rows: int, camera: Camera | None, report: VerifyReport) -> None:
    """One readable frame of the camera's size per row, numbered from 0."""
    folder = frame_folder(root, key)
    numbers = sorted(frame_numbers(folder))
    if not numbers:
        report.add("broken", key, f"no frames; expected {folder.relative_to(root)}/color_0000.jpeg")
        return
    gap = next((f"; color_{n:04d}.jpeg is absent" for n in range(numbers[-1] + 1) if n not in set(numbers)), "")
    if len(numbers) != rows or gap:
        report.add("broken", key, f"{rows} skeleton rows, {len(numbers)} frames{gap}")
    sizes: Counter[tuple[int, int]] = Counter()
    for number in numbers:
        path = folder / f"color_{number:04d}.jpeg"
        problem, size = inspect_jpeg(path)
        if problem:
            report.add("broken", path.relative_to(root).as_posix(), problem)
        elif size is not None:
            sizes[size] += 1
    for (width, height), count in sizes.items():
        if camera is not None and (width, height) != (camera.width, camera.height):
            wanted = f"the camera's are {camera.width}×{camera.height}"
            report.add("broken", key, f"{count} frames are {width}×{height}; {wanted}")
