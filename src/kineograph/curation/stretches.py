"""Long films in stretches: each begins at a keyframe, is decoded by a child of its own, and is joined to the others.

The result is the same, byte for byte, as that of one pass over the whole film. What depends on one frame or two
(decoding, sketches for the detector, flow, pictures) is done in the stretches; what depends on all frames before
(finding cuts) is done while joining, from the sketches. A stretch goes on over its end until at least `OVERLAP` frames
and a pair of flow pictures belong to the next one. Where both decoded a frame, they must agree on it; so a keyframe at
which decoding cannot really start (periodic intra refresh) is noticed. In that case, and where anything is damaged, the
film is analysed in one go instead.
"""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from kineograph.curation.album import Album
from kineograph.curation.analyse import KEYFRAME_RATE, Alive, Analysis, Damage, Pass, admit, decoded, judge
from kineograph.curation.config import CurationConfig, CutConfig, Decoding, Limits, MotionConfig
from kineograph.curation.cuts import Cuts, Sketch, detector
from kineograph.curation.keyframes import Index, packets_from
from kineograph.curation.parts import read_part, write_part
from kineograph.curation.probe import Probe, Rejected, examine, footage
from kineograph.curation.rows import schema_of

FOLDER = "stretches"
OVERLAP = 16
"""Frames of the next stretch that a stretch decodes too; more than a decoder reorders (16 in H.264, Annex A.3.1)."""


@dataclass(frozen=True)
class Stretch:
    """A part of a film. Positions are pts.

    Attributes:
        origin: The film's first frame.
        start: The first frame, a keyframe.
        dts: Decoding time of its packet.
        preceding: The frame before it; None at the film's beginning.
        end: The next stretch's first frame; None for the last one.
    """

    origin: int
    start: int
    dts: int
    preceding: int | None
    end: int | None

    @property
    def name(self) -> str:
        """Name of its part."""
        return f"{self.start}-{'end' if self.end is None else self.end}.parquet"


class Unsure(Exception):
    """What was seen in a stretch may differ from what one pass over the film sees."""


# Planning --------------------------------------------------------------------------------------------------------


def is_long(facts: Probe, limits: Limits) -> bool:
    """Whether a film is to be split, by the length that its header promises."""
    return bool(limits.split_minutes and facts.duration and facts.duration > limits.split_minutes * 60)


def plan(facts: Probe, index: Index, limits: Limits) -> list[Stretch]:
    """Choose stretches of about equal length; none where the film cannot be split.

    Args:
        facts: The header.
        index: All packets.
        limits: Holds the wanted length.
    """
    shown = np.sort(index.pts[~index.discard])
    if index.broken or not index.stamped or not len(shown) or (np.diff(shown) <= 0).any():
        return []
    unit = float(Fraction(facts.time_base))
    span = int(shown[-1] - shown[0])
    count = max(round(span * unit / (60 * limits.stretch_minutes)), 1)
    keys = _beginnings(index.keyframes, int(shown[0]), unit)
    wanted = [int(shown[0]) + span * i // count for i in range(1, count)]
    places = np.unique(np.searchsorted(keys, wanted))
    borders = [int(shown[0]), *(int(keys[place]) for place in places if place < len(keys))]
    if len(borders) < 2:
        return []
    ends = [*borders[1:], None]
    return [_stretch(index, shown, start, end) for start, end in zip(borders, ends, strict=True)]


def _beginnings(keys: np.ndarray, origin: int, unit: float) -> np.ndarray:
    """Return the keyframes that are sure to have a place in the album, whatever came before them."""
    cells = np.floor((keys - origin) * unit * KEYFRAME_RATE + 1e-6)
    return keys[1:][np.diff(cells) > 0]


def _stretch(index: Index, shown: np.ndarray, start: int, end: int | None) -> Stretch:
    place = int(np.searchsorted(shown, start))
    packet = int(np.flatnonzero((index.pts == start) & ~index.discard)[0])
    preceding = int(shown[place - 1]) if place else None
    return Stretch(int(shown[0]), start, int(index.dts[packet]), preceding, end)


# One stretch -----------------------------------------------------------------------------------------------------


class Recorder:
    """Stands in a detector's place and keeps the sketches."""

    def __init__(self) -> None:
        self.changes, self.planes = array("d"), bytearray()

    def feed(self, pts: int, sketch: Sketch) -> None:
        """Keep a sketch."""
        self.changes.append(sketch.change)
        self.planes += sketch.planes.tobytes()

    def restart(self, pts: int, sketch: Sketch) -> None:
        """Refuse: the film is damaged or changes its size."""
        raise Unsure("damage, or a change of size")

    def finish(self) -> Cuts:
        """Return no cuts."""
        return Cuts()


def trace(
    path: str,
    stretch: Stretch,
    cuts: CutConfig,
    motion: MotionConfig,
    limits: Limits,
    album: Album,
    alive: Alive | None = None,
    decoding: Decoding = "fast",
) -> tuple[Analysis, Recorder]:
    """Decode one stretch and a little of the next.

    Args:
        path: The film.
        stretch: Which part of it.
        cuts: Which detector the sketches are for.
        motion: How flow is measured.
        limits: What the file may claim.
        album: Takes the pictures.
        alive: Told the seconds of film done.
        decoding: As in `CurationConfig`.

    Returns:
        What was found, without cuts, and the sketches.

    Raises:
        Unsure: One pass over the whole film may see something else.
        Rejected: The file cannot be used at all.
    """
    with footage(path) as container:
        stream, facts = examine(container, limits)
        recorder = Recorder()
        work = Pass(facts, cuts, motion, album, recorder, stretch.origin, stretch.preceding)
        for frame in decoded(container, stream, _packets(container, stream, stretch), decoding):
            if isinstance(frame, Damage) or frame.is_corrupt or frame.pts is None:
                raise Unsure("damage")
            if frame.pts < stretch.start:  # leading pictures, which belong to the stretch before
                continue
            admit(frame, limits)
            _take(work, frame, stretch)
            if alive and len(work.pts) % 12 == 0:
                alive((work.pts[-1] - work.pts[0]) * work.unit)
            if _is_over(work, stretch):
                break
    analysis = work.finish()
    if not analysis.pts or analysis.pts[0] != stretch.start:
        raise Unsure("the stretch does not begin at its keyframe")
    return analysis, recorder


def _take(work: Pass, frame: Any, stretch: Stretch) -> None:
    """Give a frame to the pass; fields of the next stretch's frames are not counted."""
    count, interlaced = len(work.pts), work.result.interlaced
    work.frame(frame)
    if len(work.pts) == count:
        raise Unsure("times that do not ascend")
    if stretch.end is not None and frame.pts >= stretch.end:
        work.result.interlaced = interlaced


def _is_over(work: Pass, stretch: Stretch) -> bool:
    """Whether enough of the next stretch has been seen."""
    if stretch.end is None or len(work.pts) < OVERLAP or work.pts[-OVERLAP] < stretch.end:
        return False
    return work.motion_config.algorithm == "none" or work.motion.at >= stretch.end


def _packets(container: Any, stream: Any, stretch: Stretch) -> Iterator[Any] | None:
    """Return the packets from a stretch's keyframe on; None, for all of them, where it is the first."""
    return None if stretch.preceding is None else _from_keyframe(container, stream, stretch)


def _from_keyframe(container: Any, stream: Any, stretch: Stretch) -> Iterator[Any]:
    try:
        yield from packets_from(container, stream, stretch.start, stretch.dts)
    except LookupError as error:
        raise Unsure(str(error)) from error


# As a task -------------------------------------------------------------------------------------------------------


def folder(out: Path, source_id: str, config: CurationConfig) -> Path:
    """Return where the parts of a film's stretches lie until they are joined."""
    return out / FOLDER / f"{source_id}.{config.analysis_fingerprint}"


def write(
    part: Path, path: str, stretch: Stretch, config: CurationConfig, scratch: Path, alive: Alive | None = None
) -> None:
    """Analyse a stretch and commit what was found, or that it cannot be told.

    Args:
        part: The part to write.
        path: The film.
        stretch: Which part of it.
        config: What to compute.
        scratch: A private folder.
        alive: Told the seconds of film done.
    """
    with Album(scratch / "album") as album:
        try:
            analysis, recorder = trace(
                path, stretch, config.cuts, config.motion, config.limits, album, alive, config.decoding
            )
        except (Unsure, Rejected) as unsure:
            analysis, recorder = Analysis(reason=str(unsure)), Recorder()
        pictures = [album.encoded(pts) for pts in analysis.kept]
    found = {name: getattr(analysis, name) for name in _COLUMNS if hasattr(analysis, name)}
    sketches = {"changes": recorder.changes.tolist(), "planes": bytes(recorder.planes)}
    write_part(part, [{**found, **sketches, "pictures": pictures}], schema_of(_COLUMNS))


_COLUMNS = {
    **dict.fromkeys(("reason", "pixel_format", "transfer", "flow_size"), "string"),
    **dict.fromkeys(("width", "height", "rotation", "interlaced", "end_pts"), "int64"),
    **dict.fromkeys(("pts", "checks", "flow_from", "flow_to", "kept"), "list<int64>"),
    **dict.fromkeys(("flow", "changes"), "list<double>"),
    "planes": "binary",
    "pictures": "list<binary>",
}


# Joining ---------------------------------------------------------------------------------------------------------

_SAME = ("width", "height", "rotation", "pixel_format", "transfer", "flow_size")


def join(
    place: Path, stretches: list[Stretch], facts: Probe, config: CurationConfig, album: Album, alive: Alive | None
) -> Analysis | None:
    """Join the parts of a film's stretches to what one pass over the film finds.

    Args:
        place: Folder of the parts.
        stretches: All of them, in order.
        facts: The header.
        config: What was computed.
        album: Takes the pictures of all.
        alive: Told the seconds of film done.

    Returns:
        The analysis; None where the film must be analysed in one go.
    """
    unit = float(Fraction(facts.time_base))
    finder = detector(config.cuts, unit, stretches[0].origin)
    result, before = Analysis(decoding=config.decoding), None
    for stretch in stretches:
        row = read_part(place / stretch.name)[0]
        if row["reason"] or not _agrees(row, before, stretch):
            return None
        _sketches(finder, row, before, stretch)
        _append(result, row, stretch, album)
        before = row
        if alive:
            alive((result.pts[-1] - result.pts[0]) * unit)
    cuts = finder.finish()
    result.hard_cuts, result.gradual = cuts.hard, cuts.gradual
    judge(facts, result, config.damage, unit)
    return result


def _agrees(row: dict[str, Any], before: dict[str, Any] | None, stretch: Stretch) -> bool:
    """Whether a stretch continues the one before: both must have decoded the same frames where they overlap."""
    if before is None:
        return row["pts"][0] == stretch.origin
    shared = before["pts"].index(stretch.start) if stretch.start in before["pts"] else len(before["pts"])
    count = len(before["pts"]) - shared
    same = all(row[name][:count] == before[name][shared:] for name in ("pts", "checks"))
    enough = count >= min(OVERLAP, len(row["pts"])) and before["pts"][shared - 1] == stretch.preceding
    kept = stretch.start in before["kept"] and stretch.start in row["kept"]
    return same and enough and kept and all(row[name] == before[name] for name in _SAME)


def _own(values: list[int], stretch: Stretch) -> int:
    """Return how many of some ascending pts lie before a stretch's end."""
    return len(values) if stretch.end is None else int(np.searchsorted(values, stretch.end))


def _sketches(finder: Any, row: dict[str, Any], before: dict[str, Any] | None, stretch: Stretch) -> None:
    """Feed a stretch's sketches to the detector; only the stretch before knows how its first frame differs."""
    planes = np.frombuffer(row["planes"], np.uint8).reshape(len(row["pts"]), -1)
    changes = row["changes"]
    if before is not None:
        changes[0] = before["changes"][before["pts"].index(stretch.start)]
    for i in range(_own(row["pts"], stretch)):
        finder.feed(row["pts"][i], Sketch(changes[i], planes[i]))


def _append(result: Analysis, row: dict[str, Any], stretch: Stretch, album: Album) -> None:
    """Add what is a stretch's own to the film's."""
    if not result.pts:
        for name in _SAME:
            setattr(result, name, row[name])
    own, pairs, kept = (_own(row[name], stretch) for name in ("pts", "flow_from", "kept"))
    result.pts += row["pts"][:own]
    result.checks += row["checks"][:own]
    result.interlaced += row["interlaced"]
    result.end_pts = row["end_pts"]
    for name in ("flow_from", "flow_to", "flow"):
        getattr(result, name).extend(row[name][:pairs])
    result.kept += row["kept"][:kept]
    for pts, content in zip(row["kept"][:kept], row["pictures"], strict=False):
        album.append(pts, content)


def forget(out: Path) -> None:
    """Delete the parts of stretches that nothing asks for any more."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)
