"""Read moving pictures from disk: what PyAV decodes, animated GIF, WebP and PNG, and folders of pictures.

One protocol for all of them: `open_source(path)` gives a `Source`, whose `pictures(start)` yields `Picture`s, uint8 RGB
or RGBA, in display order, each with its true presentation time. Nothing is repeated, dropped or concealed: a file that
breaks off or whose decoder reports damage ends in a `MediaError` that says how far it was readable.

Times are seconds after the first displayed frame, from the container's own time stamps (edit lists and negative stamps
included). Pixel aspect ratios other than one are reported by `probe` and never applied: pixels stay as they are coded.
Interlaced fields stay woven, and high dynamic range is converted to 8 bits without tone mapping.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import struct
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import unescape

import numpy as np

from kineograph.errors import InputError, MediaError

STILLS_FPS = 8.0
"""Frames per second of pictures that carry no rate of their own (a folder without `video.json`, a single still)."""

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FOLDER_RECORD = "video.json"
RECORD_KEY = "kineograph"

# Demuxers that read the given file and nothing else. A playlist (concat, hls) named .mp4 would open other local files.
_DEMUXERS = (
    "mov,matroska,webm,avi,mpeg,mpegts,mpegvideo,h264,hevc,m4v,av1,obu,ivf,flv,ogg,asf,nut,mxf,dv,rm,yuv4mpegpipe,"
    "mjpeg,wav,mp3,flac,aac,ac3,aiff"
)
_PILLOW_MAGIC = (b"GIF8", b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*")
# FFmpeg SWS_BICUBIC | FULL_CHR_H_INT | FULL_CHR_H_INP | ACCURATE_RND: chroma at full resolution, exact rounding.
SWSCALE_FLAGS = 4 | 8192 | 16384 | 262144
_BT709, _UNSPECIFIED = 1, 2
_FULL_RANGE = 2
_HD_HEIGHT = 720
_FIRST_WORDS = 40


@dataclass(frozen=True)
class MediaInfo:
    """Cheap facts about a file, found without decoding more than one frame.

    Attributes:
        path: The file or folder.
        container: Name of the container format, such as `"mp4"` or `"folder"`.
        codec: Name of the codec, such as `"h264"`.
        pixel_format: The decoder's pixel format, such as `"yuv420p"`.
        width: Displayed width in pixels, after rotation and after cropping the padding that `Video.save` added.
        height: Displayed height in pixels.
        fps: Average frames per second; None where the file does not say.
        frames: Number of frames; None where only decoding could tell.
        duration: Seconds; None where only decoding could tell.
        rotation: Clockwise degrees by which the coded picture is turned for display: 0, 90, 180 or 270.
        alpha: Whether the frames have an alpha channel.
        sample_aspect_ratio: Width of a pixel over its height. Reported, not applied.
        metadata: Prompt, seed and settings embedded by `Video.save`; empty for other files.
    """

    path: str
    container: str
    codec: str
    pixel_format: str
    width: int
    height: int
    fps: float | None
    frames: int | None
    duration: float | None
    rotation: int = 0
    alpha: bool = False
    sample_aspect_ratio: float = 1.0
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What `Video.save` embeds in every file, as one JSON object.

    Attributes:
        frames: Number of frames written.
        fps: Exact frames per second.
        size: (height, width) before padding to an even size.
        channels: 3, or 4 with alpha.
        times: Exact presentation times in seconds, for a variable frame rate.
        metadata: The user's metadata.
        version: The version of this package that wrote the file.
    """

    frames: int
    fps: float
    size: tuple[int, int]
    channels: int
    times: tuple[float, ...] | None
    metadata: dict[str, Any]
    version: str = ""

    def to_json(self) -> str:
        """Write the record as one line of ASCII JSON."""
        content: dict[str, Any] = {RECORD_KEY: self.version, "frames": self.frames, "fps": self.fps}
        content |= {"size": list(self.size), "channels": self.channels, "metadata": self.metadata}
        if self.times is not None:
            content["times"] = list(self.times)
        return json.dumps(content, allow_nan=False)


def parse_record(text: str | bytes | None) -> Record | None:
    """Read a record back; None for a comment that some other program wrote."""
    try:
        content = json.loads(text or "")
        if not isinstance(content, dict) or RECORD_KEY not in content:
            return None
        times = content.get("times")
        height, width = (int(edge) for edge in content["size"])
        return Record(
            frames=int(content["frames"]),
            fps=float(content["fps"]),
            size=(height, width),
            channels=int(content["channels"]),
            times=None if times is None else tuple(float(time) for time in times),
            metadata=dict(content["metadata"]),
            version=str(content[RECORD_KEY]),
        )
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        return None


class Picture(NamedTuple):
    """One displayed frame.

    Attributes:
        time: Seconds after the first frame of the file.
        duration: Seconds on screen, where the file says so.
        pixels: Function that gives uint8 (height, width, 3 or 4). Converting colours costs more than decoding, so it
            waits until somebody looks.
    """

    time: float
    duration: float | None
    pixels: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Source:
    """A readable file.

    Attributes:
        info: Its cheap facts.
        tick: Seconds of one unit of the container's clock: times are known no better than this.
        rates: Frame rates that the container names, best first.
        record: What `Video.save` embedded, or None.
        pictures: Function from a start time in seconds to an iterator over the frames. The iterator begins at the
            latest frame that is displayed at or before the start, or earlier.
    """

    info: MediaInfo
    tick: float
    rates: tuple[float, ...]
    record: Record | None
    pictures: Callable[[float], Iterator[Picture]]


def open_source(path: str | Path) -> Source:
    """Open a video file, an animation, a picture or a folder of pictures.

    Raises:
        MediaError: The path does not exist, or is nothing that can be read as moving pictures.
    """
    path = Path(path)
    if not path.exists():
        raise MediaError(f"There is no file or folder '{path}'{_neighbour(path)}")
    if path.is_dir():
        return _open_folder(path)
    try:
        with path.open("rb") as file:
            head = file.read(_FIRST_WORDS)
    except OSError as error:
        raise MediaError(f"'{path}' cannot be opened: {error.strerror}.") from error
    if not head:
        raise MediaError(f"'{path}' is empty (0 bytes), so it holds no video.")
    if head.startswith(_PILLOW_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return _open_picture(path)
    return _open_av(path, head)


def _neighbour(path: Path) -> str:
    from kineograph.errors import nearest

    if not path.parent.is_dir():
        return f"; the folder '{path.parent}' does not exist either."
    return nearest(path.name, (entry.name for entry in path.parent.iterdir())) or "."


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


# ---------------------------------------------------------------------------------------------------------------- PyAV


def _open_av(path: Path, head: bytes) -> Source:
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
        reason = "it ends before the first frame" if isinstance(error, EOFError) else _reason(error)
        raise MediaError(f"'{path}' is not a video that can be read{_looks_like(head)}: {reason}.") from error
    with container:
        yield container


def _broken() -> tuple[type[Exception], ...]:
    """Errors that a broken file may raise: all of FFmpeg's, and those for text and numbers in headers."""
    import av.error

    return (av.error.FFmpegError, OSError, ValueError)


def _looks_like(head: bytes) -> str:
    text = head.decode("utf-8", errors="replace").replace("\ufffd", "\0").splitlines()[:1]
    if text and text[0].isprintable() and text[0].strip():
        return f" (it is text that begins '{text[0]}')"
    return ""


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__).rstrip(".").lower()


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
        raise damaged(path, 0, None, None, _reason(error)) from error
    if frame is not None:
        return frame
    if stream.frames or len(stream.index_entries) or _promised_seconds(container, stream):
        raise damaged(path, 0, None, None, "the header promises frames that are not in the file")
    raise MediaError(f"'{path}' has a video stream without a single frame.")


def _av_info(path: Path, container: Any, stream: Any, frame: Any, record: Record | None) -> MediaInfo:
    transform = _display_transform(frame, path)
    height, width = (frame.width, frame.height) if transform.transpose else (frame.height, frame.width)
    height, width = _cropped(height, width, record)
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


class _Transform(NamedTuple):
    """A display matrix of right angles: transpose first, then flip columns, then rows."""

    transpose: bool
    flip_columns: bool
    flip_rows: bool

    @property
    def rotation(self) -> int:
        """Clockwise degrees; a mirrored picture reports the rotation that remains without the mirror."""
        if self.transpose:
            return 90 if self.flip_columns else 270
        return 180 if self.flip_rows else 0

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        if self.transpose:
            pixels = pixels.swapaxes(0, 1)
        if self.flip_columns:
            pixels = pixels[:, ::-1]
        return pixels[::-1] if self.flip_rows else pixels


def _display_transform(frame: Any, path: Path) -> _Transform:
    """Read the display matrix: (x, y) of the coded picture goes to (a x + c y, b x + d y) on screen."""
    matrix = next((bytes(side) for side in frame.side_data if side.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return _Transform(False, False, False)
    a, b, _, c, d = (entry / 65536 for entry in np.frombuffer(matrix, np.int32)[:5].tolist())
    straight, turned = max(abs(b), abs(c)) < 1e-2, max(abs(a), abs(d)) < 1e-2
    if straight == turned:
        angle = math.degrees(math.atan2(b, a))
        raise MediaError(f"'{path}' asks to be shown turned by {angle:.1f} degrees; only right angles are supported.")
    return _Transform(False, a < 0, d < 0) if straight else _Transform(True, c < 0, b < 0)


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
            time = _snap(clock(frame), record, tick)
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
                    raise damaged(path, clock.frames, clock.last, info.duration, "the decoder reports a damaged frame")
                yield frame
    except _broken() as error:
        if isinstance(error, MediaError):
            raise
        raise damaged(path, clock.frames, clock.last, info.duration, _reason(error)) from error
    if reason := _broken_off(container, stream, packets if whole else None, end):
        raise damaged(path, clock.frames, clock.last, info.duration, reason)


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


def _snap(time: float, record: Record | None, tick: float) -> float:
    """Replace a time rounded by the container's clock by the exact one of the record, if they agree."""
    if record is None:
        return time
    if record.times is None:
        exact = round(time * record.fps) / record.fps
    else:
        index = bisect_left(record.times, time)
        exact = min(record.times[max(index - 1, 0) : index + 1], key=lambda known: abs(known - time), default=time)
    return exact if abs(exact - time) <= tick else time


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


# -------------------------------------------------------------------------------------------------------------- Pillow


def _open_picture(path: Path) -> Source:
    timing = _webp_timing(path)
    with _pillow(path) as image:
        frames = len(_shown(image))
        container = (image.format or "").lower()
        record = parse_record(_picture_comment(image))
        alpha = _picture_alpha(image, path, record)
        width, height = image.size
        mode = image.mode
    tick = {"gif": 0.01, "webp": 0.001}.get(container, 1e-4)
    still_fps = record.fps if record else (STILLS_FPS if frames == 1 else None)
    durations = [1000 / still_fps] if still_fps and frames == 1 else timing or _pillow_durations(path)
    seconds = sum(durations) / 1000
    facts = MediaInfo(
        path=str(path),
        container="apng" if container == "png" and frames > 1 else container,
        codec=container,
        pixel_format=mode,
        width=width,
        height=height,
        fps=still_fps or frames / seconds,
        frames=frames,
        duration=seconds,
        alpha=alpha,
        metadata=record.metadata if record else {},
    )
    return Source(
        info=facts,
        tick=tick,
        rates=(facts.fps,) if facts.fps else (),
        record=record,
        pictures=lambda start: _pillow_pictures(path, facts, durations, record, tick),
    )


@contextlib.contextmanager
def _pillow(path: Path) -> Iterator[Any]:
    from PIL import Image

    try:
        image = Image.open(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MediaError(f"'{path}' is not a picture that can be read: {_reason(error)}.") from error
    with image:
        yield image


def _picture_comment(image: Any) -> str | bytes | None:
    """Find the text in which `Video.save` keeps its record: GIF comment, PNG text, WebP XMP description."""
    if comment := image.info.get("comment"):
        return comment
    xmp = image.info.get("xmp")
    if isinstance(xmp, bytes):
        found = re.search(rb"<dc:description>(.*?)</dc:description>", xmp, re.DOTALL)
        return unescape(found.group(1).decode("utf-8", errors="replace")) if found else None
    return image.info.get("Comment")


def _picture_alpha(image: Any, path: Path, record: Record | None) -> bool:
    """Tell whether any frame shows transparency. GIF frames use it for compression too, so those are looked at."""
    if record is not None:
        return record.channels == 4
    if image.format != "GIF":
        return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    return any(_shows_through(frame) for frame in _pillow_frames(path))


def _shows_through(frame: Any) -> bool:
    if frame.mode not in ("RGBA", "LA", "PA") and "transparency" not in frame.info:
        return False
    return frame.convert("RGBA").getchannel("A").getextrema()[0] < 255


def _pillow_frames(path: Path) -> Iterator[Any]:
    """Yield composited frames; a file that breaks off raises with the number of good frames."""
    with _pillow(path) as image:
        shown, good = _shown(image), 0
        try:
            for index in shown:
                image.seek(index)
                image.load()
                yield image
                good += 1
        except (OSError, EOFError, SyntaxError, ValueError) as error:
            if isinstance(error, MediaError):
                raise
            what = f"readable are the first {good} of {len(shown)} frames" if good else "not one frame could be read"
            raise MediaError(f"'{path}' is truncated or corrupt: {what} ({_reason(error)}).") from error


def _shown(image: Any) -> range:
    """Indices of the frames that are shown: an animated PNG may begin with a picture for other programs only."""
    total = getattr(image, "n_frames", 1)
    return range(1 if image.info.get("default_image") and total > 1 else 0, total)


def _webp_timing(path: Path) -> list[float] | None:
    """Walk the chunks of a WebP file without decoding: milliseconds of every frame; None for anything else.

    Raises:
        MediaError: The file is shorter than its header says.
    """
    with path.open("rb") as file:
        name, size, kind = struct.unpack("<4sI4s", file.read(12).ljust(12))
        if (name, kind) != (b"RIFF", b"WEBP"):
            return None
        promised, present = size + 8, file.seek(0, 2)
        durations, position = [], 12
        while position + 24 <= min(promised, present):
            file.seek(position)
            name, size, head = struct.unpack("<4sI16s", file.read(24))
            position += 8 + size + size % 2
            if name == b"ANMF" and position <= present:
                durations.append(_browser_delay(int.from_bytes(head[12:15], "little"), "WEBP"))
    if present < promised:
        raise MediaError(
            f"'{path}' is truncated or corrupt: it has {present} of {promised} bytes and breaks off after "
            f"{len(durations)} whole frames."
        )
    return durations or None


def _pillow_durations(path: Path) -> list[float]:
    """Milliseconds of every frame. Browsers show a delay of 0 or 10 ms for 100 ms, and so do we."""
    return [_browser_delay(frame.info.get("duration"), frame.format) for frame in _pillow_frames(path)]


def _browser_delay(milliseconds: float | None, container: str) -> float:
    if not milliseconds or (container == "GIF" and milliseconds <= 10):
        return 100.0
    return float(milliseconds)


def _same(pixels: np.ndarray) -> np.ndarray:
    return pixels


def _pillow_pictures(
    path: Path, info: MediaInfo, durations: list[float], record: Record | None, tick: float
) -> Iterator[Picture]:
    elapsed = 0.0
    for frame, milliseconds in zip(_pillow_frames(path), durations, strict=True):
        pixels = np.array(frame.convert("RGBA" if info.alpha else "RGB"))
        yield Picture(_snap(elapsed / 1000, record, tick), milliseconds / 1000, partial(_same, pixels))
        elapsed += milliseconds


# -------------------------------------------------------------------------------------------------------------- folder


def _open_folder(folder: Path) -> Source:
    record = _folder_record(folder)
    files = _folder_pictures(folder)
    if record is not None and record.frames != len(files):
        raise MediaError(
            f"'{folder}' holds {len(files)} pictures, but its {FOLDER_RECORD} speaks of {record.frames}: some were "
            f"added or lost. Delete {FOLDER_RECORD} to read the folder as plain pictures."
        )
    with _pillow(files[0]) as image:
        (width, height), mode = image.size, image.mode
        alpha = record.channels == 4 if record else (mode in ("RGBA", "LA", "PA") or "transparency" in image.info)
    fps = record.fps if record else STILLS_FPS
    times = record.times if record and record.times else tuple(index / fps for index in range(len(files)))
    info = MediaInfo(
        path=str(folder),
        container="folder",
        codec=files[0].suffix.lower().lstrip("."),
        pixel_format=mode,
        width=width,
        height=height,
        fps=fps,
        frames=len(files),
        duration=times[-1] + 1 / fps,
        alpha=alpha,
        metadata=record.metadata if record else {},
    )
    return Source(info, 1e-9, (fps,), record, lambda start: _folder_frames(files, times, info))


def _folder_record(folder: Path) -> Record | None:
    file = folder / FOLDER_RECORD
    if not file.exists():
        return None
    record = parse_record(file.read_bytes())
    if record is None:
        raise MediaError(f"'{file}' is not a record that this package wrote; delete it to read the pictures alone.")
    return record


def _folder_pictures(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES]
    if not files:
        found = sorted({entry.suffix.lower() or "folders" for entry in folder.iterdir()})
        raise MediaError(
            f"The folder '{folder}' holds no pictures ({', '.join(PICTURE_SUFFIXES)})"
            f"{'; it holds ' + ', '.join(found) if found else '; it is empty'}."
        )
    return sorted(files, key=_natural)


def _natural(file: Path) -> list[tuple[int, int, str]]:
    """Sort 2.png before 10.png."""
    pieces = re.split(r"(\d+)", file.name)
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in pieces]


def _folder_frames(files: list[Path], times: tuple[float, ...], info: MediaInfo) -> Iterator[Picture]:
    for file, time in zip(files, times, strict=True):
        yield Picture(time, None, partial(_folder_frame, file, info))


def _folder_frame(file: Path, info: MediaInfo) -> np.ndarray:
    pixels = np.array(next(_pillow_frames(file)).convert("RGBA" if info.alpha else "RGB"))
    if pixels.shape[:2] != (info.height, info.width):
        raise MediaError(
            f"'{file}' is {pixels.shape[1]}x{pixels.shape[0]} pixels, but the folder's first picture is "
            f"{info.width}x{info.height}: frames of one video must have one size."
        )
    return pixels


def check_window(start: float, end: float | None, fps: float | None, num_frames: int | None) -> None:
    """Refuse a start, end, rate or frame count that asks for nothing."""
    if not (math.isfinite(start) and start >= 0):
        raise InputError(f"start={start} is not a time in the video: give seconds, 0 or more.")
    if end is not None and not end > start:
        raise InputError(f"end={end} is not after start={start}: both are seconds.")
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise InputError(f"fps={fps} is not a frame rate: give frames per second, more than 0.")
    if num_frames is not None and num_frames < 1:
        raise InputError(f"num_frames={num_frames} asks for nothing: give 1 or more.")
