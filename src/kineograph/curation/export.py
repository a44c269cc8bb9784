"""A selection leaves in the layouts that training code reads: our manifest, WebDataset shards, Hugging Face `datasets`.

Shards are deterministic: the same clips give the same bytes on every machine, so a shard's hash names its content.
Clips are put into buckets of one aspect ratio, size and length, because a batch needs one shape; every shard is of one
bucket. An `index.json` holds offset and length of every file in every shard, with which `loader.py` reads at random and
resumes in the middle of an epoch.

Every clip carries what Stable Video Diffusion conditions on (arXiv:2311.15127, app. D.2): frames per second and motion
score, next to all captions with their sampling weights, where it was cut, and the licence.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kineograph._text import read_json_lines
from kineograph.curation import select
from kineograph.curation.catalogue import Catalogue
from kineograph.curation.ids import sha256_of
from kineograph.curation.parts import place_text
from kineograph.errors import DataError, InputError

MANIFEST = "manifest.jsonl"
INDEX = "index.json"
ASPECTS = (("9x16", 9 / 16), ("3x4", 3 / 4), ("1x1", 1.0), ("4x3", 4 / 3), ("16x9", 16 / 9), ("21x9", 21 / 9))
"""Buckets of aspect ratio; a clip goes to the nearest in log ratio."""
SIZES = (240, 360, 480, 720, 1080, 2160)
"""Buckets of short side in pixels: the largest that the clip fills; smaller clips go to bucket 0."""
LENGTHS = (16, 32, 64, 128, 256, 512)
"""Buckets of length in frames: the largest that the clip fills; shorter clips go to bucket 1."""
_HIDDEN = ("path", "phash", "duplicate_of")


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        layout: `"manifest"`, `"webdataset"` or `"huggingface"`.
        place: File or folder written.
        clips: Clips in it.
        seconds: Their length.
        bytes: Size of their files.
        buckets: Clips per bucket (WebDataset only).
        shards: Shards written (WebDataset only).
    """

    layout: str
    place: str
    clips: int
    seconds: float
    bytes: int
    buckets: dict[str, int] = field(default_factory=dict)
    shards: int = 0

    def to_json(self) -> dict[str, Any]:
        """Give the report as plain JSON values."""
        return asdict(self)

    def summary(self) -> str:
        """Give the report in words."""
        size = f"{self.bytes / 1e6:.1f} MB"
        shards = f" in {self.shards} shards of {len(self.buckets)} buckets" if self.shards else ""
        return f"{self.clips} clips ({self.seconds:.0f} s, {size}){shards} written to {self.place}"


def manifest(out: str | Path, dest: str | Path | None = None, selection: str | None = None) -> Path:
    """Write the manifest that `kineograph train --data` reads.

    Args:
        out: Folder that `kineograph curate` wrote.
        dest: Folder or `.jsonl` file to write to; None is `out` itself. Paths in it are relative where they can be.
        selection: Name of a stored selection; None takes every clip.

    Returns:
        The file written.

    Raises:
        DataError: There is no clip.
        InputError: There is another manifest: rows that no curation wrote. An earlier export is replaced.
    """
    out = Path(out)
    file = written(Path(dest) if dest is not None else out, "manifest")
    if dest is not None:
        _check_earlier(file)
    lines = []
    for row in chosen(out, selection):
        where = row["path"] if file.parent.resolve() == out.resolve() else str((out / row["path"]).resolve())
        lines.append(json.dumps({**_record(row), "path": where, "caption": caption_of(row)}, ensure_ascii=False))
    place_text(file, "\n".join(lines) + "\n")
    return file


def _check_earlier(file: Path) -> None:
    """Refuse to replace a manifest that is no earlier export."""
    rows_there = read_json_lines(file) if file.exists() else iter(())
    if any(not isinstance(row, dict) or "clip_id" not in row for _, row in rows_there):
        raise InputError(
            f"'{file}' exists and is no earlier export: not every line has a clip_id. Choose another place."
        )


_MARKS = {"webdataset": INDEX, "huggingface": "train/metadata.parquet"}
"""File by which an export is known, in each layout that is a folder."""


def written(dest: Path, layout: str) -> Path:
    """Return the file by which an export at a place is known: the manifest, the index of shards, the table."""
    if layout == "manifest":
        return dest if dest.suffix == ".jsonl" else dest / MANIFEST
    return dest / _MARKS[layout]


def refuse_existing(dest: str | Path, layout: str) -> None:
    """Refuse to replace an earlier export, or the manifest of another data set.

    Raises:
        InputError: There is one.
    """
    file = written(Path(dest), layout)
    if layout == "manifest":
        _check_earlier(file)
    if file.exists():
        raise InputError(f"'{file}' exists already. Nothing was changed. Name another place, or add --overwrite.")


def chosen(out: str | Path, selection: str | None) -> list[dict[str, Any]]:
    """Return the clips of a selection, or all, with scores, by source and start.

    Raises:
        DataError: There is none.
    """
    ids = None if selection is None else select.kept(out, selection)
    with Catalogue(out) as catalogue:
        found = catalogue.clips(ids)
    if not found:
        raise DataError(f"There is no clip in '{out}': no source is ok. Look at the report: kineograph curate report.")
    return found


def caption_of(row: dict[str, Any]) -> str:
    """Return a clip's main caption: of those with the largest weight the first, else the text that it came with."""
    captions = row.get("captions") or []
    best = max(captions, key=lambda one: one["weight"], default=None)
    return best["text"] if best else row.get("caption") or ""


def _record(row: dict[str, Any]) -> dict[str, Any]:
    """Return what travels with a clip: every score, its place in the source, fps and motion score; JSON values only."""
    kept = {key: _plain(value) for key, value in row.items() if key not in _HIDDEN}
    return {**kept, "source": row["source_path"], "motion_score": _plain(row["motion_mean"])}


def _plain(value: Any) -> Any:
    """JSON knows no NaN."""
    return None if isinstance(value, float) and value != value else value


# WebDataset --------------------------------------------------------------------------------------------------------


def bucket_of(width: int, height: int, frames: int) -> str:
    """Name the bucket of a clip, such as `"16x9_720p_128f"`."""
    import math

    aspect = min(ASPECTS, key=lambda one: abs(math.log(width / height / one[1])))[0]
    size = max((edge for edge in SIZES if edge <= min(width, height)), default=0)
    length = max((count for count in LENGTHS if count <= frames), default=1)
    return f"{aspect}_{size}p_{length}f"


def webdataset(
    out: str | Path,
    dest: str | Path,
    selection: str | None = None,
    *,
    clips_per_shard: int = 1000,
    bytes_per_shard: int = 1_000_000_000,
) -> ExportReport:
    """Write shards that the `webdataset` library reads, and an index for `loader.ShardLoader`.

    Each clip is three files of one key: `.mp4`, `.txt` (the main caption) and `.json` (everything else). Keys are clip
    ids, in order; times, owners and modes are fixed; so the same clips give the same bytes.

    Args:
        out: Folder that `kineograph curate` wrote.
        dest: Folder for the shards. It is made; one that holds another export is replaced, any other is refused.
        selection: Name of a stored selection; None takes every clip.
        clips_per_shard: At most this many clips per shard.
        bytes_per_shard: Shards end before they grow beyond this, except for a single larger clip.

    Raises:
        DataError: A clip's file is missing or not what its row says.
        InputError: `dest` holds other things, or a limit is below 1.
    """
    if clips_per_shard < 1 or bytes_per_shard < 1:
        raise InputError(f"Shards hold at least 1 clip and 1 byte, not {clips_per_shard} and {bytes_per_shard}.")
    out, dest = Path(out), Path(dest)
    buckets: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(chosen(out, selection), key=lambda row: row["clip_id"]):
        buckets.setdefault(bucket_of(row["width"], row["height"], row["frames"]), []).append(row)
    with _replacing(dest, _MARKS["webdataset"]) as part:
        shards = []
        for bucket, rows in sorted(buckets.items()):
            for number, group in enumerate(_groups(out, rows, clips_per_shard, bytes_per_shard)):
                shards.append(_write_shard(out, part, f"{bucket}-{number:06d}.tar", bucket, group))
        index = {"format": "kineograph shards", "version": 1, "selection": selection, "shards": shards}
        place_text(part / INDEX, json.dumps(index, indent=1) + "\n")
    rows = [row for group in buckets.values() for row in group]
    counts = {bucket: len(group) for bucket, group in sorted(buckets.items())}
    return _report("webdataset", out, dest, rows, counts, len(shards))


def _groups(out: Path, rows: list[dict[str, Any]], count: int, size: int) -> Iterator[list[dict[str, Any]]]:
    """Cut a bucket into shards."""
    group: list[dict[str, Any]] = []
    total = 0
    for row in rows:
        length = _clip_path(out, row).stat().st_size
        if group and (len(group) == count or total + length > size):
            yield group
            group, total = [], 0
        group.append(row)
        total += length
    if group:
        yield group


def _write_shard(out: Path, part: Path, name: str, bucket: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Write one tar, and return its entry of the index."""
    samples = []
    with (part / name).open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in rows:
            members = {}
            for suffix, data in _members(out, row, bucket):
                members[suffix] = [_add(tar, f"{row['clip_id']}.{suffix}", data), len(data)]
            samples.append({"key": row["clip_id"], **members})
    whole = part / name
    entry = {"file": name, "bucket": bucket, "bytes": whole.stat().st_size, "sha256": sha256_of(whole)}
    return {**entry, "samples": samples}


def _members(out: Path, row: dict[str, Any], bucket: str) -> Iterable[tuple[str, bytes]]:
    """Give the files of one clip in the order of their names."""
    record = json.dumps({**_record(row), "bucket": bucket}, sort_keys=True, ensure_ascii=False).encode()
    data = _clip_path(out, row).read_bytes()
    _require_same(out, row, hashlib.sha256(data).hexdigest())
    return ("json", record), ("mp4", data), ("txt", caption_of(row).encode())


def _require_same(out: Path, row: dict[str, Any], found: str) -> None:
    """Demand that a file is the one that was curated."""
    if row["sha256"] and found != row["sha256"]:
        raise DataError(
            f"'{out / row['path']}' is not the file that was curated: its SHA-256 differs. Run `kineograph curate` "
            f"again with --resume after deleting it."
        )


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append one file with fixed time, owner and mode; return the offset of its data."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), 0, 0o644
    start = tar.offset
    tar.addfile(info, io.BytesIO(data))
    return start + tarfile.BLOCKSIZE


def _clip_path(out: Path, row: dict[str, Any]) -> Path:
    file = out / row["path"]
    if not file.is_file():
        raise DataError(f"The clip '{file}' is gone. Run `kineograph curate` again with --resume.")
    return file


# Hugging Face datasets -------------------------------------------------------------------------------------------


def huggingface(out: str | Path, dest: str | Path, selection: str | None = None, *, link: bool = False) -> ExportReport:
    """Write a folder that `datasets.load_dataset(FOLDER)` reads, and that can be pushed to the Hub as it is.

    The layout is datasets' `videofolder`: `train/<clip>.mp4` with `train/metadata.parquet`, whose columns are those of
    the catalogue, and a `README.md` with the licences found.

    Args:
        out: Folder that `kineograph curate` wrote.
        dest: Folder to write; one that holds another such export is replaced, any other is refused.
        selection: Name of a stored selection; None takes every clip.
        link: Make hard links in place of copies where the file system can.

    Raises:
        DataError: A clip's file is missing or not what its row says.
        InputError: `dest` holds other things.
    """
    from kineograph.errors import require

    pa, parquet = require("pyarrow", "curation"), require("pyarrow.parquet", "curation")
    out, dest = Path(out), Path(dest)
    rows = chosen(out, selection)
    with _replacing(dest, _MARKS["huggingface"]) as part:
        (part / "train").mkdir()
        table = []
        for row in rows:
            _require_same(out, row, sha256_of(_clip_path(out, row)))
            _copy(_clip_path(out, row), part / "train" / f"{row['clip_id']}.mp4", link)
            table.append({"file_name": f"{row['clip_id']}.mp4", "text": caption_of(row), **_record(row)})
        parquet.write_table(pa.Table.from_pylist(table), part / "train" / "metadata.parquet")
        place_text(part / "README.md", _card(rows))
    return _report("huggingface", out, dest, rows, {}, 0)


def _copy(source: Path, target: Path, link: bool) -> None:
    if link:
        try:
            target.hardlink_to(source)
            return
        except OSError:
            pass  # another file system: copy
    shutil.copyfile(source, target)


def _card(rows: list[dict[str, Any]]) -> str:
    """Write the data set's card: what is in it, and under which licences."""
    licences = sorted({row["licence"] or "unknown" for row in rows})
    count = len(rows)
    classes = ("n<1K", 1e3), ("1K<n<10K", 1e4), ("10K<n<100K", 1e5), ("100K<n<1M", 1e6), ("1M<n<10M", 1e7)
    size = next((name for name, limit in classes if count < limit), "n>10M")
    head = f"---\ntask_categories:\n- text-to-video\nsize_categories:\n- {size}\n---\n"
    body = f"{count} clips, {sum(row['duration'] for row in rows) / 3600:.2f} hours, cut and scored by Kineograph.\n"
    named = "".join(f"- {licence}\n" for licence in licences)
    return f"{head}\n# Clips\n\n{body}\nLicences of the content, by clip in the column `licence`:\n\n{named}"


# Both ------------------------------------------------------------------------------------------------------------


class _replacing:
    """Fill a folder beside its final place, then put it there; what stood there must be an export of the same kind."""

    def __init__(self, dest: Path, mark: str) -> None:
        if dest.exists() and not (dest / mark).is_file() and (not dest.is_dir() or any(dest.iterdir())):
            raise InputError(f"'{dest}' exists and is no earlier export (it has no {mark}). Choose another folder.")
        self.dest, self.part = dest, dest.with_name(f".{dest.name}.{os.getpid()}.part")

    def __enter__(self) -> Path:
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)
        return self.part

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            old = self.dest.with_name(f".{self.dest.name}.{os.getpid()}.old")
            if self.dest.exists():
                self.dest.rename(old)
            self.part.rename(self.dest)
            shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(self.part, ignore_errors=True)


def _report(
    layout: str, out: Path, dest: Path, rows: list[dict[str, Any]], buckets: dict[str, int], shards: int
) -> ExportReport:
    size = sum(_clip_path(out, row).stat().st_size for row in rows)
    return ExportReport(layout, str(dest), len(rows), sum(row["duration"] for row in rows), size, buckets, shards)
