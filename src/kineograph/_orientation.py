"""How a coded picture is turned and mirrored for display: film containers' matrices, and EXIF's numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Transform(NamedTuple):
    """A display transform of right angles: transpose first, then flip columns, then rows."""

    transpose: bool = False
    flip_columns: bool = False
    flip_rows: bool = False

    @property
    def rotation(self) -> int:
        """Clockwise degrees; a mirrored picture reports the rotation that remains without the mirror."""
        if self.transpose:
            return 90 if self.flip_columns else 270
        return 180 if self.flip_rows else 0

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Turn pixels (height, width, ...)."""
        if self.transpose:
            pixels = pixels.swapaxes(0, 1)
        if self.flip_columns:
            pixels = pixels[:, ::-1]
        return pixels[::-1] if self.flip_rows else pixels

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Give the displayed (height, width) of a coded picture."""
        return (width, height) if self.transpose else (height, width)


EXIF_ORIENTATION = 0x0112
_EXIF = {
    1: Transform(),
    2: Transform(flip_columns=True),
    3: Transform(flip_columns=True, flip_rows=True),
    4: Transform(flip_rows=True),
    5: Transform(transpose=True),
    6: Transform(transpose=True, flip_columns=True),
    7: Transform(transpose=True, flip_columns=True, flip_rows=True),
    8: Transform(transpose=True, flip_rows=True),
}
"""The eight values of the tag Orientation (Exif 2.32, section 4.6.4 A): where row 0 and column 0 are seen."""


def from_exif(orientation: object) -> Transform:
    """Return the transform of an EXIF orientation; values that are none (0, 9, text) turn nothing, as in viewers."""
    return _EXIF.get(orientation, Transform()) if isinstance(orientation, int) else Transform()
