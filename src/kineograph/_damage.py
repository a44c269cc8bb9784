"""Signs of damage in a film: what a decoder reports, and data that end before what the header or index promises."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kineograph._container import STILLS_FPS, MediaInfo, reason_of
from kineograph._films import Clock, broken, tag
from kineograph._queue import Queue
from kineograph._riff import whole as whole_riff
from kineograph._watch import Watch
from kineograph.errors import MediaError

LEAVES_OUT = {"hevc"}
"""Codecs whose decoder gives no frame, and no error, for a picture whose references are missing."""
_LEFT_OUT = "the decoder leaves out pictures whose references are missing"


def damaged(path: Path, readable: int, last: float | None, total: float | None, reason: str) -> MediaError:
    """Build the error for a file that breaks off or whose decoder reports damage.

    Args:
        path: The file.
        readable: Number of good frames before the damage.
        last: Time of the last good frame in seconds.
        total: Seconds that the header promises.
        reason: What was found.
    """
    if readable == 0:
        return MediaError(f"'{path}' is truncated or corrupt: not one frame could be read ({reason}).")
    promised = f" of {total:.3f} s" if total else ""
    return MediaError(
        f"'{path}' is truncated or corrupt: readable up to {last:.3f} s{promised} ({readable} frames in a row), then "
        f"{reason}. Read the good part with end={last:.3f}, or make the file again."
    )


def first_frame(container: Any, stream: Any, decode: Callable, path: Path) -> Any:
    try:
        frame = next((frame for packet in container.demux(stream) for frame in decode(packet)), None)
    except broken() as error:
        raise damaged(path, 0, None, None, reason_of(error)) from error
    if frame is not None:
        return frame
    if stream.frames or len(stream.index_entries) or _promised_seconds(container, stream):
        raise damaged(path, 0, None, None, "the header promises frames that are not in the file")
    raise MediaError(f"'{path}' has a video stream without a single frame.")


def strict_frames(
    container: Any,
    stream: Any,
    decode: Callable[[Any], list[Any]],
    info: MediaInfo,
    clock: Clock,
    whole: bool,
) -> Iterator[Any]:
    """Yield frames in display order; raise at the first sign of damage, and at an end that comes too early.

    A picture is damaged as soon as one that it builds on is, and may be displayed before that one. So a frame waits
    until the packets before its own are displayed, too.
    """
    path, packets, end, reason = Path(info.path), 0, 0.0, None
    listed, watch, queue = _listed(path, container, stream), Watch(path, container, stream, whole), Queue()
    leaves_out = stream.codec_context.name in LEAVES_OUT
    try:
        for packet in container.demux(stream):
            packets += bool(packet.size)
            if packet.pts is not None and packet.size:
                begin = packet.pts - (stream.start_time or 0)
                end = max(end, float((begin + (packet.duration or 0)) * stream.time_base))
            if reason := watch.damage(packet):
                break
            queue.sent(packet)
            for frame in decode(packet):
                if frame.is_corrupt:
                    queue.spoil(frame)
                    reason = "the decoder reports a damaged frame"
                elif leaves_out and queue.lacks(frame):
                    reason = _LEFT_OUT
                if reason:
                    break
                yield from queue.shown(frame)
            is_end = not packet.size and packet.dts is None
            if not reason and leaves_out and is_end and queue.lacks(None):
                reason = _LEFT_OUT
            if reason:
                break
    except broken() as error:
        if isinstance(error, MediaError):
            raise
        queue.spoil(None)
        reason = reason_of(error)
    yield from queue.rest()
    if reason := reason or _broken_off(container, stream, packets, listed if whole else 0, end):
        raise damaged(path, clock.frames, clock.last, info.duration, reason)


def _listed(path: Path, container: Any, stream: Any) -> int:
    """Count the frames that index or header promise; 0 where they do not.

    An AVI's header counts places without a frame; what is whole holds what its index lists.
    """
    if container.format.name.startswith("mov"):
        return 0
    if container.format.name == "avi" and whole_riff(path):
        return sum(entry.size > 0 for entry in stream.index_entries)
    return stream.frames


def _broken_off(container: Any, stream: Any, packets: int, listed: int, end: float) -> str | None:
    """Tell whether the data ended before what the header or index promises, and how that was seen."""
    size = container.size
    late = [entry for entry in stream.index_entries if size > 0 and entry.pos + entry.size > size]
    if late:
        return f"the file ends ({size} bytes) although its index names later data"
    if packets < listed:
        return f"the data ends after {packets} of {listed} frames"
    promised = _promised_seconds(container, stream)
    slack = max(0.05, 1.5 / float(stream.average_rate or STILLS_FPS))
    if promised is not None and end < promised - slack:
        return f"the data ends although the header promises {promised:.3f} s"
    return None


def _promised_seconds(container: Any, stream: Any) -> float | None:
    """Seconds of video that a Matroska header promises; None where nothing reliable is said."""
    if not container.format.name.startswith("matroska"):
        return None
    begin = float((stream.start_time or 0) * stream.time_base)
    if match := re.fullmatch(r"(\d+):(\d+):([\d.]+)", (tag(stream.metadata, "duration") or "").strip()):
        hours, minutes, seconds = match.groups()
        return (
            int(hours) * 3600 + int(minutes) * 60 + float(seconds) - float((stream.start_time or 0) * stream.time_base)
        )
    if len(container.streams) == 1 and container.duration:
        return container.duration / 1e6 - begin
    return None
