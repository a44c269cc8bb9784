"""The run: find the sources, do what is not done, score, write the manifest, and account for every file.

`in = ok + filtered + failed`, always. What is done is known from the parts alone; a run that finds everything done
opens no film.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kineograph._text import read_json
from kineograph.curation import places, rows, sources, stretches
from kineograph.curation.accounts import SUMMARY_FILE, Summary, summarise
from kineograph.curation.config import CurationConfig, scorer_fingerprints
from kineograph.curation.executors import Executor, executor
from kineograph.curation.items import Item
from kineograph.curation.parts import count_rows, is_whole, read_part, sweep
from kineograph.curation.pipeline import PARTS_OF_ANALYSES, fail, join_scores, scores_of_some
from kineograph.curation.rows import PARTS_OF_CLIPS, PARTS_OF_SCORES, PARTS_OF_SOURCES
from kineograph.curation.sources import Found
from kineograph.curation.supervise import Allowance, Outcome
from kineograph.errors import InputError

if TYPE_CHECKING:
    from kineograph.curation.lists import Listing

PROCESS = "kineograph.curation.pipeline:process"
STRETCH = "kineograph.curation.pipeline:stretch"
SCORE = "kineograph.curation.pipeline:score"
CLIPS_PER_TASK = 16
"""A source with more clips is scored in groups, side by side."""

Progress = Callable[[int, int, str, dict[str, int], float], None]
"""Called with units done, units in all, what is done, the number of sources by status, and multiples of real time."""


def curate(
    raw: str | Path,
    out: str | Path,
    config: CurationConfig | None = None,
    *,
    resume: bool = False,
    retry: bool = False,
    overwrite: bool = False,
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
        overwrite: Start anew in a folder that holds results, which are deleted, or another data set, which is set
            aside.
        executor_name: `"local"`, `"ray"` or `"inline"`.
        workers: Films worked on side by side.
        media: Where the films of a list are; the list's own folder where None.
        process: The function that works on a source, for tests.
        progress: Told how far the run is.

    Returns:
        The counts.

    Raises:
        InputError: `raw` does not exist or holds no film, or `out` holds something and neither `resume` nor
            `overwrite` is given.
    """
    started, config, root, place = time.monotonic(), config or CurationConfig(), Path(raw), Path(out)
    places.check(root, place, config, resume=resume, overwrite=overwrite)
    listing = sources.listing(root, media)
    survey = sources.survey(root, listing)
    place.mkdir(parents=True, exist_ok=True)
    with _locked(place):
        aside = places.clear(place) if overwrite else ""
        shutil.rmtree(place / rows.TEMPORARY, ignore_errors=True)  # what a kill left behind
        engine = executor(executor_name, workers)
        changed = places.remember(place, config)
        known = sources.copies(place)
        found = sources.identify(survey.found, place)
        _log_copies(found, place, known)
        sources.note_skipped(survey.skipped, place)
        if retry:
            _forget_accidents(found, place, config)
        todo, computed = _todo(found, place, config, listing), 0
        tell = _Teller(progress, len(todo))
        for item, outcome in _processed(engine, process, todo, _allowance(config), progress):
            computed += 1
            tell(*_settle(item, outcome, place))
        scored, unscored = _score(engine, found, place, config, progress)
        stretches.forget(place)
        whole = {"computed": computed, "scored": scored, "unscored": unscored, "changed": changed, "aside": aside}
        skipped = sources.endings(survey.skipped)
        return summarise(found, place, config, Summary(**whole, skipped=skipped), started)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Let only one run at a time write into a folder; the lock goes with the process."""
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"Another run is writing into '{out}'. Wait for it, or name another folder.") from error
        yield


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
    entry |= {"reason": result["reason"], "clips": result["clips"]}
    entry |= {"seconds": round(outcome.seconds, 3), "film_seconds": result["seconds"], "log": outcome.log}
    _log(entry, out)
    return result["status"], result["seconds"]


def _log_copies(found: list[Found], out: Path, known: dict[str, str]) -> None:
    """Note why files with the bytes of another are filtered, once for each."""
    for one, twin in zip(found, sources.twins(found), strict=True):
        if twin and known.get(one.shown) != twin:
            entry = {"source_id": one.source_id, "path": one.shown, "status": rows.FILTERED}
            _log({**entry, "reason": f"the same bytes as {twin}", "clips": 0}, out)


def _log(entry: dict[str, Any], out: Path) -> None:
    with (out / rows.LOG_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


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
