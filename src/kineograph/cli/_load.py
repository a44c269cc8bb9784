"""Whether a machine is too busy for its timings to be believed: other programs' load, stolen time, unsteady rounds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kineograph.cli._timing import Timing

BUSY_SHARE = 0.1
"""Share of the processors that other programs may use before timings count as disturbed."""
UNSTEADY = 0.15
"""Distance between the quartiles of the rounds, as a share of the median, from which a timing counts as unsteady."""
DISAGREEING = 1.5
"""Largest over smallest ratio of the rounds of one comparison from which the ratio counts as unsteady."""
LEAST_GIVEN = 0.8
"""Share of the wanted processor time below which work counts as starved; it was 0.13 beside seven other programs."""
POSSIBLE = 1.02
"""Share of the measured ceiling above which the ceiling itself was measured while something else ran."""
TICKS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


@dataclass
class Watch:
    """Measures what other programs took of the processors since it was made.

    Attributes:
        wall: Seconds on the clock at the start.
        own: Processor seconds of this process and its children at the start.
        ticks: The system's own count at the start, by kind; empty where it has none (`/proc/stat`).
        waiting: Programs that ran or waited for a processor at the start, averaged over a minute.
    """

    wall: float = field(default_factory=time.monotonic)
    own: float = field(default_factory=lambda: own_seconds())
    ticks: dict[str, int] = field(default_factory=lambda: read_ticks())
    waiting: float | None = field(default_factory=lambda: load_average())

    def others(self) -> float | None:
        """Return the share of all processors that other programs and machines had, 0 to 1; None where nobody counts."""
        now = read_ticks()
        if not now or not self.ticks:
            return None
        gone = {kind: now[kind] - self.ticks[kind] for kind in now}
        total = sum(gone.values())
        if total <= 0:
            return 0.0
        seconds = total / os.sysconf("SC_CLK_TCK")
        idle = (gone["idle"] + gone["iowait"]) / total
        return min(1.0, max(0.0, 1 - idle - (own_seconds() - self.own) / seconds))


def own_seconds() -> float:
    """Return the processor seconds that this process and its finished children have used."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def processors() -> frozenset[int]:
    """Return the numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def read_ticks(file: Path = Path("/proc/stat")) -> dict[str, int]:
    """Return the ticks of the processors that may be used, by kind; empty on systems that do not count them there."""
    try:
        rows = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    mine = {f"cpu{number}" for number in processors()}
    counted = [
        list(map(int, row[1 : len(TICKS) + 1])) for row in rows if row and row[0] in mine and len(row) > len(TICKS)
    ]
    return dict(zip(TICKS, map(sum, zip(*counted, strict=True)), strict=True)) if counted else {}


def load_average() -> float | None:
    """Return how many programs ran or waited over the last minute; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def given_share(work: Callable[[], object], threads: int) -> float:
    """Run work that keeps all threads busy, and return the share of their time in which a processor worked on it."""
    wall, own = time.monotonic(), own_seconds()
    work()
    return (own_seconds() - own) / (threads * max(time.monotonic() - wall, 1e-9))


def doubts(others: float | None, waiting: float | None, given: float | None, count: int) -> list[str]:
    """Return why a machine is too busy, in sentences.

    Args:
        others: Share of the processors that others had while it was timed.
        waiting: Programs that ran or waited before; used where the share is not known.
        given: Share of the time in which this process got the processors it asked for (`given_share`); None where that
            was not measured.
        count: Processors.
    """
    found = []
    if others is not None and others > BUSY_SHARE:
        found.append(f"Other programs had {others:.0%} of the {count} processors while this was timed.")
    if others is None and waiting is not None and waiting > BUSY_SHARE * count + 0.5:
        found.append(f"{waiting:.1f} programs ran or waited for {count} processors before this was timed.")
    if given is not None and given < LEAST_GIVEN:
        found.append(f"The matrix products of the ceiling got {given:.0%} of the processors' time they asked for.")
    return found


def described(watch: Watch, given: float | None, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how busy the machine was since the watch began, and whether results are to be believed, as plain data.

    Args:
        watch: Made before anything was timed.
        given: See `doubts`.
        results: Each with `unsteady`, what `unsteady` found.
    """
    count, others = len(processors()), watch.others()
    marked = sum(bool(result["unsteady"]) for result in results)
    said = verdict(doubts(others, watch.waiting, given, count), marked, len(results))
    facts = {"processors": count, "load_average_before": watch.waiting, "share_of_others": others}
    return {**facts, "share_given": given, "believable": not said, "verdict": said}


def unsteady(ours: Timing, theirs: Timing, share: float | None = None) -> list[str]:
    """Return why a comparison is not to be believed, in a few words each; empty if it is.

    Args:
        ours: Times of one rival.
        theirs: Of the other, round by round.
        share: What part of the measured ceiling ours reached; None where there is no ceiling.
    """
    found = [f"spread {timing.spread:.0%}" for timing in (ours, theirs) if timing.spread > UNSTEADY]
    ratios = [b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
    if max(ratios) / min(ratios) > DISAGREEING:
        found.append(f"ratios {min(ratios):.2f} to {max(ratios):.2f}")
    if share is not None and share > POSSIBLE:
        found.append(f"{share:.0%} of the ceiling")
    return found


def verdict(reasons: Sequence[str], unsteady_rows: int, rows: int) -> str:
    """Return one paragraph on whether the timings can be believed; empty if nothing speaks against them."""
    said = list(reasons)
    if unsteady_rows:
        said.append(f"Unsteady comparisons, which are marked: {unsteady_rows} of {rows}.")
    return f"Too busy a machine to believe these numbers: {' '.join(said)} Run again when it is idle." if said else ""
