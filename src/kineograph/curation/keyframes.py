"""The index of a stream: every packet's times and marks, found by demuxing alone.

Nothing is decoded, so ten minutes of film take a fraction of a second. The index answers where a copy may begin (at a
keyframe) and where it may end (where the packets so far, in decoding order, are exactly the frames before a moment).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kineograph.curation.probe import counts_by_dts

_PACKETS_BETWEEN_SIGNS = 5000
_REORDERED = 64
"""Most packets without a decoding time at a film's beginning; decoders reorder at most 16 pictures."""


@dataclass(frozen=True)
class Index:
    """Packets of one video stream in decoding order.

    Attributes:
        pts: int64 (packets,), presentation time stamps.
        dts: int64 (packets,), decoding time stamps.
        duration: int64 (packets,), durations, 0 where unknown.
        key: bool (packets,), whether decoding can start here. A keyframe need not close the frames before it: in an
            open group of pictures, packets that follow it in decoding order are shown before it and need its
            predecessor (leading pictures).
        discard: bool (packets,), decoded but not shown (before the start of an edit list).
        stamped: Whether the container knows presentation times. Otherwise packets cannot be copied by time.
        broken: What ended the demuxing early; empty where the end was reached.
    """

    pts: np.ndarray
    dts: np.ndarray
    duration: np.ndarray
    key: np.ndarray
    discard: np.ndarray
    stamped: bool
    broken: str = ""

    @property
    def keyframes(self) -> np.ndarray:
        """int64, ascending pts of the shown keyframes."""
        return np.unique(self.pts[self.key & ~self.discard])

    def key_before(self, pts: int) -> tuple[int, int] | None:
        """Return pts and dts of the last shown keyframe at or before a moment; None where there is none."""
        places = np.flatnonzero(self.key & ~self.discard & (self.pts <= pts))
        if not len(places):
            return None
        last = int(places[np.argmax(self.pts[places])])
        return int(self.pts[last]), int(self.dts[last])

    def is_even(self, start: int, end: int) -> bool:
        """Whether the frames in [start, end) follow each other evenly, but for rounding by one unit."""
        steps = np.diff(np.sort(self.pts[(self.pts >= start) & (self.pts < end)]))
        return not len(steps) or int(steps.max() - steps.min()) <= 1

    def first_key(self, start: int, end: int) -> int | None:
        """Return the pts of the first shown keyframe in [start, end), or None."""
        inside = self.pts[self.key & ~self.discard & (self.pts >= start) & (self.pts < end)]
        return int(inside.min()) if len(inside) else None

    def leading(self, packet: int) -> np.ndarray:
        """Return the indices of a keyframe's leading pictures: later in the file, shown earlier."""
        following = np.flatnonzero(self.key[packet + 1 :])
        stop = packet + 1 + (int(following[0]) if len(following) else len(self.pts) - packet - 1)
        return packet + 1 + np.flatnonzero(self.pts[packet + 1 : stop] < self.pts[packet])

    def copy_range(self, start: int, end: int, to_frame: bool = False) -> tuple[np.ndarray, int] | None:
        """Choose the packets of a copy that begins at a keyframe and shows nothing outside [start, end).

        The copy is a stretch of decoding order without the first keyframe's leading pictures, so every reference of a
        kept frame is kept. It ends before a keyframe, or anywhere (`to_frame`) where no later packet is shown before
        one that is kept.

        Args:
            start: Earliest pts that may be shown.
            end: pts that must not be reached by the end of the last frame's successor: every shown pts is below it.
            to_frame: Allow an end between keyframes.

        Returns:
            Indices of the packets in decoding order, and the pts at which the copy ends; None where nothing fits.
        """
        starts = np.flatnonzero(self.key & ~self.discard & (self.pts >= start) & (self.pts < end))
        if not len(starts):
            return None
        first = int(starts[np.argmin(self.pts[starts])])
        kept = np.ones(len(self.pts), bool)
        kept[self.leading(first)] = False
        kept[:first] = False
        stop = self._stop(first, end, kept, to_frame)
        chosen = first + np.flatnonzero(kept[first:stop])
        if not len(chosen) or self.discard[chosen].any():
            return None
        return chosen, self._end_after(chosen)

    def _stop(self, first: int, end: int, kept: np.ndarray, to_frame: bool) -> int:
        """Return the packet, in decoding order, before which the copy ends."""
        count = len(self.pts)
        shown = np.where(kept, self.pts, np.iinfo(np.int64).min)[first:]
        reach = np.maximum.accumulate(shown)  # the latest frame among the packets so far
        ahead = np.where(kept, self.pts, np.iinfo(np.int64).max)[first:]
        rest = np.append(np.minimum.accumulate(ahead[::-1])[::-1][1:], np.iinfo(np.int64).max)  # earliest to come
        key = np.append(self.key[first + 1 :], True)
        # Leading pictures of the next keyframe come later and are shown earlier; the copy ends where they begin.
        contiguous = (rest > reach) if to_frame else key
        good = contiguous & (reach < end)
        return first + int(np.flatnonzero(good)[-1]) + 1 if good.any() else min(first, count)

    def _end_after(self, chosen: np.ndarray) -> int:
        """Return the pts at which the last shown frame of some packets ends: where the next frame begins."""
        last = int(chosen[np.argmax(self.pts[chosen])])
        later = self.pts[self.pts > self.pts[last]]
        if len(later):
            return int(later.min())
        return int(self.pts[last]) + frame_duration(self.pts, int(self.duration[last]))


def frame_duration(pts: np.ndarray, given: int = 0) -> int:
    """Return a last frame's duration in pts units: the given one, or the median distance of frames, at least 1."""
    if given > 0:
        return given
    steps = np.diff(np.sort(pts))
    return max(int(np.median(steps)) if len(steps) else 1, 1)


def packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield a stream's packets that have content and times, in decoding order: those that an `Index` numbers.

    Matroska knows no decoding times, and FFmpeg cannot tell those of the first packets where pictures are reordered;
    they are counted back from the first one that is known.
    """
    by_dts = counts_by_dts(container, stream)
    waiting: list[Any] | None = []
    for packet in container.demux(stream):
        if not packet.size or (packet.pts is None and not by_dts):
            continue
        if packet.dts is None:
            if waiting is not None and packet.pts is not None:
                waiting = [*waiting, packet] if len(waiting) < _REORDERED else None
            continue
        if waiting:
            _count_back(waiting, packet)
            yield from waiting
        waiting = None
        yield packet


_SEEK_SECONDS = (0.0, 1.0, 10.0)
"""How far before a keyframe to look for its packet; containers without an index seek roughly."""


def packets_from(container: Any, stream: Any, pts: int, dts: int) -> Iterator[Any]:
    """Yield a stream's packets from a keyframe on.

    Args:
        container: An open one.
        stream: The stream.
        pts: The keyframe's.
        dts: The keyframe's.

    Raises:
        LookupError: It cannot be found again.
    """
    for back in _SEEK_SECONDS:
        container.seek(dts - int(back / stream.time_base), stream=stream, backward=True)
        source = container.demux(stream)
        for packet in source:
            if packet.pts is None or not packet.is_keyframe or packet.pts < pts:
                continue
            if packet.pts > pts:
                break
            yield packet
            yield from source
            return
    raise LookupError("its keyframe cannot be found again")


def _count_back(waiting: list[Any], known: Any) -> None:
    """Give packets decoding times before that of the packet that follows them."""
    for steps, packet in enumerate(reversed(waiting), 1):
        packet.dts = known.dts - steps * max(known.duration or 1, 1)


def index(container: Any, stream: Any, alive: Callable[[float], None] | None = None) -> Index:
    """Demux a stream from its present position to the end, and tell `alive` the seconds of film done.

    A truncated or damaged file ends the index early and says so in `broken`; it never raises. Where there are no
    presentation times (`probe.counts_by_dts`), decoding times stand for them and nothing can be copied by time.
    """
    by_dts = counts_by_dts(container, stream)
    rows: list[tuple[int, int, int, bool, bool]] = []
    broken = ""
    try:
        for packet in packets(container, stream):
            stamp = packet.dts if by_dts else packet.pts
            rows.append((stamp, packet.dts, packet.duration or 0, packet.is_keyframe, packet.is_discard))
            if alive and len(rows) % _PACKETS_BETWEEN_SIGNS == 0:
                alive(float((stamp - rows[0][0]) * stream.time_base))
    except Exception as error:
        broken = str(error) or type(error).__name__
    columns = list(zip(*rows, strict=True)) if rows else [[]] * 5
    pts, dts, duration = (np.array(column, np.int64) for column in columns[:3])
    key, discard = (np.array(column, bool) for column in columns[3:])
    return Index(pts, dts, duration, key, discard, not by_dts, broken)
