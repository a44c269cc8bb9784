"""Check sums of FFV1's slices, which FFmpeg's decoder notes in its log and passes over."""

from __future__ import annotations

import zlib

_MIRROR = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
_FOOTER = 8
"""Bytes behind a slice: its size (3), its state (1), its check sum (4); RFC 9043, section 4.6."""


def holds(packet: bytes) -> bool | None:
    """Tell whether the slices of a frame agree with their check sums; None where there seem to be none."""
    end, agreed = len(packet), True
    while end > 0:
        begin = end - _FOOTER - int.from_bytes(packet[end - _FOOTER : end - _FOOTER + 3], "big")
        if begin < 0 or end < _FOOTER:
            return None
        agreed = agreed and _remainder(packet[begin:end]) == 0
        end = begin
    return agreed


def _remainder(data: bytes) -> int:
    """Divide by the polynomial 0x04C11DB7 from 0, highest bit first: zlib's check sum of mirrored bytes."""
    return zlib.crc32(data.translate(_MIRROR), 0xFFFFFFFF) ^ 0xFFFFFFFF
