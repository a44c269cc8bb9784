"""What happens to one source, in a child process: analyse, clip, commit; and score.

Each function takes one JSON object and gives one back, writes only under the output folder, and commits by a part that
appears last. Run again at any point, it comes to the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import asdict, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from kineograph.curation import keyframes, rows, stretches
from kineograph.curation.album import Album
from kineograph.curation.analyse import Alive, Analysis, analyse
from kineograph.curation.clips import clipped
from kineograph.curation.config import CurationConfig, from_json, needs, scorer
from kineograph.curation.items import Item, scratch
from kineograph.curation.parts import is_whole, read_part, write_part, write_rows
from kineograph.curation.probe import Probe, Rejected, check_file, examine, footage
from kineograph.curation.rows import ClipRow, SourceRow
from kineograph.curation.spans import Lengths, shots
from kineograph.curation.strips import read_strip
from kineograph.curation.yields import lengths

PARTS_OF_ANALYSES = "parts/analysis"


def process(content: dict[str, Any], alive: Alive) -> dict[str, Any]:
    """Analyse and clip one source and commit its rows.

    Args:
        content: An `Item` as plain data.
        alive: Told the seconds of film done.

    Returns:
        `{"status", "reason", "clips", "seconds"}`, or `{"stretches"}` of a long film, each of which `stretch` must be
        asked to analyse before this function is asked again.
    """
    item = Item(**content)
    config, out = from_json(item.config), Path(item.out)
    try:
        if item.stretches is None and (found := planned(item, config, alive)):
            return {"stretches": [asdict(one) for one in found]}
        with scratch(out) as folder:
            facts, analysis, album = analysed(item, config, folder, alive)
            with album or contextlib.nullcontext():
                with_clips = clipped(item, config, facts, analysis, album, folder, alive)
    except Rejected as rejected:
        return fail(content, rejected.status, rejected.reason)
    return commit(item, config, facts, analysis, *with_clips)


def fail(content: dict[str, Any], status: str, reason: str) -> dict[str, Any]:
    """Commit that a source gives nothing.

    Args:
        content: An `Item` as plain data.
        status: One of `rows.FAILED`.
        reason: Why, for people.

    Returns:
        As `process`.
    """
    item = Item(**content)
    config = from_json(item.config)
    row = SourceRow(**_named(item, config), status=status, reason=reason[:2000])
    write_rows(rows.source_part(Path(item.out), item.source_id, config.fingerprint), [row], SourceRow)
    return {"status": status, "reason": reason, "clips": 0, "seconds": 0.0}


# Analysis --------------------------------------------------------------------------------------------------------


def analysed(item: Item, config: CurationConfig, folder: Path, alive: Alive) -> tuple[Probe, Analysis, Album | None]:
    """Return a film's analysis: the committed one where there is one, else by decoding."""
    part = _analysis_part(item, config)
    if is_whole(part):
        return (*_load(read_part(part)[0]), None)
    album = Album(folder / "album")
    try:
        found = joined(item, config, album, alive)
        if found is None:
            album.close()
            album = Album(folder / "album")
            found = analyse(
                item.path,
                config.cuts,
                config.motion,
                config.limits,
                config.damage,
                album=album,
                alive=alive,
                decoding=config.decoding,
            )
    except BaseException:
        album.close()
        raise
    facts, analysis = found
    write_part(part, [{**_prefixed(facts), **vars(analysis)}], _analysis_schema())
    shutil.rmtree(stretches.folder(Path(item.out), item.source_id, config), ignore_errors=True)
    return facts, analysis, album


def planned(item: Item, config: CurationConfig, alive: Alive) -> list[stretches.Stretch]:
    """Return the stretches of a long film that is not analysed yet; none where it is to be analysed in one go."""
    if not config.limits.split_minutes or is_whole(_analysis_part(item, config)):
        return []
    check_file(item.path, config.limits)
    with footage(item.path) as container:
        stream, facts = examine(container, config.limits)
        if not stretches.is_long(facts, config.limits):
            return []
        return stretches.plan(facts, keyframes.index(container, stream, alive), config.limits)


def stretch(content: dict[str, Any], alive: Alive) -> dict[str, Any]:
    """Analyse one stretch of a long film and commit what was found.

    Args:
        content: An `Item` as plain data, and `"stretch"`, the fields of a `stretches.Stretch`.
        alive: Told the seconds of film done.

    Returns:
        Nothing.
    """
    one = stretches.Stretch(**content["stretch"])
    item = Item(**{key: value for key, value in content.items() if key != "stretch"})
    config, out = from_json(item.config), Path(item.out)
    part = stretches.folder(out, item.source_id, config) / one.name
    if not is_whole(part):
        with scratch(out) as folder:
            stretches.write(part, item.path, one, config, folder, alive)
    return {}


def joined(item: Item, config: CurationConfig, album: Album, alive: Alive) -> tuple[Probe, Analysis] | None:
    """Return the analysis of a film whose stretches were analysed; None where it must be analysed in one go."""
    if not item.stretches:
        return None
    with footage(item.path) as container:
        facts = examine(container, config.limits)[1]
    parts = stretches.folder(Path(item.out), item.source_id, config)
    analysis = stretches.join(parts, [stretches.Stretch(**one) for one in item.stretches], facts, config, album, alive)
    return None if analysis is None else (facts, analysis)


def _analysis_part(item: Item, config: CurationConfig) -> Path:
    return Path(item.out) / PARTS_OF_ANALYSES / f"{item.source_id}.{config.analysis_fingerprint}.parquet"


def _prefixed(facts: Probe) -> dict[str, Any]:
    return {f"probe_{key}": value for key, value in asdict(facts).items()}


def _load(row: dict[str, Any]) -> tuple[Probe, Analysis]:
    facts = Probe(**{f.name: row[f"probe_{f.name}"] for f in fields(Probe)})
    return facts, Analysis(**{f.name: row[f.name] for f in fields(Analysis)})


def _analysis_schema() -> Any:
    columns = {f"probe_{f.name}": str(f.type) for f in fields(Probe)} | {f.name: str(f.type) for f in fields(Analysis)}
    return rows.schema_of({name: rows.ARROW_TYPES[kind.removesuffix(" | None")] for name, kind in columns.items()})


# Commitment ------------------------------------------------------------------------------------------------------


def _named(item: Item, config: CurationConfig) -> dict[str, Any]:
    """Return a source row's fields that are known without opening the file."""
    return {
        "source_id": item.source_id,
        "path": item.shown,
        "name": item.shown.rsplit("/", 1)[-1],
        "bytes": _size(item.path),
        "licence": config.licence,
        "config": config.fingerprint,
    }


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - the path may hold bytes that are not UTF-8
    except OSError:
        return 0


def commit(
    item: Item,
    config: CurationConfig,
    facts: Probe,
    analysis: Analysis,
    keys: list[int],
    stretches: int,
    clips: list[ClipRow],
) -> dict[str, Any]:
    """Write a source's clip rows, then its own row, which makes both count."""
    out, unit = Path(item.out), Fraction(facts.time_base)
    status, reason = analysis.status, analysis.reason
    if status == rows.OK and not clips:
        status = rows.FILTERED
        longest = max((float((end - start) * unit) for start, end in shots(analysis)), default=0.0)
        reason = f"no clip of {config.clips.min_seconds:g} s fits between cuts; the longest shot has {longest:.2f} s"
    duration = float((analysis.end_pts - analysis.pts[0]) * unit)
    shortest = Lengths.of(config.clips, facts.time_base).shortest
    cut = [(clip.start_pts, clip.end_pts, clip.method) for clip in clips]
    found: dict[str, Any] = lengths(analysis, cut, shortest, facts.time_base)
    row = SourceRow(
        **_named(item, config),
        status=status,
        reason=reason,
        container=facts.container,
        codec=facts.codec,
        pixel_format=analysis.pixel_format,
        width=analysis.width,
        height=analysis.height,
        rotation=analysis.rotation,
        transfer=analysis.transfer,
        interlaced=analysis.interlaced / len(analysis.pts),
        fps=len(analysis.pts) / duration if duration else 0.0,
        duration=duration,
        frames=len(analysis.pts),
        start_pts=analysis.pts[0],
        end_pts=analysis.end_pts,
        time_base=facts.time_base,
        keyframes=keys,
        hard_cuts=analysis.hard_cuts,
        gradual=analysis.gradual,
        holes=analysis.holes,
        corrupt_frames=analysis.corrupt_frames,
        shots=stretches,
        clips=len(clips),
        **found,
    )
    write_rows(rows.clips_part(out, item.source_id, config.fingerprint), clips, ClipRow)
    write_rows(rows.source_part(out, item.source_id, config.fingerprint), [row], SourceRow)
    return {"status": status, "reason": reason, "clips": len(clips), "seconds": duration}


# Scores ----------------------------------------------------------------------------------------------------------

_made: dict[str, Any] = {}


def score(content: dict[str, Any], alive: Alive) -> dict[str, Any]:
    """Score the clips of one source, or some of them, and commit the rows.

    Args:
        content: `{"out", "source_id", "config", "scorer", "options", "fingerprints"}`; `config` is the fingerprint of
            the clips, `fingerprints` those of all scorers. `"clips"`, `[first, end]`, where only these of many are to
            be scored, for `join_scores`.
        alive: Told the seconds of film done.

    Returns:
        `{"clips"}`.
    """
    out, name, some = Path(content["out"]), content["scorer"], content.get("clips")
    made = _scorer(name, content["options"])
    found = []
    known = _needed(content, needs(made))
    for row in read_part(rows.clips_part(out, content["source_id"], content["config"]))[slice(*(some or [None]))]:
        row |= known.get(row["clip_id"], {})
        strip = read_strip(out / rows.strip_file(row["clip_id"]))
        found.append({"clip_id": row["clip_id"], **made.score(strip, row)})
        alive(row["duration"])
    target = scores_of_some(content) if some else _scores_part(content)
    write_part(target, found, rows.schema_of({"clip_id": "string", **made.columns}))
    return {"clips": len(found)}


def _scorer(name: str, options: dict[str, Any]) -> rows.Scorer:
    """Return a scorer; one process makes it once."""
    key = repr((name, options))
    if key not in _made:
        _made[key] = scorer(name, options)
    return _made[key]


def _scores_part(content: dict[str, Any]) -> Path:
    name = content["scorer"]
    return rows.scores_part(Path(content["out"]), name, content["source_id"], content["fingerprints"][name])


def scores_of_some(content: dict[str, Any]) -> Path:
    """Return where the rows of some of a source's clips wait for the others."""
    place = Path(content["out"]) / stretches.FOLDER / f"{content['scorer']}.{_scores_part(content).stem}"
    return place / f"{content['config']}.{content['clips'][0]}-{content['clips'][1]}.parquet"


def join_scores(items: list[dict[str, Any]]) -> None:
    """Commit the rows of all of a source's clips, which were scored in groups.

    Args:
        items: What `score` was called with, in the order of the clips.
    """
    found = [row for item in items for row in read_part(scores_of_some(item))]
    made = _scorer(items[0]["scorer"], items[0]["options"])
    write_part(_scores_part(items[0]), found, rows.schema_of({"clip_id": "string", **made.columns}))
    shutil.rmtree(scores_of_some(items[0]).parent, ignore_errors=True)


def _needed(content: dict[str, Any], names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return what other scorers found, by clip; a scorer that did not run gives nothing."""
    merged: dict[str, dict[str, Any]] = {}
    for name in names:
        made = content["fingerprints"].get(name, "")
        part = rows.scores_part(Path(content["out"]), name, content["source_id"], made)
        for row in read_part(part) if is_whole(part) else ():
            merged.setdefault(row["clip_id"], {}).update(row)
    return merged
