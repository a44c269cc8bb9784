"""The manifest: one JSON object per line, one line per clip.

A data set is a folder with a `manifest.jsonl`. Paths in it are relative to that folder. Unknown keys are kept in
`Clip.extra`, so that scores written by curation travel with the clip.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from kineograph._text import read_json_lines
from kineograph.errors import DataError

MANIFEST_NAME = "manifest.jsonl"


@dataclass(frozen=True)
class Clip:
    """One clip of a data set.

    Attributes:
        path: Video file, relative to the manifest's folder (or absolute).
        caption: What the clip shows; may be empty.
        fps: Frames per second; 0 for a single picture.
        frames: Number of frames, at least 1.
        width: Width in pixels.
        height: Height in pixels.
        source: Where the clip comes from.
        licence: Licence of the clip's content.
        split: `"train"` or the name of a test split.
        extra: Further keys of the manifest line, such as scores.
    """

    path: str
    caption: str
    fps: float
    frames: int
    width: int
    height: int
    source: str = ""
    licence: str = ""
    split: str = "train"
    extra: dict[str, Any] = field(default_factory=dict)


_REQUIRED = {"path": str, "caption": str, "fps": (int, float), "frames": int, "width": int, "height": int}
_WORDS = ("source", "licence", "split")
_MOST = 10**9
"""No clip has more frames, pixels in a row, or frames per second than this; the line is damaged."""
_FIELDS = tuple(f.name for f in fields(Clip) if f.name != "extra")
_KNOWN = frozenset(_FIELDS)


def clip_from_dict(row: object, where: str) -> Clip:
    """Check one manifest object.

    Args:
        row: The decoded JSON value.
        where: `file:line`, for the message.

    Raises:
        DataError: A required key is missing or has the wrong type.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object per line, got {type(row).__name__}.")
    for key, kind in _REQUIRED.items():
        if key not in row:
            raise DataError(f"{where}: key '{key}' is missing. A clip needs: {', '.join(_REQUIRED)}.")
        if not isinstance(row[key], kind) or isinstance(row[key], bool):
            raise DataError(f"{where}: key '{key}' has the value {row[key]!r}, which is not of the right type.")
    for key in _WORDS:
        if not isinstance(row.get(key) or "", str):
            raise DataError(f"{where}: key '{key}' has the value {row[key]!r}, which is not text.")
    if any(not 1 <= row[key] <= _MOST for key in ("frames", "width", "height")) or not 0 <= row["fps"] <= _MOST:
        raise DataError(f"{where}: frames, width and height must be from 1 to {_MOST}, and fps from 0 on.")
    if not row["path"].strip() or "\0" in row["path"]:
        raise DataError(f"{where}: the path {row['path']!r} names no file.")
    known: dict[str, Any] = {
        key: value for key, value in row.items() if key in _KNOWN and (value is not None or key not in _WORDS)
    }
    return Clip(**known, extra={key: value for key, value in row.items() if key not in _KNOWN})


def manifest_path(place: str | Path) -> Path:
    """Return the manifest file of a data-set folder (or the file itself).

    Raises:
        DataError: There is none.
    """
    path = Path(place)
    file = path / MANIFEST_NAME if path.is_dir() else path
    if not file.is_file():
        raise DataError(
            f"No data set at '{place}': there is no {MANIFEST_NAME}. "
            "Make one with `kineograph data emoji -o DIR`, `kineograph data import` or `kineograph curate`."
        )
    return file


def iterate_manifest(place: str | Path) -> Iterator[tuple[int, Clip]]:
    """Yield `(line number, clip)`; raises `DataError` at the first bad line."""
    file = manifest_path(place)
    for number, row in read_json_lines(file):
        yield number, _at_home(clip_from_dict(row, f"{file}:{number}"), file.parent)


def _at_home(clip: Clip, root: Path) -> Clip:
    """Give a path that was written on Windows the separators of this system, if the file is there."""
    if "\\" not in clip.path or there(root / clip.path):
        return clip
    path = clip.path.replace("\\", "/")
    return replace(clip, path=path) if there(root / path) else clip


def there(path: Path) -> bool:
    """Whether there is a file or folder; of a name that no file can have, there is none."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises where a name is too long


def windows_hint(path: str) -> str:
    """Give a hint in brackets for a path of Windows on another system, else nothing."""
    drive = re.match(r"[A-Za-z]:[\\/]", path)
    if os.sep == "\\" or not (drive or "\\" in path):
        return ""
    return " (a path of Windows: write it relative to the manifest" + (")" if drive else ", with /)")


def read_manifest(place: str | Path, split: str | None = None) -> list[Clip]:
    """Read a data set's clips.

    Args:
        place: A folder with `manifest.jsonl`, or the file.
        split: Keep only this split; None keeps all.

    Returns:
        The clips in file order.

    Raises:
        DataError: No manifest, a bad line, or no clip (of that split).
    """
    clips = [clip for _, clip in iterate_manifest(place)]
    kept = [clip for clip in clips if split is None or clip.split == split]
    if not kept:
        splits = sorted({clip.split for clip in clips})
        raise DataError(
            f"The data set at '{place}' has no clip" + (f" of split '{split}'; its splits: {splits}." if split else ".")
        )
    return kept


def clip_to_dict(clip: Clip) -> dict[str, Any]:
    """Return the JSON object of a clip, extras at the top level."""
    return {**{name: getattr(clip, name) for name in _FIELDS}, **clip.extra}


def _line(clip: Clip) -> str:
    """Write a clip as one line; in ASCII where a file's name holds bytes that are not UTF-8."""
    line = json.dumps(clip_to_dict(clip), ensure_ascii=False) + "\n"
    return line if _encodes(line) else json.dumps(clip_to_dict(clip)) + "\n"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_manifest(place: str | Path, clips: Iterable[Clip]) -> Path:
    """Write a manifest atomically.

    Args:
        place: The data set's folder, or the manifest file.
        clips: The clips, in the order to write.

    Returns:
        The manifest file.
    """
    path = Path(place)
    file = path if path.suffix == ".jsonl" else path / MANIFEST_NAME
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as out:
            for clip in clips:
                out.write(_line(clip))
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    return file


def content_key(place: str | Path) -> str:
    """Return a key that changes whenever a data set does: for caches of anything that is made from its files.

    The key covers every manifest row (all its fields, in order) and, of every file that a row names, the path, size and
    modification time in nanoseconds; of a folder of pictures, those of each picture. Files are looked at, not read, so
    that many clips cost little. Line ends, spaces and the order of keys in the manifest do not matter. A file that is
    missing counts as such: the key changes when it comes.

    Args:
        place: The data set's folder, or the manifest file.

    Returns:
        64 hexadecimal digits.

    Raises:
        DataError: There is no manifest, or a line of it is bad.
    """
    root = manifest_path(place).parent.resolve()
    digest = hashlib.sha256(os.fsencode(root))
    for _, clip in iterate_manifest(place):
        row = json.dumps(clip_to_dict(clip), sort_keys=True)
        digest.update(f"{row}\n{_stamp(os.path.join(root, clip.path))}\n".encode())  # noqa: PTH118 - Path is slower
    return digest.hexdigest()


def _stamp(file: str) -> str:
    """Give size and modification time of a file, or of everything in a folder."""
    try:
        facts = os.stat(file)  # noqa: PTH116
        if not stat.S_ISDIR(facts.st_mode):
            return f"{facts.st_size} {facts.st_mtime_ns}"
        entries = sorted(os.scandir(file), key=lambda entry: entry.name)
        return " ".join(f"{entry.name!r} {_stamp(entry.path)}" for entry in entries)
    except OSError as error:
        return type(error).__name__
