"""Decoded frames in another size, as planes of YUV 4:2:0 with 8 bits, whatever their own format is."""

from __future__ import annotations

from typing import Any

import numpy as np

FAST_BILINEAR, AREA = 1, 32
"""FFmpeg's SWS_FAST_BILINEAR and SWS_AREA."""


class Scaler:
    """Scales one frame after another; FFmpeg's tables for a size are made once."""

    def __init__(self, method: int) -> None:
        """Begin.

        Args:
            method: `FAST_BILINEAR`, which looks at two pixels of the frame per pixel and direction, or `AREA`, which
                looks at all.
        """
        from av.video.reformatter import VideoReformatter

        self.method, self.reformatter = method, VideoReformatter()

    def __call__(self, frame: Any, size: tuple[int, int]) -> np.ndarray:
        """Return a frame's planes, uint8 (3 * height / 2, width): rows of luma, then both chroma planes.

        Args:
            frame: PyAV's.
            size: Width and height, even.
        """
        width, height = size
        scaled: Any = self.reformatter.reformat(frame, width, height, format="yuv420p", interpolation=self.method)
        planes = [np.frombuffer(plane, np.uint8) for plane in scaled.planes]
        if sum(len(plane) for plane in planes) != width * height * 3 // 2:  # rows with a gap between them
            return scaled.to_ndarray()
        return np.concatenate(planes).reshape(-1, width)
