"""Cut clips out of a film: by copying packets between keyframes, or by encoding the exact frames.

"Keyframe timestamps of the source are extracted and each detected cut is snapped to the closest keyframe that does not
cross the cut" (Blattmann et al. 2023, arXiv:2311.15127, App. C): a clip begins at the first keyframe of its shot and
ends at the last one, so nothing is decoded or lost. The leading pictures of an open group of pictures need frames of
the clip before; they are left out on both sides. A sample of copies is decoded again and compared with the source,
frame by frame; a source whose copies do not agree is encoded instead.

Clips carry no sound.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kineograph._encode import X264_OPTIONS
from kineograph.curation.analyse import Alive, Analysis, Clock, Damage, decoded, turn
from kineograph.curation.config import ClipConfig, Decoding, Limits
from kineograph.curation.cuts import SMALL
from kineograph.curation.keyframes import Index, packets
from kineograph.curation.probe import Probe, examine, footage
from kineograph.curation.scaling import FAST_BILINEAR, Scaler

VERSION = 2
_MUXER = {"fflags": "+bitexact"}
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
    unit = Fraction(facts.time_base)
    shortest, longest = (
        int(Fraction(s).limit_denominator(1000) / unit) for s in (config.min_seconds, config.max_seconds)
    )
    copies = config.method == "copy" and facts.codec in COPYABLE and index.stamped and not analysis.sizes
    known = np.asarray(analysis.pts)
    spans: list[Span] = []
    for start, end in shots(analysis):
        pieces = _copies(index, start, end, longest, config) if copies else _pieces(known, start, end, longest)
        spans += [span for span in pieces if span.end - span.start >= shortest]
    return spans


def _copies(index: Index, start: int, end: int, longest: int, config: ClipConfig) -> Iterator[Span]:
    """Yield copies that follow one another through a shot."""
    while True:
        first = index.first_key(start, end)
        if first is None:
            return
        stop = min(end, first + longest)
        found = index.copy_range(first, stop, config.end == "frame")
        if found is None and stop < end:
            found = index.copy_range(first, stop, to_frame=True)
        if found is None:
            return
        chosen, reached = found
        yield Span(first, min(reached, end), chosen)
        start = max(reached, first + 1)


def _pieces(pts: np.ndarray, start: int, end: int, longest: int) -> Iterator[Span]:
    """Yield equal pieces of a shot, each at most so long, their borders at frames."""
    count = -(-(end - start) // longest)
    borders = [
        start,
        *(int(pts[np.searchsorted(pts, start + (end - start) * i // count)]) for i in range(1, count)),
        end,
    ]
    for first, stop in pairwise(borders):
        if stop > first:
            yield Span(first, stop, None)


def make(
    path: str,
    spans: Sequence[Span],
    files: Sequence[Path],
    limits: Limits,
    config: ClipConfig,
    alive: Alive | None = None,
) -> None:
    """Write the clips of a film.

    Args:
        path: The film.
        spans: What to write; all copied or all encoded.
        files: A file for each, not yet there.
        limits: What the film may claim.
        config: How to encode.
        alive: Told the seconds of film done.
    """
    if spans and spans[0].packets is not None:
        copy(path, spans, files, limits, alive)
    elif spans:
        encode(path, spans, files, limits, config, alive)


def copy(path: str, spans: Sequence[Span], files: Sequence[Path], limits: Limits, alive: Alive | None = None) -> None:
    """Copy packets into one file per span, in one walk through the film without decoding."""
    import av

    owner = {int(number): which for which, span in enumerate(spans) for number in span.packets}  # pyright: ignore
    last = {int(span.packets[-1]): which for which, span in enumerate(spans)}  # pyright: ignore
    with footage(path) as container:
        stream, _ = examine(container, limits)
        output: Any = None
        track: Any = None
        for number, packet in enumerate(packets(container, stream)):
            which = owner.get(number)
            if which is None:
                continue
            span = spans[which]
            if output is None:
                output = av.open(str(files[which]), "w", format="mp4", options=_MUXER)
                track = output.add_stream_from_template(stream)
                track.time_base = stream.time_base
            packet.duration = packet.duration or _until_end(packet, span)
            packet.pts -= span.start
            packet.dts -= span.start
            packet.stream = track
            output.mux(packet)
            if number in last:
                output.close()
                output = None
                if alive:
                    alive(float((span.end - spans[0].start) * stream.time_base))
            if number >= int(spans[-1].packets[-1]):  # pyright: ignore
                return


def _until_end(packet: Any, span: Span) -> int:
    return max(span.end - packet.pts, 1) if packet.pts < span.end else 1


def encode(
    path: str,
    spans: Sequence[Span],
    files: Sequence[Path],
    limits: Limits,
    config: ClipConfig,
    alive: Alive | None = None,
) -> None:
    """Decode a film once and encode the frames of each span, turned upright, with their own time stamps."""
    with footage(path) as container:
        stream, facts = examine(container, limits)
        clock, which, writer = Clock(facts), 0, None
        for frame in decoded(container, stream):
            pts = None if isinstance(frame, Damage) else clock(frame)
            if pts is None:
                continue
            while which < len(spans) and pts >= spans[which].end:
                writer = writer.close() if writer else None
                which += 1
            if which == len(spans):
                return
            if pts >= spans[which].start:
                writer = writer or _Writer(files[which], frame, facts, config)
                writer.add(frame, pts - spans[which].start)
                if alive:
                    alive((pts - (facts.start_time or 0)) * float(Fraction(facts.time_base)))
        if writer:
            writer.close()


class _Writer:
    """One encoded clip."""

    def __init__(self, path: Path, frame: Any, facts: Probe, config: ClipConfig) -> None:
        import av

        self.base = Fraction(facts.time_base)
        self.output = av.open(str(path), "w", format="mp4", options=_MUXER)
        self.turned = turn(frame)
        width, height = frame.width // 2 * 2, frame.height // 2 * 2
        self.size = (max(width, 2), max(height, 2))
        shown = self.size[::-1] if self.turned.transpose else self.size
        self.stream = self.output.add_stream("libx264", rate=Fraction(facts.rate or 25).limit_denominator(100000))
        self.stream.width, self.stream.height = shown
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.time_base = self.base
        self.stream.codec_context.thread_count = 1
        if facts.aspect != 1.0:
            aspect = Fraction(facts.aspect).limit_denominator(1000)
            self.stream.codec_context.sample_aspect_ratio = 1 / aspect if self.turned.transpose else aspect
        self.stream.options = {"crf": str(config.crf), "preset": config.preset, **X264_OPTIONS}

    def add(self, frame: Any, pts: int) -> None:
        """Encode a frame at a pts after the clip's start."""
        import av

        if any((self.turned.transpose, self.turned.flip_columns, self.turned.flip_rows)):
            pixels = frame.reformat(*self.size, format="rgb24").to_ndarray()
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(self.turned.apply(pixels)), format="rgb24")
        shown = frame.reformat(self.stream.width, self.stream.height, format="yuv420p")
        shown.pts, shown.time_base = pts, self.base
        shown.pict_type = 0
        self.output.mux(self.stream.encode(shown))

    def close(self) -> None:
        """Write what the encoder holds back and finish the file."""
        self.output.mux(self.stream.encode(None))
        self.output.close()


def check(clip: Path, span: Span, analysis: Analysis) -> str:
    """Decode a copied clip and compare every frame and its time with the source.

    Args:
        clip: The clip's file.
        span: What it should hold.
        analysis: Holds the source's frames' checksums, and how they were decoded.

    Returns:
        What differs; empty where nothing does.
    """
    inside = [i for i, pts in enumerate(analysis.pts) if span.start <= pts < span.end]
    expected = [analysis.checks[i] for i in inside]
    found, damaged = miniatures(clip, analysis.decoding)
    if damaged:
        return "its copy decodes with damage"
    if len(found) != len(expected):
        return f"its copy has {len(found)} frames instead of {len(expected)}"
    wrong = sum(a != b for a, b in zip(found, expected, strict=True))
    return f"{wrong} of {len(found)} frames of its copy differ" if wrong else ""


def miniatures(path: Path, decoding: Decoding) -> tuple[list[int], bool]:
    """Return the CRC-32 of each frame's miniature, as in `Analysis.checks`, and whether anything was damaged.

    What the loop filter leaves out in fast decoding adds up from a keyframe to the next one; a copy begins at a
    keyframe, so the sums are the source's.
    """
    small, checks = Scaler(FAST_BILINEAR), []
    with footage(str(path)) as container:
        for frame in decoded(container, container.streams.video[0], decoding=decoding):
            if isinstance(frame, Damage) or frame.is_corrupt:
                return checks, True
            checks.append(zlib.crc32(small(frame, SMALL)))  # pyright: ignore
    return checks, False


def pictures(path: Path, long_side: int) -> list[np.ndarray]:
    """Decode first, middle and last frame of a clip, upright, BGR, for clips without pictures from the analysis.

    Args:
        path: The clip.
        long_side: Their long side in pixels.
    """
    from kineograph.curation.strips import fitted

    with footage(str(path)) as container:
        stream = container.streams.video[0]
        aspect = float(stream.sample_aspect_ratio or 1)
        total = sum(1 for packet in container.demux(stream) if packet.size)
    wanted, last, kept = {0, total // 2}, None, []
    with footage(str(path)) as container:
        frames = (f for f in decoded(container, container.streams.video[0]) if not isinstance(f, Damage))
        for i, frame in enumerate(frames):
            last = frame
            if i in wanted:
                kept.append(frame)
    chosen = [kept[0], kept[-1], last] if kept else []
    size = [fitted(round(frame.width * aspect), frame.height, long_side) for frame in chosen]
    return [
        np.ascontiguousarray(turn(f).apply(f.reformat(*s, format="bgr24").to_ndarray()))
        for f, s in zip(chosen, size, strict=True)
    ]
