"""How often each clip is shown, where some kinds of clips are many.

Of the animated emoji, 304 people come in six skin tones each and 1,551 other things once. Shown evenly, a person is
seen six times as often as a strawberry, and after sixty passes the model draws people and no strawberries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kineograph.data.manifest import Clip
from kineograph.errors import DataError


def even_shares(clips: Sequence[Clip], field: str) -> np.ndarray:
    """Return each clip's share of the samples: a kind of n clips gets sqrt(n) times what a kind of one clip gets.

    The square root lies half-way between every clip alike and every kind alike (Mahajan et al. 2018, arXiv:1805.00932,
    for images of many hashtags).

    Args:
        clips: Of the data set.
        field: Field of the manifest that tells the kind, such as `base`.

    Returns:
        `(clips,)`, summing to 1.

    Raises:
        DataError: A clip has no such field.
    """
    kinds = kinds_of(np.arange(len(clips)), clips, field, "--balance")
    weights = np.bincount(kinds)[kinds] ** -0.5
    return weights / weights.sum()


def kinds_of(rows: np.ndarray, clips: Sequence[Clip], field: str, asked: str = "--set kind") -> np.ndarray:
    """Return the number of the kind of some clips, in the order in which kinds first appear, `(rows,)`.

    Args:
        rows: Of the clips.
        clips: Of the whole data set.
        field: Field of the manifest that tells the kind, such as `base`; empty: each clip is a kind of its own.
        asked: Flag or setting that names the field, for the error.

    Raises:
        DataError: A clip has no such field.
    """
    if not field:
        return np.arange(len(rows))
    fields = [{**vars(clips[i]), **clips[i].extra} for i in rows]
    missing = next((row for row in fields if field not in row), None)
    if missing is not None:
        known = ", ".join(sorted(missing.keys() - {"extra"}))
        raise DataError(f"{asked} {field}: '{missing['path']}' has no field '{field}' in the manifest, only: {known}.")
    number: dict[str, int] = {}
    return np.array([number.setdefault(str(row[field]), len(number)) for row in fields], dtype=np.int64)


class EvenDraw:
    """Draws rows of a data set so that kinds of few clips are seen more often.

    Args:
        rows: Of the clips that may be drawn.
        clips: Of the whole data set.
        field: Field of the manifest that tells the kind; empty: every row is what it is.

    Raises:
        DataError: A clip has no such field.
    """

    def __init__(self, rows: np.ndarray, clips: Sequence[Clip], field: str) -> None:
        self.rows = rows
        self.upto = np.cumsum(even_shares([clips[i] for i in rows], field)) if field else None

    def __call__(self, row: int, choose: np.random.Generator) -> int:
        """Return a drawn row, or the given one if there is no field; that takes no random number."""
        if self.upto is None:
            return row
        place = np.searchsorted(self.upto, choose.random() * self.upto[-1], side="right")
        return int(self.rows[min(place, len(self.rows) - 1)])
