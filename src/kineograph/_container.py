"""Read moving pictures from disk: what PyAV decodes, animated GIF, WebP and PNG, and folders of pictures.

One protocol for all of them: `open_source(path)` gives a `Source`, whose `pictures(start)` yields `Picture`s, uint8 RGB
or RGBA, in display order, each with its true presentation time. Nothing is repeated, dropped or concealed: a file that
breaks off or whose decoder reports damage ends in a `MediaError` that says how far it was readable.

Times are seconds after the first displayed frame, from the container's own time stamps (edit lists and negative stamps
included). Pixel aspect ratios other than one are reported by `probe` and never applied: pixels stay as they are coded.
Interlaced fields stay woven, and high dynamic range is converted to 8 bits without tone mapping.
"""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kineograph._kinds import HEAD_BYTES, is_picture, unreadable
from kineograph._rates import Timing, ntsc
from kineograph._targets import windows_hint
from kineograph.errors import InputError, MediaError

STILLS_FPS = 8.0
"""Frames per second of pictures that carry no rate of their own (a folder without `video.json`, a single still)."""

FOLDER_RECORD = "video.json"
RECORD_KEY = "kineograph"

# FFmpeg SWS_BICUBIC | FULL_CHR_H_INT | FULL_CHR_H_INP | ACCURATE_RND: chroma at full resolution, exact rounding.
SWSCALE_FLAGS = 4 | 8192 | 16384 | 262144


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
        last: Seconds that the last frame is held; None for `1 / fps`.
    """

    frames: int
    fps: float
    size: tuple[int, int]
    channels: int
    times: tuple[float, ...] | None
    metadata: dict[str, Any]
    version: str = ""
    last: float | None = None

    @property
    def timing(self) -> Timing:
        """When the frames are shown."""
        return Timing(self.fps, self.times, self.last)

    def to_json(self) -> str:
        """Write the record as one line of ASCII JSON."""
        content: dict[str, Any] = {RECORD_KEY: self.version, "frames": self.frames, "fps": self.fps}
        content |= {"size": list(self.size), "channels": self.channels, "metadata": self.metadata}
        if self.times is not None:
            content["times"] = list(self.times)
        if self.last is not None:
            content["last"] = self.last
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
            last=None if content.get("last") is None else float(content["last"]),
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
        held: Whether the container states how long each picture is held, see `timing`.
    """

    info: MediaInfo
    tick: float
    rates: tuple[float, ...]
    record: Record | None
    pictures: Callable[[float], Iterator[Picture]]
    held: bool = False


def open_source(path: str | Path) -> Source:
    """Open a video file, an animation, a picture or a folder of pictures.

    Raises:
        MediaError: The path does not exist, or is nothing that can be read as moving pictures.
    """
    from kineograph._decode import open_av
    from kineograph._pictures import open_folder, open_picture

    path = Path(path)
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises where a name is too long
        raise MediaError(f"There is no file or folder '{path}'{_neighbour(path)}")
    if path.is_dir():
        return open_folder(path)
    if not path.is_file():  # a pipe would wait for ever, a device never end
        raise MediaError(f"'{path}' is neither a file nor a folder, but a device or a pipe.")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise MediaError(f"'{path}' cannot be opened: {error.strerror}.") from error
    if not head:
        raise MediaError(f"'{path}' is empty (0 bytes), so it holds no video.")
    if is_picture(head):
        return open_picture(path)
    if words := unreadable(head):
        raise MediaError(f"'{path}' is not a video or picture that can be read: it is {words}.")
    return open_av(path, head)


def _neighbour(path: Path) -> str:
    from kineograph.errors import nearest

    if hint := windows_hint(str(path)):
        return f", and backslashes divide no folders here. {hint}"
    if not os.path.isdir(path.parent):  # noqa: PTH112
        return f"; the folder '{path.parent}' does not exist either."
    return nearest(path.name, (entry.name for entry in path.parent.iterdir())) or "."


def reason_of(error: BaseException) -> str:
    """Give the words of a library's error, for the middle of a sentence."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__).rstrip(".").lower()


def snap(time: float, record: Record | None, tick: float) -> float:
    """Replace a time rounded by the container's clock by the exact one of the record, if they agree."""
    if record is None:
        return time
    if record.times is None:
        rate = float(ntsc(record.fps) or record.fps)
        exact = round(time * rate) / rate
    else:
        index = bisect_left(record.times, time)
        exact = min(record.times[max(index - 1, 0) : index + 1], key=lambda known: abs(known - time), default=time)
    return exact if abs(exact - time) <= tick else time


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
