"""Watermarks, station logos, borders: what stays in place while the picture under it changes.

Where a mark lies over moving pictures, the median gradient over frames is that of the mark (Dekel et al. 2017, "On the
effectiveness of visible watermarks", CVPR, sec. 3.1). An edge counts when every frame shows it alike and the picture
around it changed. Where hardly anything changes, or most edges of the picture stay, the camera rests: a mark is then
no different from the background, and the score is null. (On Big Buck Bunny resting cameras keep 28 % of their edges
and more, moving ones at most 13 %.)

Three frames see marks of some contrast. They cannot tell a mark from an object that the camera follows exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kineograph.curation.ids import fingerprint
from kineograph.errors import require

VERSION = 2
LONG_SIDE = 320
"""Pixels at which edges are compared."""
EDGE = 8.0
"""Grey levels per pixel above which a median gradient is an edge."""
AGREEMENT = 0.35
"""Largest deviation of a frame's gradient from the median one, as a share of its length."""
CHANGE = 8.0
"""Grey levels by which a pixel's surroundings must differ between frames to count as changed."""
SURROUND = 0.45
"""Share of changed pixels around an edge (17 x 17 pixels) for it to count."""
FEWEST_CHANGED = 0.2
"""Share of changed pixels in the picture below which nothing is said."""
MOST_STEADY = 0.2
"""Share of steady edges among all edges above which the camera rests and nothing is said."""


class Overlay:
    """Scorer for `overlay`, the share of the picture under marks that stay, from 0 to 1, or null."""

    name = "overlay"
    columns = {"overlay": "double"}  # noqa: RUF012

    @property
    def fingerprint(self) -> str:
        """Of code and constants."""
        return fingerprint(
            "overlay", VERSION, [LONG_SIDE, EDGE, AGREEMENT, CHANGE, SURROUND, FEWEST_CHANGED, MOST_STEADY]
        )

    def score(self, strip: np.ndarray, row: dict[str, Any] | None = None) -> dict[str, float | None]:
        """Return the overlay's area.

        Args:
            strip: uint8 (frames, height, width, 3), RGB, at least three frames.
            row: Not looked at.
        """
        mask = overlay_mask(strip)
        return {"overlay": None if mask is None else float(mask.mean())}


def overlay_mask(strip: np.ndarray) -> np.ndarray | None:
    """Find the pixels under persistent marks.

    Args:
        strip: uint8 (frames, height, width, 3), RGB.

    Returns:
        bool (rows, columns) at a long side of at most `LONG_SIDE`; None where too little changes to tell.
    """
    cv2 = require("cv2", "curation")
    frames = np.stack([_small_grey(frame, cv2) for frame in strip])
    blurred = np.stack([cv2.blur(frame, (5, 5)) for frame in frames])
    changed = (np.ptp(blurred, axis=0) > CHANGE).astype(np.float32)
    if changed.mean() < FEWEST_CHANGED:
        return None
    steady, share = _steady_edges(frames)
    if share > MOST_STEADY:
        return None
    edges = steady & (cv2.blur(changed, (17, 17)) > SURROUND)
    clustered = cv2.blur(edges.astype(np.float32), (5, 5)) > 0.15
    kernel = np.ones((9, 9), np.uint8)
    return cv2.morphologyEx((edges & clustered).astype(np.uint8), cv2.MORPH_CLOSE, kernel).astype(bool)


def _steady_edges(frames: np.ndarray) -> tuple[np.ndarray, float]:
    """Edges whose gradient is the same in every frame, bool (rows, columns); and their share of a frame's edges."""
    gradients = np.stack([np.gradient(frames, axis=axis) for axis in (1, 2)])
    median = np.median(gradients, axis=1, keepdims=True)
    length = np.hypot(*median[:, 0])
    deviation = np.hypot(*(gradients - median)).max(0)
    steady = (length > EDGE) & (deviation < AGREEMENT * length)
    edges = (np.hypot(*gradients) > EDGE).sum((1, 2)).mean()
    return steady, float(steady.sum() / max(1.0, edges))


def _small_grey(frame: np.ndarray, cv2: Any) -> np.ndarray:
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY).astype(np.float32)
    scale = LONG_SIDE / max(grey.shape)
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA) if scale < 1 else grey
