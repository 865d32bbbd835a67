"""The files of FPHA's layout: where they stand and what is in them.

    <root>/data_split_action_recognition.txt
           Hand_pose_annotation_v1/Subject_<n>/<action>/<take>/skeleton.txt      (or …_v1_1)
           Video_files/Subject_<n>/<action>/<take>/color/color_%04d.jpeg         numbered from 0000
           camera.json                                                           optional, for other recordings

Files are reached by template, never by directory order, so that stray files do no harm. Each format has a parser that
lists every fault (for `verify`) and a reader that raises the first (for everyone else). Nothing here writes.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from gesturepose.errors import InputError
from gesturepose.geometry import FPHA_CAMERA, Camera
from gesturepose.skeleton import FROM_FPHA, JOINTS

SPLIT_FILE: Final = "data_split_action_recognition.txt"
CAMERA_FILE: Final = "camera.json"
ANNOTATION_FOLDERS: Final = ("Hand_pose_annotation_v1", "Hand_pose_annotation_v1_1")
VIDEO_FOLDER: Final = "Video_files"
SKELETON_COLUMNS: Final = 1 + 3 * JOINTS
_EXPECTED_ROW: Final = f"expected {SKELETON_COLUMNS}: the frame number and 21 × (x, y, z)"

FPHA_NAME: Final = "FPHA"
_FPHA_GESTURE_NAMES: Final = """
    open_juice_bottle close_juice_bottle pour_juice_bottle open_peanut_butter close_peanut_butter prick sprinkle
    scoop_spoon put_sugar stir open_milk close_milk pour_milk drink_mug put_tea_bag put_salt open_liquid_soap
    close_liquid_soap pour_liquid_soap wash_sponge flip_sponge scratch_sponge squeeze_sponge open_soda_can use_flash
    write tear_paper squeeze_paper open_letter take_letter_from_enveloppe read_letter flip_pages use_calculator
    light_candle charge_cell_phone unfold_glasses clean_glasses open_wallet give_coin receive_coin give_card pour_wine
    toast_wine handshake high_five"""
FPHA_GESTURES: Final = tuple(_FPHA_GESTURE_NAMES.split())  # by id
WHERE_TO_ASK: Final = (
    "FPHA is handed out by its authors on request: https://guiggh.github.io/publications/first-person-hands/"
)
_KEY = re.compile(r"Subject_([1-9][0-9]{0,8})/([^/\\\s\0]+)/([^/\\\s\0]+)")
_HEADER = re.compile(r"(Training|Test)\s+([0-9]{1,9})")
_CLASS_ID = re.compile(r"[0-9]{1,9}")
_FRAME = re.compile(r"color_([0-9]{4}|[1-9][0-9]{4,8})\.jpeg")


@dataclass(frozen=True)
class Fault:
    """Something wrong in a text file: the line (1-based, None for the whole file), what, and what to do."""

    line: int | None
    message: str
    hint: str = ""


@dataclass(frozen=True)
class SplitLine:
    """One sequence line of the split file; `line` is 1-based."""

    key: str
    gesture: int
    split: Literal["train", "test"]
    line: int

    @property
    def subject(self) -> int:
        return int(self.key.split("/")[0].removeprefix("Subject_"))

    @property
    def action(self) -> str:
        return self.key.split("/")[1]


# Layout


def check_layout(root: Path, *, need_frames: bool) -> None:
    """Raises InputError naming the first expected path that is not there."""
    if not root.is_dir():
        problem = "not a folder" if root.exists() else "no such folder"
        raise InputError(f"{problem}; expected a root in FPHA's layout", file=root, hint=_layout_hint(root))
    if not (root / SPLIT_FILE).is_file():
        raise InputError("the split file is not there", file=root / SPLIT_FILE, hint=_layout_hint(root))
    if not any((root / name).is_dir() for name in ANNOTATION_FOLDERS):
        message = f"no annotations; expected this folder (or {ANNOTATION_FOLDERS[1]})"
        raise InputError(message, file=root / ANNOTATION_FOLDERS[0], hint=_layout_hint(root))
    if need_frames and not (root / VIDEO_FOLDER).is_dir():
        raise InputError("no videos; expected this folder", file=root / VIDEO_FOLDER, hint=_layout_hint(root))


def _layout_hint(root: Path) -> str:
    return (
        f"Expected {root / SPLIT_FILE}, {root / ANNOTATION_FOLDERS[0]}/Subject_1/<action>/<take>/skeleton.txt and "
        f"{root / VIDEO_FOLDER}/Subject_1/<action>/<take>/color/color_0000.jpeg. {WHERE_TO_ASK}"
    )


def annotation_folder(root: Path) -> str:
    """The annotation folder's name; of two, the one that holds more skeletons (`_v1` if they hold as many)."""
    present = [name for name in ANNOTATION_FOLDERS if (root / name).is_dir()]
    if len(present) < 2:
        return present[0] if present else ANNOTATION_FOLDERS[0]
    return max(
        present, key=lambda name: sum(path.stat().st_size > 0 for path in skeletons_on_disk(root / name).values())
    )


def skeletons_on_disk(annotations: Path) -> dict[str, Path]:
    """Key → path of every skeleton.txt that stands where the template puts one, sorted by key."""
    found = {}
    for path in annotations.glob("Subject_*/*/*/skeleton.txt"):
        key = path.parent.relative_to(annotations).as_posix()
        if _KEY.fullmatch(key) and path.is_file():
            found[key] = path
    return dict(sorted(found.items()))


def frame_folder(root: Path, key: str) -> Path:
    return root / VIDEO_FOLDER / key / "color"


def frame_numbers(folder: Path) -> set[int]:
    """Numbers of the frames named by the template; other files in the folder do not count."""
    try:
        with os.scandir(folder) as entries:
            return {int(match[1]) for entry in entries if (match := _FRAME.fullmatch(entry.name))}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=folder) from None


# Skeletons


def read_skeleton(path: str | Path) -> NDArray[np.float64]:
    """skeleton.txt → [T, 21, 3] world mm in this project's joint order. Raises InputError with file and line."""
    path = Path(path)
    content = read_bytes(path)
    joints = parse_skeleton(content)
    if joints is None:
        raise_first(skeleton_faults(content), path)
        raise AssertionError("a skeleton that does not parse has a fault")
    return joints


def parse_skeleton(content: bytes) -> NDArray[np.float64] | None:
    """[T, 21, 3] world mm in this project's joint order, or None if any row is bad (`skeleton_faults` says which)."""
    rows = content.rstrip().splitlines()
    try:
        table = np.array([list(map(float, row.split())) for row in rows])
    except ValueError:  # text, or rows of different lengths
        return None
    if table.shape != (len(rows), SKELETON_COLUMNS) or not rows or b"_" in content:  # float() takes 1_0 for ten
        return None
    if not np.isfinite(table).all() or not np.array_equal(table[:, 0], np.arange(len(rows))):
        return None
    return table[:, 1:].reshape(-1, JOINTS, 3)[:, FROM_FPHA]


def skeleton_faults(content: bytes) -> Iterator[Fault]:
    """Every bad row of a skeleton file; slow, for files that `parse_skeleton` refused."""
    rows = content.rstrip().splitlines()
    if not rows:
        yield Fault(None, f"the skeleton is empty; expected rows of {SKELETON_COLUMNS} numbers")
    expected = 0
    for line, row in enumerate(rows, start=1):
        values = row.split()
        if not values:
            yield Fault(line, f"blank row; {_EXPECTED_ROW}")
        elif len(values) != SKELETON_COLUMNS:
            yield Fault(line, f"{len(values)} columns; {_EXPECTED_ROW}")
        elif bad := [(column, value) for column, value in enumerate(values, start=1) if not _is_finite_number(value)]:
            yield Fault(
                line, f"column {bad[0][0]} is {bad[0][1].decode('utf-8', 'replace')!r}; expected a finite number"
            )
        elif float(values[0]) != expected:
            yield Fault(
                line, f"frame number {values[0].decode()}; expected {expected} (frames count 0, 1, 2 … without a gap)"
            )
            expected = int(float(values[0]))  # go on from here, so that one lost row is one fault
        expected += 1


def _is_finite_number(text: bytes) -> bool:
    try:
        return b"_" not in text and math.isfinite(float(text))
    except ValueError:
        return False


def count_rows(path: Path) -> int:
    """Rows of a skeleton file, without reading the numbers in them."""
    return len(read_bytes(path).rstrip().splitlines())


# Split file and classes


def read_split(path: str | Path) -> tuple[SplitLine, ...]:
    """The split file's sequences in its order. Raises InputError with file and line for the first fault."""
    lines, faults = parse_split(read_bytes(Path(path)))
    raise_first(faults, Path(path))
    return tuple(lines)


def parse_split(content: bytes, gestures: tuple[str, ...] | None = None) -> tuple[list[SplitLine], list[Fault]]:
    """The split file's good lines and all its faults.

    `Training <n>`, n lines `Subject_<n>/<action>/<take> <class id>`, `Test <m>`, m lines; ids are 0-based.
    `gestures`: the names by id to hold the lines against; without, the ids in use must be 0, 1, 2 … without a gap.
    """
    lines: list[SplitLine] = []
    faults: list[Fault] = []
    whole: list[Fault] = []  # faults of the whole file, often the consequence of a bad line, hence listed after those
    headers: dict[str, tuple[int, int]] = {}  # side → (its line, the count it announces)
    side: Literal["train", "test"] | None = None
    for number, text in enumerate(content.decode("utf-8-sig", "replace").split("\n"), start=1):
        text = text.strip()
        if not text:
            continue
        if header := _HEADER.fullmatch(text):
            side = "train" if header[1] == "Training" else "test"
            if side in headers:
                faults.append(Fault(number, f"a second {header[1]!r} header; the first is on line {headers[side][0]}"))
            else:
                headers[side] = (number, int(header[2]))
            continue
        match text.split():
            case [key, identifier] if is_key(key) and _CLASS_ID.fullmatch(identifier):
                if side is not None:
                    lines.append(SplitLine(key, int(identifier), side, number))
                elif not faults:
                    faults.append(Fault(number, "a sequence before any header; expected 'Training <count>' first"))
            case _:
                expected = "expected 'Subject_1/open_juice_bottle/2 0', 'Training <count>' or 'Test <count>'"
                faults.append(Fault(number, f"malformed line {text!r}; {expected}"))
    titles: tuple[tuple[Literal["train", "test"], str], ...] = (("train", "Training"), ("test", "Test"))
    for side, title in titles:
        found = sum(line.split == side for line in lines)
        if side not in headers:
            whole.append(Fault(None, f"no '{title} <count>' header"))
        elif found != headers[side][1]:
            message = f"the header announces {headers[side][1]} {title} sequences, {found} follow"
            whole.append(Fault(headers[side][0], message))
    used = {line.gesture for line in lines}
    if gestures is None and used != set(range(len(used))):
        absent = min(set(range(len(used))) - used)
        whole.append(Fault(None, f"no class has id {absent}; the {len(used)} ids in use must be 0 to {len(used) - 1}"))
    faults += _class_faults(lines, gestures)
    return lines, sorted(faults, key=lambda fault: fault.line or 0) + whole


def _class_faults(lines: list[SplitLine], gestures: tuple[str, ...] | None) -> Iterator[Fault]:
    """Duplicates, classes that are not known, and ids and names that contradict each other."""
    first: dict[str, SplitLine] = {}
    by_name: dict[str, SplitLine] = {}
    by_id: dict[int, SplitLine] = {}
    for line in lines:
        if line.key in first:
            yield Fault(line.line, f"{line.key} stands twice; the first is on line {first[line.key].line}")
        first.setdefault(line.key, line)
        if gestures is not None:
            if line.action not in gestures:
                yield Fault(
                    line.line,
                    f"unknown class {line.action!r}{nearest(line.action, gestures)}",
                    f"Recordings with classes of their own need a {CAMERA_FILE} in the root.",
                )
            elif gestures.index(line.action) != line.gesture:
                right = gestures.index(line.action)
                yield Fault(line.line, f"class {line.action!r} has id {right}, not {line.gesture} (ids count from 0)")
            continue
        named, numbered = by_name.setdefault(line.action, line), by_id.setdefault(line.gesture, line)
        if named.gesture != line.gesture:
            yield Fault(line.line, f"class {line.action!r} has id {line.gesture}, on line {named.line} {named.gesture}")
        elif numbered.action != line.action:
            yield Fault(line.line, f"id {line.gesture} is {line.action!r}, on line {numbered.line} {numbered.action!r}")


def gestures_by_id(lines: Iterable[SplitLine]) -> tuple[str, ...]:
    """Class names by id, from a split file without faults."""
    return tuple(name for _, name in sorted({(line.gesture, line.action) for line in lines}))


def is_key(text: str) -> bool:
    """A key of the template; `.` and `..` are refused, so that no line of a file leads out of the root."""
    match = _KEY.fullmatch(text)
    return match is not None and not {match[2], match[3]} & {".", ".."}


def nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; the nearest known is {near[0]!r}" if near else ""


# Camera


_Number = Annotated[float, Field(allow_inf_nan=False)]
_Vector = tuple[_Number, _Number, _Number]


class _CameraFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(min_length=1)
    width: PositiveInt
    height: PositiveInt
    fx: Annotated[PositiveFloat, Field(allow_inf_nan=False)]
    fy: Annotated[PositiveFloat, Field(allow_inf_nan=False)]
    cx: _Number
    cy: _Number
    rotation: tuple[_Vector, _Vector, _Vector] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    translation_mm: _Vector = (0.0, 0.0, 0.0)


def read_camera(root: str | Path) -> tuple[str, Camera]:
    """The recordings' name and camera: from camera.json if the root has one, else FPHA's. Raises InputError."""
    path = Path(root) / CAMERA_FILE
    if not path.exists():
        return FPHA_NAME, FPHA_CAMERA
    try:  # through json, which knows the line of a syntax error
        read = _CameraFile.model_validate_json(json.dumps(json.loads(read_bytes(path))))
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", file=path, line=error.lineno) from None
    except UnicodeDecodeError:
        raise InputError("not JSON: the text is not UTF-8", file=path) from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        near = "" if key in _CameraFile.model_fields else nearest(key, _CameraFile.model_fields)
        hint = f"Known keys: {', '.join(_CameraFile.model_fields)}."
        message = f"{key or 'camera'}: {first['msg']}{near}"
        raise InputError(message, file=path, hint=hint) from None
    rotation = np.array(read.rotation)
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0:
        raise InputError("rotation: not a rotation matrix (rows must be orthonormal, determinant 1)", file=path)
    return read.name, Camera(**read.model_dump(exclude={"name"}))


def read_bytes(path: Path) -> bytes:
    """A file's content; InputError if it is not there or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None


def raise_first(faults: Iterable[Fault], path: Path) -> None:
    """InputError for the first fault, if there is any; the others are counted."""
    faults = list(faults)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InputError(faults[0].message + more, file=path, line=faults[0].line, hint=faults[0].hint)
