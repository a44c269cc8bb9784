"""Decoded frames in another size, as planes of YUV 4:2:0 with 8 bits, whatever their own format is."""

from __future__ import annotations

from typing import Any

import numpy as np

from kineograph.curation.opencv import cv2

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
        if self.method == AREA and frame.format.name == "yuv420p" and _divides(frame, size):
            return block_means(frame, size)
        scaled: Any = self.reformatter.reformat(frame, width, height, format="yuv420p", interpolation=self.method)
        planes = [np.frombuffer(plane, np.uint8) for plane in scaled.planes]
        if sum(len(plane) for plane in planes) != width * height * 3 // 2:  # rows with a gap between them
            return scaled.to_ndarray()
        return np.concatenate(planes).reshape(-1, width)


def _divides(frame: Any, size: tuple[int, int]) -> bool:
    """Whether each pixel of an even size is a block of whole pixels, in all planes of a 4:2:0 frame."""
    width, height = size
    return not (frame.width % width or frame.height % height or frame.width % 2 or frame.height % 2)


def block_means(frame: Any, size: tuple[int, int]) -> np.ndarray:
    """Return the planes of an 8-bit 4:2:0 frame whose size is a multiple of another; twice as fast as by FFmpeg.

    Args:
        frame: PyAV's, `yuv420p`.
        size: Width and height, even.

    Returns:
        uint8 (3 * height / 2, width), as by `Scaler`.
    """
    width, height = size
    result = np.empty((height * 3 // 2, width), np.uint8)
    chroma = result[height:].reshape(2, height // 2, width // 2)
    for plane, target in zip(frame.planes, (result[:height], *chroma), strict=True):
        pixels = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        cv2.resize(pixels, target.shape[::-1], target, interpolation=cv2.INTER_AREA)
    return result
