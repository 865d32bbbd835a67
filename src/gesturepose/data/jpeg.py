"""JPEG files by their markers: whole or truncated, and how large, without decoding the picture."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_HEAD: Final = 1 << 16  # bytes of the start that are searched for the frame header
_TAIL: Final = 32  # bytes of the end that are searched for the end marker before padding


def inspect_jpeg(path: Path) -> tuple[str, tuple[int, int] | None]:
    """What is wrong with a JPEG ("" if nothing) and its (width, height), from its markers, without decoding it."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
            file.seek(max(os.fstat(file.fileno()).st_size - _TAIL, 0))
            tail = file.read()
    except OSError as error:
        return f"cannot be read: {error.strerror}", None
    if not head:
        return "empty file", None
    if not head.startswith(b"\xff\xd8"):
        return "not a JPEG (no start marker)", None
    if not tail.rstrip(b"\0\r\n ").endswith(b"\xff\xd9"):
        return "truncated JPEG (no end marker)", None
    for marker, payload in _segments(head):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(payload) >= 5:  # a start of frame
            return "", (int.from_bytes(payload[3:5], "big"), int.from_bytes(payload[1:3], "big"))
    return "damaged JPEG (no frame header)", None


def _segments(head: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, payload) of the segments before a JPEG's picture data."""
    place = 2
    while place + 4 <= len(head) and head[place] == 0xFF:
        marker, length = head[place + 1], int.from_bytes(head[place + 2 : place + 4], "big")
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        yield marker, head[place + 4 : place + 2 + length]
        if marker == 0xDA:
            return
        place += 2 + max(length, 2)
