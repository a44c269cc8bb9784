"""How many frames a film has and when they are shown, from its index or its packets, without decoding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kineograph._container import STILLS_FPS, Record, snap
from kineograph._films import Clock, broken, counts_by_dts, named_rates, open_film, video_stream
from kineograph._rates import Timing, timing
from kineograph.errors import MediaError


class Stamps(NamedTuple):
    """What is kept of a packet: times in the stream's unit, and whether it can be decoded on its own."""

    pts: int | None
    dts: int | None
    duration: int
    is_keyframe: bool


class Length(NamedTuple):
    """Frames and seconds of a film, without decoding.

    Attributes:
        frames: Number of frames that are shown.
        fps: Frames per second, the average where the rate varies; None where nothing tells.
        duration: Seconds from the first frame's start to the last one's end; None where nothing tells.
    """

    frames: int
    fps: float | None
    duration: float | None


def length_of(path: Path, container: Any, stream: Any, record: Record | None) -> Length:
    """Count frames and seconds as reading the whole film would give them.

    An MP4's index tells where it lists all frames at a constant rate; everything else is walked through.
    """
    indexed = _indexed(path, container, stream, record)
    if indexed is not None:
        return indexed
    times, last, whole = _walked(path, record)
    if not times:
        return Length(0, None, None)
    found = _timing(times, last, stream, record)
    promised = float(stream.duration * stream.time_base) if stream.duration and not whole else None
    return Length(len(times), found and found.fps, promised or (found and found.duration(len(times))))


def _timing(times: list[float], last: float | None, stream: Any, record: Record | None) -> Timing | None:
    """Apply the rule of `Video.read` to times from 0; None for times that do not increase."""
    rates = ((record.fps,) if record else ()) + named_rates(stream)
    stated = record.timing if record and record.frames == len(times) else None
    if len(times) == 1 and not rates and not last:
        return None
    try:
        return timing(times, last, tick=float(stream.time_base), rates=rates, stated=stated)
    except MediaError:
        return None


def _indexed(path: Path, container: Any, stream: Any, record: Record | None) -> Length | None:
    """Read an MP4's index; None for other formats, fragments and rates that vary."""
    if not container.format.name.startswith("mov") or not len(stream.index_entries) or fragmented(path):
        return None
    stamps = sorted(entry.timestamp for entry in stream.index_entries if not entry.is_discard)
    if not stamps:
        return None
    unit = float(stream.time_base)
    times = [snap((stamp - stamps[0]) * unit, record, unit) for stamp in stamps]
    found = _timing(times, None, stream, record)
    return None if found is None or found.times else Length(len(times), found.fps, found.duration(len(times)))


def _walked(path: Path, record: Record | None) -> tuple[list[float], float | None, bool]:
    """Read all packets: each frame's time, the last one's seconds, and whether the film could be read to its end."""
    whole = False
    with open_film(path) as fresh:
        stream, packets = video_stream(fresh, path), []
        hidden = _hidden_vp8 if stream.codec_context.name == "vp8" else _hidden
        with contextlib.suppress(*broken()):
            for packet in fresh.demux(stream):
                if packet.size and not hidden(packet):
                    packets.append(Stamps(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe))
            whole = True
        shown = _displayed(packets, counts_by_dts(fresh, stream))
        unit = float(stream.time_base)
        clock = Clock(unit, next(iter(named_rates(stream)), STILLS_FPS), counts_by_dts(fresh, stream))
        times = [snap(clock(packet), record, unit) for packet in shown]
        last = shown[-1].duration * unit if shown and shown[-1].duration else None
    return times, last, whole


def _hidden(packet: Any) -> bool:
    return packet.is_discard


def _hidden_vp8(packet: Any) -> bool:
    """Tell from `show_frame`, the fifth bit of a VP8 frame (RFC 6386, section 9.1), that it only serves others."""
    return packet.is_discard or not memoryview(packet)[0] >> 4 & 1


def _displayed(packets: list[Stamps], by_dts: bool) -> list[Stamps]:
    """Leave out what no decoder shows because it comes before the first keyframe, and sort the rest."""
    first = next((place for place, packet in enumerate(packets) if packet.is_keyframe), 0)
    packets = packets[first:]
    stamped = [(packet.pts, packet) for packet in packets if packet.pts is not None]
    if by_dts or len(stamped) < len(packets) or not stamped:
        return packets
    begin = stamped[0][0]
    return [packet for pts, packet in sorted(stamped, key=lambda pair: pair[0]) if pts >= begin]


def fragmented(path: Path) -> bool:
    """Tell whether an ISO base media file keeps frames in fragments (`moof`), which its first index does not list."""
    with path.open("rb") as file:
        return any(name == b"moof" for name in _boxes(file))


def _boxes(file: Any) -> Iterator[bytes]:
    """Yield the names of the outermost boxes (ISO/IEC 14496-12, section 4.2)."""
    size, position = file.seek(0, 2), 0
    while position + 8 <= size:
        file.seek(position)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        yield head[4:8]
        length = int.from_bytes(head[8:16], "big") if length == 1 else length
        if length < 8:  # 0: to the end of the file
            return
        position += length
