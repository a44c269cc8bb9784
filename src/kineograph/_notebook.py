"""A clip as a notebook shows it: an animated WebP inside an `<img>`, of bounded size."""

from __future__ import annotations

import base64
import tempfile
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from kineograph.errors import KineographError

if TYPE_CHECKING:
    from kineograph.video import Video

LONG_SIDE = 384
LIMIT = 2_000_000
"""Bytes of the picture at most: every run of a cell stores it in the notebook's file."""
_FRAMES = 96
_QUALITIES = (80, 50, 25)


def html_of(video: Video) -> str:
    """Return an `<img>` that plays a clip, or a line that says why there is none.

    Long clips skip frames, large ones are scaled down, and what is still above the limit is compressed more.
    """
    caption = escape(str(video.metadata.get("prompt", "")), quote=True)
    try:
        data = _small_webp(video)
    except KineographError as error:
        return f"<p>{escape(repr(video))}: {escape(str(error))}</p>"
    if data is None:
        return f"<p>{escape(repr(video))}: too large to be shown here; save it instead.</p>"
    source = base64.b64encode(data).decode("ascii")
    return f'<img src="data:image/webp;base64,{source}" alt="{caption}" title="{escape(repr(video), quote=True)}">'


def _small_webp(video: Video) -> bytes | None:
    shown = _thinned(video)
    for side in (LONG_SIDE, LONG_SIDE // 2, LONG_SIDE // 4):
        scaled = _scaled(shown, side)
        for quality in _QUALITIES:
            with tempfile.TemporaryDirectory() as folder:
                data = scaled.save(Path(folder) / "clip.webp", quality=quality).read_bytes()
            if len(data) <= LIMIT:
                return data
    return None


def _thinned(video: Video) -> Video:
    """Take every so-manieth frame; each is held until the next one taken."""
    step = -(-len(video) // _FRAMES)
    if step == 1:
        return video
    times = video.frame_times[::step]
    return replace(video, frames=video.frames[::step], times=times, last=video.duration - times[-1])


def _scaled(video: Video, side: int) -> Video:
    share = min(1.0, side / max(video.height, video.width))
    return video.resize(max(1, round(video.height * share)), max(1, round(video.width * share)))
