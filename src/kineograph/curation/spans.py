"""Choose the clips of a film: which stretches of its shots, and whether packets are copied or frames encoded.

"Keyframe timestamps of the source are extracted and each detected cut is snapped to the closest keyframe that does not
cross the cut" (Blattmann et al. 2023, arXiv:2311.15127, App. C): a copy begins at the first keyframe of its shot, so
nothing is decoded or changed, and what lies before that keyframe is lost. Where keyframes are rare, that is most of a
film. `Differs from the paper:` the method `"auto"` copies where little is lost and encodes the exact shot elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal

import numpy as np

from kineograph.curation.analyse import Analysis
from kineograph.curation.config import ClipConfig
from kineograph.curation.keyframes import Index
from kineograph.curation.probe import Probe

COPYABLE = frozenset({"h264", "hevc", "av1", "mpeg4", "vp9"})
"""Codecs whose packets MP4 holds and the usual decoders of training code read; all others are encoded."""


@dataclass(frozen=True)
class Span:
    """A clip to be made.

    Attributes:
        start: pts of its first frame.
        end: pts at which its last frame ends.
        packets: Indices of the packets to copy, in decoding order; None for a clip to be encoded.
    """

    start: int
    end: int
    packets: np.ndarray | None

    @property
    def method(self) -> Literal["copy", "encode"]:
        """How it is made."""
        return "encode" if self.packets is None else "copy"

    @property
    def length(self) -> int:
        """Its length in pts units."""
        return self.end - self.start


@dataclass(frozen=True)
class Lengths:
    """Least and greatest length of a clip, in pts units."""

    shortest: int
    longest: int

    @classmethod
    def of(cls, config: ClipConfig, time_base: str) -> Lengths:
        """Convert a configuration's seconds."""
        unit = Fraction(time_base)
        both = (int(Fraction(s).limit_denominator(1000) / unit) for s in (config.min_seconds, config.max_seconds))
        return cls(*both)


def shots(analysis: Analysis) -> list[tuple[int, int]]:
    """Return [start, end) of each stretch without a cut, a gradual transition or a hole, in pts."""
    if not analysis.pts:
        return []
    excluded = sorted([*analysis.gradual, *analysis.holes])
    edges = sorted({analysis.pts[0], analysis.end_pts, *analysis.hard_cuts, *(p for pair in excluded for p in pair)})
    stretches = []
    for start, end in pairwise(edges):
        covered = any(low <= start and end <= high for low, high in excluded)
        if not covered and start >= analysis.pts[0] and end <= analysis.end_pts:
            stretches.append((start, end))
    return stretches


def plan(facts: Probe, analysis: Analysis, index: Index, config: ClipConfig) -> list[Span]:
    """Choose the clips of a film.

    Args:
        facts: The header.
        analysis: Cuts and damage.
        index: Packets.
        config: How to cut.

    Returns:
        Clips in order, none overlapping, each inside one shot.
    """
    sizes = Lengths.of(config, facts.time_base)
    known = np.asarray(analysis.pts)
    accepted = [_Shot(start, end) for start, end in shots(analysis) if end - start >= sizes.shortest]
    copies = config.method != "encode" and facts.codec in COPYABLE and index.stamped and not analysis.sizes
    if not copies:
        return [span for shot in accepted for span in _exact(shot, known, sizes)]
    copied = [list(_copies(index, shot, sizes, _to_frame(config))) for shot in accepted]
    if config.method == "auto":
        _repair(accepted, copied, known, sizes, config, Fraction(facts.time_base))
    return [span for spans in copied for span in spans]


@dataclass(frozen=True)
class _Shot:
    start: int
    end: int

    def lost(self, spans: Iterable[Span]) -> int:
        """Return how much of the shot some spans leave out, in pts units."""
        return self.end - self.start - sum(span.length for span in spans)


def _to_frame(config: ClipConfig) -> bool:
    """Whether copies may end between keyframes."""
    return config.end == "frame" or (config.end == "auto" and config.method == "auto")


def _copies(index: Index, shot: _Shot, sizes: Lengths, to_frame: bool) -> Iterator[Span]:
    """Yield copies, none too short, that follow one another through a shot."""
    start, end = shot.start, shot.end
    while True:
        first = index.first_key(start, end)
        if first is None:
            return
        stop = min(end, first + sizes.longest)
        found = index.copy_range(first, stop, to_frame)
        if found is None and stop < end:
            found = index.copy_range(first, stop, to_frame=True)
        if found is None:
            return
        chosen, reached = found
        if reached - first >= sizes.shortest:
            yield Span(first, min(reached, end), chosen)
        start = max(reached, first + 1)


def _exact(shot: _Shot, pts: np.ndarray, sizes: Lengths) -> list[Span]:
    """Return encoded pieces of a shot: equal ones as few as can be, or the longest ones where these are too short."""
    length = shot.end - shot.start
    count = max(-(-length // sizes.longest), 1)
    if length // count >= sizes.shortest:
        wanted = [shot.start + length * i // count for i in range(count)]
        ends = [shot.end]
    else:
        wanted = [shot.start + sizes.longest * i for i in range(length // sizes.longest + 1)]
        ends = []
    inner = [int(pts[place]) for place in np.searchsorted(pts, wanted[1:]) if place < len(pts)]
    borders = [shot.start, *(border for border in inner if border < shot.end), *ends]
    pieces = [Span(first, stop, None) for first, stop in pairwise(borders)]
    return [piece for piece in pieces if piece.length >= sizes.shortest]


def _repair(
    shots: list[_Shot],
    copied: list[list[Span]],
    pts: np.ndarray,
    sizes: Lengths,
    config: ClipConfig,
    unit: Fraction,
) -> None:
    """Put encoded clips in the place of copies that lose too much: in one shot, or in the whole film together."""
    budget = config.loss_in_all * sum(shot.end - shot.start for shot in shots)
    losses = [shot.lost(spans) for shot, spans in zip(shots, copied, strict=True)]
    left = sum(losses)
    for number in sorted(range(len(shots)), key=lambda number: -losses[number]):
        shot, lost = shots[number], losses[number]
        allowed = min(config.loss_share * (shot.end - shot.start), config.loss_seconds / unit)
        if lost > allowed or (left > budget and lost):
            copied[number] = min(copied[number], _repaired(shot, copied[number], pts, sizes, allowed), key=shot.lost)
            left += shot.lost(copied[number]) - lost


def _repaired(shot: _Shot, copies: list[Span], pts: np.ndarray, sizes: Lengths, allowed: float) -> list[Span]:
    """Return clips of a shot of which copies lose too much: of a long one only its ends are encoded, if that does."""
    if len(copies) > 1:
        head, tail = _Shot(shot.start, copies[0].end), _Shot(copies[-1].start, shot.end)
        ends = _exact(head, pts, sizes), _exact(tail, pts, sizes)
        some = [*ends[0], *copies[1:-1], *ends[1]]
        if shot.lost(some) <= allowed:
            return some
    return _exact(shot, pts, sizes)
