"""Read animated GIF, WebP and PNG, single pictures, and folders of pictures with Pillow."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any
from xml.sax.saxutils import unescape

import numpy as np

from kineograph._container import (
    FOLDER_RECORD,
    STILLS_FPS,
    MediaInfo,
    Picture,
    Record,
    Source,
    parse_record,
    reason_of,
    snap,
)
from kineograph._rates import Timing, timing
from kineograph._stills import may_show_through, pixels_of, shown_size, shows_through, stated_rotation
from kineograph.errors import MediaError

PICTURE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".pgm", ".ppm", ".tga",
)  # fmt: skip

_MOVING = ("gif", "webp", "png", "avif")
"""Formats that can say how long their pictures are held, a single one, too."""


def open_picture(path: Path) -> Source:
    held = _webp_timing(path)
    with _pillow(path) as image:
        frames = len(_shown(image))
        if held and len(held) != frames:
            raise MediaError(f"'{path}' is corrupt: of its {len(held)} frames, only {frames} can be decoded.")
        container = (image.format or "").lower()
        record = parse_record(_picture_comment(image))
        alpha = _picture_alpha(image, path, record)
        height, width = shown_size(image)
        mode, rotation = image.mode, stated_rotation(image)
        single = (held or [image.info.get("duration")])[0] if frames == 1 and container in _MOVING else None
    tick = {"gif": 0.01, "webp": 0.001, "avif": 0.001}.get(container, 1e-4)
    still = 1000 / single if single and single > 10 else STILLS_FPS
    rates: tuple[float, ...] = (record.fps,) if record else (still,) if frames == 1 else ()
    durations = [1000 / rates[0]] if rates and frames == 1 else held or _pillow_durations(path)
    timed = _timed(path, durations, tick, rates, record)
    facts = MediaInfo(
        path=str(path),
        container="apng" if container == "png" and frames > 1 else container,
        codec=container,
        pixel_format=mode,
        width=width,
        height=height,
        fps=timed.fps,
        frames=frames,
        duration=timed.duration(frames),
        rotation=rotation,
        alpha=alpha,
        metadata=record.metadata if record else {},
    )
    return Source(
        info=facts,
        tick=tick,
        rates=rates,
        record=record,
        pictures=lambda start: _pillow_pictures(path, facts, durations, record, tick),
        held=frames > 1,
    )


def _timed(path: Path, durations: list[float], tick: float, rates: tuple[float, ...], record: Record | None) -> Timing:
    """Apply the rule of `Video.read` to the milliseconds of all frames."""
    begins = [snap(begin / 1000, record, tick) for begin in accumulate(durations[:-1], initial=0.0)]
    stated = record.timing if record and record.frames == len(durations) else None
    try:
        return timing(begins, durations[-1] / 1000, tick=tick, rates=rates, held=len(durations) > 1, stated=stated)
    except MediaError as error:
        raise MediaError(f"'{path}' is corrupt: {error}.") from error


@contextlib.contextmanager
def _pillow(path: Path) -> Iterator[Any]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except MediaError:
        raise
    except _broken() as error:
        raise MediaError(f"'{path}' is not a picture that can be read: {reason_of(error)}.") from error


def _broken() -> tuple[type[Exception], ...]:
    """Errors that Pillow's parsers raise for broken files, and its warning of huge ones where warnings are errors."""
    from PIL import Image

    parsing = (SyntaxError, ValueError, LookupError, TypeError, struct.error)
    return (OSError, EOFError, Image.DecompressionBombError, Image.DecompressionBombWarning, *parsing)


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
        return may_show_through(image)
    return any(shows_through(frame) for frame in _pillow_frames(path))


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
        except _broken() as error:
            what = f"readable are the first {good} of {len(shown)} frames" if good else "not one frame could be read"
            raise MediaError(f"'{path}' is truncated or corrupt: {what} ({reason_of(error)}).") from error


def _shown(image: Any) -> range:
    """Indices of the frames that are shown.

    An animated PNG may begin with a picture for other programs only. What follows the first picture of a JPEG that
    holds several (MPO, as phones write) is its preview, its depth or its other eye, and no next frame.
    """
    total = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
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
        pixels = pixels_of(frame, info.alpha, path)
        yield Picture(snap(elapsed / 1000, record, tick), milliseconds / 1000, partial(_same, pixels))
        elapsed += milliseconds


def open_folder(folder: Path) -> Source:
    record = _folder_record(folder)
    files = _folder_pictures(folder)
    if record is not None and record.frames != len(files):
        raise MediaError(
            f"'{folder}' holds {len(files)} pictures, but its {FOLDER_RECORD} speaks of {record.frames}: some were "
            f"added or lost. Delete {FOLDER_RECORD} to read the folder as plain pictures."
        )
    with _pillow(files[0]) as image:
        (height, width), mode = shown_size(image), image.mode
    alpha = record.channels == 4 if record else any(_may_show_through(file) for file in files)
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
        duration=record.timing.duration(len(files)) if record else times[-1] + 1 / fps,
        alpha=alpha,
        metadata=record.metadata if record else {},
    )
    return Source(info, 1e-9, (fps,), record, lambda start: _folder_frames(files, times, info))


def _may_show_through(file: Path) -> bool:
    with _pillow(file) as image:
        return may_show_through(image)


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
    with _pillow(file) as image:
        count = len(_shown(image))
    if count > 1:
        raise MediaError(
            f"'{file}' moves: it holds {count} pictures, where each file of a folder of pictures is one frame. Read "
            f"the file by itself."
        )
    pixels = pixels_of(next(_pillow_frames(file)), info.alpha, file)
    if pixels.shape[:2] != (info.height, info.width):
        raise MediaError(
            f"'{file}' is {pixels.shape[1]}x{pixels.shape[0]} pixels, but the folder's first picture is "
            f"{info.width}x{info.height}: frames of one video must have one size."
        )
    return pixels
