"""The run: find the sources, do what is not done, score, write the manifest, and account for every file.

`in = ok + filtered + failed`, always. What is done is known from the parts alone; a run that finds everything done
opens no film.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kineograph._text import read_json
from kineograph.curation import rows, sources, stretches
from kineograph.curation.config import CurationConfig, scorer_fingerprints
from kineograph.curation.executors import Executor, executor
from kineograph.curation.parts import count_rows, is_whole, place_text, read_part, sweep
from kineograph.curation.pipeline import PARTS_OF_ANALYSES, Item, fail, join_scores, scores_of_some
from kineograph.curation.rows import PARTS_OF_CLIPS, PARTS_OF_SCORES, PARTS_OF_SOURCES
from kineograph.curation.sources import Found
from kineograph.curation.supervise import Allowance, Outcome
from kineograph.errors import DataError, InputError

if TYPE_CHECKING:
    from kineograph.curation.lists import Listing

PROCESS = "kineograph.curation.pipeline:process"
STRETCH = "kineograph.curation.pipeline:stretch"
SCORE = "kineograph.curation.pipeline:score"
CLIPS_PER_TASK = 16
"""A source with more clips is scored in groups, side by side."""
SUMMARY_FILE = "summary.json"

Progress = Callable[[int, int, str, dict[str, int], float], None]
"""Called with units done, units in all, what is done, the number of sources by status, and multiples of real time."""


@dataclass(frozen=True)
class Summary:
    """What became of a run.

    Attributes:
        sources: Files: `in`, `ok`, `filtered` and `failed`.
        statuses: Files by status.
        clips: Clips in all.
        seconds: Seconds of film in the clips.
        computed: Sources worked on in this run; the others were done before.
        scored: Clips scored in this run, by scorer.
        unscored: Sources that a scorer failed on, by scorer, with the first reason.
        manifest: The manifest, or empty where there is no clip.
        out: The output folder.
        elapsed: Wall time in seconds.
    """

    sources: dict[str, int]
    statuses: dict[str, int]
    clips: int
    seconds: float
    computed: int
    scored: dict[str, int] = field(default_factory=dict)
    unscored: dict[str, str] = field(default_factory=dict)
    manifest: str = ""
    out: str = ""
    elapsed: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain data."""
        return asdict(self)

    def summary(self) -> str:
        """Return the summary in words."""
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items()))
        lines = [
            f"{self.sources['in']} sources: {counts}",
            f"{self.clips} clips, {self.seconds:.1f} s of film",
            f"{self.computed} sources worked on in {self.elapsed:.1f} s",
            *(f"scorer {name} failed: {reason}" for name, reason in self.unscored.items()),
            self.manifest or f"no clip; the reasons are in the report: kineograph curate report {self.out}",
        ]
        return "\n".join(lines)


def curate(
    raw: str | Path,
    out: str | Path,
    config: CurationConfig | None = None,
    *,
    resume: bool = False,
    retry: bool = False,
    executor_name: str = "local",
    workers: int | None = None,
    media: str | Path | None = None,
    process: str = PROCESS,
    progress: Progress | None = None,
) -> Summary:
    """Turn a folder of films into clips with scores and a manifest.

    Args:
        raw: Folder of footage (searched with its subfolders), one film, or a list of films with captions.
        out: Folder for the results.
        config: What to compute; defaults where None.
        resume: Go on in a folder that holds results; what is done with the same parameters is kept.
        retry: Work again on sources that failed by accident (`rows.ACCIDENTS`) when going on.
        executor_name: `"local"`, `"ray"` or `"inline"`.
        workers: Films worked on side by side.
        media: Where the films of a list are; the list's own folder where None.
        process: The function that works on a source, for tests.
        progress: Told how far the run is.

    Returns:
        The counts.

    Raises:
        InputError: `raw` does not exist, or `out` holds results and `resume` is False.
    """
    started, config, root, place = time.monotonic(), config or CurationConfig(), Path(raw), Path(out)
    _check_places(root, place, resume)
    place.mkdir(parents=True, exist_ok=True)
    with _locked(place):
        shutil.rmtree(place / rows.TEMPORARY, ignore_errors=True)  # what a kill left behind
        engine = executor(executor_name, workers)
        _remember(place, config)
        listing = sources.listing(root, media)
        found = sources.identify(root, place, listing)
        if retry:
            _forget_accidents(found, place, config)
        todo, computed = _todo(found, place, config, listing), 0
        tell = _Teller(progress, len(todo))
        for item, outcome in _processed(engine, process, todo, _allowance(config), progress):
            computed += 1
            tell(*_settle(item, outcome, place))
        scored, unscored = _score(engine, found, place, config, progress)
        stretches.forget(place)
        return _finish(found, place, config, computed, scored, unscored, started)


def _check_places(root: Path, out: Path, resume: bool) -> None:
    if not root.exists():
        raise InputError(f"There is no file or folder '{root}' to curate.")
    inside = out.resolve()
    if root.is_dir() and (inside == root.resolve()):
        raise InputError(f"The output folder '{out}' is the raw folder itself. Name another one with -o.")
    if (out / rows.CONFIG_FILE).exists() and not resume:
        raise InputError(f"'{out}' holds the results of a run. Add --resume to go on with it, or name another folder.")


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Let only one run at a time write into a folder; the lock goes with the process."""
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"Another run is writing into '{out}'. Wait for it, or name another folder.") from error
        yield


def _remember(out: Path, config: CurationConfig) -> None:
    """Write the configuration and its fingerprints, by which the catalogue chooses parts."""
    prints = {"config": config.fingerprint, "analysis": config.analysis_fingerprint}
    content = config.to_json() | {"fingerprints": {**prints, "scorers": scorer_fingerprints(config)}}
    place_text(out / rows.CONFIG_FILE, json.dumps(content, indent=2) + "\n")


def _allowance(config: CurationConfig) -> Allowance:
    limits = config.limits
    return Allowance(limits.memory_megabytes * 1_000_000, limits.stall_seconds, limits.slowest)


# Sources ---------------------------------------------------------------------------------------------------------


def _todo(found: list[Found], out: Path, config: CurationConfig, listing: Listing | None) -> list[dict[str, Any]]:
    """Return the items that have no part yet; files known to be useless get theirs at once."""
    plain, items = config.to_json(), []
    listed = {str(source.path): source for source in listing.sources} if listing else {}
    for one in sources.firsts(found):
        if is_whole(rows.source_part(out, one.source_id, config.fingerprint)):
            continue
        caption, spans = sources.text(one.path, listed.get(one.path))
        item = asdict(Item(one.path, one.shown, one.source_id, str(out), plain, caption, spans))
        if one.problem:
            fail(item, "unsupported" if "link" in one.problem else "unreadable", one.problem)
        else:
            items.append(item)
    return items


def _forget_accidents(found: list[Found], out: Path, config: CurationConfig) -> None:
    """Delete the parts of sources that failed by accident, and before that the summary that counts them."""
    parts = [rows.source_part(out, one.source_id, config.fingerprint) for one in sources.firsts(found)]
    failed = [part for part in parts if is_whole(part) and read_part(part)[0]["status"] in rows.ACCIDENTS]
    if failed:
        (out / SUMMARY_FILE).unlink(missing_ok=True)
    for part in failed:
        part.unlink()


def _settle(item: dict[str, Any], outcome: Outcome, out: Path) -> tuple[str, float]:
    """Make sure that an item has its part, note what it cost, and return its status and seconds of film."""
    result = outcome.result if outcome.status == "done" else fail(item, outcome.status, outcome.reason)
    entry = {"source_id": item["source_id"], "path": item["shown"], "status": result["status"]}
    entry |= {"seconds": round(outcome.seconds, 3), "film_seconds": result["seconds"], "log": outcome.log}
    with (out / rows.LOG_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    return result["status"], result["seconds"]


def _processed(
    engine: Executor, process: str, items: list[dict[str, Any]], allowance: Allowance, progress: Progress | None
) -> Iterator[tuple[dict[str, Any], Outcome]]:
    """Yield every item with its outcome: first films that one child does in one go, then long ones."""
    long = []
    for item, outcome in engine.run(process, items, allowance):
        if outcome.result.get("stretches"):
            long.append({**item, **outcome.result})
        else:
            yield item, outcome
    tasks = [{**film, "stretch": one} for film in long for one in film["stretches"]]
    broken: dict[str, tuple[dict[str, Any], Outcome]] = {}
    for done, (task, outcome) in enumerate(engine.run(STRETCH, tasks, allowance), 1):
        if outcome.status != "done":
            film = {key: value for key, value in task.items() if key != "stretch"}
            broken.setdefault(task["source_id"], (film, outcome))
        if progress:
            progress(done, len(tasks), "stretches of long films", {}, 0.0)
    yield from broken.values()
    yield from engine.run(process, [film for film in long if film["source_id"] not in broken], allowance)


class _Teller:
    """Counts statuses for the progress display."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.counts = progress, total, Counter[str]()
        self.started, self.film = time.monotonic(), 0.0
        if progress and total:
            progress(0, total, "sources", {}, 0.0)

    def __call__(self, status: str, seconds: float) -> None:
        self.counts[status] += 1
        self.film += seconds
        if self.progress:
            rate = self.film / max(time.monotonic() - self.started, 1e-3)
            self.progress(self.counts.total(), self.total, "sources", dict(self.counts), rate)


# Scores ----------------------------------------------------------------------------------------------------------


def _score(
    engine: Executor, found: list[Found], out: Path, config: CurationConfig, progress: Progress | None
) -> tuple[dict[str, int], dict[str, str]]:
    """Run each scorer on the sources that it has not scored with its present fingerprint."""
    scored, unscored = {}, {}
    allowance = Allowance(0, max(config.limits.stall_seconds, 600.0))
    for name in scorer_fingerprints(config):
        groups = _groups(found, out, config, name)
        items = [item for group in groups for item in group if not _is_scored(item)]
        clips = 0
        for done, (item, outcome) in enumerate(engine.run(SCORE, items, allowance), 1):
            clips += outcome.result.get("clips", 0)
            if outcome.status != "done":
                unscored.setdefault(name, f"source {item['source_id']}: {outcome.reason}")
            if progress:
                progress(done, len(items), name, {}, 0.0)
        for group in groups:
            if len(group) > 1 and all(_is_scored(item) for item in group):
                join_scores(group)
        if clips:
            scored[name] = clips
    return scored, unscored


def _groups(found: list[Found], out: Path, config: CurationConfig, name: str) -> list[list[dict[str, Any]]]:
    """Return what is to be scored: a list of groups of clips for each source that has no part yet."""
    prints = scorer_fingerprints(config)
    shared = {"out": str(out), "config": config.fingerprint, "fingerprints": prints, "options": config.scorers[name]}
    groups = []
    for one in sources.firsts(found):
        if is_whole(rows.scores_part(out, name, one.source_id, prints[name])):
            continue
        item = {**shared, "source_id": one.source_id, "scorer": name}
        count = _count_clips(one, out, config)
        if count <= CLIPS_PER_TASK:
            groups += [[item]] if count else []
        else:
            starts = range(0, count, CLIPS_PER_TASK)
            groups.append([{**item, "clips": [i, min(i + CLIPS_PER_TASK, count)]} for i in starts])
    return groups


def _is_scored(item: dict[str, Any]) -> bool:
    return "clips" in item and is_whole(scores_of_some(item))


def _count_clips(one: Found, out: Path, config: CurationConfig) -> int:
    part = rows.clips_part(out, one.source_id, config.fingerprint)
    return count_rows(part) if is_whole(part) else 0


# The end ---------------------------------------------------------------------------------------------------------


def _finish(
    found: list[Found],
    out: Path,
    config: CurationConfig,
    computed: int,
    scored: dict[str, int],
    unscored: dict[str, str],
    started: float,
) -> Summary:
    """Count every file once, write the manifest, and return the summary; unchanged parts are not read again."""
    state = _state(found, out, config)
    stored = _stored(out, state)
    if stored is None:
        statuses, clips, seconds = _accounts(found, out, config)
        manifest = _manifest(out, clips)
        stored = {"state": state, "statuses": statuses, "clips": clips, "seconds": seconds, "manifest": manifest}
        place_text(out / SUMMARY_FILE, json.dumps(stored, indent=2) + "\n")
    statuses = stored["statuses"]
    failed = sum(count for status, count in statuses.items() if status in rows.FAILED)
    counts = {"in": len(found), "ok": statuses.get(rows.OK, 0), "filtered": statuses.get(rows.FILTERED, 0)}
    counts["failed"] = failed
    assert counts["in"] == counts["ok"] + counts["filtered"] + counts["failed"], (counts, statuses)
    return Summary(
        sources=counts,
        statuses=statuses,
        clips=stored["clips"],
        seconds=stored["seconds"],
        computed=computed,
        scored=scored,
        unscored=unscored,
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


def _accounts(found: list[Found], out: Path, config: CurationConfig) -> tuple[dict[str, int], int, float]:
    """Return files by status, clips, and seconds of clips; a second file with the same bytes is filtered."""
    statuses, clips, seconds = Counter[str](), 0, 0.0
    for one, twin in zip(found, sources.twins(found), strict=True):
        if twin:
            statuses[rows.FILTERED] += 1
            continue
        row = read_part(rows.source_part(out, one.source_id, config.fingerprint))[0]
        statuses[row["status"]] += 1
        clips += row["clips"]
        if row["clips"]:
            made = read_part(rows.clips_part(out, one.source_id, config.fingerprint))
            seconds += sum(clip["duration"] for clip in made)
    return dict(sorted(statuses.items())), clips, seconds


def _manifest(out: Path, clips: int) -> str:
    """Write the manifest of all clips; none where there is no clip."""
    from kineograph.curation.duplicates import find as find_copies
    from kineograph.curation.export import MANIFEST, manifest

    if not clips:
        (out / MANIFEST).unlink(missing_ok=True)
        return ""
    find_copies(out)
    return manifest(out).name


# Sweeping --------------------------------------------------------------------------------------------------------


def gc(out: str | Path, dry_run: bool = False) -> list[Path]:
    """Delete what the present configuration does not refer to: clips, strips and parts of older ones, and leftovers.

    Args:
        out: The output folder of a run.
        dry_run: Only list.

    Returns:
        The files, sorted.
    """
    place = Path(out)
    if not (place / rows.CONFIG_FILE).exists():
        raise InputError(f"'{out}' is not the output folder of a run: it holds no {rows.CONFIG_FILE}.")
    with _locked(place):
        prints = read_json(place / rows.CONFIG_FILE)["fingerprints"]
        names = list((place / PARTS_OF_SOURCES).glob(f"*.{prints['config']}.parquet"))
        wanted = set(_wanted(place, [name for name in names if is_whole(name)], prints))
        folders = (
            rows.CLIPS,
            rows.STRIPS,
            PARTS_OF_SOURCES,
            PARTS_OF_CLIPS,
            PARTS_OF_SCORES,
            PARTS_OF_ANALYSES,
            stretches.FOLDER,
        )
        return sweep(place, wanted, folders, dry_run)


def _wanted(out: Path, parts: Iterable[Path], prints: dict[str, Any]) -> Iterator[Path]:
    """Yield every file that a source's part refers to."""
    for part in parts:
        yield part
        name = part.name.split(".")[0]
        yield out / PARTS_OF_ANALYSES / f"{name}.{prints['analysis']}.parquet"
        for which, made in prints["scorers"].items():
            yield rows.scores_part(out, which, name, made)
        clips = rows.clips_part(out, name, prints["config"])
        if clips.exists():
            yield clips
            for row in read_part(clips):
                yield out / row["path"]
                yield out / rows.strip_file(row["clip_id"])
