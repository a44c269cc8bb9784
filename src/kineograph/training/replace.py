"""Files and folders that appear whole or not at all, and what a full disk says."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from kineograph.checkpoints.whole import sync
from kineograph.errors import ResourceError

PART, GONE = ".part-", ".gone-"
"""Beginnings of the names of what is being written, and of what is being deleted."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_trouble(what: str) -> Iterator[None]:
    """Turn what a full or failing disk raises into one kind of error.

    Args:
        what: What could not be written, such as "The checkpoint of step 4 could not be written to 'run'".

    Raises:
        ResourceError: The disk is full, or cannot be written to.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in _FULL or any(os.strerror(number) in str(error) for number in _FULL)
        more = " Free some space, or choose another disk, then go on with --resume." if full else ""
        raise ResourceError(f"{what}: {error}.{more}") from error


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a hidden folder that takes the target's place when the block ends, and vanishes if it fails.

    A folder that was there is renamed first and deleted last.
    """
    part = target.with_name(f"{PART}{target.name}")
    discard(part)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        discard(part)
        raise
    old = target.with_name(f"{GONE}{target.name}")
    discard(old)
    if target.exists():
        target.rename(old)
    part.rename(target)
    discard(old)


def discard(path: Path) -> None:
    """Delete a file or folder; its own name is free at once, so that no half of it is ever taken for the whole."""
    if not path.name.startswith((PART, GONE)) and path.exists():
        gone = path.with_name(f"{GONE}{path.name}")
        shutil.rmtree(gone, ignore_errors=True)
        path = path.rename(gone)
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_whole(file: Path, text: str) -> None:
    """Write a small file under a temporary name, then rename it."""
    part = file.with_name(f"{PART}{file.name}")
    try:
        part.write_text(text, encoding="utf-8")
        sync(part)
        part.replace(file)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
