"""What a clip's file is, as reading it finds: the facts that a manifest line holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kineograph._container import STILLS_FPS, Source, open_source
from kineograph.data.lengths import frames_within
from kineograph.data.manifest import there
from kineograph.errors import KineographError

MISSING = "the file is missing"


@dataclass(frozen=True)
class Facts:
    """Measured facts of a file.

    Attributes:
        fps: Frames per second, the average where the rate varies; 0 for a picture.
        frames: Number of frames.
        width: Width in pixels, as read.
        height: Height in pixels, as read.
        seconds: From the first frame's start to the last frame's end.
        tick: Seconds of one unit of the file's clock.
    """

    fps: float
    frames: int
    width: int
    height: int
    seconds: float
    tick: float

    @property
    def average(self) -> float:
        """Frames in a second of the whole clip, the last frame's time on screen included."""
        return self.frames / self.seconds if self.frames > 1 else 0.0

    def given(self, fps: float | None) -> int:
        """Count the frames that `Video.read(fps=fps)` takes; None takes every one."""
        if fps is None or self.frames == 1:
            return self.frames
        return frames_within(self.seconds, fps, min(self.tick, 0.25 / (self.fps or STILLS_FPS)))


def file_facts(file: Path, decode: bool = False) -> Facts | str:
    """Measure a file, or say why it cannot be read.

    Args:
        file: A video, a picture or a folder of pictures.
        decode: Decode it to its end, which finds where it is damaged; else believe its header and index.
    """
    if not there(file):
        return MISSING
    try:
        source = open_source(file)
        return _decoded(source) if decode else _promised(source)
    except KineographError as error:
        return str(error)


def _promised(source: Source) -> Facts | str:
    info = source.info
    if not info.frames or (info.frames > 1 and not info.fps):
        return "its number of frames or its frame rate is unknown"
    fps = 0.0 if info.frames == 1 else float(info.fps or 0)
    seconds = info.duration or (info.frames / fps if fps else 1 / STILLS_FPS)
    return Facts(fps, info.frames, info.width, info.height, seconds, source.tick)


def _decoded(source: Source) -> Facts | str:
    facts, frames, seconds = _promised(source), 0, 0.0
    if isinstance(facts, str):
        return facts
    for picture in source.pictures(0.0):
        height, width = picture.pixels().shape[:2]
        if (height, width) != (facts.height, facts.width):
            return (
                f"its frame {frames} is {width}x{height} pixels, not {facts.width}x{facts.height}: a clip has one size"
            )
        frames, seconds = frames + 1, picture.time + (picture.duration or 1 / (source.info.fps or STILLS_FPS))
    return Facts(facts.fps, frames, facts.width, facts.height, seconds, facts.tick)
