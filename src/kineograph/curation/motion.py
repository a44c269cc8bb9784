"""How much moves: dense optical flow between frames half a second apart.

Stable Video Diffusion scores clips by "the average optical flow magnitude", from Farneback flow at 2 frames per second
(Blattmann et al. 2023, arXiv:2311.15127, section 3.1 and App. C). Scores are comparable only among equal algorithms,
sizes and rates, because half a second of motion exceeds the search window the sooner the larger the picture; all three
stand beside every score.

Differs from the paper: lengths are in units of the picture's short side, and the size is fixed at a short side of 180
pixels; neither is published. (The paper gives 0.043 for one static example, in an unknown unit.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kineograph.curation.config import MotionConfig
from kineograph.curation.opencv import cv2

VERSION = 1


def flow_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return width and height of the pictures for flow: short side as given, never enlarged, at least 16."""
    scale = min(short_side / max(min(width, height), 1), 1.0)
    return max(round(width * scale), 16), max(round(height * scale), 16)


def estimator(algorithm: str) -> Any:
    """Return a function from two uint8 grey pictures (height, width) to float32 flow (height, width, 2) in pixels."""
    if algorithm == "dis":
        dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        return lambda first, second: dis.calc(np.ascontiguousarray(first), np.ascontiguousarray(second), None)  # pyright: ignore
    # Pyramid 0.5, 3 levels, window 15, 3 iterations, polynomials over 5 pixels with sigma 1.2: the values of OpenCV's
    # tutorial, and of video2dataset, by one of the paper's authors.
    return lambda first, second: cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # pyright: ignore


def magnitude(flow: np.ndarray) -> float:
    """Return the mean length of a flow field (height, width, 2) in units of its short side."""
    return float(cv2.magnitude(flow[..., 0], flow[..., 1]).mean()) / min(flow.shape[:2])


class Motion:
    """Takes the pictures of a film at the flow's rate and keeps one number per pair."""

    def __init__(self, config: MotionConfig) -> None:
        self.config = config
        self.estimate = estimator(config.algorithm)
        self.before: np.ndarray | None = None
        self.at = 0
        self.pairs: list[tuple[int, int, float]] = []

    def feed(self, pts: int, grey: np.ndarray) -> None:
        """Take the next picture, uint8 (height, width), at a pts."""
        if self.before is not None and self.before.shape == grey.shape:
            self.pairs.append((self.at, pts, magnitude(self.estimate(self.before, grey))))
        self.before, self.at = grey, pts

    def restart(self) -> None:
        """Forget the last picture: the next one cannot be compared with it."""
        self.before = None


def scores(pairs: list[tuple[int, int, float]], start: int, end: int) -> dict[str, float]:
    """Summarise the pairs that lie wholly in a clip; a pair across a cut belongs to no clip.

    Args:
        pairs: (pts of first picture, pts of second picture, magnitude).
        start: pts of the clip's first frame.
        end: pts at which it ends.

    Returns:
        `motion_mean`, `motion_median`, `motion_p10` and `motion_p90`; NaN where the clip holds no pair.
    """
    inside = [value for first, second, value in pairs if start <= first and second < end]
    if not inside:
        return dict.fromkeys(("motion_mean", "motion_median", "motion_p10", "motion_p90"), math.nan)
    low, middle, high = (float(np.percentile(inside, q)) for q in (10, 50, 90))
    return {"motion_mean": float(np.mean(inside)), "motion_median": middle, "motion_p10": low, "motion_p90": high}
