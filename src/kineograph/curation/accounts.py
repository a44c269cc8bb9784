"""The account of a run: every file counted once, every second of footage in a clip or lost for a reason."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kineograph._text import read_json, read_json_lines
from kineograph.curation import rows, sources
from kineograph.curation.config import CurationConfig, scorer_fingerprints
from kineograph.curation.parts import place_text, read_part
from kineograph.curation.rows import PARTS_OF_SCORES
from kineograph.curation.sources import Found
from kineograph.curation.yields import NOTHING, Yield, of_film, total
from kineograph.errors import DataError

SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class Summary:
    """What became of a run.

    Attributes:
        sources: Files: `in`, `ok`, `filtered` and `failed`.
        statuses: Files by status.
        clips: Clips in all.
        seconds: Seconds of film in the clips.
        footage: Where the seconds of all footage went, as `yields.Yield.to_json` gives it.
        uncaptioned: Clips without a caption.
        captioners: Whether captioners were configured.
        skipped: Files below the raw folder that are no films, by ending; their names are in `skipped.txt`.
        changed: How the configuration differs from the run before in this folder.
        aside: Folder with the data set that was set aside for this run.
        computed: Sources worked on in this run; the others were done before.
        scored: Clips scored in this run, by scorer.
        unscored: Sources that a scorer failed on, by scorer, with the first reason.
        manifest: The manifest, or empty where there is no clip.
        out: The output folder.
        elapsed: Wall time in seconds.
    """

    sources: dict[str, int] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    clips: int = 0
    seconds: float = 0.0
    footage: dict[str, Any] = field(default_factory=NOTHING.to_json)
    uncaptioned: int = 0
    captioners: bool = False
    skipped: dict[str, int] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    aside: str = ""
    computed: int = 0
    scored: dict[str, int] = field(default_factory=dict)
    unscored: dict[str, str] = field(default_factory=dict)
    manifest: str = ""
    out: str = ""
    elapsed: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain data; `footage` is called `yield`."""
        content = asdict(self)
        return {"yield" if name == "footage" else name: value for name, value in content.items()}

    def summary(self) -> str:
        """Return the summary in words."""
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items()))
        return "\n".join(
            [
                *self._changes(),
                f"{self.sources['in']} sources: {counts}",
                *self._skipped(),
                f"{self.clips} clips, {self.seconds:.1f} s of film",
                f"yield: {Yield.from_json(self.footage).in_words()}",
                *self._captions(),
                f"{self.computed} sources worked on in {self.elapsed:.1f} s",
                *(f"scorer {name} failed: {reason}" for name, reason in self.unscored.items()),
                self.manifest or f"no clip; the reasons are in the report: kineograph curate report {self.out}",
            ]
        )

    def _changes(self) -> Iterator[str]:
        if self.changed:
            yield f"configuration changed since the last run here: {', '.join(self.changed)}"
        if self.aside:
            yield f"the data set that was here is now in {self.aside}"

    def _skipped(self) -> Iterator[str]:
        if self.skipped:
            words = sources.in_words(self.skipped)
            yield f"{sum(self.skipped.values())} other files left alone ({words}): {self.out}/{rows.SKIPPED_FILE}"

    def _captions(self) -> Iterator[str]:
        if not self.uncaptioned:
            return
        if self.captioners:
            yield f"{self.uncaptioned} of {self.clips} clips have no caption: their captioners said nothing"
            return
        which = "captions are empty" if self.uncaptioned == self.clips else f"{self.uncaptioned} captions are empty"
        yield (
            f"no captioner: {which}; put NAME.txt beside NAME.mp4, or add --captions WORD (file-name, standin, "
            f"coca:FILE, image:FOLDER, endpoint:URL#MODEL, ...; see --help)"
        )


def summarise(found: list[Found], out: Path, config: CurationConfig, run: Summary, started: float) -> Summary:
    """Count every file once and write the manifest; parts that did not change are not read again.

    Args:
        found: The sources.
        out: The output folder.
        config: Of the run.
        run: What the run did.
        started: When it began, by `time.monotonic`.
    """
    state = _state(found, out, config)
    stored = _stored(out, state)
    if stored is None:
        stored = {"state": state, **_accounts(found, out, config)}
        stored["manifest"], stored["uncaptioned"] = _manifest(out, stored["clips"])
        place_text(out / SUMMARY_FILE, json.dumps(stored, indent=2) + "\n")
    statuses = stored["statuses"]
    failed = sum(count for status, count in statuses.items() if status in rows.FAILED)
    counts = {"in": len(found), "ok": statuses.get(rows.OK, 0), "filtered": statuses.get(rows.FILTERED, 0)}
    counts["failed"] = failed
    assert counts["in"] == counts["ok"] + counts["filtered"] + counts["failed"], (counts, statuses)
    return replace(
        run,
        sources=counts,
        statuses=statuses,
        clips=stored["clips"],
        seconds=stored["seconds"],
        footage=stored["yield"],
        uncaptioned=stored["uncaptioned"],
        captioners="captions" in config.scorers,
        manifest=str(out / stored["manifest"]) if stored["manifest"] else "",
        out=str(out),
        elapsed=time.monotonic() - started,
    )


def _state(found: list[Found], out: Path, config: CurationConfig) -> str:
    """Return a hash of what the summary and manifest follow from: the sources and the names of their parts."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([config.fingerprint, [[one.shown, one.source_id] for one in found]]).encode())
    for name, made in scorer_fingerprints(config).items():
        folder = out / PARTS_OF_SCORES / name
        there = (
            sorted(p.name for p in folder.iterdir() if p.name.endswith(f".{made}.parquet")) if folder.is_dir() else []
        )
        digest.update(json.dumps([name, there]).encode())
    return digest.hexdigest()


def _stored(out: Path, state: str) -> dict[str, Any] | None:
    """Return the last run's summary if it is of the same state and its manifest is there."""
    try:
        stored = read_json(out / SUMMARY_FILE)
    except DataError:
        return None
    whole = stored.get("state") == state and (not stored["manifest"] or (out / stored["manifest"]).exists())
    return stored if whole else None


def _accounts(found: list[Found], out: Path, config: CurationConfig) -> dict[str, Any]:
    """Return files by status, clips, seconds of clips, and the yield."""
    statuses, clips, seconds, footage = Counter[str](), 0, 0.0, NOTHING
    for row, twin in _rows(found, out, config):
        footage += of_film(row, bool(twin))
        statuses[rows.FILTERED if twin else row["status"]] += 1
        if row["clips"] and not twin:
            clips += row["clips"]
            seconds += row["clip_seconds"]
    counted = {"statuses": dict(sorted(statuses.items())), "clips": clips, "seconds": seconds}
    return {**counted, "yield": footage.to_json()}


def _rows(found: list[Found], out: Path, config: CurationConfig) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield every file's row, that of its twin where it has the bytes of another one, and the twin's path."""
    for one, twin in zip(found, sources.twins(found), strict=True):
        yield read_part(rows.source_part(out, one.source_id, config.fingerprint))[0], twin


def by_source(out: str | Path) -> list[dict[str, Any]]:
    """Return the yield of each file of a run, with its path, status and reason, by path.

    Raises:
        DataError: The folder holds no finished source.
    """
    from kineograph.curation.catalogue import Catalogue

    with Catalogue(out) as catalogue:
        known = {row["source_id"]: row for row in catalogue.sources()}
    file = Path(out) / rows.FILES_FILE
    entries = [entry for _, entry in read_json_lines(file)] if file.is_file() else []
    named = [(entry["shown"], entry["source_id"], entry["duplicate_of"]) for entry in entries]
    named = named or [(row["path"], source_id, "") for source_id, row in known.items()]
    return [_told(path, known[source_id], twin) for path, source_id, twin in named if source_id in known]


def _told(path: str, row: dict[str, Any], twin: str) -> dict[str, Any]:
    status, reason = (rows.FILTERED, f"the same bytes as {twin}") if twin else (row["status"], row["reason"])
    return {"path": path, "status": status, "reason": reason, **of_film(row, bool(twin)).to_json()}


def footage_of(out: str | Path) -> Yield:
    """Return the yield of all files of a run."""
    return total(Yield.from_json(one) for one in by_source(out))


def _manifest(out: Path, clips: int) -> tuple[str, int]:
    """Write the manifest of all clips, none where there is no clip; return its name and the clips without caption."""
    from kineograph.curation.duplicates import find as find_copies
    from kineograph.curation.export import MANIFEST, manifest

    if not clips:
        (out / MANIFEST).unlink(missing_ok=True)
        return "", 0
    find_copies(out)
    file = manifest(out)
    return file.name, sum(not row["caption"] for _, row in read_json_lines(file))
