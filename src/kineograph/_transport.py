"""Packets that are missing from an MPEG transport stream, seen by their counters.

Decoders fill in for what is lost and carry it on without a word, and FFmpeg's own mark is dropped on the way from some
frames. Each packet of a stream counts from 0 to 15 and round (ISO/IEC 13818-1, section 2.4.3.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

_SYNC = 0x47
_STRIDES = (188, 192, 204)
"""Bytes from packet to packet: alone, behind a time code (BDAV, .m2ts), before check bytes (DVB)."""
_IN_A_ROW = 5
_BLOCK = 1 << 17
_HEAD = 6


def losses(path: Path, pid: int) -> list[int]:
    """Return where the picture data begin from which packets are missing, in bytes from the start, ascending.

    Args:
        path: A transport stream.
        pid: Packet identifier of the video.
    """
    if path.stat().st_size < _STRIDES[0] * _IN_A_ROW:
        return []
    data = np.memmap(path, np.uint8, "r")
    found: list[int] = []
    counter = _Counter(pid)
    for begin, view in _runs(data):
        if begin and view is None:
            counter.break_off(found)
        elif view is not None:
            counter.follow(begin, view, found)
    return sorted(set(found))


def _runs(data: np.ndarray) -> Iterator[tuple[int, np.ndarray | None]]:
    """Yield blocks of packets (packets, stride) with their place, and (place, None) where the rhythm breaks."""
    place = 0
    while (start := _next_rhythm(data, place)) is not None:
        if place:
            yield start[0], None
        place, stride = start
        while (count := min(_BLOCK, (len(data) - place) // stride)) > 0:
            view = data[place : place + count * stride].reshape(count, stride)
            out_of_step = np.flatnonzero(view[:, 0] != _SYNC)
            good = int(out_of_step[0]) if len(out_of_step) else count
            if good:
                yield place, view[:good]
            place += good * stride
            if good < count:
                break
        else:
            return


def _next_rhythm(data: np.ndarray, place: int) -> tuple[int, int] | None:
    """Find the next place from which sync bytes follow each other at one of the strides."""
    while place + _STRIDES[0] * _IN_A_ROW <= len(data):
        window = data[place : place + 4096]
        for offset in np.flatnonzero(window == _SYNC):
            first = place + int(offset)
            for stride in _STRIDES:
                row = data[first : first + stride * _IN_A_ROW : stride]
                if len(row) == _IN_A_ROW and (row == _SYNC).all():
                    return first, stride
        place += len(window)
    return None


class _Counter:
    """Follows the counter of one packet identifier."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.last: np.ndarray | None = None
        self.begin: int | None = None

    def break_off(self, found: list[int]) -> None:
        """Note that bytes are missing or wrong in the middle of a packet."""
        if self.begin is not None:
            found.append(self.begin)

    def follow(self, place: int, view: np.ndarray, found: list[int]) -> None:
        """Look at a run of packets; add the begin of the picture data that lack some to `found`."""
        heads = view[:, :_HEAD].astype(np.int32)
        mine = np.flatnonzero((((heads[:, 1] & 0x1F) << 8 | heads[:, 2]) == self.pid) & (heads[:, 3] & 0x10 > 0))
        if not len(mine):
            return
        heads = heads[mine]
        starts = heads[:, 1] & 0x40 > 0
        begins = np.where(starts, place + mine * view.shape[1], -1)
        before = np.maximum.accumulate(np.r_[-1 if self.begin is None else self.begin, begins])[:-1]
        counts = heads[:, 3] & 15
        previous = np.r_[counts[0] - 1 if self.last is None else self.last[3] & 15, counts[:-1]]
        stepped = (counts - previous) % 16 == 1
        suspects = np.flatnonzero(~stepped | (heads[:, 1] & 0x80 > 0))
        for index in suspects.tolist():
            earlier = view[mine[index - 1]] if index else self.last
            if _told(heads[index], view[mine[index]], earlier):
                continue
            owner = before[index] if not stepped[index] else max(before[index], begins[index])
            if owner >= 0:
                found.append(int(owner))
        self.last = view[mine[-1]].copy()
        self.begin = int(max(before[-1], begins[-1])) if max(before[-1], begins[-1]) >= 0 else None


def _told(head: np.ndarray, packet: np.ndarray, earlier: np.ndarray | None) -> bool:
    """Tell whether a counter may jump here: it is announced, the packet is sent twice, or another recording begins."""
    if head[1] & 0x80:  # transport_error_indicator: the receiver could not mend the packet
        return False
    flags = head[5] if head[3] & 0x20 and head[4] else 0
    announced, entry = flags & 0x80, flags & 0x40
    twice = earlier is not None and bool((packet == earlier).all())
    new_recording = head[1] & 0x40 and entry and head[3] & 15 == 0
    return bool(announced or twice or new_recording)
