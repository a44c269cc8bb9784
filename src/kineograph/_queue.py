"""Frames in display order that wait until everything they may build on has been displayed without damage."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Any

_LONGEST = 32
"""Frames held back at most: twice the reference pictures of H.264 and HEVC (ITU-T H.264, A.3.1; H.265, A.4.2)."""


class Queue:
    """Holds each frame back until the packets before its own, in decoding order, have been displayed."""

    def __init__(self) -> None:
        self.count = 0
        self.numbers: dict[int, int] = {}
        self.waiting: deque[tuple[int, Any]] = deque()
        self.first: int | None = None

    def sent(self, packet: Any) -> None:
        """Note that a packet goes to the decoder."""
        if packet.size and packet.pts is not None and not packet.is_discard:
            self.count += 1
            self.numbers[packet.pts] = self.count

    def lacks(self, frame: Any | None) -> bool:
        """Tell whether the decoder left out a frame that is displayed before this one, or before the end.

        What comes before the first frame of all cannot be decoded, and is not missed.
        """
        if frame is not None and self.first is None:
            self.first = frame.pts
        begin, end = self.first, math.inf if frame is None else frame.pts
        return begin is not None and end is not None and any(begin < pts < end for pts in self.numbers)

    def shown(self, frame: Any) -> Iterator[Any]:
        """Take a frame from the decoder and yield those that nothing can spoil any more."""
        self.waiting.append((self._number(frame), frame))
        while self.waiting and (len(self.waiting) > _LONGEST or self.waiting[0][0] < self._oldest()):
            yield self.waiting.popleft()[1]

    def spoil(self, frame: Any | None) -> None:
        """Drop what may build on a damaged frame, or on the packet sent last, which the decoder refused."""
        number = self.count if frame is None else self._number(frame)
        good = [number > waiting for waiting, _ in self.waiting]
        for _ in range(len(good) - (good.index(False) if False in good else len(good))):
            self.waiting.pop()

    def rest(self) -> Iterator[Any]:
        """Yield what is left."""
        while self.waiting:
            yield self.waiting.popleft()[1]

    def _number(self, frame: Any) -> int:
        """Return the number of a frame's packet; 0 where its time does not tell."""
        return self.numbers.pop(frame.pts, 0) if frame.pts is not None else 0

    def _oldest(self) -> int:
        """Return the number of the oldest packet not displayed yet; very old ones hold frames that stay hidden."""
        forgotten = [pts for pts, number in self.numbers.items() if number < self.count - _LONGEST]
        for pts in forgotten:
            del self.numbers[pts]
        return min(self.numbers.values(), default=self.count + 1)
