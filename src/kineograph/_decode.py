"""Decode video files with PyAV: true times, display rotation, alpha, colours, and honest ends.

The first sign of damage stops the reading: a decoder's error, a frame marked as damaged, or data that end before what
the header or index promises.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterator
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
    snap,
)
from kineograph._damage import first_frame, strict_frames
from kineograph._films import Clock, counts_by_dts, decoder_of, named_rates, open_film, tag, video_stream
from kineograph._lengths import length_of
from kineograph._orientation import Transform
from kineograph.errors import MediaError

_BT709, _UNSPECIFIED = 1, 2
_FULL_RANGE = 2
_HD_HEIGHT = 720


def open_av(path: Path, head: bytes) -> Source:
    with open_film(path, head) as container:
        stream = video_stream(container, path)
        record = parse_record(tag(container.metadata, "comment"))
        decoder = decoder_of(stream, path)
        first = first_frame(container, stream, decoder, path)
        info = _av_info(path, container, stream, first, record)
        rates = named_rates(stream)
        tick = float(stream.time_base)
    return Source(
        info=info,
        tick=tick,
        rates=((record.fps, *rates) if record else rates),
        record=record,
        pictures=lambda start: _av_pictures(path, info, record, tick, start),
    )


def _av_info(path: Path, container: Any, stream: Any, frame: Any, record: Record | None) -> MediaInfo:
    transform = _display_transform(frame, path)
    height, width = _cropped(*transform.size(frame.height, frame.width), record)
    length = length_of(path, container, stream, record)
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    return MediaInfo(
        path=str(path),
        container=_container_name(container.format.name, path),
        codec=stream.codec_context.name,
        pixel_format=frame.format.name,
        width=width,
        height=height,
        fps=record.fps if record else length.fps,
        frames=length.frames,
        duration=length.duration,
        rotation=transform.rotation,
        alpha=_has_alpha(frame),
        sample_aspect_ratio=float(aspect) if aspect else 1.0,
        metadata=record.metadata if record else {},
    )


def _container_name(names: str, path: Path) -> str:
    suffix = path.suffix.lower().lstrip(".")
    return suffix if suffix in names.split(",") else names.split(",")[0]


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
    with open_film(path) as container:
        stream = video_stream(container, path)
        clock = Clock(float(stream.time_base), info.fps or STILLS_FPS, by_dts=counts_by_dts(container, stream))
        decode = decoder_of(stream, path)
        if seek is not None:
            clock.origin = clock.stamp(first_frame(container, stream, decode, path))
            try:
                container.seek(round(seek / clock.unit) + (clock.origin or 0), stream=stream, backward=True)
            except OSError:  # A raw stream has no index; the caller reads it from the beginning.
                return
            decode = decoder_of(stream, path)
        for frame in strict_frames(container, stream, decode, info, clock, whole=seek is None):
            time = snap(clock(frame), record, tick)
            duration = frame.duration * clock.unit if frame.duration else None
            yield Picture(time, duration, partial(_to_pixels, frame, info, record, path))


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
