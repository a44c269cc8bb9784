"""Where the seconds of footage go: into clips, or why not; the parts of every sum add up exactly.

Of each film, what was measured is parted into transitions, damage, shots too short for a clip, what copies lose between
keyframes, and clips. Files with the same bytes as another, and films that are too damaged, are lost as a whole. Lengths
are counted in thousandths of a second, each rounded so that the parts still add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from kineograph.curation.analyse import Analysis
from kineograph.curation.spans import shots

LOSSES = {
    "transitions": "dissolves and fades",
    "holes": "damaged stretches",
    "corrupt": "films too damaged to be used",
    "too_short": "shots too short for a clip",
    "keyframes": "what copies leave out of a shot, beside keyframes",
    "duplicates": "files with the same bytes as another",
}
"""Why footage is in no clip."""
_OUTSIDE = ("transitions", "holes", "corrupt", "duplicates")
"""Losses outside the shots that could have become clips."""
_COLUMN = "lost_{}"


def lengths(
    analysis: Analysis, clips: Sequence[tuple[int, int, str]], shortest: int, time_base: str
) -> dict[str, float]:
    """Return the seconds of one film by what became of them, as columns of its row.

    Args:
        analysis: Cuts and damage.
        clips: pts of start and end, and the method, of each clip.
        shortest: pts units below which a shot gives no clip.
        time_base: Seconds per unit of pts, as `"num/den"`.

    Returns:
        `clip_seconds`, and `lost_...` for each of `LOSSES` within a film; together they are the film, from its first
        frame or damage to its last.
    """
    unit, found = Fraction(time_base), dict.fromkeys((name for name in LOSSES if name != "duplicates"), 0)
    edges = [analysis.pts[0], analysis.end_pts, *(pts for hole in analysis.holes for pts in hole)]
    whole, stretches = max(edges) - min(edges), [end - start for start, end in shots(analysis)]
    cut = sum(end - start for start, end, _ in clips)
    found["transitions"] = _without(analysis.gradual, analysis.holes, analysis.pts[0], analysis.end_pts)
    found["holes"] = whole - sum(stretches) - found["transitions"]
    if analysis.status == "corrupt":
        found["corrupt"] = sum(stretches)
    else:
        found["too_short"] = sum(length for length in stretches if length < shortest)
        rest = sum(stretches) - found["too_short"] - cut
        found["keyframes" if any(method == "copy" for *_, method in clips) else "too_short"] += rest
    assert min(found.values()) >= 0, found
    columns = {_COLUMN.format(name): length for name, length in found.items()} | {"clip_seconds": cut}
    return {name: float(length * unit) for name, length in columns.items()}


def _without(some: list[list[int]], others: list[list[int]], start: int, end: int) -> int:
    """Return the length, between two moments, of what is in some intervals and not in others."""
    edges = sorted({start, end, *(pts for pair in [*some, *others] for pts in pair if start <= pts <= end)})
    inside = [(a, b) for a, b in pairwise(edges) if any(low <= a and b <= high for low, high in some)]
    return sum(b - a for a, b in inside if not any(low <= a and b <= high for low, high in others))


@dataclass(frozen=True)
class Yield:
    """What became of footage. Lengths are thousandths of a second.

    Attributes:
        lost: Length by reason, each of `LOSSES`.
        out: Length in clips.
        clips: Their number.
        unmeasured: Files whose length is not known, because they could not be decoded.
    """

    lost: dict[str, int]
    out: int = 0
    clips: int = 0
    unmeasured: int = 0

    @property
    def all(self) -> int:
        """Length of all footage that was measured."""
        return self.out + sum(self.lost.values())

    @property
    def shots(self) -> int:
        """Length of what lies between cuts, transitions and damage, in films that were used."""
        return self.all - sum(self.lost[name] for name in _OUTSIDE)

    def __add__(self, other: Yield) -> Yield:
        lost = {name: self.lost[name] + other.lost[name] for name in LOSSES}
        return Yield(lost, self.out + other.out, self.clips + other.clips, self.unmeasured + other.unmeasured)

    def to_json(self) -> dict[str, Any]:
        """Return seconds as plain data: `in` = `out` + everything lost, to the thousandth."""
        lost = {name: length / 1000 for name, length in self.lost.items()}
        seconds = {"in": self.all / 1000, "shots": self.shots / 1000, "lost": lost, "out": self.out / 1000}
        return {**seconds, "clips": self.clips, "unmeasured": self.unmeasured}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Yield:
        """Read what `to_json` gave."""
        lost = {name: round(content["lost"][name] * 1000) for name in LOSSES}
        return cls(lost, round(content["out"] * 1000), content["clips"], content["unmeasured"])

    def in_words(self) -> str:
        """Return one line: seconds in, in shots, in clips, and lost by each reason that took any."""
        lost = ", ".join(f"{length / 1000:.3f} s {name}" for name, length in self.lost.items() if length)
        text = f"{self.all / 1000:.3f} s in, {self.shots / 1000:.3f} s in shots, {self.out / 1000:.3f} s in "
        text += f"{self.clips} clips" + (f"; lost: {lost}" if lost else "; nothing lost")
        return text + (f"; {self.unmeasured} files of unknown length" if self.unmeasured else "")


NOTHING = Yield(dict.fromkeys(LOSSES, 0))


def of_film(row: Mapping[str, Any], is_copy: bool = False) -> Yield:
    """Return one source's yield.

    Args:
        row: Its `rows.SourceRow` as plain data.
        is_copy: Whether the file has the same bytes as another one, which gave the clips.
    """
    if row["clip_seconds"] is None:  # a part of before lengths were counted
        return Yield(NOTHING.lost, clips=row["clips"], unmeasured=1)
    parts = {name: row[_COLUMN.format(name)] for name in LOSSES if name != "duplicates"}
    counted = thousandths([*parts.values(), row["clip_seconds"]])
    if is_copy:
        return Yield({**NOTHING.lost, "duplicates": sum(counted)}, unmeasured=int(not row["frames"]))
    lost = NOTHING.lost | dict(zip(parts, counted[:-1], strict=True))
    return Yield(lost, counted[-1], row["clips"], int(not row["frames"]))


def total(some: Iterable[Yield]) -> Yield:
    """Add up."""
    return sum(some, NOTHING)


def thousandths(seconds: Sequence[float]) -> list[int]:
    """Round lengths to thousandths of a second whose sum is the rounded sum; those cut most are rounded up."""
    exact = [length * 1000 for length in seconds]
    found = [int(length) for length in exact]
    short = round(sum(exact)) - sum(found)
    for place in sorted(range(len(exact)), key=lambda i: found[i] - exact[i])[:short]:
        found[place] += 1
    return found
