"""Pictures that are missing from an H.264 stream, seen by their numbers.

Each picture says how many reference pictures came before it since the last refresh, modulo a power of two (`frame_num`,
ITU-T H.264, section 7.4.3). A number that skips one belongs to a picture whose references are lost; decoders take
others in their place without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_SLICE, _PARTITION, _IDR, _SPS = 1, 2, 5, 7
_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
_ENOUGH = 48
"""Bytes of a slice that hold its number, with room for escapes."""


class FrameNumbers:
    """Follows `frame_num` from packet to packet."""

    def __init__(self, extradata: bytes | None) -> None:
        self.length_bytes = 0
        self.modulo: dict[int, int | None] = {}
        self.previous: int | None = None
        if extradata and extradata[0] == 1:  # an AVC decoder configuration record (ISO/IEC 14496-15, section 5.3.3)
            self.length_bytes = (extradata[4] & 3) + 1
            for unit in _configured(extradata):
                self._learn(unit)
        elif extradata:
            for unit in _annex_b(memoryview(extradata)):
                self._learn(bytes(unit))

    def skips(self, packet: Any) -> bool:
        """Tell whether references are missing before a packet. A keyframe starts anew."""
        data = memoryview(packet)
        for unit in _prefixed(data, self.length_bytes) if self.length_bytes else _annex_b(data):
            kind = unit[0] & 31
            if kind == _SPS:
                self._learn(bytes(unit))
            elif kind in (_SLICE, _PARTITION, _IDR):
                return self._follow(bytes(unit[:_ENOUGH]), packet.is_keyframe)
        return False

    def _learn(self, unit: bytes) -> None:
        """Read a sequence parameter set: the modulo of its numbers; None where numbers may skip."""
        if len(unit) < 5:
            return
        try:
            number, bits, gaps = _sequence(unit)
        except IndexError:
            return
        self.modulo[number] = None if gaps else 1 << bits

    def _follow(self, unit: bytes, refreshes: bool) -> bool:
        moduli = set(self.modulo.values())
        modulo = moduli.pop() if len(moduli) == 1 else None
        if modulo is None:  # several, and which one holds stands in a picture parameter set; or skips are allowed
            return False
        bits = _Bits(_unescaped(unit)[1:])
        try:
            bits.skip(3)  # first_mb_in_slice, slice_type, pic_parameter_set_id
            number = bits.take(modulo.bit_length() - 1)
        except IndexError:
            return False
        reference = unit[0] >> 5 & 3
        expected = self.previous
        self.previous = number if reference else (number - 1) % modulo
        if refreshes or expected is None or unit[0] & 31 == _IDR:
            return False
        return number not in (expected, (expected + 1) % modulo)


def _sequence(unit: bytes) -> tuple[int, int, bool]:
    """Read a sequence parameter set (section 7.3.2.1.1).

    Returns:
        Its number, the bits of `frame_num`, and whether numbers may skip (or stand behind a colour plane's).
    """
    bits = _Bits(_unescaped(unit)[1:])
    profile = bits.take(8)
    bits.take(16)
    number = bits.unsigned()
    separate = False
    if profile in _HIGH_PROFILES:
        if bits.unsigned() == 3:
            separate = bool(bits.take(1))
        bits.skip(2)
        bits.take(1)
        if bits.take(1):
            raise IndexError("scaling matrices are not read")
    frame_num_bits = bits.unsigned() + 4
    kind = bits.unsigned()
    if kind == 0:
        bits.unsigned()
    elif kind == 1:
        bits.take(1)
        bits.skip(2)
        bits.skip(bits.unsigned())
    bits.unsigned()
    return number, frame_num_bits, bool(bits.take(1)) or separate


class _Bits:
    """Reads bits and Exp-Golomb numbers (section 9.1)."""

    def __init__(self, data: bytes) -> None:
        self.value, self.left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self.left:
            raise IndexError("the data end")
        self.left -= count
        return self.value >> self.left & ((1 << count) - 1)

    def unsigned(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def skip(self, count: int) -> None:
        """Pass over Exp-Golomb numbers."""
        for _ in range(count):
            self.unsigned()


def _unescaped(unit: bytes) -> bytes:
    """Remove the bytes that keep start codes out of the data (section 7.4.1)."""
    return unit.replace(b"\0\0\3", b"\0\0")


def _configured(record: bytes) -> Iterator[bytes]:
    place = 6
    for _ in range(record[5] & 31):
        length = int.from_bytes(record[place : place + 2], "big")
        yield record[place + 2 : place + 2 + length]
        place += 2 + length


def _prefixed(data: memoryview, width: int) -> Iterator[memoryview]:
    place = 0
    while place + width < len(data):
        length = int.from_bytes(data[place : place + width], "big")
        place += width
        if 0 < length <= len(data) - place:
            yield data[place : place + length]
        place += length


def _annex_b(data: memoryview) -> Iterator[memoryview]:
    content = bytes(data)
    place = content.find(b"\0\0\1")
    while place >= 0:
        following = content.find(b"\0\0\1", place + 3)
        if place + 3 < len(content):
            yield data[place + 3 : following if following >= 0 else len(content)]
        place = following
