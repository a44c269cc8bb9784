"""Pictures of a film on disk, which strips are made of: memory does not grow with the film."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from pathlib import Path

import numpy as np

from kineograph.curation.strips import decode, encode


class Album:
    """Pictures of a film in a file on disk, found by pts: memory does not grow with the film."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w+b")
        self.pts, self.places = array("q"), array("q")

    def __enter__(self) -> Album:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def last(self) -> int | None:
        """The last picture's pts."""
        return self.pts[-1] if self.pts else None

    def add(self, pts: int, picture: np.ndarray) -> None:
        """Append a BGR picture, uint8 (height, width, 3); pts ascend."""
        self.append(pts, encode(picture))

    def append(self, pts: int, content: bytes) -> None:
        """Append an encoded picture, such as another album's; pts ascend."""
        self.pts.append(pts)
        self.places.append(self.file.seek(0, 2))
        self.file.write(content)

    def at(self, pts: int) -> np.ndarray:
        """Return the BGR picture of a pts.

        Raises:
            KeyError: There is none.
        """
        return decode(self.encoded(pts))

    def encoded(self, pts: int) -> bytes:
        """Return the picture of a pts as it is stored.

        Raises:
            KeyError: There is none.
        """
        place = bisect_left(self.pts, pts)
        if place == len(self.pts) or self.pts[place] != pts:
            raise KeyError(pts)
        self.file.seek(self.places[place])
        return self.file.read(self.places[place + 1] - self.places[place] if place + 1 < len(self.places) else -1)

    def close(self) -> None:
        """Close the file."""
        self.file.close()
