"""Lists of published data sets, for local files: WebVid, HD-VILA-100M, Panda-70M, Koala-36M.

Each names source videos, for three of them with spans and a caption per span. Nothing is downloaded: users bring the
files, and every entry without one is listed. Timestamps and captions that these lists write as Python literals inside
a CSV cell are parsed as literals and never evaluated.

- WebVid (Bain et al. 2021, arXiv:2104.00650): CSV with `videoid, contentUrl, duration, page_dir, name`.
- HD-VILA-100M (Xue et al. 2021, arXiv:2111.10337): JSON lines with `video_id, url, clip: [{clip_id, span}]`.
- Panda-70M (Chen et al. 2024, arXiv:2402.19479): CSV with `videoID, url, timestamp, caption, matching_score, ...`, one
  row per source, each cell a list.
- Koala-36M (Wang et al. 2024, arXiv:2410.08260): CSV with `videoID, url, timestamp, caption, ...`, one row per span.
"""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from kineograph._text import read_json_lines, read_lines, read_table
from kineograph.errors import DataError, unknown

Layout = Literal["webvid", "hdvila", "panda", "koala"]
LAYOUTS: tuple[Layout, ...] = ("webvid", "hdvila", "panda", "koala")
SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".m4v", ".avi")
MIN_OVERLAP = 0.5
"""Share of a clip that a span must cover for the clip to get the span's caption."""


@dataclass(frozen=True)
class Span:
    """A stretch of a source that a list names.

    Attributes:
        start: Seconds.
        end: Seconds, exclusive.
        caption: What it shows; may be empty.
        scores: Numbers that the list gives for it, such as `matching_score`.
    """

    start: float
    end: float
    caption: str = ""
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ListedSource:
    """A source video of a list.

    Attributes:
        path: The local file.
        identifier: What the list calls it.
        caption: Of the whole file, where the list captions files.
        spans: Stretches named by the list, in order; empty means the whole file.
        url: Where the list says it comes from.
    """

    path: Path
    identifier: str
    caption: str = ""
    spans: tuple[Span, ...] = ()
    url: str = ""

    def caption_for(self, start: float, end: float) -> str:
        """Return the caption of the span that covers most of a stretch, or that of the file.

        Args:
            start: Seconds.
            end: Seconds; spans that cover less than `MIN_OVERLAP` of the stretch do not count.
        """
        shared = [(min(end, span.end) - max(start, span.start), span.caption) for span in self.spans]
        best = max(shared, key=lambda one: one[0], default=(0.0, ""))
        return best[1] if best[0] >= MIN_OVERLAP * (end - start) else self.caption


@dataclass(frozen=True)
class Listing:
    """A list, matched with local files.

    Attributes:
        layout: One of `LAYOUTS`.
        sources: Sources whose file is here, by path; rows about the same file are joined.
        missing: Identifiers whose file is not.
    """

    layout: Layout
    sources: list[ListedSource]
    missing: list[str]

    def of(self, path: str | Path) -> ListedSource | None:
        """Return the source of a file, if it is listed."""
        real = Path(path).resolve()
        return next((source for source in self.sources if source.path.resolve() == real), None)

    def caption_for(self, path: str | Path, start: float, end: float) -> str:
        """Return the caption of a stretch of a file; empty if the list has none."""
        source = self.of(path)
        return source.caption_for(start, end) if source else ""

    def summary(self) -> str:
        """Give the counts in words."""
        spans = sum(len(source.spans) for source in self.sources)
        lost = f"; {len(self.missing)} listed files are not here, such as {self.missing[0]}" if self.missing else ""
        return f"{len(self.sources)} sources with {spans} spans ({self.layout}){lost}"

    def to_json(self) -> dict[str, Any]:
        """Give counts and what is missing as plain JSON values."""
        found = [{**asdict(source), "path": str(source.path)} for source in self.sources]
        return {"layout": self.layout, "sources": found, "missing": self.missing}


def read(path: str | Path, media: str | Path | None = None, layout: Layout | Literal["auto"] = "auto") -> Listing:
    """Read a list and find its files.

    Args:
        path: The list, `.csv` or `.jsonl`.
        media: Folder with the files, by any path below it; None is the list's own folder. A file is found by the
            identifier, or by the video id in the URL, as its name without suffix.
        layout: One of `LAYOUTS`; `"auto"` recognises it by the columns.

    Raises:
        DataError: The list is missing, malformed (the message says in which line), or none of its files is here.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no list at '{path}'.")
    if layout not in (*LAYOUTS, "auto"):
        raise unknown("layout of a list", layout, (*LAYOUTS, "auto"))
    find = _Finder(Path(media) if media is not None else path.parent)
    kind: Layout = recognised(path) if layout == "auto" else layout
    readers = {"webvid": _webvid, "hdvila": _hdvila, "panda": _panda, "koala": _koala}
    listing = _matched(kind, readers[kind](path), find)
    if not listing.sources:
        raise DataError(
            f"None of the {len(listing.missing)} files that '{path}' lists is in '{find.folder}', such as "
            f"{listing.missing[0] if listing.missing else 'an empty list'}. Nothing is downloaded: give the folder "
            f"with the files."
        )
    return listing


def recognised(path: Path) -> Layout:
    """Tell a list's layout by its columns.

    Raises:
        DataError: It is none of the known ones.
    """
    first = next(read_lines(path), (1, ""))[1]
    if path.suffix.lower() in (".jsonl", ".json") and '"clip"' in first:
        return "hdvila"
    columns = {column.strip().lower() for column in next(csv.reader([first]), [])}
    if {"videoid", "name"} <= columns:
        return "webvid"
    if {"videoid", "timestamp", "caption"} <= columns:
        return "panda" if "matching_score" in columns else "koala"
    raise DataError(
        f"'{path}' is no list of WebVid (videoid, name), HD-VILA (JSON lines with clip), Panda-70M or Koala-36M "
        f"(videoID, timestamp, caption); its first line is: {first.strip()[:120]}"
    )


# Layouts: each yields sources with the identifier in place of the path ----------------------------------------------


def _webvid(path: Path) -> Iterator[ListedSource]:
    for row, _ in _rows(path, ("videoid", "name")):
        name = f"{row['page_dir'].strip('/')}/{row['videoid']}" if row.get("page_dir") else row["videoid"]
        yield ListedSource(Path(name), row["videoid"], " ".join(row["name"].split()), (), row.get("contenturl", ""))


def _hdvila(path: Path) -> Iterator[ListedSource]:
    for number, row in read_json_lines(path):
        where = f"{path}:{number}"
        try:
            spans = tuple(_span(clip["span"], where) for clip in row["clip"])
            identifier = str(row["video_id"])
        except (KeyError, TypeError) as error:
            raise DataError(f"{where}: no line of HD-VILA: {error!r}.") from error
        yield ListedSource(Path(identifier), identifier, "", spans, str(row.get("url", "")))


def _panda(path: Path) -> Iterator[ListedSource]:
    for row, where in _rows(path, ("videoid", "timestamp", "caption")):
        times, captions = (_literal(row[column], where, column) for column in ("timestamp", "caption"))
        scores = {column: _literal(row[column], where, column) for column in _number_columns(row)}
        lengths = {len(times), len(captions), *(len(values) for values in scores.values())}
        if len(lengths) > 1:
            raise DataError(f"{where}: timestamps, captions and scores are of different number.")
        spans = tuple(
            Span(*_ends(pair, where), str(captions[i]), {name: float(values[i]) for name, values in scores.items()})
            for i, pair in enumerate(times)
        )
        yield ListedSource(Path(row["videoid"]), row["videoid"], "", spans, row.get("url", ""))


def _koala(path: Path) -> Iterator[ListedSource]:
    for row, where in _rows(path, ("videoid", "timestamp", "caption")):
        pair = _literal(row["timestamp"], where, "timestamp")
        scores = {name: float(row[name]) for name in _score_names(row) if _is_number(row[name])}
        span = Span(*_ends(pair, where), " ".join(row["caption"].split()), scores)
        yield ListedSource(Path(row["videoid"]), row["videoid"], "", (span,), row.get("url", ""))


def _score_names(row: dict[str, str]) -> list[str]:
    return [name for name in row if name not in ("videoid", "url", "timestamp", "caption")]


def _number_columns(row: dict[str, str]) -> list[str]:
    """Name the columns of Panda whose cell is a list of numbers."""
    return [name for name in _score_names(row) if re.fullmatch(r"\[[-+0-9.,eE\s]*\]", row[name].strip())]


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[dict[str, str], str]]:
    """Yield each row of a CSV with lower-case columns, and where it stands."""
    header, lines = read_table(path)
    columns = [column.strip().lower() for column in header]
    if lacking := [name for name in needed if name not in columns]:
        raise DataError(f"'{path}' lacks the columns {', '.join(lacking)}; it has {', '.join(columns)}.")
    for number, row in lines:
        yield {column.strip().lower(): cell for column, cell in row.items()}, f"{path}:{number}"


def _literal(text: str, where: str, column: str) -> list[Any]:
    """Parse a list that stands in a cell as a Python literal; anything but a list of plain values is an error."""
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise DataError(f"{where}: '{column}' is no list: {text[:60]!r}.") from error
    if not isinstance(found, (list, tuple)):
        raise DataError(f"{where}: '{column}' is no list: {text[:60]!r}.")
    return list(found)


def _span(pair: Any, where: str) -> Span:
    return Span(*_ends(pair, where))


def _ends(pair: Any, where: str) -> tuple[float, float]:
    """Read `[start, end]`, each "HH:MM:SS.mmm" or seconds."""
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise DataError(f"{where}: a span is [start, end], not {str(pair)[:60]}.")
    start, end = (_seconds(value, where) for value in pair)
    if not 0 <= start < end:
        raise DataError(f"{where}: the span {pair} does not end after its start.")
    return start, end


def _seconds(value: Any, where: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    match = re.fullmatch(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)", str(value).strip())
    if not match:
        raise DataError(f"{where}: '{value}' is no timestamp HH:MM:SS.mmm.")
    hours, minutes, rest = match.groups()
    return int(hours or 0) * 3600 + int(minutes) * 60 + float(rest)


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text.strip()))


# Files -------------------------------------------------------------------------------------------------------------


class _Finder:
    """Find files by identifier below a folder; the folder is walked once."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"There is no folder '{folder}' with the listed files.")
        self.folder = folder
        self.stems: dict[str, list[Path]] = {}
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() in SUFFIXES and file.is_file():
                self.stems.setdefault(file.stem, []).append(file)

    def __call__(self, source: ListedSource) -> Path | None:
        """Return the file: at the listed place, else by identifier, video id in the URL, or identifier up to `_`."""
        wanted = source.path.as_posix()
        exact = [
            file for file in self.stems.get(source.path.name, []) if file.with_suffix("").as_posix().endswith(wanted)
        ]
        for files in (exact, *(self.stems.get(stem, []) for stem in _stems(source))):
            if len(files) > 1:
                raise DataError(f"'{source.identifier}' could be {files[0]} or {files[1]}. Rename or move one.")
            if files:
                return files[0]
        return None


def _stems(source: ListedSource) -> Iterator[str]:
    yield Path(source.identifier).stem if source.identifier.lower().endswith(SUFFIXES) else source.identifier
    if match := re.search(r"(?:[?&]v=|youtu\.be/|/shorts/)([\w-]{6,})", source.url):
        yield match[1]
    if "_" in source.identifier:
        yield source.identifier.rsplit("_", 1)[0]


def _matched(layout: Layout, listed: Iterator[ListedSource], find: _Finder) -> Listing:
    """Put files in place of identifiers, and join what is said about one file."""
    found: dict[Path, ListedSource] = {}
    missing = []
    for source in listed:
        file = find(source)
        if file is None:
            missing.append(source.identifier)
            continue
        before = found.get(file)
        both = [*(before.spans if before else ()), *source.spans]
        spans = sorted(both, key=lambda span: (span.start, span.end, span.caption))
        caption = before.caption if before and before.caption else source.caption
        identifier = before.identifier if before else source.identifier
        found[file] = ListedSource(file, identifier, caption, tuple(spans), source.url)
    return Listing(layout, [found[file] for file in sorted(found)], missing)
