"""Cut clips out of a film: by copying packets between keyframes, or by encoding the exact frames.

The leading pictures of an open group of pictures need frames of the clip before; copies leave them out on both sides. A
sample of copies is decoded again and compared with the source, frame by frame; a source whose copies do not agree is
encoded instead. So is a sample of the keyframes at which decoding begins for clips that are encoded.

Clips carry no sound.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from kineograph.curation.analyse import Alive, Analysis, Clock, Damage, decoded, turn
from kineograph.curation.config import ClipConfig, Decoding, Limits
from kineograph.curation.cuts import SMALL
from kineograph.curation.encoding import MUXER, Writer
from kineograph.curation.keyframes import Index, packets, packets_from
from kineograph.curation.probe import Rejected, examine, footage
from kineograph.curation.scaling import FAST_BILINEAR, Scaler
from kineograph.curation.spans import Span

VERSION = 3


def make(
    path: str,
    spans: Sequence[Span],
    files: Sequence[Path],
    limits: Limits,
    config: ClipConfig,
    index: Index,
    alive: Alive | None = None,
) -> None:
    """Write the clips of a film: first the copies, in one walk, then what is encoded.

    Args:
        path: The film.
        spans: What to write.
        files: A file for each, not yet there.
        limits: What the film may claim.
        config: How to encode.
        index: The film's packets.
        alive: Told the seconds of film done.
    """
    pairs = list(zip(spans, files, strict=True))
    copies, others = ([pair for pair in pairs if pair[0].method == method] for method in ("copy", "encode"))
    if copies:
        copy(path, [span for span, _ in copies], [file for _, file in copies], limits, alive)
    if others:
        encode(path, [span for span, _ in others], [file for _, file in others], limits, config, index, alive)


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
                output = av.open(str(files[which]), "w", format="mp4", options=MUXER)
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
    index: Index,
    alive: Alive | None = None,
) -> None:
    """Encode the frames of each span, turned upright, with their own colours and time stamps.

    What lies between spans is not decoded where there is a keyframe to begin at again.

    Raises:
        Rejected: A frame that was there for the analysis is not there now.
    """
    for key, some in runs(spans, index):
        pairs = [(spans[i], files[i]) for i in some]
        told = (path, pairs, limits, config, index, alive)
        if not _encode_run(key, *told) and not (key and _encode_run(None, *told)):
            raise Rejected("unreadable", "it cannot be decoded a second time")


def runs(spans: Sequence[Span], index: Index) -> list[tuple[tuple[int, int] | None, list[int]]]:
    """Part spans into runs, each to be decoded in one go.

    Args:
        spans: In order.
        index: The film's packets.

    Returns:
        For each run: pts and dts of the keyframe to begin at, or None for the film's beginning; and which spans.
    """
    found: list[tuple[tuple[int, int] | None, list[int]]] = []
    for number, span in enumerate(spans):
        key = index.key_before(span.start) if index.stamped and not index.broken else None
        if found and (key is None or key[0] <= spans[number - 1].end):
            found[-1][1].append(number)
        else:
            found.append((key, [number]))
    return found


def _encode_run(
    key: tuple[int, int] | None,
    path: str,
    pairs: Sequence[tuple[Span, Path]],
    limits: Limits,
    config: ClipConfig,
    index: Index,
    alive: Alive | None,
) -> bool:
    """Encode spans in one go through the film, from a keyframe; return whether all were met."""
    left, writer = list(pairs), None
    with footage(path) as container:
        stream, facts = examine(container, limits)
        clock, unit = Clock(facts), float(Fraction(facts.time_base))
        source = None if key is None else packets_from(container, stream, *key)
        for frame in decoded(container, stream, source):
            pts = None if isinstance(frame, Damage) else clock(frame)
            if pts is None:
                continue
            while left and pts >= left[0][0].end:
                if writer is None:
                    return False
                writer = writer.close(left.pop(0)[0].length)
            if not left:
                return True
            span, file = left[0]
            if pts >= span.start:
                writer = writer or Writer(file, frame, facts, config, index.is_even(span.start, span.end))
                writer.add(frame, pts - span.start)
            if alive:
                alive((pts - (facts.start_time or 0)) * unit)
        if writer:
            writer.close(left.pop(0)[0].length)
    return not left


def is_trusted(
    path: str, spans: Sequence[Span], index: Index, analysis: Analysis, limits: Limits, every: int, alive: Alive | None
) -> bool:
    """Decode a little from every so-manyth keyframe that `encode` begins at, and compare with the analysis.

    Keyframes at which decoding cannot really start (periodic intra refresh) are noticed so.

    Args:
        path: The film.
        spans: Those to be encoded.
        index: The film's packets.
        analysis: Holds the source's frames' checksums, and how they were decoded.
        limits: What the film may claim.
        every: How many keyframes to take on trust after one that is looked at; 0 trusts all.
        alive: Told that something is going on.
    """
    known = dict(zip(analysis.pts, analysis.checks, strict=True))
    found = [(key, spans[some[0]].start) for key, some in runs(spans, index) if key]
    for key, start in found[:: every or len(found) + 1] if every else ():
        with footage(path) as container:
            stream, _ = examine(container, limits)
            source = packets_from(container, stream, *key)
            if not _agrees(decoded(container, stream, source, analysis.decoding), key[0], start, known):
                return False
        if alive:
            alive(0.0)
    return True


def _agrees(frames: Iterator[Any], key: int, start: int, known: dict[int, int]) -> bool:
    """Whether frames from a keyframe to a span's first, and at least as many as are reordered, are the known ones."""
    small, compared = Scaler(FAST_BILINEAR), 0
    for frame in frames:
        if isinstance(frame, Damage):
            return False
        if frame.pts in known and frame.pts >= key:
            if zlib.crc32(small(frame, SMALL)) != known[frame.pts]:  # pyright: ignore
                return False
            compared += 1
        if compared >= _REORDERED and frame.pts >= start:
            return True
    return compared > 0


_REORDERED = 16
"""Pictures that a decoder reorders at most (H.264, Annex A.3.1)."""


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
    with footage(str(path)) as container:
        total = sum(1 for packet in container.demux(container.streams.video[0]) if packet.size)
    wanted, last, kept = {0, total // 2}, None, []
    with footage(str(path)) as container:
        stream = container.streams.video[0]
        for i, frame in enumerate(f for f in decoded(container, stream) if not isinstance(f, Damage)):
            last = frame
            if i in wanted:
                kept.append(frame)
        return [_upright(frame, stream, long_side) for frame in (kept[0], kept[-1], last)] if kept else []


def first_picture(path: Path, long_side: int) -> np.ndarray:
    """Decode the first frame of a clip as `pictures` does.

    Raises:
        Rejected: There is none.
    """
    with footage(str(path)) as container:
        stream = container.streams.video[0]
        for frame in decoded(container, stream):
            if not isinstance(frame, Damage):
                return _upright(frame, stream, long_side)
    raise Rejected("unreadable", "a clip without a frame came of it")


def _upright(frame: Any, stream: Any, long_side: int) -> np.ndarray:
    from kineograph.curation.strips import fitted

    size = fitted(round(frame.width * float(stream.sample_aspect_ratio or 1)), frame.height, long_side)
    return np.ascontiguousarray(turn(frame).apply(frame.reformat(*size, format="bgr24").to_ndarray()))
