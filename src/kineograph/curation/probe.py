"""Look at a file without trusting it: which demuxer, which stream, how large; and refuse what must not be decoded.

The header of a hostile file may name other files (playlists), claim 60000x60000 pixels or hold text that is no text.
Only demuxers that read the given file and nothing else are allowed, only the protocol `file`, and size, rate and length
are checked before the first packet is decoded.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kineograph._films import DEMUXERS as _DEMUXERS
from kineograph._films import counts_by_dts
from kineograph.curation.config import Limits
from kineograph.curation.ids import printable

DEMUXERS = f"{_DEMUXERS},gif,apng"


class Rejected(Exception):
    """A source that cannot be used: a status of `rows.STATUSES` and a reason for people."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Probe:
    """What the header says.

    Attributes:
        container: FFmpeg's name of the demuxer.
        stream: Index of the chosen video stream.
        codec: Its codec.
        pixel_format: Its pixel format; empty where the header does not say.
        width: Coded width.
        height: Coded height.
        aspect: Width of a pixel over its height.
        rate: Frames per second; None where the header does not say.
        duration: Seconds that the header promises for the video stream; None where it does not say.
        frames: Frames that the header promises; 0 where it does not say.
        time_base: Seconds per unit of pts, as `"num/den"`.
        start_time: pts at which the stream begins, or None.
        by_dts: Whether decoding times stand for presentation times, as `counts_by_dts` says.
        video_streams: Number of video streams that are not cover art.
    """

    container: str
    stream: int
    codec: str
    pixel_format: str
    width: int
    height: int
    aspect: float
    rate: float | None
    duration: float | None
    frames: int
    time_base: str
    start_time: int | None
    by_dts: bool
    video_streams: int


def check_file(path: str, limits: Limits) -> int:
    """Return the size of a regular, readable, non-empty file.

    Raises:
        Rejected: It is something else.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - the path may hold bytes that are not UTF-8
    except OSError as error:
        raise Rejected("unreadable", _words(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise Rejected("unsupported", "not a regular file")
    if not status.st_size:
        raise Rejected("unreadable", "empty (0 bytes)")
    if status.st_size > limits.max_gigabytes * 1e9:
        raise Rejected("too_large", f"{status.st_size / 1e9:.1f} GB, the limit is {limits.max_gigabytes:g} GB")
    return status.st_size


@contextlib.contextmanager
def footage(path: str) -> Iterator[Any]:
    """Open a file as a PyAV container, with demuxers and protocols restricted.

    Raises:
        Rejected: It cannot be opened; whatever the library raised is turned into a status.
    """
    import av

    av.logging.set_level(None)  # A Python log callback inside FFmpeg's threads deadlocks (PyAV #751).
    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
    try:
        container = av.open(f"file:{path}", metadata_errors="ignore", container_options=options)
    except Exception as error:  # a fuzzed header raises anything, UnicodeDecodeError included
        raise _rejection(error, path) from error
    with container:
        yield container


_PLAYLISTS = (b"ffconcat", b"#EXTM3U", b"[playlist]", b"<?xml", b"<MPD")


def _rejection(error: Exception, path: str) -> Rejected:
    """Tell a kind of file that is not allowed from one that is broken."""
    if _head(path).lstrip().startswith(_PLAYLISTS):
        return Rejected("unsupported", "a list of other files, which are not opened")
    if isinstance(error, OSError) and error.errno == errno.EINVAL and not _is_invalid_data(error):
        return Rejected("unsupported", "a picture or another format that is not read as footage")
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return Rejected("too_large", "its header asks for more memory than there is")
    return Rejected("unreadable", _words(error))


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(64)
    except OSError:
        return b""


def _is_invalid_data(error: Exception) -> bool:
    import av.error

    return isinstance(error, av.error.InvalidDataError)


def _words(error: BaseException) -> str:
    text = str(getattr(error, "strerror", None) or error or "") or type(error).__name__
    return printable(text.encode("utf-8", "replace")).replace("\n", " ")[:300]


def choose_stream(container: Any) -> Any:
    """Return the video stream with most pixels, the first among equals; cover art does not count.

    Raises:
        Rejected: There is none, or nothing here decodes it.
    """
    streams = video_streams(container)
    if not streams:
        kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
        raise Rejected("no_video", f"no video stream, only {', '.join(kinds)}")
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        raise Rejected("unsupported", "a codec that this build of FFmpeg does not know")
    return max(known, key=lambda stream: (stream.width or 0) * (stream.height or 0))


def video_streams(container: Any) -> list[Any]:
    """Return the video streams that are not cover art."""
    import av.stream

    attached = av.stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if not stream.disposition & attached]


def examine(container: Any, limits: Limits) -> tuple[Any, Probe]:
    """Choose a stream, read what the header says about it, and refuse what exceeds the limits.

    Returns:
        The stream and the facts.

    Raises:
        Rejected: No stream, or a limit.
    """
    stream = choose_stream(container)
    context = stream.codec_context
    rate = stream.average_rate or stream.guessed_rate
    aspect = stream.sample_aspect_ratio or context.sample_aspect_ratio
    facts = Probe(
        container=container.format.name,
        stream=stream.index,
        codec=context.name,
        pixel_format=context.pix_fmt or "",
        width=context.width,
        height=context.height,
        aspect=float(aspect) if aspect else 1.0,
        rate=float(rate) if rate else None,
        duration=_promised_seconds(container, stream),
        frames=stream.frames,
        time_base=f"{stream.time_base.numerator}/{stream.time_base.denominator}",
        start_time=stream.start_time,
        by_dts=counts_by_dts(container, stream),
        video_streams=len(video_streams(container)),
    )
    _check(facts, limits)
    return stream, facts


def _promised_seconds(container: Any, stream: Any) -> float | None:
    """Return the header's length of the video; a whole container's length only where nothing else is in it.

    A length may count from 0 although its film begins later (ASF; Matroska as FFmpeg writes it), or from the film's
    beginning (Matroska as mkvmerge writes it); the smaller one is promised either way.
    """
    late = max(float((stream.start_time or 0) * stream.time_base), 0.0)
    if stream.duration:
        seconds = float(stream.duration * stream.time_base)
        return _after(seconds, late) if container.format.name == "asf" else seconds
    if container.duration and len(container.streams) == 1:
        return _after(container.duration / 1e6, late)
    return None


def _after(seconds: float, late: float) -> float:
    return seconds - late if late < seconds else seconds


def _check(facts: Probe, limits: Limits) -> None:
    if facts.width * facts.height > limits.max_pixels:
        raise Rejected("too_large", f"{facts.width}x{facts.height}, the limit is {limits.max_pixels} pixels")
    if facts.rate and not (math.isfinite(facts.rate) and facts.rate <= limits.max_fps):
        raise Rejected("too_large", f"{facts.rate:g} frames per second, the limit is {limits.max_fps:g}")
    if facts.duration and facts.duration > limits.max_hours * 3600:
        raise Rejected("too_large", f"{facts.duration / 3600:.1f} h, the limit is {limits.max_hours:g} h")


def probe(path: str, limits: Limits | None = None) -> Probe:
    """Return what a file's header says.

    Raises:
        Rejected: The file cannot be used.
    """
    limits = limits or Limits()
    check_file(path, limits)
    with footage(path) as container:
        return examine(container, limits)[1]
