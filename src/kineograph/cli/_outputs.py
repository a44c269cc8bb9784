"""Where results go: checked before any work, so that none is done in vain, and nothing is replaced that was not named.

A file that exists is replaced only with `--overwrite`. A name is taken by making an empty file, which the system does
for one of several programs only; the writer's own file then takes its place.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

from kineograph.errors import InputError


def check_free(files: Iterable[Path], flag: str, overwrite: bool) -> None:
    """Refuse files that cannot be written, or that are there already.

    Args:
        files: What will be written.
        flag: Its flag, for messages.
        overwrite: Whether files may be replaced.

    Raises:
        InputError: Names the file and what helps.
    """
    files = list(files)
    for file in files:
        if file.is_dir():
            raise InputError(f"{flag} '{file}' is a folder. Name a file, such as '{file / 'NAME'}'.")
        if file.exists() and not overwrite:
            raise InputError(f"{flag} '{file}' exists already. Give another name, or --overwrite to replace it.")
    for folder in dict.fromkeys(file.parent for file in files):
        check_place(folder, flag)


def check_place(folder: Path, flag: str) -> None:
    """Refuse a folder in which nothing can be written, there or still to be made.

    Raises:
        InputError: Names the nearest part of the path that exists, and what is wrong with it.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    if not there.is_dir():
        raise InputError(f"{flag}: '{there}' is a file, so nothing can be written under it. Name another folder.")
    try:
        Path(tempfile.mkdtemp(prefix=".kineograph-", dir=there)).rmdir()
    except OSError as error:
        raise InputError(
            f"{flag}: nothing can be written in '{there}': {error.strerror}. Name another folder."
        ) from error


@contextlib.contextmanager
def claimed(wanted: Path, overwrite: bool) -> Iterator[Path]:
    """Give the name that was wanted, or the next one that nobody has, to a writer that replaces what is there.

    Args:
        wanted: The file. Its folder is made.
        overwrite: Whether it may be replaced; then it is the name whatever is there.

    Yields:
        The file to write: the one wanted, or with a number, `clip-2.mp4`.
    """
    wanted.parent.mkdir(parents=True, exist_ok=True)
    name = wanted if overwrite else _first_free(wanted)
    try:
        yield name
    except BaseException:
        if not overwrite:
            name.unlink(missing_ok=True)
        raise


def _first_free(wanted: Path) -> Path:
    """Make an empty file under the first free name and return it."""
    for name in numbered(wanted):
        with contextlib.suppress(FileExistsError):
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return name
    raise AssertionError("unreachable")


def numbered(first: Path) -> Iterator[Path]:
    """Count names up: `clip.mp4`, `clip-2.mp4`, `clip-3.mp4` and so on."""
    yield first
    for number in count(2):
        yield first.with_name(f"{first.stem}-{number}{first.suffix}")
