"""An FPHA-layout root opened under a protocol: which sequences take part, on which side, and what was left out."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gesturepose.data.fpha_files import (
    ANNOTATION_FOLDERS,
    FPHA_GESTURES,
    FPHA_NAME,
    SPLIT_FILE,
    SplitLine,
    annotation_folder,
    check_layout,
    count_rows,
    frame_folder,
    frame_numbers,
    gestures_by_id,
    nearest,
    parse_split,
    raise_first,
    read_bytes,
    read_camera,
    read_skeleton,
    read_split,
    skeletons_on_disk,
)
from gesturepose.errors import InputError
from gesturepose.geometry import Camera

__all__ = [
    "COMMUNITY",
    "COMMUNITY_EXCLUDED",
    "FPHA_GESTURES",
    "Protocol",
    "Root",
    "Sequence",
    "Split",
    "SplitLine",
    "carve_validation",
    "open_root",
    "read_camera",
    "read_skeleton",
    "read_split",
]

Split = Literal["train", "validation", "test"]
Protocol = Literal["official", "leave_one_person_out", "pose_cross_subject"]

COMMUNITY: Final = "community"  # the special name `exclude` understands
_LISTED: Final = 20  # names shown in an error before "and N more"

# Sequences that users of FPHA report as badly annotated; published numbers keep them.
COMMUNITY_EXCLUDED: Final = (
    "Subject_1/unfold_glasses/5",
    "Subject_4/read_letter/3",
    "Subject_5/use_flash/6",
    "Subject_1/handshake/3",
    "Subject_1/clean_glasses/2",
    "Subject_1/clean_glasses/4",
    "Subject_2/tear_paper/3",
    "Subject_1/high_five/3",
    "Subject_6/close_milk/3",
    "Subject_1/give_card/3",
    "Subject_1/receive_coin/3",
    "Subject_1/receive_coin/1",
    "Subject_1/open_wallet/3",
    "Subject_3/open_milk/3",
)
CROSS_SUBJECT_TRAIN: Final = frozenset({1, 3, 4})
CROSS_SUBJECT_TEST: Final = frozenset({2, 5, 6})


@dataclass(frozen=True)
class Sequence:
    """One video with its class (0-based id) and the side it stands on."""

    subject: int
    action: str
    take: str
    gesture: int
    split: Split

    @property
    def key(self) -> str:
        """For instance Subject_1/open_juice_bottle/2."""
        return f"Subject_{self.subject}/{self.action}/{self.take}"


@dataclass(frozen=True)
class Root:
    """An opened root: what takes part in a protocol, and what was left out and why."""

    path: Path
    name: str
    camera: Camera
    gestures: tuple[str, ...]
    sequences: tuple[Sequence, ...]
    missing: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    empty_outside_split: tuple[str, ...] = ()
    protocol: Protocol = "official"
    annotation_folder: str = ANNOTATION_FOLDERS[0]

    def skeleton_path(self, sequence: Sequence) -> Path:
        return self.path / self.annotation_folder / sequence.key / "skeleton.txt"

    def frame_path(self, sequence: Sequence, frame: int) -> Path:
        return frame_folder(self.path, sequence.key) / f"color_{frame:04d}.jpeg"

    def read_joints_world_mm(self, sequence: Sequence) -> NDArray[np.float64]:
        """[T, 21, 3] world mm in this project's joint order. Raises InputError with file and line for a bad row."""
        return read_skeleton(self.skeleton_path(sequence))

    def summary(self) -> str:
        """Every count in a few lines: sequences per side, and whatever was left out, by name."""
        sides = Counter(sequence.split for sequence in self.sequences)
        lines = [
            f"{self.name} ({self.path}), protocol {self.protocol}, annotations in {self.annotation_folder}",
            f"{len(self.sequences)} sequences: {sides['train']} train, {sides['validation']} validation, "
            f"{sides['test']} test; {len(self.gestures)} classes; "
            f"subjects {', '.join(map(str, sorted({sequence.subject for sequence in self.sequences})))}",
        ]
        for label, keys in (
            ("missing", self.missing),
            ("excluded on request", self.excluded),
            ("empty skeletons outside the split, ignored", self.empty_outside_split),
        ):
            if keys:
                lines.append(f"{len(keys)} {label}: {', '.join(keys)}")
        return "\n".join(lines)


def open_root(
    root: str | Path,
    *,
    protocol: Protocol = "official",
    held_out_subject: int = 1,
    validation: float = 0.15,
    split_seed: int = 0,
    allow_missing: bool = False,
    exclude: str | Iterable[str] = (),
    need_frames: bool = True,
) -> Root:
    """Open a root under a protocol; sequences keep the split file's order.

    validation: share of each class's training videos set apart, by video (see `carve_validation`); 0 gives none.
    exclude: keys, or "community" for the list of badly annotated sequences that users of FPHA keep.
    allow_missing: leave out sequences without skeleton or without all frames (named in `Root.missing`).
    need_frames: also ask for one colour frame per skeleton row.
    Raises InputError for a wrong layout, a bad split file or camera.json, missing sequences (unless allowed),
    and sequences whose frames outnumber their skeleton's rows.
    """
    root = Path(root)
    if not math.isfinite(validation) or not 0 <= validation < 1:
        raise InputError(f"the validation share must be at least 0 and below 1, not {validation}")
    check_layout(root, need_frames=need_frames)
    name, camera = read_camera(root)
    folder = annotation_folder(root)
    split_path = root / SPLIT_FILE
    lines, faults = parse_split(read_bytes(split_path), FPHA_GESTURES if name == FPHA_NAME else None)
    raise_first(faults, split_path)
    gestures = FPHA_GESTURES if name == FPHA_NAME else gestures_by_id(lines)

    listed = {line.key for line in lines}
    excluded = _excluded(listed, exclude)
    kept = [line for line in lines if line.key not in excluded]
    missing = _missing(root, folder, kept, need_frames)
    if missing and not allow_missing:
        raise _missing_error(split_path, missing, len(kept))
    missing_keys = tuple(line.key for line, _ in missing)
    present = [line for line in kept if line.key not in missing_keys]
    if not present:
        raise InputError(f"none of the {len(lines)} sequences is left to read", file=split_path)
    sequences = carve_validation(_apply(protocol, held_out_subject, present, split_path), validation, split_seed)
    return Root(
        path=root,
        name=name,
        camera=camera,
        gestures=gestures,
        sequences=sequences,
        missing=missing_keys,
        excluded=excluded,
        empty_outside_split=tuple(
            key
            for key, path in skeletons_on_disk(root / folder).items()
            if key not in listed and path.stat().st_size == 0
        ),
        protocol=protocol,
        annotation_folder=folder,
    )


# Which sequences take part


def _excluded(keys: set[str], exclude: str | Iterable[str]) -> tuple[str, ...]:
    """The excluded keys that the split file lists, sorted. An unknown key is refused: it would exclude nothing."""
    wanted: set[str] = set()
    for name in (exclude,) if isinstance(exclude, str) else tuple(exclude):
        if name == COMMUNITY:
            wanted |= keys & set(COMMUNITY_EXCLUDED)
        elif name in keys:
            wanted.add(name)
        else:
            hint = f"Give keys of the split file such as Subject_1/unfold_glasses/5, or {COMMUNITY!r}."
            raise InputError(f"cannot exclude {name!r}: no such sequence{nearest(name, keys)}", hint=hint)
    return tuple(sorted(wanted))


def _missing(root: Path, folder: str, lines: list[SplitLine], need_frames: bool) -> list[tuple[SplitLine, str]]:
    """Lines whose skeleton or frames are absent, each with the reason.

    Raises InputError where the files are there and contradict each other, which `allow_missing` does not forgive.
    """
    missing = []
    short: list[tuple[Path, str]] = []
    for line in lines:
        skeleton = root / folder / line.key / "skeleton.txt"
        if not skeleton.is_file():
            missing.append((line, "no skeleton.txt"))
            continue
        rows = count_rows(skeleton)
        if rows == 0:
            short.append((skeleton, "the skeleton is empty"))
            continue
        if not need_frames:
            continue
        frames = frame_numbers(frame_folder(root, line.key))
        absent = sorted(set(range(rows)) - frames)
        if not frames:
            missing.append((line, f"no frames in {frame_folder(root, line.key).relative_to(root)}"))
        elif absent:
            missing.append((line, f"{rows} rows, {len(frames)} frames; the first absent is color_{absent[0]:04d}.jpeg"))
        elif len(frames) > rows:
            short.append((skeleton, f"{rows} rows for {len(frames)} frames"))
    if short:
        path, message = short[0]
        others = f"; {len(short) - 1} more sequences like this" if len(short) > 1 else ""
        hint = "Restore the file, or exclude the sequence. `gesturepose verify` lists every fault of a root."
        raise InputError(f"{message}; expected one row per frame{others}", file=path, hint=hint)
    return missing


def _missing_error(split_path: Path, missing: list[tuple[SplitLine, str]], total: int) -> InputError:
    listed = "".join(f"\n  line {line.line}: {line.key}: {reason}" for line, reason in missing[:_LISTED])
    more = f"\n  and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
    return InputError(
        f"{len(missing)} of {total} sequences are missing:{listed}{more}",
        file=split_path,
        line=missing[0][0].line,
        hint="Complete the root, or set data.allow_missing (render: --allow-missing) to go on with what is there.",
    )


# Protocols and validation


def _apply(protocol: Protocol, held_out_subject: int, lines: list[SplitLine], split_path: Path) -> list[Sequence]:
    """Sequences with their side under the protocol; the official one is the split file's own."""
    if protocol not in get_args(Protocol):
        raise InputError(f"unknown protocol {protocol!r}; known: {', '.join(get_args(Protocol))}")
    subjects = {line.subject for line in lines}
    if protocol == "leave_one_person_out":
        test = {held_out_subject}
        train = subjects - test
    else:
        train, test = set(CROSS_SUBJECT_TRAIN), set(CROSS_SUBJECT_TEST)
    if protocol != "official":
        have = f"the root has subjects {', '.join(map(str, sorted(subjects)))}"
        if not subjects & train or not subjects & test:
            wanted = f"training on {_names(train)} and testing on {_names(test)}"
            raise InputError(f"{protocol} means {wanted}, but {have}", file=split_path)
        if beyond := subjects - train - test:
            raise InputError(f"{protocol} has no side for subject {_names(beyond)}; {have}", file=split_path)
    sequences = []
    for line in lines:
        side: Split = line.split if protocol == "official" else "train" if line.subject in train else "test"
        sequences.append(Sequence(line.subject, line.action, line.key.split("/")[2], line.gesture, side))
    return sequences


def _names(subjects: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(subjects))) or "nobody"


def carve_validation(sequences: Iterable[Sequence], share: float, seed: int) -> tuple[Sequence, ...]:
    """Move a share of each class's training videos to validation; whole videos, order kept.

    Of n videos round(share · n) go, at least one and at most n - 1; a class with one video keeps it, and share 0 moves
    none. Which ones follows from a hash of seed and key, so that a video missing elsewhere changes at most one choice.
    """
    sequences = tuple(sequences)
    training: dict[int, list[str]] = {}
    for sequence in sequences:
        if sequence.split == "train":
            training.setdefault(sequence.gesture, []).append(sequence.key)
    chosen: set[str] = set()
    for keys in training.values() if share > 0 else ():
        count = min(max(math.floor(share * len(keys) + 0.5), 1), len(keys) - 1)
        ranked = sorted(keys, key=lambda key: hashlib.sha256(f"{seed}/{key}".encode()).digest())
        chosen.update(ranked[:count])
    return tuple(replace(s, split="validation") if s.key in chosen else s for s in sequences)
