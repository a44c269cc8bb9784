"""Strips: first, middle and last frame of a clip, side by side in one JPEG. Everything that looks at clips reads these.

Text, watermarks, similarity, looks, captions, perceptual hashes and thumbnails need a few frames in moderate size;
decoding the clip again for each of them is what makes other pipelines slow.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kineograph.curation.opencv import cv2
from kineograph.curation.parts import place
from kineograph.errors import MediaError

LONG_SIDE = 640
QUALITY = 90
_FRAMES = 3


def fitted(width: int, height: int, long_side: int = LONG_SIDE) -> tuple[int, int]:
    """Return width and height fitted to a long side; never enlarged, even numbers where possible."""
    scale = min(long_side / max(width, height, 1), 1.0)
    return max(round(width * scale / 2) * 2, 2), max(round(height * scale / 2) * 2, 2)


def encode(picture: np.ndarray) -> bytes:
    """Return a BGR picture, uint8 (height, width, 3), as JPEG."""
    good, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert good
    return data.tobytes()


def decode(data: bytes) -> np.ndarray:
    """Return a JPEG as BGR, uint8 (height, width, 3)."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)  # pyright: ignore


def write_strip(path: Path, pictures: list[np.ndarray]) -> None:
    """Write three BGR pictures, uint8 (height, width, 3) each, side by side; whole or not at all."""
    height, width = pictures[0].shape[:2]
    same = [p if p.shape[:2] == (height, width) else cv2.resize(p, (width, height)) for p in pictures]
    data = encode(np.hstack(same))
    place(path, lambda target: target.write_bytes(data))


def read_strip(path: Path) -> np.ndarray:
    """Read a strip.

    Returns:
        uint8 (3, height, width, 3), RGB: first, middle and last frame.

    Raises:
        MediaError: It is missing or damaged.
    """
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None or picture.shape[1] % _FRAMES:
        raise MediaError(f"The strip '{path}' is missing or damaged. Run curate again with --resume after deleting it.")
    height, width = picture.shape[0], picture.shape[1] // _FRAMES
    frames = picture[..., ::-1].reshape(height, _FRAMES, width, 3).swapaxes(0, 1)
    return np.ascontiguousarray(frames)
