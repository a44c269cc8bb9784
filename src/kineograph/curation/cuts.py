"""Find shot changes: a cascade of three detectors at different frame rates and thresholds, in one decode.

Stable Video Diffusion finds cuts with "a cascade of 3 cut detectors which are operating at different frame rates and
different thresholds", because a fade or dissolve changes too little from one frame to the next (Blattmann et al. 2023,
arXiv:2311.15127, App. C); rates, thresholds and the way of merging are not published. Here:

1. Every frame: a hard cut is a jump in luma and both chroma planes that stands out among its neighbours. (Chroma planes
   instead of hue: two shots that differ in hue alone differ there, and hue's wrap-around does not arise.) Its result is
   a point: the pts of the first frame after the cut.
2. Eight and two samples a second: a gradual transition is a stretch without a hard cut at whose ends the picture has
   nothing in common (or one end is empty), while every sample in between is a mixture of the two ends. Motion is no
   mixture: what lies between two positions of an object is neither. The slower level's finds are confirmed on the
   faster level's samples. The result is an interval, which clips leave out.

Differs from the paper: the rates, thresholds, the test for mixtures and the merging are ours.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from kineograph.curation.config import CutConfig
from kineograph.curation.opencv import cv2

SMALL = (128, 72)
"""Width and height of the pictures that cuts are found in, whatever the film's own size and shape."""

NEIGHBOURS = 2
_TAKEN_BACK = 0.4
"""Share of a flash's jump that may remain when it is over."""
_BACKWARD = -0.1
"""How far a transition may seem to go back from one sample to the next."""
_LUMA = (SMALL[0] // 4) * (SMALL[1] // 4)
_VALUES = _LUMA * 3 // 2
VERSION = 2


@dataclass
class Cuts:
    """What the cascade found, in pts.

    Attributes:
        hard: First frame after each hard cut, ascending.
        gradual: [start, end) of each gradual transition, ascending and disjoint.
    """

    hard: list[int] = field(default_factory=list)
    gradual: list[list[int]] = field(default_factory=list)


def jump(before: np.ndarray, after: np.ndarray) -> float:
    """Return the mean absolute difference of luma plus those of both chroma planes.

    Args:
        before: uint8 (108, 128), a picture of size `SMALL` as planar YUV 4:2:0 (luma rows, then both chroma planes).
        after: The same for the next frame.
    """
    width, height = SMALL
    luma = cv2.norm(before[:height], after[:height], cv2.NORM_L1)
    chroma = cv2.norm(before[height:], after[height:], cv2.NORM_L1)
    return (luma + 4 * chroma) / (width * height)


def coarse(small: np.ndarray) -> np.ndarray:
    """Return a picture's planes averaged over 4x4 blocks, uint8 (864,): 32x18 luma and twice 16x9 chroma."""
    width, height = SMALL
    shrunk = np.empty(_VALUES, np.uint8)
    luma, chroma = shrunk[:_LUMA].reshape(-1, width // 4), shrunk[_LUMA:].reshape(-1, width // 8)
    both = small[height:].reshape(-1, width // 2)  # One plane above the other; no block lies in both.
    cv2.resize(small[:height], luma.shape[::-1], luma, interpolation=cv2.INTER_AREA)
    cv2.resize(both, chroma.shape[::-1], chroma, interpolation=cv2.INTER_AREA)
    return shrunk


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean absolute difference of two arrays of one shape and type."""
    return cv2.norm(first, second, cv2.NORM_L1) / first.size


class Sample(NamedTuple):
    """A picture of a slow level: where it lies and its coarse planes."""

    pts: int
    planes: np.ndarray


class Sketch(NamedTuple):
    """What finding cuts needs of one frame; sketches of a film may be made in several processes and joined.

    Attributes:
        change: Difference from the frame before, as by `jump`; NaN where there is none, and where it is not wanted.
        planes: uint8 (values,).
    """

    change: float
    planes: np.ndarray


class Sketcher:
    """Makes the cascade's sketches: the jump from the frame before, and coarse planes."""

    def __init__(self) -> None:
        self.last: np.ndarray | None = None

    def __call__(self, frame: Any, small: np.ndarray) -> Sketch:
        """Sketch the next frame.

        Args:
            frame: The decoded frame, which the cascade does not look at.
            small: uint8 (108, 128), as for `jump`. It is kept, so it must not be overwritten.
        """
        change = math.nan if self.last is None else jump(self.last, small)
        self.last = small
        return Sketch(change, coarse(small))


class _Jump(NamedTuple):
    pts: int
    before: np.ndarray
    score: float


class _Candidate(NamedTuple):
    pts: int
    before: np.ndarray
    change: float
    brighter: bool


class Detector(Protocol):
    """Finds cuts in sketches that come in display order. Made anew for each film."""

    def feed(self, pts: int, sketch: Sketch) -> None:
        """Take the next frame's sketch; pts ascend."""
        ...

    def restart(self, pts: int, sketch: Sketch) -> None:
        """Take a frame that cannot be compared with the one before: after a hole, or of another size."""
        ...

    def finish(self) -> Cuts:
        """Return everything found."""
        ...


def sketcher(config: CutConfig) -> Callable[[Any, np.ndarray], Sketch]:
    """Return what makes the sketches that a configuration's detector takes; frames come in display order."""
    if config.detector == "transnetv2":
        from kineograph.curation.transnet import Miniatures

        return Miniatures()
    return Sketcher()


def detector(config: CutConfig, time_base: float, start_pts: int) -> Detector:
    """Return a configuration's detector, for one film.

    Args:
        config: Detector and thresholds.
        time_base: Seconds per unit of pts.
        start_pts: pts of the film's first frame.

    Raises:
        MissingExtraError: Its package is not installed.
    """
    if config.detector == "transnetv2":
        from kineograph.curation.transnet import TransNet

        return TransNet(config)
    return Cascade(config, time_base, start_pts)


class Cascade:
    """Takes frames one by one, in display order, and finds cuts with a short delay and bounded memory."""

    def __init__(self, config: CutConfig, time_base: float, start_pts: int) -> None:
        """Begin at a film's start.

        Args:
            config: Thresholds.
            time_base: Seconds per unit of pts.
            start_pts: pts of the film's first frame, from which both slow levels count their samples.
        """
        self.config, self.time_base, self.start = config, time_base, start_pts
        self.cuts = Cuts()
        self.jumps: deque[_Jump] = deque(maxlen=2 * NEIGHBOURS + 1)
        self.candidates: deque[_Candidate] = deque()
        self.waiting: deque[tuple[int, Sample]] = deque()
        self.levels = tuple(deque(maxlen=9) for _ in config.rates)
        reach = round(8 * config.rates[0] / config.rates[1]) + 2
        self.fine: deque[Sample] = deque(maxlen=reach)
        self.ticks = [-1, -1]
        self.last: np.ndarray | None = None
        self.returned: int | None = None

    def feed(self, pts: int, sketch: Sketch) -> None:
        """Take the next frame.

        Args:
            pts: Its time stamp, larger than the one before.
            sketch: By a `Sketcher` that saw the frame before.
        """
        planes = sketch.planes
        if self.last is not None:
            self.jumps.append(_Jump(pts, self.last, sketch.change))
            if len(self.jumps) == self.jumps.maxlen:
                self._judge(NEIGHBOURS)
            elif len(self.jumps) > NEIGHBOURS:
                self._judge(len(self.jumps) - 1 - NEIGHBOURS)
        self._settle(pts, planes)
        self._sample(pts, planes)
        self.last = planes

    def restart(self, pts: int, sketch: Sketch) -> None:
        """Take a frame that cannot be compared with the one before: after a hole, or of another size."""
        self._flush()
        self.cuts.hard.append(pts)
        self.jumps.clear()
        for level in self.levels:
            level.clear()
        self.fine.clear()
        self.last = None
        self.feed(pts, sketch)

    def finish(self) -> Cuts:
        """Judge what is still waiting and return everything found."""
        self._flush()
        self.cuts.hard = sorted(set(self.cuts.hard))
        self.cuts.gradual = merged(self.cuts.gradual)
        return self.cuts

    def _flush(self) -> None:
        for place in range(max(len(self.jumps) - NEIGHBOURS, 0), len(self.jumps)):
            self._judge(place)
        self.cuts.hard += [candidate.pts for candidate in self.candidates]
        self.candidates.clear()
        while self.waiting:
            self._climb(*self.waiting.popleft())

    # Level 1: hard cuts

    def _judge(self, place: int) -> None:
        """Decide whether the jump at a place among its neighbours is a candidate."""
        pts, before, score = self.jumps[place]
        if score < self.config.threshold or pts == self.returned:
            return
        near = list(self.jumps)[max(place - NEIGHBOURS, 0) : place + NEIGHBOURS + 1]
        others = [max(other.score, 1.0) for other in near if other.pts != pts] or [1.0]
        if score >= max(self.config.ratio * max(others), self.config.median_ratio * float(np.median(others))):
            after = self.jumps[place + 1][1] if place + 1 < len(self.jumps) else self.last
            assert after is not None
            size = distance(before, after)
            if size >= self.config.coarse:
                brighter = after[:_LUMA].mean() > before[:_LUMA].mean()
                self.candidates.append(_Candidate(pts, before, size, bool(brighter)))

    def _settle(self, pts: int, planes: np.ndarray) -> None:
        """Accept candidates whose flash time is over; drop those whose jump was taken back."""
        wait = self.config.flash_seconds / self.time_base
        while self.candidates and pts - self.candidates[0].pts > wait:
            self.cuts.hard.append(self.candidates.popleft().pts)
        for candidate in [c for c in self.candidates if c.brighter and c.pts < pts]:
            if distance(planes, candidate.before) < _TAKEN_BACK * candidate.change:
                self.candidates.remove(candidate)
                self.returned = pts
        while self.waiting and pts - self.waiting[0][1].pts > 2 * wait:
            self._climb(*self.waiting.popleft())

    # Levels 2 and 3: gradual transitions

    def _sample(self, pts: int, planes: np.ndarray) -> None:
        """Put a frame into the slow levels' queues when their clocks tick."""
        for level, rate in enumerate(self.config.rates):
            tick = int((pts - self.start) * self.time_base * rate + 1e-6)
            if tick > self.ticks[level]:
                self.ticks[level] = tick
                self.waiting.append((level, Sample(pts, planes.astype(np.float32))))

    def _climb(self, level: int, sample: Sample) -> None:
        """Look for a gradual transition that ends at a sample; hard cuts before it are known by now."""
        ring = self.levels[level]
        ring.append(sample)
        if level == 0:
            self.fine.append(sample)
        cut = self._hard_cut_before(sample.pts)
        for steps in range(3, len(ring)):
            if ring[-steps - 1].pts < cut:
                return
            window = list(ring)[-steps - 1 :]
            if is_mixture(window, level, self.config):
                found = window if level == 0 else self._confirmed(window)
                if found:
                    self.cuts.gradual = merged([*self.cuts.gradual, extent(found)])

    def _hard_cut_before(self, pts: int) -> float:
        """Return where the last hard cut up to a frame lies; minus infinity where there is none."""
        known = [*self.cuts.hard[-64:], *(candidate.pts for candidate in self.candidates)]
        return max((cut for cut in known if cut <= pts), default=-math.inf)

    def _confirmed(self, window: list[Sample]) -> list[Sample]:
        """Return the fast level's samples over a window, if they too are mixtures of its ends; else nothing."""
        fine = [sample for sample in self.fine if window[0].pts <= sample.pts <= window[-1].pts]
        return fine if len(fine) > len(window) and is_mixture(fine, 0, self.config) else []


def is_mixture(window: list[Sample], level: int, config: CutConfig) -> bool:
    """Whether the ends of a window have nothing in common and every sample in between is a mixture of them.

    Args:
        window: Samples of a slow level.
        level: 0 for the fast one, 1 for the slow one.
        config: Thresholds.
    """
    first, last = window[0].planes, window[-1].planes
    net = distance(first, last)
    if net < config.thresholds[level]:
        return False
    empty = one_is_empty(first, last, config)
    if not empty and not unrelated(first, last, config):
        return False
    planes = np.stack([sample.planes for sample in window])
    share = progress(planes)
    between = np.count_nonzero((share > 0.15) & (share < 0.85))
    if not between or float(np.diff(share).min()) < _BACKWARD:
        return False
    rest = float(np.abs(planes - first - share[:, None] * (last - first)).mean(1).max())
    if rest > config.mixtures[level] * net:
        return False
    return empty or bool(between > 1 and contrast_dips(planes[:, :_LUMA].var(1), share, config))


def one_is_empty(first: np.ndarray, last: np.ndarray, config: CutConfig) -> bool:
    """Whether one of two pictures has much less contrast (variance of luma) than the other.

    Args:
        first: float (864,), coarse planes.
        last: The same.
        config: Holds the limit, of standard deviations.
    """
    less, more = sorted((_centred(first)[1], _centred(last)[1]))
    return less < config.emptiness**2 * more


def contrast_dips(contrast: np.ndarray, share: np.ndarray, config: CutConfig) -> bool:
    """Whether the contrast in the middle falls below that of the ends, as that of mixed pictures does.

    Args:
        contrast: Variance of each sample, (samples,).
        share: How far each sample has come, (samples,).
        config: Holds the limit.
    """
    middle = (share > 0.15) & (share < 0.85)
    expected = (1 - share) * contrast[0] + share * contrast[-1]
    return bool(middle.any()) and float((contrast[middle] / expected[middle]).min()) <= config.dip


def progress(planes: np.ndarray) -> np.ndarray:
    """Return how far each sample has come from the first to the last, float (samples,): 0 at the first, 1 at the last.

    Args:
        planes: float (samples, values).
    """
    difference = planes[-1] - planes[0]
    return (planes - planes[0]) @ difference / max(float(difference @ difference), 1e-9)


def unrelated(first: np.ndarray, last: np.ndarray, config: CutConfig) -> bool:
    """Whether two pictures are hardly correlated.

    Args:
        first: float (864,), coarse planes.
        last: The same.
        config: Holds the limit.
    """
    (one, power), (other, power_of_other) = _centred(first), _centred(last)
    return float(one @ other) < config.correlation * math.sqrt(power * power_of_other)


def _centred(planes: np.ndarray) -> tuple[np.ndarray, float]:
    """Return luma without its mean, and the sum of its squares."""
    luma = planes[:_LUMA]
    luma = luma - luma.mean()
    return luma, float(luma @ luma)


def extent(window: list[Sample]) -> list[int]:
    """Return [start, end) of a transition: one sample around those that are between 5 and 95 percent of the way."""
    share = progress(np.stack([sample.planes for sample in window]))
    inside = np.flatnonzero((share > 0.05) & (share < 0.95))
    start, end = max(int(inside[0]) - 1, 0), min(int(inside[-1]) + 1, len(window) - 1)
    return [window[start].pts, window[end].pts]


def merged(intervals: list[list[int]]) -> list[list[int]]:
    """Return the union of intervals as disjoint ones, ascending."""
    result: list[list[int]] = []
    for start, end in sorted(intervals):
        if result and start <= result[-1][1]:
            result[-1][1] = max(result[-1][1], end)
        else:
            result.append([start, end])
    return result
