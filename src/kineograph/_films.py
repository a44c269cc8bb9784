"""Open film files with PyAV: only formats that read the given file and nothing else; one stream, one clock."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kineograph._container import reason_of
from kineograph._rates import ntsc
from kineograph.errors import MediaError

# Demuxers that read the given file and nothing else. A playlist (concat, hls) named .mp4 would open other local files.
DEMUXERS = (
    "mov,matroska,webm,avi,mpeg,mpegts,mpegvideo,h264,hevc,m4v,av1,obu,ivf,flv,ogg,asf,nut,mxf,dv,rm,yuv4mpegpipe,"
    "mjpeg,wav,mp3,flac,aac,ac3,aiff"
)


@contextlib.contextmanager
def open_film(path: Path, head: bytes = b"") -> Iterator[Any]:
    import av

    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
    try:
        container = av.open(f"file:{path}", metadata_errors="replace", container_options=options)
    except broken() as error:
        reason = "it ends before the first frame" if isinstance(error, EOFError) else reason_of(error)
        raise MediaError(f"'{path}' is not a video that can be read{_looks_like(head)}: {reason}.") from error
    with container:
        yield container


def broken() -> tuple[type[Exception], ...]:
    """Errors that a broken file may raise: all of FFmpeg's, and those for text and numbers in headers."""
    import av.error

    return (av.error.FFmpegError, OSError, ValueError)


def _looks_like(head: bytes) -> str:
    text = head[:40].decode("utf-8", errors="replace").replace("\ufffd", "\0").splitlines()[:1]
    if text and text[0].isprintable() and text[0].strip():
        return f" (it is text that begins '{text[0]}')"
    return ""


def video_stream(container: Any, path: Path) -> Any:
    import av.stream

    attached = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & attached]
    if streams:
        return streams[0]
    kinds = sorted({stream.type for stream in container.streams})
    if "audio" in kinds:
        raise MediaError(f"'{path}' holds sound but no video stream.")
    raise MediaError(f"'{path}' holds no video stream{' (only ' + ', '.join(kinds) + ')' if kinds else ''}.")


CHECKED = {"mjpeg", "png", "apng"}
"""Codecs whose decoders pass over damage that they see unless told to stop: check sums, scans that do not end."""


def decoder_of(stream: Any, path: Path) -> Callable[[Any], list[Any]]:
    """Decode packets of a stream. VP8 and VP9 carry alpha beside the picture, which only libvpx decodes."""
    import av

    if stream.codec_context is None:
        raise MediaError(f"'{path}' uses a codec that this build of FFmpeg does not know.")
    if not stream.codec_context.is_open:
        stream.codec_context.thread_count = 1
        if stream.codec_context.name in CHECKED:
            stream.codec_context.options = {"err_detect": "crccheck+explode"}
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if name is None or tag(stream.metadata, "alpha_mode") != "1":
        return lambda packet: list(packet.decode())
    context = av.CodecContext.create(name, "r")
    return lambda packet: list(context.decode(packet if packet.size else None))  # pyright: ignore


def tag(tags: dict[str, str], name: str) -> str | None:
    return next((value for key, value in tags.items() if key.lower() == name), None)


class Clock:
    """Turn frames' time stamps into seconds after the first frame.

    A missing stamp, or one that does not increase, is replaced by the previous time plus one frame interval. AVI knows
    no presentation times: its stamps count packets, so there the decoding times, which do increase, are used.
    """

    def __init__(self, unit: float, fps: float, by_dts: bool) -> None:
        self.unit, self.interval, self.by_dts = unit, 1 / fps, by_dts
        self.origin: int | None = None
        self.last: float | None = None
        self.frames = 0

    def stamp(self, frame: Any) -> int | None:
        return frame.dts if self.by_dts or frame.pts is None else frame.pts

    def __call__(self, frame: Any) -> float:
        stamp = self.stamp(frame)
        if self.origin is None:
            self.origin = stamp
        if stamp is None or self.origin is None:
            time = 0.0 if self.last is None else self.last + self.interval
        else:
            time = (stamp - self.origin) * self.unit
        if self.last is not None and time <= self.last:
            time = self.last + self.interval
        self.last, self.frames = time, self.frames + 1
        return time


def counts_by_dts(container: Any, stream: Any) -> bool:
    """Whether the container knows no presentation times, so that decoding times stand for them.

    AVI does not, nor does Matroska for what it holds as AVI would (`V_MS/VFW/FOURCC`); there, FFmpeg makes presentation
    times of reordered pictures up, and they do not ascend. Such a track has a four-character code, others have none.
    """
    name = container.format.name
    return name == "avi" or (name.startswith("matroska") and stream.codec_context.codec_tag.strip("\0") != "")


def named_rates(stream: Any) -> tuple[float, ...]:
    """Return the frame rates that a container names, best first."""
    rates = (stream.guessed_rate, stream.average_rate, stream.base_rate)
    return tuple(float(ntsc(rate) or rate) for rate in rates if rate)
