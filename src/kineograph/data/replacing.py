"""Put a data set into its place: never over another one unasked, and only when it is whole."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from kineograph.data.manifest import MANIFEST_NAME
from kineograph.errors import DataError

PART = ".part-"


def refuse_existing(place: str | Path, overwrite: bool, *, names: Sequence[str] = (MANIFEST_NAME,)) -> None:
    """Refuse to write where there is a data set already.

    Args:
        place: Folder of the data set to be.
        overwrite: Whether the user said that what is there may be replaced.
        names: Files and folders that would be replaced; empty folders do not count.

    Raises:
        DataError: There is one of them, or the place is a file.
    """
    root = Path(place)
    if root.exists() and not root.is_dir():
        raise DataError(f"'{root}' is a file; a data set is a folder.")
    there = [name for name in names if _holds(root / name)]
    if there and not overwrite:
        raise DataError(
            f"'{root}' already holds a data set ({', '.join(there)}). Nothing was changed. Name another folder, or "
            f"replace it with --overwrite."
        )


def _holds(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()


@contextlib.contextmanager
def replacing(place: str | Path, names: Sequence[str]) -> Iterator[Path]:
    """Give a private folder to write into; when the block ends without an error, its content moves to its place.

    What it replaces is moved aside first and deleted last, so that at no moment both are gone. What an earlier run that
    was killed left behind is swept away.

    Args:
        place: Folder of the data set; made where it is missing.
        names: Files and folders of the private folder to move, in this order: the manifest last.
    """
    root = Path(place)
    root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob(f"{PART}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=PART, dir=root))
    try:
        yield part
        (part / ".replaced").mkdir()
        for name in names:
            _exchange(root / name, part / name, part / ".replaced" / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _exchange(old: Path, new: Path, aside: Path) -> None:
    """Move the old one aside and the new one, if there is one, to its place; the old one back where that fails."""
    if old.exists():
        old.rename(aside)
    try:
        if new.exists():
            new.rename(old)
    except OSError:
        if aside.exists():
            aside.rename(old)
        raise


def place_text(path: Path, text: str) -> None:
    """Write a small text file under a temporary name, then rename it."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
