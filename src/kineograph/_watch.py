"""Watches over the packets of a film: which of them carry damage that decoders hide.

What can be told without decoding is told here: packets that a transport stream lacks, places where a Matroska file or
an AVI does not hold together, reference pictures that are missing from H.264, check sums of FFV1, and the demuxer's own
mark. Bytes that are wrong inside a packet are left to the decoder; VP8, VP9 and AV1 have no means to notice them.
"""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import Any

from kineograph._ebml import breaks
from kineograph._ffv1 import holds
from kineograph._h264 import FrameNumbers
from kineograph._riff import breaks as riff_breaks
from kineograph._transport import losses

_HEAD_BYTES = 32
"""Bytes at most between the begin of an element or chunk and that of the data that it holds."""
_BROKEN = "bytes are missing or wrong in the file"


class Watch:
    """Asked about every packet in turn, before it is decoded.

    Args:
        path: The film.
        container: The same, opened.
        stream: Its video stream.
        from_start: Whether it is read from its start, so that what is missing there counts, too.
    """

    def __init__(self, path: Path, container: Any, stream: Any, from_start: bool) -> None:
        self.from_start = from_start
        name = container.format.name
        self.is_transport = name == "mpegts"
        self.places, self.reason = _damaged_places(path, name, stream)
        self.place: int | None = None
        is_h264, self.is_ffv1 = stream.codec_context.name == "h264", stream.codec_context.name == "ffv1"
        self.has_sums = False
        self.numbers = FrameNumbers(stream.codec_context.extradata) if is_h264 else None

    def damage(self, packet: Any) -> str | None:
        """Return what is wrong with a packet, or with what should have come before it; None where nothing is."""
        if not packet.size:
            return self._left_over() if packet.dts is None else None
        skips = self.numbers is not None and self.numbers.skips(packet)
        if self._passes(packet.pos):
            return self.reason
        if packet.is_corrupt and not self.is_transport:
            return "the container marks a packet as damaged"
        if self.is_ffv1 and self._sums_disagree(bytes(packet)):
            return "the check sum of a picture does not agree"
        return "pictures are missing that the next one builds on" if skips else None

    def _passes(self, place: int | None) -> bool:
        """Tell whether a damaged place lies between the packet before and the end of this one's begin."""
        if place is None:
            return False
        earlier = self.place if self.place is not None else -1 if self.from_start else place - _HEAD_BYTES
        self.place = place
        first = bisect_left(self.places, earlier + 1)
        return first < len(self.places) and self.places[first] <= place

    def _sums_disagree(self, packet: bytes) -> bool:
        agreed = holds(packet)
        self.has_sums = self.has_sums or agreed is True
        return agreed is False or (agreed is None and self.has_sums)

    def _left_over(self) -> str | None:
        """Tell whether a damaged place lies behind the last packet."""
        beyond = self.places and self.places[-1] > (self.place or 0)
        return self.reason if beyond else None


def _damaged_places(path: Path, name: str, stream: Any) -> tuple[list[int], str]:
    if name == "mpegts":
        return losses(path, stream.id), "packets of the transport stream are missing"
    if name.startswith("matroska"):
        return breaks(path), _BROKEN
    return (riff_breaks(path) if name == "avi" else []), _BROKEN
