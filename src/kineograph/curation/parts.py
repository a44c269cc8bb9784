"""Parquet parts: written beside, flushed, renamed. A part that is there is whole.

One part per source is the unit of commitment. Everything that it refers to (clips, strips, other parts) is in place
before it appears, so a run may be killed at any instruction and started again: what has no part is done again and comes
out in the same bytes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from kineograph.curation.rows import TEMPORARY, schema
from kineograph.errors import DataError, require

_MAGIC = b"PAR1"
_SMALLEST_PART = 12


def write_part(path: Path, rows: Sequence[dict[str, Any]], columns: Any) -> None:
    """Write a Parquet file so that it is either absent or whole, even after a power cut.

    Args:
        path: Its final place.
        rows: Its rows.
        columns: Their `pyarrow.Schema`.
    """
    pq, pa = require("pyarrow.parquet", "curation"), require("pyarrow", "curation")
    table = pa.Table.from_pylist(list(rows), schema=columns)
    place(path, lambda target: pq.write_table(table, target, compression="zstd"))


def write_rows(path: Path, rows: Sequence[Any], kind: type) -> None:
    """Write dataclass rows (`SourceRow`, `ClipRow`) as one part."""
    write_part(path, [vars(row) for row in rows], schema(kind))


def read_part(path: Path) -> list[dict[str, Any]]:
    """Read a part's rows.

    Raises:
        DataError: It is not whole; parts are never written that way, so something else damaged it.
    """
    pq, pa = require("pyarrow.parquet", "curation"), require("pyarrow", "curation")
    try:
        return pq.ParquetFile(path).read().to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"The part '{path}' is damaged ({error}). Delete it and run again with --resume.") from error


def count_rows(path: Path) -> int:
    """Return the number of rows of a whole part, from its footer."""
    return require("pyarrow.parquet", "curation").read_metadata(path).num_rows


def is_whole(path: Path) -> bool:
    """Whether a part is there with both its marks and a footer that fits, without parsing it."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
            size = file.seek(0, os.SEEK_END)
            if head != _MAGIC or size < _SMALLEST_PART:
                return False
            file.seek(-8, os.SEEK_END)
            tail = file.read(8)
    except OSError:
        return False
    return tail[4:] == _MAGIC and 0 < int.from_bytes(tail[:4], "little") <= size - _SMALLEST_PART


def place(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file in the same folder, flush it to disk and rename it to `path`.

    The temporary name is always the same, so that what a kill leaves behind is overwritten by the next attempt.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def place_text(path: Path, text: str) -> None:
    """Replace a text file as a whole."""
    place(path, lambda target: target.write_text(text, encoding="utf-8"))


def move(temporary: Path, path: Path) -> None:
    """Flush a finished file, give it its final name, and flush the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flush(temporary)
    os.replace(temporary, path)  # noqa: PTH105 - one system call, atomic
    flush(path.parent)


def flush(path: Path) -> None:
    """Wait until a file's or folder's content is on disk; file systems that cannot flush folders are left alone."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def sweep(out: Path, wanted: Iterable[Path], folders: Iterable[str], dry_run: bool = False) -> list[Path]:
    """Delete files that nothing refers to.

    Args:
        out: The output folder.
        wanted: Files to keep.
        folders: Folders below `out` in which everything else goes.
        dry_run: Only list.

    Returns:
        What was (or would be) deleted, sorted; leftovers of interrupted writes included.
    """
    keep = {path.absolute() for path in wanted}
    found = [path for name in (*folders, TEMPORARY) for path in (out / name).rglob("*") if path.is_file()]
    lost = sorted(path for path in found if path.absolute() not in keep)
    if not dry_run:
        for path in lost:
            path.unlink(missing_ok=True)
        _drop_empty(out / TEMPORARY)
    return lost


def _drop_empty(folder: Path) -> None:
    for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()
