"""Whether an AVI holds together: chunk follows chunk from the first to the last, as their lengths say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_LISTS = {b"RIFF", b"LIST"}
_MOVIE = {b"movi", b"rec "}
_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_ ]{3}")
_MOVIE_NAME = re.compile(rb"[0-9]{2}[A-Za-z0-9]{2}|ix[0-9]{2}|LIST|JUNK|idx1|\0{4}")
"""Names of chunks: letters; in the movie a stream's number and what it holds, an index of it, or nothing (padding)."""


def whole(path: Path) -> bool:
    """Tell whether the outermost chunks of an AVI (several in OpenDML files) end within the file."""
    with path.open("rb") as file:
        size, position = file.seek(0, 2), 0
        while position + 8 <= size:
            name, length = _head(file, position)
            position += 8 + length + length % 2
            if name != b"RIFF" or length == 0:
                return False
    return position <= size + 1


def breaks(path: Path) -> list[int]:
    """Return the place, in bytes, of the last chunk before one that is none; empty where all chunks are sound."""
    with path.open("rb") as file:
        size, last = file.seek(0, 2), 0
        for place, sound in _chunks(file, 0, size, _NAME):
            if not sound:
                return [last]
            last = place
    return []


def _chunks(file: BinaryIO, place: int, end: int, names: re.Pattern[bytes]) -> Iterator[tuple[int, bool]]:
    """Yield the places of chunks, those in the lists that hold the movie, too, and whether each is one.

    Some programs leave out the byte that makes lengths even.
    """
    unpadded = None
    while place + 8 <= end:
        name, length = _head(file, place)
        if not names.fullmatch(name) and unpadded is not None:
            place = unpadded
            name, length = _head(file, place)
        yield place, names.fullmatch(name) is not None
        if name == b"\0\0\0\0" or not names.fullmatch(name):
            return
        behind, unpadded = place + 8 + length + length % 2, place + 8 + length if length % 2 else None
        if name in _LISTS:
            in_movie = file.read(4) in _MOVIE
            if name == b"RIFF" or in_movie:
                yield from _chunks(file, place + 12, min(behind, end), _MOVIE_NAME if in_movie else _NAME)
        place = behind


def _head(file: BinaryIO, place: int) -> tuple[bytes, int]:
    file.seek(place)
    head = file.read(8)
    return head[:4], int.from_bytes(head[4:], "little")
