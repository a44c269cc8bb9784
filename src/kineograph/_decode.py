"""Decode video files with PyAV: true times, display rotation, alpha, colours, and honest ends.

The first sign of damage stops the reading: a decoder's error, a frame marked as damaged, or data that end before what
the header or index promises.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kineograph._container import (
    STILLS_FPS,
    SWSCALE_FLAGS,
    MediaInfo,
    Picture,
    Record,
    Source,
    parse_record,
    reason_of,
    snap,
)
from kineograph._orientation import Transform
from kineograph.errors import MediaError

# Demuxers that read the given file and nothing else. A playlist (concat, hls) named .mp4 would open other local files.
_DEMUXERS = (
    "mov,matroska,webm,avi,mpeg,mpegts,mpegvideo,h264,hevc,m4v,av1,obu,ivf,flv,ogg,asf,nut,mxf,dv,rm,yuv4mpegpipe,"
    "mjpeg,wav,mp3,flac,aac,ac3,aiff"
)
_BT709, _UNSPECIFIED = 1, 2
_FULL_RANGE = 2
_HD_HEIGHT = 720


def _damaged(path: Path, readable: int, last: float | None, total: float | None, reason: str) -> MediaError:
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


def open_av(path: Path, head: bytes) -> Source:
    with _av_container(path, head) as container:
        stream = _video_stream(container, path)
        record = parse_record(_tag(container.metadata, "comment"))
        decoder = _decoder(stream, path)
        first = _first_frame(container, stream, decoder, path)
        info = _av_info(path, container, stream, first, record)
        rates = [stream.guessed_rate, stream.average_rate, stream.base_rate]
        tick = float(stream.time_base)
    known = tuple(float(rate) for rate in rates if rate)
    return Source(
        info=info,
        tick=tick,
        rates=((record.fps, *known) if record else known),
        record=record,
        pictures=lambda start: _av_pictures(path, info, record, tick, start),
    )


@contextlib.contextmanager
def _av_container(path: Path, head: bytes = b"") -> Iterator[Any]:
    import av

    options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}
    try:
        container = av.open(f"file:{path}", metadata_errors="replace", container_options=options)
    except _broken() as error:
        reason = "it ends before the first frame" if isinstance(error, EOFError) else reason_of(error)
        raise MediaError(f"'{path}' is not a video that can be read{_looks_like(head)}: {reason}.") from error
    with container:
        yield container


def _broken() -> tuple[type[Exception], ...]:
    """Errors that a broken file may raise: all of FFmpeg's, and those for text and numbers in headers."""
    import av.error

    return (av.error.FFmpegError, OSError, ValueError)


def _looks_like(head: bytes) -> str:
    text = head[:40].decode("utf-8", errors="replace").replace("\ufffd", "\0").splitlines()[:1]
    if text and text[0].isprintable() and text[0].strip():
        return f" (it is text that begins '{text[0]}')"
    return ""


def _video_stream(container: Any, path: Path) -> Any:
    import av.stream

    attached = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & attached]
    if streams:
        return streams[0]
    kinds = sorted({stream.type for stream in container.streams})
    if "audio" in kinds:
        raise MediaError(f"'{path}' holds sound but no video stream.")
    raise MediaError(f"'{path}' holds no video stream{' (only ' + ', '.join(kinds) + ')' if kinds else ''}.")


def _decoder(stream: Any, path: Path) -> Callable[[Any], list[Any]]:
    """Decode packets of a stream. VP8 and VP9 carry alpha beside the picture, which only libvpx decodes."""
    import av

    if stream.codec_context is None:
        raise MediaError(f"'{path}' uses a codec that this build of FFmpeg does not know.")
    if not stream.codec_context.is_open:
        stream.codec_context.thread_count = 1
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if name is None or _tag(stream.metadata, "alpha_mode") != "1":
        return lambda packet: list(packet.decode())
    context = av.CodecContext.create(name, "r")
    return lambda packet: list(context.decode(packet if packet.size else None))  # pyright: ignore


def _tag(tags: dict[str, str], name: str) -> str | None:
    return next((value for key, value in tags.items() if key.lower() == name), None)


def _first_frame(container: Any, stream: Any, decode: Callable, path: Path) -> Any:
    try:
        frame = next((frame for packet in container.demux(stream) for frame in decode(packet)), None)
    except _broken() as error:
        raise _damaged(path, 0, None, None, reason_of(error)) from error
    if frame is not None:
        return frame
    if stream.frames or len(stream.index_entries) or _promised_seconds(container, stream):
        raise _damaged(path, 0, None, None, "the header promises frames that are not in the file")
    raise MediaError(f"'{path}' has a video stream without a single frame.")


def _av_info(path: Path, container: Any, stream: Any, frame: Any, record: Record | None) -> MediaInfo:
    transform = _display_transform(frame, path)
    height, width = _cropped(*transform.size(frame.height, frame.width), record)
    frames, duration = _length(path, container, stream)
    fps = record.fps if record else float(stream.average_rate or stream.guessed_rate or 0) or None
    if duration is None and fps and frames:
        duration = frames / fps
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return MediaInfo(
        path=str(path),
        container=_container_name(container.format.name, path),
        codec=stream.codec_context.name,
        pixel_format=frame.format.name,
        width=width,
        height=height,
        fps=fps,
        frames=frames,
        duration=duration,
        rotation=transform.rotation,
        alpha=_has_alpha(frame),
        sample_aspect_ratio=float(aspect) if aspect else 1.0,
        metadata=record.metadata if record else {},
    )


def _container_name(names: str, path: Path) -> str:
    suffix = path.suffix.lower().lstrip(".")
    return suffix if suffix in names.split(",") else names.split(",")[0]


def _length(path: Path, container: Any, stream: Any) -> tuple[int | None, float | None]:
    """Count frames and seconds from the index where there is one, else by walking the packets without decoding."""
    seconds = float(stream.duration * stream.time_base) if stream.duration else None
    if container.format.name.startswith("mov") and len(stream.index_entries):
        return sum(not entry.is_discard for entry in stream.index_entries), seconds
    count, begins, ends = 0, [], []
    with _av_container(path) as fresh, contextlib.suppress(*_broken()):
        for packet in fresh.demux(_video_stream(fresh, path)):
            if packet.size and not packet.is_discard:
                count += 1
                if packet.pts is not None:
                    begins.append(packet.pts)
                    ends.append(packet.pts + (packet.duration or 0))
    if seconds is None and begins:
        seconds = float((max(ends) - min(begins)) * stream.time_base)
    return count, seconds


def _has_alpha(frame: Any) -> bool:
    return any(component.is_alpha for component in frame.format.components) or frame.format.name == "pal8"


def _display_transform(frame: Any, path: Path) -> Transform:
    """Read the display matrix: (x, y) of the coded picture goes to (a x + c y, b x + d y) on screen."""
    matrix = next((bytes(side) for side in frame.side_data if side.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return Transform()
    a, b, _, c, d = (entry / 65536 for entry in np.frombuffer(matrix, np.int32)[:5].tolist())
    straight, turned = max(abs(b), abs(c)) < 1e-2, max(abs(a), abs(d)) < 1e-2
    if straight == turned:
        angle = math.degrees(math.atan2(b, a))
        raise MediaError(f"'{path}' asks to be shown turned by {angle:.1f} degrees; only right angles are supported.")
    return Transform(False, a < 0, d < 0) if straight else Transform(True, c < 0, b < 0)


def _cropped(height: int, width: int, record: Record | None) -> tuple[int, int]:
    """Give the size without the padding to even numbers, if that is what was added."""
    if record and (height, width) == (record.size[0] + record.size[0] % 2, record.size[1] + record.size[1] % 2):
        return record.size
    return height, width


def _av_pictures(path: Path, info: MediaInfo, record: Record | None, tick: float, start: float) -> Iterator[Picture]:
    """Decode from the latest keyframe before `start`; from the beginning if seeking lands too late."""
    if start > 0:
        with contextlib.closing(_av_decode(path, info, record, tick, start)) as sought:
            head = next(sought, None)
            if head is not None and head.time <= start:
                yield head
                yield from sought
                return
    yield from _av_decode(path, info, record, tick, None)


def _av_decode(
    path: Path, info: MediaInfo, record: Record | None, tick: float, seek: float | None
) -> Generator[Picture, None, None]:
    with _av_container(path) as container:
        stream = _video_stream(container, path)
        clock = _Clock(float(stream.time_base), info.fps or STILLS_FPS, by_dts=container.format.name == "avi")
        decode = _decoder(stream, path)
        if seek is not None:
            clock.origin = clock.stamp(_first_frame(container, stream, decode, path))
            try:
                container.seek(round(seek / clock.unit) + (clock.origin or 0), stream=stream, backward=True)
            except OSError:  # A raw stream has no index; the caller reads it from the beginning.
                return
            decode = _decoder(stream, path)
        for frame in _strict_frames(container, stream, decode, info, clock, whole=seek is None):
            time = snap(clock(frame), record, tick)
            duration = frame.duration * clock.unit if frame.duration else None
            yield Picture(time, duration, partial(_to_pixels, frame, info, record, path))


class _Clock:
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


def _strict_frames(
    container: Any,
    stream: Any,
    decode: Callable[[Any], list[Any]],
    info: MediaInfo,
    clock: _Clock,
    whole: bool,
) -> Iterator[Any]:
    """Yield frames in display order; raise at the first sign of damage, and at an end that comes too early."""
    path, packets, end = Path(info.path), 0, 0.0
    try:
        for packet in container.demux(stream):
            packets += bool(packet.size)
            if packet.pts is not None and packet.size:
                begin = packet.pts - (stream.start_time or 0)
                end = max(end, float((begin + (packet.duration or 0)) * stream.time_base))
            for frame in decode(packet):
                if frame.is_corrupt:
                    raise _damaged(path, clock.frames, clock.last, info.duration, "the decoder reports a damaged frame")
                yield frame
    except _broken() as error:
        if isinstance(error, MediaError):
            raise
        raise _damaged(path, clock.frames, clock.last, info.duration, reason_of(error)) from error
    if reason := _broken_off(container, stream, packets if whole else None, end):
        raise _damaged(path, clock.frames, clock.last, info.duration, reason)


def _broken_off(container: Any, stream: Any, packets: int | None, end: float) -> str | None:
    """Tell whether the data ended before what the header or index promises, and how that was seen."""
    size = container.size
    late = [entry for entry in stream.index_entries if size > 0 and entry.pos + entry.size > size]
    if late:
        return f"the file ends ({size} bytes) although its index names later data"
    is_mov = container.format.name.startswith("mov")
    if packets is not None and not is_mov and packets < stream.frames:
        return f"the data ends after {packets} of {stream.frames} frames"
    promised = _promised_seconds(container, stream)
    slack = max(0.05, 1.5 / float(stream.average_rate or STILLS_FPS))
    if promised is not None and end < promised - slack:
        return f"the data ends although the header promises {promised:.3f} s"
    return None


def _promised_seconds(container: Any, stream: Any) -> float | None:
    """Seconds of video that a Matroska header promises; None where nothing reliable is said."""
    if not container.format.name.startswith("matroska"):
        return None
    if match := re.fullmatch(r"(\d+):(\d+):([\d.]+)", (_tag(stream.metadata, "duration") or "").strip()):
        hours, minutes, seconds = match.groups()
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - (stream.start_time or 0) * stream.time_base
    if len(container.streams) == 1 and container.duration:
        return container.duration / 1e6
    return None


def _to_pixels(frame: Any, info: MediaInfo, record: Record | None, path: Path) -> np.ndarray:
    """Convert a decoded frame to uint8 RGB or RGBA, upright and without padding."""
    untagged = frame.colorspace == _UNSPECIFIED and not frame.format.is_rgb
    pixels = frame.reformat(
        format="rgba" if info.alpha else "rgb24",
        # Files without a colour tag: BT.709 from 720 lines on, BT.601 below, as players do.
        src_colorspace=_BT709 if untagged and frame.height >= _HD_HEIGHT else None,
        src_color_range=frame.color_range or None,
        dst_color_range=_FULL_RANGE,
        interpolation=SWSCALE_FLAGS,
        threads=1,
    ).to_ndarray()
    pixels = _display_transform(frame, path).apply(pixels)
    height, width = _cropped(pixels.shape[0], pixels.shape[1], record)
    return np.ascontiguousarray(pixels[:height, :width])
