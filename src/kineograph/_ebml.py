"""Where the structure of a Matroska or WebM file breaks: bytes that are missing, added or overwritten.

Every element says how long it is (RFC 8794), so the elements of a whole file tile it. FFmpeg skips from a place where
they do not to the next cluster, without an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_TOP = {
    _CLUSTER, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, 0xEC, 0xBF,
}  # fmt: skip
"""What a Segment holds: Cluster, SeekHead, Info, Tracks, Cues, Attachments, Chapters, Tags, Void, CRC-32."""
_IN_CLUSTER = {0xE7, 0xA7, 0xAB, 0xA3, 0xA0, 0x5854, 0xAF, 0xEC, 0xBF}
"""What a Cluster holds: Timestamp, Position, PrevSize, SimpleBlock, BlockGroup, silent tracks, Void, CRC-32."""


def breaks(path: Path) -> list[int]:
    """Return the places, in bytes, of the last elements before such as are none; then the next cluster is sought.

    Bytes that are missing may be missing from the element before, so that one counts as broken, too.
    """
    found: list[int] = []
    last = 0
    with path.open("rb") as file:
        place, size = _segment(file)
        while place is not None and place < size:
            element = _element(file, place)
            if element is None or element[0] not in _TOP:
                found.append(max([last, *found[-1:]]))
                place = _next_cluster(file, place + 1)
                continue
            name, begin, length = element
            end = size if length is None else begin + length
            if name == _CLUSTER:
                broken_at, end = _inside(file, begin, end, open_ended=length is None)
                found += [broken_at] if broken_at is not None else []
            last, place = place, end
    return sorted(found)


def _segment(file: BinaryIO) -> tuple[int | None, int]:
    """Return where the content of the first Segment begins and ends."""
    size = file.seek(0, 2)
    header = _element(file, 0)
    segment = _element(file, header[1] + header[2]) if header and header[2] is not None else None
    if segment is None or segment[0] != _SEGMENT:
        return None, size
    return segment[1], size if segment[2] is None else min(size, segment[1] + segment[2])


def _inside(file: BinaryIO, place: int, end: int, open_ended: bool) -> tuple[int | None, int]:
    """Walk through a cluster: the last element before it breaks, if it does, and where to go on."""
    last = place
    while place < end:
        element = _element(file, place)
        if open_ended and element is not None and element[0] in _TOP - _IN_CLUSTER:
            return None, place
        known = element is not None and element[0] in _IN_CLUSTER and element[2] is not None
        if not known or element[1] + element[2] > end:  # pyright: ignore
            if end >= file.seek(0, 2) and known:  # the file ends in this element, which readers of its data notice
                return None, end
            following = _next_cluster(file, place + 1)
            return last, end if following is None else following
        last = place
        place = element[1] + element[2]  # pyright: ignore
    return None, end


def _element(file: BinaryIO, place: int) -> tuple[int, int, int | None] | None:
    """Read an element's head: its identifier, where its content begins, and its length (None: not said)."""
    file.seek(place)
    head = file.read(12)
    if not head or head[0] < 0x10:  # identifiers have at most four bytes
        return None
    width = 9 - head[0].bit_length()
    name, rest = int.from_bytes(head[:width], "big"), head[width:]
    if not rest or not rest[0]:
        return None
    bytes_of_length = 9 - rest[0].bit_length()
    if len(rest) < bytes_of_length:
        return None
    length = int.from_bytes(rest[:bytes_of_length], "big") & ((1 << 7 * bytes_of_length) - 1)
    unknown = length == (1 << 7 * bytes_of_length) - 1
    return name, place + width + bytes_of_length, None if unknown else length


def _next_cluster(file: BinaryIO, place: int) -> int | None:
    """Find the next cluster's identifier."""
    mark, step = _CLUSTER.to_bytes(4, "big"), 1 << 20
    while True:
        file.seek(place)
        block = file.read(step + len(mark) - 1)
        if (found := block.find(mark)) >= 0:
            return place + found
        if len(block) < step:
            return None
        place += step
