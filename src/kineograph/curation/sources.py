"""The sources of a run: which files there are, what they are called by their bytes, and which text came with them."""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kineograph._text import read_json_lines, read_text
from kineograph.curation import rows
from kineograph.curation.ids import printable, source_id, text_id
from kineograph.curation.parts import place_text
from kineograph.curation.rows import PARTS_OF_SOURCES
from kineograph.errors import InputError

if TYPE_CHECKING:
    from kineograph.curation.lists import ListedSource, Listing

SIDECARS = frozenset({".txt", ".json", ".jsonl", ".csv", ".tsv", ".srt", ".vtt", ".ass", ".nfo", ".xml", ".yaml"})
"""Suffixes of files that describe a film of the same name beside them, and are no sources of their own."""

LISTS = frozenset({".csv", ".tsv", ".jsonl"})
"""Suffixes of lists of films."""

FILMS = frozenset(
    (
        *(".3g2", ".3gp", ".264", ".265", ".apng", ".asf", ".av1", ".avi", ".divx", ".dv", ".f4v"),
        *(".flv", ".gif", ".h264", ".h265", ".hevc", ".ivf", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg"),
        *(".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut"),
        *(".obu", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
    )
)
"""Suffixes of films; files with others are films where they begin as one."""

_PICTURES_AND_SOUND = (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"M4A ", b"M4B ")
"""Brands of ISO files that hold pictures or sound (mp4ra.org, brands)."""
_BEGINNINGS = (
    *(b"\x1aE\xdf\xa3", b"FLV\x01", b"\0\0\1\xba", b"\0\0\1\xb3"),
    *(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"YUV4MPEG2", b"DKIF"),
)
"""First bytes of Matroska, FLV, MPEG program and video streams, ASF, YUV4MPEG2 and IVF."""


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


@dataclass(frozen=True)
class Survey:
    """What lies below a raw folder.

    Attributes:
        found: The sources, by path.
        skipped: Paths of files that are no films by name nor content, and describe none beside them, relative to the
            folder, printable, in order.
    """

    found: list[Found]
    skipped: list[str]


def survey(root: Path, listed: Listing | None = None) -> Survey:
    """List the files below a folder; those that describe a film beside them are left out, hidden ones too.

    Raises:
        InputError: There is no source.
    """
    if listed is not None:
        base = root.parent
        paths = [source.path for source in listed.sources]
        return Survey(_sorted((str(p), os.path.relpath(p, base), p.parent) for p in paths), [])
    if not root.is_dir():
        return Survey([_found(str(root), root.name, root.parent)], [])
    films, others = [], []
    for name in _names(root):
        (films if is_film(name) else others).append(name)
    skipped = sorted(printable(os.path.relpath(name, root)) for name in others)
    if not films:
        raise InputError(
            f"There is no film in '{root}': {_others(skipped)}. Looked for files that end in "
            f"{', '.join(sorted(FILMS))}, and for others that begin as films do."
        )
    return Survey(_sorted((name, os.path.relpath(name, root), root) for name in films), skipped)


def _sorted(files: Iterable[tuple[str, str, Path]]) -> list[Found]:
    return sorted((_found(*one) for one in files), key=lambda one: one.shown)


def _others(skipped: list[str]) -> str:
    if not skipped:
        return "it holds no file"
    return f"its {len(skipped)} files are something else ({in_words(endings(skipped))})"


def endings(names: Iterable[str]) -> dict[str, int]:
    """Count names by suffix, most frequent first."""
    return dict(Counter(Path(name).suffix.lower() or "no ending" for name in names).most_common())


def in_words(counts: dict[str, int]) -> str:
    """Write counts by suffix, such as `".txt 2, .jpg 1"`."""
    return ", ".join(f"{ending} {count}" for ending, count in counts.items())


def _names(root: Path) -> Iterator[str]:
    """Yield the files below a folder that may be films."""
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if is_output(Path(folder)):
            below.clear()
            continue
        films = {Path(name).stem for name in files if Path(name).suffix.lower() not in SIDECARS}
        shown = (name for name in files if not name.startswith("."))
        yield from (os.path.join(folder, n) for n in shown if not _is_sidecar(n, films))  # noqa: PTH118


def is_output(folder: Path) -> bool:
    """Whether a folder is the output folder of a run."""
    return (folder / rows.CONFIG_FILE).exists() and (folder / PARTS_OF_SOURCES).is_dir()


def is_film(path: str) -> bool:
    """Whether a file is taken for a film: by its suffix, or by its first bytes."""
    suffix = Path(path).suffix.lower()
    if suffix in FILMS and suffix not in _ALSO_TEXT:
        return True
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            return suffix in FILMS
        with open(path, "rb") as file:  # noqa: PTH123
            head = file.read(200)
    except OSError:
        return suffix in FILMS
    return begins_as_film(head) or (suffix in FILMS and not _is_text(head))


_ALSO_TEXT = (".ts", ".mts")
"""Suffixes of transport streams and of programs in TypeScript."""


def _is_text(head: bytes) -> bool:
    text = head.decode("ascii", "replace")
    return bool(head) and head.isascii() and "".join(text.split()).isprintable()


def begins_as_film(head: bytes) -> bool:
    """Whether a file's first 200 bytes are those of a film."""
    if head[4:8] == b"ftyp":
        return head[8:12] not in _PICTURES_AND_SOUND
    if head[4:8] in (b"moov", b"mdat", b"wide") or head[8:12] == b"AVI ":
        return True
    transport = any(head[at : at + 1] == head[at + step : at + step + 1] == b"G" for at, step in ((0, 188), (4, 192)))
    return transport or head.startswith(_BEGINNINGS)


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


def identify(found: Sequence[Found], out: Path) -> list[Found]:
    """Give the sources their ids; only files that changed since the last run are read."""
    known = _known(out)
    with ThreadPoolExecutor(4) as pool:
        named = list(pool.map(lambda one: _identified(one, known), found))
    lines = [json.dumps({**asdict(one), "duplicate_of": twin}) for one, twin in zip(named, twins(named), strict=True)]
    content = "".join(line + "\n" for line in lines)
    target = out / rows.FILES_FILE
    if not target.exists() or target.read_text(encoding="utf-8") != content:
        place_text(target, content)
    return named


def copies(out: Path) -> dict[str, str]:
    """Return the files of the last run whose bytes are those of another, with the other's path."""
    file = out / rows.FILES_FILE
    entries = (entry for _, entry in read_json_lines(file)) if file.exists() else ()
    return {entry["shown"]: entry["duplicate_of"] for entry in entries if entry["duplicate_of"]}


def note_skipped(skipped: list[str], out: Path) -> None:
    """List the files that were left alone, one a line; no list where there are none."""
    file = out / rows.SKIPPED_FILE
    if skipped:
        place_text(file, "".join(json.dumps(name, ensure_ascii=False)[1:-1] + "\n" for name in skipped))
    else:
        file.unlink(missing_ok=True)


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
