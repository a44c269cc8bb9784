"""Rates: exact fractions of those that people write, and the constant rate behind frames' times, if there is one.

`Video.read` and `probe` ask the same function, so that they agree on frames per second and seconds of every file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from kineograph.errors import MediaError

NTSC = (15, 24, 30, 48, 60, 90, 120, 240)
"""Rates of which 1000/1001 are broadcast; 29.97 is short for 30000/1001 (SMPTE ST 12-1)."""


def ntsc(fps: float) -> Fraction | None:
    """Return the broadcast rate that a number is short for: 30000/1001 for 29.97, 24000/1001 for 23.976 and 23.98."""
    near = (Fraction(nominal * 1000, 1001) for nominal in NTSC)
    return next((exact for exact in near if abs(fps - exact) < min(0.0045, abs(fps - round(fps)))), None)


def exact_rate(fps: float) -> Fraction:
    """Return the rate that a number stands for, for containers: 30000/1001 for 29.97, 15/2 for 7.5."""
    return ntsc(fps) or Fraction(fps).limit_denominator(1001 if fps >= 1 else 100_000)


class Timing(NamedTuple):
    """When the frames of a clip are shown.

    Attributes:
        fps: Frames per second; the average where the rate varies.
        times: Seconds after the first frame, where the rate varies; None where it is constant.
        last: Seconds that the last frame is held, where that is stated and is not `1 / fps`.
    """

    fps: float
    times: tuple[float, ...] | None
    last: float | None

    def duration(self, frames: int) -> float:
        """Return the seconds from the first frame's start to the last one's end."""
        begin = self.times[-1] if self.times else (frames - 1) / self.fps
        return begin + (self.last if self.last is not None else 1 / self.fps)


def timing(
    shown: Sequence[float],
    last: float | None,
    *,
    tick: float,
    rates: Sequence[float],
    held: bool = False,
    stated: Timing | None = None,
) -> Timing:
    """Recognise a constant rate within a container's clock; otherwise give the average and the true times.

    Args:
        shown: When each frame is shown, in seconds after the first one.
        last: Seconds that the last frame is held, where the container says so.
        tick: Seconds of one unit of the container's clock.
        rates: Rates that the container names, best first.
        held: Whether the container states how long each picture is held, as animations do. Then times and the last
            hold are kept to the very tick; elsewhere a time may be rounded to either side, and the last frame's time
            is the muxer's guess.
        stated: What `Video.save` noted beside these very frames, which is kept where the times agree.

    Raises:
        MediaError: The times do not increase.
    """
    if stated is not None and _agrees(stated, shown, tick):
        return stated
    if any(after <= before for before, after in pairwise(shown)):
        raise MediaError("the times of its frames do not increase")
    constant = _constant(shown, tick, rates, held)
    if constant is not None:
        end = shown[-1] + (last or 0)
        other = held and last is not None and not _same_tick(end, len(shown) / constant, tick)
        return Timing(constant, None, last if other else None)
    ending = last or shown[-1] / (len(shown) - 1)
    return Timing(len(shown) / (shown[-1] + ending), tuple(shown), last if held else None)


def _agrees(stated: Timing, shown: Sequence[float], tick: float) -> bool:
    return _fits(shown, stated.fps, tick, False) if stated.times is None else list(stated.times) == list(shown)


def _constant(shown: Sequence[float], tick: float, rates: Sequence[float], held: bool) -> float | None:
    """Find the rate: one that the container names, the whole or broadcast rate next to the average, the average itself.

    Where holds are kept to the tick, an average that is met exactly comes before its neighbours, and no other counts.
    """
    average = (len(shown) - 1) / shown[-1] if len(shown) > 1 else 0
    if held and average and abs(average - round(average)) > 1e-6 and _fits(shown, average, tick / 1000, False):
        near: tuple[float, ...] = (average,)
    else:
        near = (round(average), float(ntsc(average) or 0), 0 if held else average)
    return next((float(rate) for rate in (*rates, *near) if rate and _fits(shown, rate, tick, held)), None)


def _fits(shown: Sequence[float], rate: float, tick: float, to_the_tick: bool) -> bool:
    """Tell whether frames follow each other at a rate, or at the broadcast rate that it is short for."""
    return any(_on_grid(shown, exact, tick, to_the_tick) for exact in {rate, float(ntsc(rate) or rate)})


def _on_grid(shown: Sequence[float], rate: float, tick: float, to_the_tick: bool) -> bool:
    if to_the_tick:
        return all(_same_tick(time, index / rate, tick) for index, time in enumerate(shown))
    return all(abs(time - index / rate) <= tick * 1.01 for index, time in enumerate(shown))


def _same_tick(time: float, other: float, tick: float) -> bool:
    return nearest_tick(time, tick) == nearest_tick(other, tick)


def nearest_tick(time: float, tick: float) -> int:
    """Round a time to a container's clock, halves up, as other writers of animations do."""
    return math.floor(time / tick + 0.5 + 1e-6)
