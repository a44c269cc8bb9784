"""How many frames a clip gives at a rate, and which clips are long enough: one answer for `data check` and `train`.

Frames are taken by time, at 0, 1/fps, 2/fps, ... before the clip's end, as `Video.read(fps=...)` does. A clip that
gives fewer than a run asks for is left out, and the run says how many are; its last frame is never shown again instead.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from kineograph.data.manifest import Clip


def frames_within(seconds: float, fps: float, slack: float = 1e-6) -> int:
    """Count the samples of a clip: the whole numbers k with k / fps < seconds.

    Args:
        seconds: From the first frame's start to the last frame's end.
        fps: Samples per second.
        slack: Seconds by which the end is uncertain (one unit of the file's clock); a sample that close to it is none.

    Returns:
        At least 1: the first frame is there however short it is shown.
    """
    slack = min(slack, 0.25 / fps)
    return max(1, math.ceil((seconds - slack) * fps - 1e-9))


def frames_at(clip: Clip, fps: float | None) -> int:
    """Count the frames that a clip gives, by the facts in its manifest line.

    Args:
        clip: Its `fps` is the average rate, so `frames / fps` are its seconds, for variable rates too.
        fps: Frames per second taken; None takes each of the clip's own.
    """
    if fps is None or clip.frames == 1 or not clip.fps:
        return clip.frames
    return frames_within(clip.frames / clip.fps, fps)


def why_too_short(given: int, num_frames: int, fps: float | None = None) -> str | None:
    """Say why a clip cannot serve a run; None if it can.

    Args:
        given: Frames that the clip gives at the run's rate (`frames_at`, or `FrameStore.counts`).
        num_frames: Frames per sample of the run; with 1, pictures serve too.
        fps: The run's rate, for the words; None where it takes each clip's own.
    """
    if given >= num_frames:
        return None
    if given == 1:
        return f"a single frame{_at(fps)}"
    return f"shorter than {num_frames} frames{_at(fps)}"


@dataclass(frozen=True)
class Fit:
    """Which of a data set's clips serve a run.

    Attributes:
        kept: Indices of those that do.
        dropped: Reason to number of those that do not.
        num_frames: Frames per sample of the run.
        fps: The run's rate, or None.
    """

    kept: list[int]
    dropped: dict[str, int]
    num_frames: int
    fps: float | None = None

    def __str__(self) -> str:
        total = len(self.kept) + sum(self.dropped.values())
        plural = "" if self.num_frames == 1 else "s"
        words = f"a run of {self.num_frames} frame{plural}{_at(self.fps)} keeps {len(self.kept)} of {total} clips"
        return "; ".join([words, *(f"{count} dropped: {reason}" for reason, count in self.dropped.items())])


def fitting(given: Iterable[int], num_frames: int, fps: float | None = None) -> Fit:
    """Choose the clips that can give a run's frames.

    `str` of the result is the sentence that `data check` and `train` print:
    "a run of 4 frames at 8 fps keeps 7 of 9 clips; 2 dropped: shorter than 4 frames at 8 fps".

    Args:
        given: Frames that each clip gives at the run's rate, in the data set's order (`frames_at`, or
            `FrameStore.counts`, which are those of the decoded files).
        num_frames: Frames per sample of the run.
        fps: The run's rate, for the words.
    """
    return fit_of((why_too_short(int(count), num_frames, fps) for count in given), num_frames, fps)


def fit_of(reasons: Iterable[str | None], num_frames: int, fps: float | None = None) -> Fit:
    """Gather what keeps each clip from serving a run (None: nothing does)."""
    kept, dropped = [], Counter[str]()
    for index, reason in enumerate(reasons):
        if reason is None:
            kept.append(index)
        else:
            dropped[reason] += 1
    return Fit(kept, dict(dropped.most_common()), num_frames, fps)


def _at(fps: float | None) -> str:
    return "" if fps is None else f" at {fps:g} fps"
