"""Which clips are learnt from and which are validated on, by the names that data sets give their splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from kineograph.errors import DataError, unknown

TRAIN = "train"
DEFAULT_HELD_OUT = "held-out-combinations"
"""The split that `data emoji` makes, and that training looks for first."""
HELD_OUT = (DEFAULT_HELD_OUT, "validation", "valid", "val", "dev", "held-out", "held_out", "heldout", "eval", "test")
"""Names of splits to validate on, the most fitting first; letters count alike, large or small."""


def train_split(name: str) -> str:
    """Give the training split its name `"train"` where it is called `"Train"` or `"training"`; others stay."""
    return TRAIN if name.strip().lower() in (TRAIN, "training") else name


def held_out_split(splits: Iterable[str], asked: str = DEFAULT_HELD_OUT) -> str | None:
    """Choose the split to validate on.

    Args:
        splits: Split of every clip, or the names of the splits.
        asked: The split that was named. With the default, the first of `HELD_OUT` that is there is taken, or the only
            one beside `"train"`.

    Returns:
        The split; None where there is none, or several of unknown names: then validation sees training clips only, and
        `held_out_sentence` says so.

    Raises:
        DataError: Another split than the default was named, and no clip has it.
    """
    names = list(dict.fromkeys(splits))
    if asked in names:
        return asked
    if asked != DEFAULT_HELD_OUT:
        raise unknown("split for --held-out", asked, names, DataError)
    others = {name.lower(): name for name in names if name != TRAIN}
    known = next((others[name] for name in HELD_OUT if name in others), None)
    return known or (next(iter(others.values())) if len(others) == 1 else None)


def held_out_sentence(splits: Iterable[str], asked: str = DEFAULT_HELD_OUT) -> str:
    """Say what training and validation take: "trains on split 'train' (9 clips), validates on 'test' (3 clips)".

    Args:
        splits: Split of every clip.
        asked: See `held_out_split`.
    """
    counts = Counter(splits)
    chosen = held_out_split(counts, asked)
    trains = f"trains on split '{TRAIN}' ({counts[TRAIN]} clips)"
    if chosen is not None:
        return f"{trains}, validates on '{chosen}' ({counts[chosen]} clips)"
    others = ", ".join(f"{name} ({count})" for name, count in counts.items() if name != TRAIN)
    return f"{trains}, validates on training clips only: " + (
        f"of the other splits, {others}, name one with --held-out" if others else "there is no other split"
    )
