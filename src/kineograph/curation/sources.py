"""The sources of a run: which files there are, what they are called by their bytes, and which text came with them."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kineograph._text import read_json_lines, read_text
from kineograph.curation import rows
from kineograph.curation.ids import printable, source_id, text_id
from kineograph.curation.parts import place_text
from kineograph.curation.rows import PARTS_OF_SOURCES

if TYPE_CHECKING:
    from kineograph.curation.lists import ListedSource, Listing

SIDECARS = frozenset({".txt", ".json", ".jsonl", ".csv", ".tsv", ".srt", ".vtt", ".ass", ".nfo", ".xml", ".yaml"})
"""Suffixes of files that describe a film of the same name beside them, and are no sources of their own."""

LISTS = frozenset({".csv", ".tsv", ".jsonl"})
"""Suffixes of lists of films."""


@dataclass(frozen=True)
class Found:
    """A file below the raw folder.

    Attributes:
        path: The file, as Python's file-system text.
        shown: Relative to the raw folder, printable.
        key: Device, inode, size and time of change, which stand for its content until one of them changes.
        source_id: Of its bytes; of its name, where it cannot be read.
        problem: Why it cannot be used, where that is known without opening it.
    """

    path: str
    shown: str
    key: tuple[int, int, int, int]
    source_id: str = ""
    problem: str = ""


def listing(root: Path, media: str | Path | None) -> Listing | None:
    """Read a list of films, where the raw "folder" is one."""
    if not root.is_file() or root.suffix.lower() not in LISTS:
        return None
    from kineograph.curation.lists import read

    return read(root, media)


def find(root: Path, listed: Listing | None = None) -> list[Found]:
    """List the files below a folder, by path; files that describe a film beside them are left out, hidden ones too."""
    if listed is not None:
        base = root.parent
        paths = [source.path for source in listed.sources]
        return sorted((_found(str(p), os.path.relpath(p, base), p.parent) for p in paths), key=lambda one: one.shown)
    if not root.is_dir():
        return [_found(str(root), root.name, root.parent)]
    names: list[str] = []
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if Path(folder, rows.CONFIG_FILE).exists() and Path(folder, PARTS_OF_SOURCES).is_dir():
            below.clear()  # the output folder of a run
            continue
        films = {Path(name).stem for name in files if Path(name).suffix.lower() not in SIDECARS}
        shown = (name for name in files if not name.startswith("."))
        names += [os.path.join(folder, n) for n in shown if not _is_sidecar(n, films)]  # noqa: PTH118
    return sorted((_found(name, os.path.relpath(name, root), root) for name in names), key=lambda one: one.shown)


def _is_sidecar(name: str, films: set[str]) -> bool:
    return Path(name).suffix.lower() in SIDECARS and Path(name).stem in films


def _found(path: str, relative: str, root: Path) -> Found:
    """Look at a file without opening it; links must not lead out of the raw folder."""
    shown = printable(relative)
    try:
        status = os.stat(path)  # noqa: PTH116
        real = os.path.realpath(path)
    except OSError as error:
        return Found(path, shown, (0, 0, 0, 0), text_id("unreadable", shown), str(error.strerror))
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if os.path.islink(path) and not Path(real).is_relative_to(root.resolve()):  # noqa: PTH114
        return Found(path, shown, key, text_id("link", shown), "a link that leads out of the raw folder")
    return Found(path, shown, key)


def identify(root: Path, out: Path, listed: Listing | None = None) -> list[Found]:
    """List the sources with their ids; only files that changed since the last run are read."""
    known = _known(out)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: _identified(one, known), find(root, listed)))
    lines = [json.dumps({**asdict(one), "duplicate_of": twin}) for one, twin in zip(found, twins(found), strict=True)]
    content = "".join(line + "\n" for line in lines)
    target = out / rows.FILES_FILE
    if not target.exists() or target.read_text(encoding="utf-8") != content:
        place_text(target, content)
    return found


def _known(out: Path) -> dict[tuple[int, ...], str]:
    """Return the ids of files seen before, by device, inode, size and time of change."""
    file = out / rows.FILES_FILE
    if not file.exists():
        return {}
    entries = [entry for _, entry in read_json_lines(file)]
    return {tuple(entry["key"]): entry["source_id"] for entry in entries if not entry["problem"]}


def _identified(one: Found, known: dict[tuple[int, ...], str]) -> Found:
    if one.problem:
        return one
    name = known.get(one.key)
    if name is None:
        try:
            name = source_id(one.path) if one.key[2] and os.path.isfile(one.path) else text_id("file", one.shown)  # noqa: PTH113
        except OSError as error:
            return Found(one.path, one.shown, one.key, text_id("unreadable", one.shown), str(error.strerror))
    return Found(one.path, one.shown, one.key, name)


def twins(found: list[Found]) -> list[str]:
    """Return for each file the first one with the same bytes; empty for the first itself."""
    first: dict[str, str] = {}
    return [twin if (twin := first.setdefault(one.source_id, one.shown)) != one.shown else "" for one in found]


def firsts(found: list[Found]) -> list[Found]:
    """Return one file for each content."""
    return [one for one, twin in zip(found, twins(found), strict=True) if not twin]


def text(path: str, source: ListedSource | None) -> tuple[str, list[list[Any]]]:
    """Return a film's caption and those of its stretches."""
    if source is None:
        return _sidecar_caption(path), []
    return source.caption, [[span.start, span.end, span.caption] for span in source.spans]


def _sidecar_caption(path: str) -> str:
    """Return the text of a `.txt` file of the same name, on one line; it ends after 10,000 characters.

    Raises:
        DataError: The file is no Unicode text.
    """
    file = os.path.splitext(path)[0] + ".txt"  # noqa: PTH122 - the path may hold bytes that are not UTF-8
    return " ".join(read_text(file)[:10_000].split()) if os.path.isfile(file) else ""  # noqa: PTH113
