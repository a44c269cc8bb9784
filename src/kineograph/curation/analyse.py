"""The single decode: cuts, motion, damage, and the pictures that strips are made of, from one pass over a film.

Frames are judged by their own time stamps. A damaged frame, or a packet of which a piece is lost, makes everything up
to the next clean keyframe a hole, because decoders conceal damage and carry it on without a word; films are never
refused for a hole, only cut there.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from kineograph.curation.album import Album
from kineograph.curation.config import CutConfig, DamageConfig, Decoding, Limits, MotionConfig
from kineograph.curation.cuts import SMALL, Detector, detector, sketcher
from kineograph.curation.motion import Motion, flow_size
from kineograph.curation.opencv import cv2
from kineograph.curation.probe import Probe, Rejected, check_file, examine, footage
from kineograph.curation.scaling import AREA, FAST_BILINEAR, Scaler
from kineograph.curation.strips import fitted

VERSION = 4
_STRIP_FPS = 2.0
_FLOW, _GRID, _KEY = 0, 1, 2
"""Clocks of a pass: pictures for flow, pictures for strips, keyframes for strips."""
_BATCH = 12
"""Frames whose sketches are made one after another: between two decoded frames the processor forgets how."""
KEYFRAME_RATE = 4.0
"""Of the keyframes, the first in each quarter of a second has its place in the album."""
TRANSFERS = {1: "bt709", 6: "smpte170m", 13: "iec61966-2-1", 14: "bt2020-10", 16: "smpte2084", 18: "arib-std-b67"}
"""Names of transfer characteristics by their numbers in ITU-T H.273, table 3; 16 is PQ, 18 is HLG (ITU-R BT.2100)."""

UNFILTERED = {"h264": "all"}
"""Codecs whose loop filter is left out in fast decoding, and for which frames (FFmpeg's `skip_loop_filter`)."""

Alive = Callable[[float], None]
"""Called now and then with the seconds of film done, so that a supervisor can tell work from a hang."""


@dataclass
class Analysis:
    """What one pass over a film found. Positions are pts; intervals are half open.

    Attributes:
        status: `"ok"`, `"truncated"` or `"corrupt"`.
        reason: Why.
        width: Displayed width of the first frame.
        height: Displayed height.
        rotation: Clockwise degrees of display.
        pixel_format: Of the first frame.
        transfer: Transfer characteristics of the first frame, one of `TRANSFERS`, or empty.
        interlaced: Frames that hold two fields; they stay woven.
        pts: Time stamp of each good frame, ascending.
        checks: CRC-32 of each good frame's miniature, to compare clips with.
        end_pts: pts at which the last good frame ends.
        hard_cuts: First frame after each hard cut.
        gradual: Gradual transitions.
        holes: Damaged stretches.
        sizes: `[pts, width, height]` from where the film has another displayed size.
        corrupt_frames: Frames that the decoder marked as damaged.
        flow_from: First picture of each flow pair.
        flow_to: Second picture of each flow pair.
        flow: Mean magnitude of each pair, in units of the short side.
        flow_size: `"widthxheight"` of the pictures for flow.
        kept: Time stamps of the pictures in the album.
        decoding: How the film was decoded.
    """

    status: str = "ok"
    reason: str = ""
    width: int = 0
    height: int = 0
    rotation: int = 0
    pixel_format: str = ""
    transfer: str = ""
    interlaced: int = 0
    pts: list[int] = field(default_factory=list)
    checks: list[int] = field(default_factory=list)
    end_pts: int = 0
    hard_cuts: list[int] = field(default_factory=list)
    gradual: list[list[int]] = field(default_factory=list)
    holes: list[list[int]] = field(default_factory=list)
    sizes: list[list[int]] = field(default_factory=list)
    corrupt_frames: int = 0
    flow_from: list[int] = field(default_factory=list)
    flow_to: list[int] = field(default_factory=list)
    flow: list[float] = field(default_factory=list)
    flow_size: str = ""
    kept: list[int] = field(default_factory=list)
    decoding: Decoding = "exact"

    @property
    def pairs(self) -> list[tuple[int, int, float]]:
        """The flow pairs as `motion.scores` takes them."""
        return list(zip(self.flow_from, self.flow_to, self.flow, strict=True))


class Damage(Exception):
    """A packet that could not be decoded or that is not whole, or a container that could not be read on.

    Attributes:
        frames: Decoded frames that it stands for, which show something else than was filmed.
    """

    def __init__(self, reason: str, frames: int = 0) -> None:
        super().__init__(reason)
        self.frames = frames


def decoded(
    container: Any, stream: Any, packets: Iterator[Any] | None = None, decoding: Decoding = "exact"
) -> Iterator[Any]:
    """Yield a stream's frames in display order, and a `Damage` in the place of each packet that cannot be decoded.

    A demuxer that misses a piece of a packet says so (transport streams count their pieces); most decoders make a frame
    of what is left without a word. So there is a `Damage` before such a packet, and another in its frame's place.

    Args:
        container: An open one.
        stream: The stream.
        packets: Its packets; by default all from where the container stands.
        decoding: As in `CurationConfig`. Frames that are kept as they are must be decoded exactly.
    """
    context = stream.codec_context
    if not context.is_open:
        if decoding == "fast" and context.name in UNFILTERED:
            context.options = {"skip_loop_filter": UNFILTERED[context.name]}
        context.thread_count, context.thread_type = 1, "NONE"  # FFmpeg 7.1.0 deadlocks in HEVC threads (PyAV #1962).
    source = container.demux(stream) if packets is None else packets
    torn: set[int | None] = set()
    while True:
        try:
            packet = next(source)
        except StopIteration:
            return
        except Exception as error:
            yield Damage(str(error))
            yield from _whole(_flushed(context), torn)
            return
        if packet.is_corrupt and packet.size:
            torn.add(packet.pts)
            yield Damage(_LOST)
        try:
            yield from _whole(packet.decode(), torn)
        except Exception as error:
            yield Damage(str(error))


_LOST = "a piece of a packet is lost"


def _whole(frames: Iterable[Any], torn: set[int | None]) -> Iterator[Any]:
    """Yield frames, and a `Damage` in the place of those whose packets were not whole."""
    for frame in frames:
        yield Damage(_LOST, frames=1) if frame.pts is not None and frame.pts in torn else frame


def _flushed(context: Any) -> Iterator[Any]:
    try:
        yield from context.decode(None)
    except Exception as error:
        yield Damage(str(error))


class Clock:
    """Give each frame the pts that orders it; containers without presentation times are counted by decoding time."""

    def __init__(self, facts: Probe) -> None:
        self.by_dts = facts.by_dts
        base = Fraction(facts.time_base)
        self.step = max(round(1 / (Fraction(facts.rate or 25).limit_denominator(100000) * base)), 1)
        self.last: int | None = None

    def __call__(self, frame: Any) -> int | None:
        """Return the frame's pts, or None where it does not come after the one before."""
        stamp = frame.dts if self.by_dts or frame.pts is None else frame.pts
        if stamp is None:
            stamp = 0 if self.last is None else self.last + self.step
        if self.last is not None and stamp <= self.last:
            return None
        self.last = stamp
        return stamp


class Pass:
    """The state of one pass over a film, or over a stretch of it."""

    def __init__(
        self,
        facts: Probe,
        cuts: CutConfig,
        motion: MotionConfig,
        album: Album | None,
        finder: Detector | None = None,
        origin: int | None = None,
        preceding: int | None = None,
    ) -> None:
        """Begin.

        Args:
            facts: The header.
            cuts: Which detector, and its thresholds.
            motion: How flow is measured.
            album: Takes pictures.
            finder: Takes the sketches in place of the configured detector.
            origin: pts of the film's first frame; of the first that comes where None.
            preceding: pts of the frame before the first that comes, in the middle of a film.
        """
        self.facts, self.cut_config, self.motion_config, self.album = facts, cuts, motion, album
        self.unit = float(Fraction(facts.time_base))
        self.clock = Clock(facts)
        self.result = Analysis()
        self.pts, self.checks = array("q"), array("L")
        self.motion = Motion(motion)
        self.small, self.large = Scaler(FAST_BILINEAR), Scaler(AREA)
        self.sketch, self.finder, self.origin = sketcher(cuts), finder, origin
        self.shape: tuple[int, int, str] | None = None
        self.turn: Any = None
        self.hole: int | None = None
        self.fresh = True
        self.queue: list[tuple[int, Any, np.ndarray, bool]] = []
        self.batch = 1 if cuts.detector == "transnetv2" else _BATCH
        self.before: Any = None
        self.ticks = [-1, -1, -1]
        self.duration = 0
        if preceding is not None:
            self._tick(_FLOW, preceding, motion.fps)
            self._tick(_GRID, preceding, _STRIP_FPS)

    def damage(self, frames: int = 0) -> None:
        """Note that something could not be decoded after the last frame, and how many wrong frames came of it."""
        self.result.corrupt_frames += frames
        if self.hole is None:
            self.hole = self._end() if self.pts else (self.facts.start_time or 0)

    def frame(self, frame: Any) -> None:
        """Take a frame in display order."""
        pts = self.clock(frame)
        if pts is None:
            self.result.corrupt_frames += bool(frame.is_corrupt)
            return
        if frame.is_corrupt:
            self.result.corrupt_frames += 1
            self.hole = pts if self.hole is None else self.hole
        if self.hole is not None:
            if frame.is_corrupt or not frame.key_frame:
                self.before = None
                return
            self._close_hole(pts)
        self._good(pts, frame)

    def finish(self) -> Analysis:
        """Close what is open and return the result."""
        if self.queue:
            self._sketches()
        result = self.result
        result.pts, result.checks = self.pts.tolist(), self.checks.tolist()
        result.kept = self.album.pts.tolist() if self.album is not None else []
        result.end_pts = self._end()
        if self.hole is not None:
            last = max(self.clock.last or 0, self.hole) + max(self.duration, self.clock.step)
            self._close_hole(last)
        if self.finder is not None:
            cuts = self.finder.finish()
            result.hard_cuts, result.gradual = cuts.hard, cuts.gradual
        for first, second, value in self.motion.pairs:
            result.flow_from.append(first)
            result.flow_to.append(second)
            result.flow.append(value)
        return result

    def _end(self) -> int:
        return self.pts[-1] + max(self.duration or self.clock.step, 1) if self.pts else 0

    def _close_hole(self, pts: int) -> None:
        if self.hole is not None and pts > self.hole:
            self.result.holes.append([self.hole, pts])
        self.hole, self.fresh = None, True

    def _good(self, pts: int, frame: Any) -> None:
        small = self.small(frame, SMALL)
        self.resize(pts, frame)
        self._detect(pts, frame, small)
        self.fresh = False
        self.pts.append(pts)
        self.duration = frame.duration or 0
        self.result.interlaced += bool(frame.interlaced_frame)
        self._picture(pts, frame)
        self.before = (pts, frame)

    def _detect(self, pts: int, frame: Any, small: np.ndarray) -> None:
        """Queue a frame for the detector, which is made for the first one."""
        self.origin = pts if self.origin is None else self.origin
        if self.finder is None:
            self.finder = detector(self.cut_config, self.unit, self.origin)
        restart = self.fresh and bool(self.pts)
        if restart:
            self.motion.restart()
        self.queue.append((pts, frame if self.batch == 1 else None, small, restart))
        if len(self.queue) >= self.batch:
            self._sketches()

    def _sketches(self) -> None:
        """Give the sketches of the queued frames to the detector."""
        assert self.finder is not None
        for pts, frame, small, restart in self.queue:
            sketch = self.sketch(frame, small)
            self.checks.append(zlib.crc32(small))  # pyright: ignore
            if restart:
                self.finder.restart(pts, sketch)
            else:
                self.finder.feed(pts, sketch)
        self.queue.clear()

    def resize(self, pts: int, frame: Any) -> None:
        """Note the size of the first frame, and each change of it, which is a cut."""
        shape = (frame.width, frame.height, frame.format.name)
        if shape == self.shape:
            return
        self.shape, self.fresh = shape, True
        self.turn = turn(frame)
        width, height = displayed(frame, self.facts.aspect, self.turn)
        if not self.result.width:
            self.result.width, self.result.height = width, height
            self.result.rotation, self.result.pixel_format = self.turn.rotation, shape[2]
            self.result.transfer = TRANSFERS.get(int(frame.color_trc), "")
        else:
            self.result.sizes.append([pts, width, height])
        self.sized = fitted(round(frame.width * self.facts.aspect), frame.height)
        self.flow_size = flow_size(*self.sized, self.motion_config.short_side)
        if not self.result.flow_size and self.motion_config.algorithm != "none":
            self.result.flow_size = f"{self.flow_size[0]}x{self.flow_size[1]}"

    def _picture(self, pts: int, frame: Any) -> None:
        """Keep the pictures that flow and strips need: a few a second, keyframes, and the frames before keyframes."""
        flow = self.motion_config.algorithm != "none" and self._tick(_FLOW, pts, self.motion_config.fps)
        grid = self._tick(_GRID, pts, _STRIP_FPS)
        key = frame.key_frame and self._tick(_KEY, pts, KEYFRAME_RATE)
        if key and self.before is not None and self.album is not None and self.album.last != self.before[0]:
            self.album.add(self.before[0], self._upright(self.large(self.before[1], self.sized)))
        if not (flow or grid or key):
            return
        planes = self.large(frame, self.sized)
        if flow:
            luma = planes[: self.sized[1]]
            self.motion.feed(pts, cv2.resize(luma, self.flow_size, interpolation=cv2.INTER_AREA))
        if self.album is not None and (grid or key):
            self.album.add(pts, self._upright(planes))

    def keep(self, pts: int, frame: Any) -> None:
        """Put a frame into the album."""
        assert self.album is not None
        self.album.add(pts, self._upright(self.large(frame, self.sized)))

    def _tick(self, which: int, pts: int, rate: float) -> bool:
        """Whether a clock of a rate, which counts from the film's first frame, has advanced since it was last asked."""
        tick = int((pts - (self.origin or 0)) * self.unit * rate + 1e-6)
        ticked, self.ticks[which] = tick > self.ticks[which], max(tick, self.ticks[which])
        return ticked

    def _upright(self, planes: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self.turn.apply(cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_I420)))


def turn(frame: Any) -> Any:
    """Return the display transform of a frame; one that is no right angle counts as none."""
    from kineograph._decode import _display_transform
    from kineograph._orientation import Transform
    from kineograph.errors import MediaError

    try:
        return _display_transform(frame, Path("film"))
    except MediaError:
        return Transform()


def displayed(frame: Any, aspect: float, turned: Any) -> tuple[int, int]:
    """Return width and height of a frame as it is shown: pixels made square, then turned."""
    width, height = round(frame.width * aspect), frame.height
    return (height, width) if turned.transpose else (width, height)


def analyse(
    path: str,
    cuts: CutConfig | None = None,
    motion: MotionConfig | None = None,
    limits: Limits | None = None,
    damage: DamageConfig | None = None,
    album: Album | None = None,
    alive: Alive | None = None,
    decoding: Decoding = "fast",
) -> tuple[Probe, Analysis]:
    """Decode a film once and find its cuts, motion and damage.

    Args:
        path: The file.
        cuts: Thresholds of the cascade.
        motion: How flow is measured.
        limits: What the file may claim.
        damage: When damage makes it unusable.
        album: Takes the pictures that strips are made of.
        alive: Told the seconds of film done, about twice a second of film.
        decoding: As in `CurationConfig`.

    Returns:
        What the header says, and what was found.

    Raises:
        Rejected: The file cannot be used at all.
    """
    limits = limits or Limits()
    check_file(path, limits)
    with footage(path) as container:
        stream, facts = examine(container, limits)
        work = Pass(facts, cuts or CutConfig(), motion or MotionConfig(), album)
        work.result.decoding = decoding
        told = 0
        for item in decoded(container, stream, decoding=decoding):
            if isinstance(item, Damage):
                work.damage(item.frames)
                continue
            admit(item, limits)
            work.frame(item)
            if alive and len(work.pts) - told >= 12:
                told = len(work.pts)
                alive((work.pts[-1] - work.pts[0]) * work.unit)
    analysis = work.finish()
    if not analysis.pts:
        raise Rejected("corrupt" if analysis.corrupt_frames else "unreadable", "not one frame could be decoded")
    judge(facts, analysis, damage or DamageConfig(), work.unit)
    return facts, analysis


def fill(
    path: str,
    wanted: set[int],
    limits: Limits,
    album: Album,
    alive: Alive | None = None,
    decoding: Decoding = "fast",
) -> None:
    """Decode a film again for some of the pictures that its analysis put into an album; they come out the same.

    Args:
        path: The film.
        wanted: Time stamps.
        limits: What the file may claim.
        album: Takes the pictures.
        alive: Told the seconds of film done.
        decoding: As for the analysis.
    """
    if not wanted:
        return
    last = max(wanted)
    with footage(path) as container:
        stream, facts = examine(container, limits)
        work = Pass(facts, CutConfig(), MotionConfig("none"), album)
        for frame in decoded(container, stream, decoding=decoding):
            pts = None if isinstance(frame, Damage) else work.clock(frame)
            if pts is None or pts not in wanted:
                continue
            work.resize(pts, frame)
            work.keep(pts, frame)
            if pts == last:
                return
            if alive:
                alive((pts - (facts.start_time or 0)) * work.unit)


def nearest(kept: list[int], pts: int, start: int, end: int) -> int | None:
    """Return the time stamp nearest to a moment among those in [start, end); None where there is none."""
    inside = kept[bisect_left(kept, start) : bisect_left(kept, end)]
    return min(inside, key=lambda one: abs(one - pts), default=None)


def admit(frame: Any, limits: Limits) -> None:
    """Refuse a frame larger than the header said and the limits allow."""
    if frame.width * frame.height > limits.max_pixels:
        raise Rejected("too_large", f"a frame of {frame.width}x{frame.height}, the limit is {limits.max_pixels} pixels")


def judge(facts: Probe, analysis: Analysis, damage: DamageConfig, unit: float) -> None:
    """Give the status: too much damage is corrupt, a missing end is truncated; the rest is ok with a note."""
    seen = len(analysis.pts) + analysis.corrupt_frames
    if analysis.corrupt_frames > damage.corrupt_share * seen:
        analysis.status = "corrupt"
        analysis.reason = f"{analysis.corrupt_frames} of {seen} frames are damaged"
        return
    last = max(analysis.end_pts, analysis.holes[-1][1] if analysis.holes else 0)
    measured = (last - analysis.pts[0]) * unit
    allowed = max(damage.missing_seconds, damage.missing_share * (facts.duration or 0))
    if facts.duration and measured < facts.duration - allowed:
        analysis.status = "truncated"
        analysis.reason = f"ends at {measured:.2f} s, the header promises {facts.duration:.2f} s"
    elif analysis.holes:
        total = sum(end - start for start, end in analysis.holes) * unit
        analysis.reason = f"{len(analysis.holes)} damaged stretches, {total:.2f} s in all"
