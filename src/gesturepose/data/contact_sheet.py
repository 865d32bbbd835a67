"""Contact sheets: skeletons drawn over frames, to judge calibration and annotation by eye."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from gesturepose.errors import InputError
from gesturepose.geometry import FPHA_CAMERA, Array, Camera, image_to_crop, project
from gesturepose.skeleton import BONES, WRIST

COLUMNS: Final = 6
ROWS: Final = 4
TILE_PX: Final = 256
CAPTION_PX: Final = 22
FLAGGED_TILES: Final = 6  # at most this many of the tiles go to sequences with findings
CONTEXT: Final = 2.2  # side of the square shown, in hand boxes
# BGR, thumb to pinky; told apart by people with red-green blindness as well (Okabe and Ito).
FINGER_COLOURS: Final = ((0, 159, 230), (233, 180, 86), (115, 158, 0), (66, 228, 240), (167, 121, 204))
_WRIST_COLOUR: Final = (255, 255, 255)
_GREY: Final = 72


@dataclass(frozen=True)
class Tile:
    """A sequence that may be shown: poses [T, 21, 3] world mm, folder of frames, and whether it has findings."""

    key: str
    joints_world_mm: NDArray[np.float64]
    frames: Path
    flagged: bool


def check_suffix(path: Path) -> None:
    """Raises InputError if a sheet cannot be written under this name."""
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise InputError(
            f"cannot write a contact sheet as {path.suffix or 'a file without ending'!r}",
            file=path,
            hint="Use .png or .jpg.",
        )


def write_contact_sheet(path: Path, tiles: Sequence[Tile], camera: Camera | None) -> None:
    """Draw up to 24 tiles, the middle frame of sequences spread over the subjects, and write them at once.

    Without a camera FPHA's is taken; a frame that is not there is drawn grey.
    Raises InputError if OpenCV has no writer for the file name's ending, or the file cannot be written.
    """
    chosen = choose_tiles(tiles)
    sheet = np.full((ROWS * (TILE_PX + CAPTION_PX), COLUMNS * TILE_PX, 3), 24, np.uint8)
    for position, tile in enumerate(chosen):
        row, column = divmod(position, COLUMNS)
        top, left = row * (TILE_PX + CAPTION_PX), column * TILE_PX
        sheet[top : top + TILE_PX + CAPTION_PX, left : left + TILE_PX] = draw_tile(tile, camera or FPHA_CAMERA)
    filled = -(-max(len(chosen), 1) // COLUMNS) * (TILE_PX + CAPTION_PX)
    check_suffix(path)
    _, encoded = cv2.imencode(path.suffix.lower(), sheet[:filled])
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(encoded.tobytes())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"the contact sheet cannot be written: {error.strerror}", file=path) from None


def choose_tiles(tiles: Sequence[Tile], count: int = COLUMNS * ROWS) -> list[Tile]:
    """A few flagged sequences first, then clean ones spread evenly over each subject, subject after subject in turn."""
    flagged = [tile for tile in tiles if tile.flagged][:FLAGGED_TILES]
    by_subject: dict[str, list[Tile]] = {}
    for tile in tiles:
        if not tile.flagged:
            by_subject.setdefault(tile.key.split("/")[0], []).append(tile)
    each = -(-(count - len(flagged)) // max(len(by_subject), 1))
    spread = []
    for own in by_subject.values():
        picks = np.unique(np.linspace(0, len(own) - 1, min(each, len(own))).round().astype(int))
        spread.append([own[pick] for pick in picks])
    turns = [own[turn] for turn in range(each) for own in spread if turn < len(own)]
    return flagged + sorted(turns[: count - len(flagged)], key=lambda tile: tile.key)


def draw_tile(tile: Tile, camera: Camera) -> NDArray[np.uint8]:
    """[TILE_PX + CAPTION_PX, TILE_PX, 3] BGR: the middle frame around the hand, with skeleton and caption."""
    frame = len(tile.joints_world_mm) // 2
    path = tile.frames / f"color_{frame:04d}.jpeg"
    image = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None  # OpenCV warns of files not there
    if image is None:
        image = np.full((camera.height, camera.width, 3), _GREY, np.uint8)
    joints_cam_mm = camera.world_to_cam(tile.joints_world_mm[frame])
    before = joints_cam_mm[:, 2] > 0
    uv_px = project(np.where(before[:, None], joints_cam_mm, 1.0), camera.intrinsics)
    left, top, side = _square_around(uv_px[before], image.shape[1], image.shape[0])
    picture = np.full((TILE_PX + CAPTION_PX, TILE_PX, 3), 24, np.uint8)
    crop = image[top : top + side, left : left + side]
    picture[:TILE_PX] = cv2.resize(crop, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)
    uv_crop_px = image_to_crop(uv_px, np.array([left - 0.5, top - 0.5, side]), TILE_PX)
    _draw_skeleton(picture[:TILE_PX], np.clip(uv_crop_px, -1e4, 1e4), before)
    caption, colour = f"{tile.key} #{frame}", (90, 160, 255) if tile.flagged else (220, 220, 220)
    (width, _), _ = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
    scale = 0.4 * min(1.0, (TILE_PX - 8) / width)
    place = (4, TILE_PX + CAPTION_PX - 7)
    cv2.putText(picture, caption, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
    return picture


def _square_around(uv_px: Array, width: int, height: int) -> tuple[int, int, int]:
    """(left, top, side) of a square within the image around the hand, or as near to it as the image goes."""
    limit = min(width, height)
    if not len(uv_px):
        return 0, 0, limit
    low, high = uv_px.min(axis=0), uv_px.max(axis=0)
    side = int(np.clip(CONTEXT * (high - low).max(), limit / 4, limit))
    left, top = np.clip((low + high) / 2 - side / 2, 0, (width - side, height - side)).astype(int)
    return int(left), int(top), side


def _draw_skeleton(picture: NDArray[np.uint8], uv_px: Array, joint_valid: NDArray[np.bool_]) -> None:
    points = [(round(float(u) * 16), round(float(v) * 16)) for u, v in uv_px]  # fixed point with four fractional bits
    for parent, child in BONES:
        if joint_valid[parent] and joint_valid[child]:
            cv2.line(picture, points[parent], points[child], FINGER_COLOURS[(child - 1) // 4], 2, cv2.LINE_AA, 4)
    for joint in np.flatnonzero(joint_valid):
        colour = _WRIST_COLOUR if joint == WRIST else FINGER_COLOURS[(joint - 1) // 4]
        cv2.circle(picture, points[joint], 3 * 16, colour, -1, cv2.LINE_AA, 4)
