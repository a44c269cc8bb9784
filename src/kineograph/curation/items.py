"""A source as plain data, as it goes to the child that works on it, and the private folder that it works in."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kineograph.curation import rows

_numbers = itertools.count()


@dataclass(frozen=True)
class Item:
    """One source, as plain data.

    Attributes:
        path: The file, as Python's file-system text (undecodable bytes as surrogates).
        shown: Its path relative to the raw folder, printable.
        source_id: Its id.
        out: The output folder.
        config: The configuration, as plain data.
        caption: Text that came with it.
        spans: `[start, end, caption]` in seconds, for lists that caption stretches of a film.
        stretches: Fields of each `stretches.Stretch` that was analysed by itself; None before it is known whether
            the film is long enough for that.
    """

    path: str
    shown: str
    source_id: str
    out: str
    config: dict[str, Any]
    caption: str = ""
    spans: list[list[Any]] = field(default_factory=list)
    stretches: list[dict[str, Any]] | None = None


@contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """Give a private folder on the output's file system; gone afterwards, swept by `gc` after a kill."""
    folder = out / rows.TEMPORARY / f"{os.getpid()}-{next(_numbers)}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
