"""A folder whose every byte is accounted for: its index holds the size and the SHA-256 of each file.

The index holds one of itself, too, and is written in one way only, so that a changed byte of it shows as well.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

INDEX = "index.json"


def write_index(folder: Path) -> None:
    """Write the index of a folder's files, and see that all of them have reached the disk."""
    (folder / INDEX).write_text(_text({file.name: _facts(file) for file in _files(folder)}))
    for path in (*folder.iterdir(), folder):
        sync(path)


def damage(folder: Path) -> str | None:
    """Say by name which file of a folder is missing or is not as the index says; None: every byte is.

    Raises:
        FileNotFoundError: There is no index.
    """
    file = folder / INDEX
    given = file.read_bytes()
    try:
        listed = json.loads(given)["files"]
        written_so = _text(listed).encode() == given
    except (ValueError, KeyError, TypeError):
        written_so, listed = False, {}
    if not written_so:
        return f"'{file}' is {'empty' if not given else 'damaged'}"
    found = (_difference(folder / name, facts) for name, facts in listed.items())
    return next((words for words in found if words), None)


def sync(path: Path) -> None:
    """See that a file's bytes, or a folder's names, have reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _text(files: dict[str, dict[str, Any]]) -> str:
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return json.dumps({"files": files, "sha256": digest}, indent=1, sort_keys=True) + "\n"


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and file.name != INDEX)


def _facts(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _difference(file: Path, wanted: dict[str, Any]) -> str | None:
    """Say how a file differs from its facts in the index."""
    if not file.is_file():
        return f"'{file}' is missing"
    size = file.stat().st_size
    if size != wanted["bytes"]:
        how = "empty" if size == 0 else "cut" if size < wanted["bytes"] else "too long"
        return f"'{file}' is {how} ({size} of {wanted['bytes']} bytes)"
    try:
        same = _facts(file) == wanted
    except OSError as error:
        return f"'{file}' cannot be read ({error.strerror})"
    return None if same else f"'{file}' is damaged (its SHA-256 is not that of the index)"
