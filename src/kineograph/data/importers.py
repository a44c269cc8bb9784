"""Bring other data-set layouts into the manifest format. Video files stay where they are.

Three layouts: a folder of videos with captions beside them (`clip.mp4`, `clip.txt`); a CSV or TSV table whose columns
are found by name (among them WebVid's videoid, contentUrl, duration, page_dir, name); and two text files of equal
length as finetrainers and CogVideo use them (`prompts.txt`, `videos.txt`). Everything found is accounted for: written,
or listed in the report with the reason.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kineograph._text import read_table, read_text
from kineograph.data.facts import Facts, file_facts
from kineograph.data.import_report import ImportReport
from kineograph.data.manifest import MANIFEST_NAME, Clip, iterate_manifest, there, windows_hint, write_manifest
from kineograph.data.replacing import refuse_existing
from kineograph.data.splits import train_split
from kineograph.errors import DataError, unknown

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".ogv", ".wmv", ".3gp", ".gif")
) | {".webp", ".apng"}
PATH_COLUMNS = ("path", "file_name", "filename", "file", "video_path", "video", "videoid", "video_id", "clip", "id")
CAPTION_COLUMNS = ("caption", "text", "prompt", "name", "description", "title")
PROMPT_FILES = ("prompts.txt", "prompt.txt", "captions.txt")
VIDEO_FILES = ("videos.txt", "video.txt")
TABLE_SUFFIXES = (".csv", ".tsv")
_FIELD_COLUMNS = {"split": "split", "licence": "licence", "license": "licence", "source": "source"}
_FIELD_COLUMNS |= {"contenturl": "source"}
_MEASURED = ("fps", "frames", "num_frames", "width", "height", "duration")
Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True)
class _Given:
    """What holds for every clip of an import.

    Attributes:
        place: The folder of the manifest.
        split: Split of clips that name none; empty is the manifest's before, or `"train"`.
        licence: Licence of clips that name none; empty is the manifest's before, or unknown.
        before: The clips of the manifest before, by file.
    """

    place: Path
    split: str
    licence: str
    before: dict[Path, Clip]


@dataclass(frozen=True)
class _Entry:
    """One clip before its file was looked at."""

    file: Path
    caption: str
    fields: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


def import_data(
    source: str | Path,
    output: str | Path | None = None,
    *,
    layout: Literal["auto", "folder", "table", "text-files"] = "auto",
    caption_column: str | None = None,
    path_column: str | None = None,
    videos: str | Path | None = None,
    split: str = "",
    licence: str = "",
    workers: int = 2,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import a data set of another layout.

    Over a manifest that is there already (`overwrite`), nothing is dropped that the source does not say anew: clips
    keep their scores, ids and other captions, and their caption, source, licence and split where none is given now.
    Clips of it that the source does not hold stay as they are, if their file is there.

    Args:
        source: A folder of videos, a folder with `prompts.txt` and `videos.txt`, or a CSV or TSV table.
        output: Folder for the manifest; None is the source's own folder.
        layout: The layout, if it should not be recognised.
        caption_column: The table's column with captions; None finds it by name (`CAPTION_COLUMNS`).
        path_column: The table's column with files or identifiers; None finds it by name (`PATH_COLUMNS`).
        videos: Folder in which the table's or list's files are; None is the folder of the table or list.
        split: Split of clips for which the table names none; empty is `"train"`.
        licence: Licence of clips for which the table names none.
        workers: Files looked at side by side.
        overwrite: Renew the manifest that is there.
        progress: Called with `(done, total, what)`.

    Raises:
        DataError: There is nothing to import, nothing readable in it, the table lacks a column, or there is a manifest.
    """
    source = Path(source)
    if not source.exists():
        raise DataError(f"There is nothing at '{source}' to import.")
    layout = _recognised(source) if layout == "auto" else layout
    if layout not in ("folder", "table", "text-files"):
        raise unknown("layout", layout, ("auto", "folder", "table", "text-files"))
    home = source if source.is_dir() else source.parent
    place = Path(output) if output is not None else home
    media = Path(videos) if videos is not None else home
    refuse_existing(place, overwrite)
    before = _by_file(place) if (place / MANIFEST_NAME).exists() else {}
    orphans, ignored, missing = [], {}, []
    if layout == "folder":
        entries, orphans, ignored = _folder(source)
    elif layout == "table":
        table = source if source.is_file() else _only_table(source)
        entries, missing = _table(table, media, caption_column, path_column)
    else:
        entries = _text_files(source, media)
    report = ImportReport("", layout, len(entries) + len(missing), 0, missing_files=missing, orphan_captions=orphans)
    given = _Given(place, split, licence, before)
    return _imported(entries, replace(report, ignored=ignored), given, workers, progress)


def _recognised(source: Path) -> Literal["folder", "table", "text-files"]:
    if source.is_file():
        if source.suffix.lower() in TABLE_SUFFIXES:
            return "table"
        raise DataError(f"'{source}' is a file, but no table ({', '.join(TABLE_SUFFIXES)}); give the folder it is in.")
    if any((source / name).is_file() for name in VIDEO_FILES):
        return "text-files"
    has_videos = any(_is_video(file) for file in _files(source))
    return "folder" if has_videos or not list(_tables(source)) else "table"


def _tables(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.iterdir()) if file.suffix.lower() in TABLE_SUFFIXES)


def _only_table(folder: Path) -> Path:
    tables = list(_tables(folder))
    if len(tables) != 1:
        names = ", ".join(table.name for table in tables) or "none"
        raise DataError(f"'{folder}' should hold one table ({', '.join(TABLE_SUFFIXES)}) but holds: {names}. Name it.")
    return tables[0]


def _files(folder: Path) -> Iterator[Path]:
    """Walk a folder in a fixed order, without hidden files and folders."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(entry)
        else:
            yield entry


def _is_video(file: Path) -> bool:
    return file.suffix.lower() in VIDEO_SUFFIXES


# ------------------------------------------------------------------------------------------------------------- layouts


def _folder(folder: Path) -> tuple[list[_Entry], list[str], dict[str, int]]:
    """Pair videos with the text files of the same stem; also give orphan text files, and counts of other files."""
    files = list(_files(folder))
    videos = [file for file in files if _is_video(file)]
    if not videos:
        raise DataError(
            f"'{folder}' holds no video file ({', '.join(sorted(VIDEO_SUFFIXES))}) among its {len(files)} files."
        )
    entries = [_Entry(video, _caption_beside(video)) for video in videos]
    stems = {video.with_suffix("") for video in videos}
    texts = [file for file in files if file.suffix.lower() == ".txt"]
    orphans = [str(text.relative_to(folder)) for text in texts if text.with_suffix("") not in stems]
    others = Counter(file.suffix.lower() or file.name for file in files if file not in {*videos, *texts})
    others.pop(".jsonl", None)
    return entries, orphans, dict(sorted(others.items()))


def _caption_beside(video: Path) -> str:
    file = video.with_suffix(".txt")
    return " ".join(read_text(file).split()) if file.is_file() else ""


def _text_files(folder: Path, media: Path) -> list[_Entry]:
    """Pair the lines of the prompt file with those of the video file."""
    prompts, videos = _named(folder, PROMPT_FILES), _named(folder, VIDEO_FILES)
    captions, paths = (read_text(file).rstrip("\n").split("\n") for file in (prompts, videos))
    if len(captions) != len(paths):
        raise DataError(
            f"'{prompts}' has {len(captions)} lines but '{videos}' has {len(paths)}: line n of one belongs to line n "
            f"of the other. A caption with a line break in it is a usual cause."
        )
    if blank := next((number for number, path in enumerate(paths, 1) if not path.strip()), None):
        raise DataError(f"{videos}:{blank}: the line is empty; every line names a video file.")
    return [_Entry(_file(media, path.strip()), caption.strip()) for path, caption in zip(paths, captions, strict=True)]


def _named(folder: Path, names: tuple[str, ...]) -> Path:
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) != 1:
        there = ", ".join(file.name for file in found) or "none"
        raise DataError(f"'{folder}' should hold one of {', '.join(names)}; it holds: {there}.")
    return found[0]


def _table(
    table: Path, media: Path, caption_column: str | None, path_column: str | None
) -> tuple[list[_Entry], list[str]]:
    """Read a table's rows; also list the rows whose file cannot be found, as `file:line: name`."""
    header, rows = read_table(table)
    columns = [column for column in header if column]
    path_name = _column(table, columns, path_column, PATH_COLUMNS, "files")
    caption_name = _column(table, columns, caption_column, CAPTION_COLUMNS, "captions")
    locate = _Locator(media)
    entries, missing = [], []
    for line, row in rows:
        name = row[path_name].strip()
        file = locate(name, row.get("page_dir", ""))
        if file is None:
            missing.append(f"{table}:{line}: {name or '(empty)'}")
        else:
            entries.append(_row_entry(file, row, caption_name, path_name))
    return entries, missing


def _column(table: Path, columns: list[str], given: str | None, usual: tuple[str, ...], what: str) -> str:
    """Find a column by the given name, or by the usual ones in their order."""
    if given is not None:
        if given not in columns:
            raise unknown(f"column for {what} in '{table.name}'", given, columns, DataError)
        return given
    lower = {column.strip().lower(): column for column in columns}
    found = next((lower[name] for name in usual if name in lower), None)
    if found is None:
        raise DataError(
            f"'{table}' has no column for {what}: it has {', '.join(columns) or 'none'}; known are {', '.join(usual)}. "
            f"Name it with --{'caption' if what == 'captions' else 'path'}-column."
        )
    return found


def _row_entry(file: Path, row: dict[str, str], caption_name: str, path_name: str) -> _Entry:
    """Split a row: the caption, columns that are manifest keys, and the rest as extras. Measured facts come later."""
    fields, extra = {}, {}
    for column, value in row.items():
        key = column.strip().lower()
        if key in _FIELD_COLUMNS:
            fields[_FIELD_COLUMNS[key]] = value
        elif column not in (caption_name, path_name) and key not in (*_MEASURED, "path", "caption"):
            extra[column] = value
    return _Entry(file, " ".join(row[caption_name].split()), fields, extra)


def _file(media: Path, name: str) -> Path:
    """Find a file by its path in a folder; with the separators of Windows, if it is not there as it is written."""
    file = media / name
    return media / name.replace("\\", "/") if "\\" in name and not there(file) else file


class _Locator:
    """Find the file that a table names: a path, a name without suffix, or WebVid's `page_dir/videoid.mp4`."""

    def __init__(self, media: Path) -> None:
        self.media = media
        self.stems: dict[str, list[Path]] | None = None

    def __call__(self, name: str, page_dir: str) -> Path | None:
        if not name:
            return None
        for part in (name, f"{page_dir}/{name}", f"{page_dir}/{name}.mp4"):
            if there(candidate := _file(self.media, part)) and candidate.is_file():
                return candidate
        matches = self._by_stem().get(name, [])
        if len(matches) > 1:
            raise DataError(
                f"The table names '{name}', and {len(matches)} files fit: {matches[0]}, {matches[1]}. Write their "
                f"paths into the table."
            )
        return matches[0] if matches else None

    def _by_stem(self) -> dict[str, list[Path]]:
        if self.stems is None:
            self.stems = {}
            for file in _files(self.media) if self.media.is_dir() else ():
                if _is_video(file):
                    self.stems.setdefault(file.stem, []).append(file)
        return self.stems


# ------------------------------------------------------------------------------------------------------------- writing


def _imported(
    entries: list[_Entry],
    report: ImportReport,
    given: _Given,
    workers: int,
    progress: Progress | None,
) -> ImportReport:
    """Look at every file, write the manifest of those that can be read, and complete the report."""
    clips, uncaptioned, missing, unreadable, duplicates = [], [], list(report.missing_files), {}, []
    seen: set[Path] = set()
    for done, (entry, found) in enumerate(_probed(entries, workers), 1):
        name, real = str(entry.file), entry.file.resolve()
        if not there(entry.file):
            missing.append(name)
        elif real in seen:
            duplicates.append(name)
        elif isinstance(found, str):
            unreadable[name] = found
        else:
            clips.append(_clip(entry, found, given))
            uncaptioned += [] if clips[-1].caption else [name]
        seen.add(real)
        if progress:
            progress(done, len(entries), "files")
    if not clips:
        reasons = [*missing, *unreadable.values()]
        raise DataError(
            f"None of the {report.found} clips can be used: {len(missing)} files are missing and {len(unreadable)} are "
            f"unreadable, such as: {reasons[0] + windows_hint(reasons[0]) if reasons else 'no entries'}"
        )
    others = [clip for file, clip in given.before.items() if file not in seen]
    kept = [clip for clip in others if there(given.place / clip.path)]
    missing += [clip.path for clip in others if clip not in kept]
    manifest = write_manifest(given.place, [*clips, *kept])
    return replace(
        report,
        manifest=str(manifest),
        found=report.found + len(others),
        clips=len(clips) + len(kept),
        kept=len(kept),
        missing_captions=uncaptioned,
        missing_files=missing,
        unreadable=unreadable,
        duplicates=duplicates,
    )


def _probed(entries: Iterable[_Entry], workers: int) -> Iterator[tuple[_Entry, Facts | str]]:
    with ThreadPoolExecutor(workers) as pool:
        entries = list(entries)
        yield from zip(entries, pool.map(lambda entry: file_facts(entry.file), entries), strict=True)


def _by_file(place: Path) -> dict[Path, Clip]:
    """Read the manifest that is to be renewed."""
    return {(place / clip.path).resolve(): clip for _, clip in iterate_manifest(place)}


def _clip(entry: _Entry, facts: Facts, given: _Given) -> Clip:
    """Make a manifest line of what the source says, then of what holds for all, then of what the manifest said."""
    file, root = entry.file.resolve(), given.place.resolve()
    before = given.before.get(file)
    path = file.relative_to(root).as_posix() if file.is_relative_to(root) else os.fspath(file)
    return Clip(
        path=path,
        caption=entry.caption or (before.caption if before else ""),
        source=entry.fields.get("source") or (before.source if before else ""),
        licence=entry.fields.get("licence") or given.licence or (before.licence if before else ""),
        split=train_split(entry.fields.get("split", "")) or given.split or (before.split if before else "train"),
        extra={**(before.extra if before else {}), **entry.extra},
        fps=facts.fps,
        frames=facts.frames,
        width=facts.width,
        height=facts.height,
    )
