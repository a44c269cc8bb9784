"""A model folder appears whole or not at all: it is written under another name beside its place, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INDEX = "model_index.json"
"""Moved last where a folder is there already, so that an index never stands beside parts of an older model."""


@contextmanager
def whole_folder(directory: str | Path) -> Iterator[Path]:
    """Yield an empty folder; what is written there takes its place when the block has ended without an error.

    Where the place is taken, files of the same names are replaced and others stay; on an error nothing has changed.

    Args:
        directory: The place; made where it is missing.
    """
    target = Path(directory).absolute()
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        _put(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _put(part: Path, target: Path) -> None:
    """Move a finished folder to its place."""
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if not target.exists():
        part.replace(target)
        return
    files = [path.relative_to(part) for path in part.rglob("*") if path.is_file()]
    for file in sorted(files, key=lambda file: file.name == INDEX):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        (part / file).replace(target / file)
