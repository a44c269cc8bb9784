"""The clips of one analysed film: planned, written, checked, and described as a reader of the file will find them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from kineograph.curation import keyframes, rows
from kineograph.curation.album import Album
from kineograph.curation.analyse import Alive, Analysis, fill, nearest
from kineograph.curation.clipping import check, first_picture, is_trusted, make, pictures
from kineograph.curation.config import ClipConfig, CurationConfig
from kineograph.curation.ids import clip_id, sha256_of
from kineograph.curation.items import Item
from kineograph.curation.keyframes import Index
from kineograph.curation.motion import scores
from kineograph.curation.parts import move
from kineograph.curation.probe import Probe, examine, footage
from kineograph.curation.rows import ClipRow
from kineograph.curation.spans import Span, plan, shots
from kineograph.curation.strips import LONG_SIDE, read_strip, write_strip
from kineograph.errors import MediaError


def clipped(
    item: Item,
    config: CurationConfig,
    facts: Probe,
    analysis: Analysis,
    album: Album | None,
    folder: Path,
    alive: Alive,
) -> tuple[list[int], int, list[ClipRow]]:
    """Write a film's clips and strips into their places.

    Returns:
        pts of the keyframes, number of shots, and the clips' rows.
    """
    with footage(item.path) as container:
        stream, _ = examine(container, config.limits)
        index = keyframes.index(container, stream, alive)
    stretches = shots(analysis)
    if analysis.status == "corrupt":
        return index.keyframes.tolist(), len(stretches), []
    made = _written(item, config, facts, analysis, index, folder, alive)
    with contextlib.ExitStack() as stack:
        if album is None:
            album = stack.enter_context(Album(folder / "album"))
            wanted = {pts for span, _ in made for pts in _wanted(analysis, span)}
            fill(item.path, wanted, config.limits, album, alive, analysis.decoding)
        finished = []
        for span, file in made:
            finished.append(_finish(item, config, facts, analysis, album, span, file))
            alive(0.0)
    return index.keyframes.tolist(), len(stretches), finished


def _written(
    item: Item, config: CurationConfig, facts: Probe, analysis: Analysis, index: Index, folder: Path, alive: Alive
) -> list[tuple[Span, Path]]:
    """Write the clips into the private folder; all are encoded where a copy turns out not to be one."""
    spans = plan(facts, analysis, index, config.clips)
    files = _files(folder, spans)
    if any(span.method == "copy" for span in spans):
        try:
            _make(item, spans, files, config, analysis, index, alive)
            if _is_true(spans, files, analysis, config.clips, alive):
                return list(zip(spans, files, strict=True))
        except (OSError, ValueError):
            pass  # a muxer that does not take these packets
        spans = plan(facts, analysis, index, replace(config.clips, method="encode"))
        files = _files(folder, spans)
    _make(item, spans, files, config, analysis, index, alive)
    return list(zip(spans, files, strict=True))


def _files(folder: Path, spans: Sequence[Span]) -> list[Path]:
    return [folder / f"{number}.mp4" for number in range(len(spans))]


def _make(
    item: Item,
    spans: Sequence[Span],
    files: Sequence[Path],
    config: CurationConfig,
    analysis: Analysis,
    index: Index,
    alive: Alive,
) -> None:
    """Write clips, from keyframes that a sample shows to be ones, or else from the film's beginning."""
    encoded = [span for span in spans if span.method == "encode"]
    if not is_trusted(item.path, encoded, index, analysis, config.limits, config.clips.verify_every, alive):
        index = replace(index, key=np.zeros_like(index.key))
    make(item.path, spans, files, config.limits, config.clips, index, alive)


def _is_true(
    spans: Sequence[Span], files: Sequence[Path], analysis: Analysis, config: ClipConfig, alive: Alive
) -> bool:
    """Whether copies hold as many frames as they should, and a sample of them exactly the source's."""
    copies = [pair for pair in zip(spans, files, strict=True) if pair[0].method == "copy"]
    for span, file in copies:
        try:
            frames = as_read(file)["frames"]
        except MediaError:
            return False
        if frames != _count(analysis, span):
            return False
        alive(0.0)
    for span, file in copies[:: config.verify_every] if config.verify_every else ():
        if check(file, span, analysis):
            return False
        alive(0.0)
    return True


def _count(analysis: Analysis, span: Span) -> int:
    first, last = np.searchsorted(analysis.pts, [span.start, span.end])
    return int(last - first)


def as_read(file: Path) -> dict[str, Any]:
    """Return `frames`, `fps`, `width`, `height` and `aspect` of a clip, as whoever reads its file finds them.

    Raises:
        MediaError: It cannot be read.
    """
    from kineograph._container import open_source

    info = open_source(file).info
    found = {"frames": info.frames, "fps": info.fps or 0.0, "width": info.width, "height": info.height}
    return {**found, "aspect": info.sample_aspect_ratio}


def _finish(
    item: Item, config: CurationConfig, facts: Probe, analysis: Analysis, album: Album, span: Span, file: Path
) -> ClipRow:
    """Put a clip and its strip into their places and describe it."""
    from kineograph.curation.duplicates import video_hash

    out = Path(item.out)
    recipe = f"{span.method}.{config.recipe}"
    name = clip_id(item.source_id, facts.stream, span.start, span.end, facts.time_base, recipe)
    strip = out / rows.strip_file(name)
    write_strip(strip, _three(analysis, album, span, file))
    row = _clip_row(item, config, facts, analysis, span, name) | as_read(file)
    row = {**row, "sha256": sha256_of(file), "phash": video_hash(read_strip(strip))}
    move(file, out / rows.clip_file(name))
    return ClipRow(**row)


def _three(analysis: Analysis, album: Album, span: Span, file: Path) -> list[Any]:
    """Return first, middle and last picture of a clip: the exact first frame, and two of the album."""
    first, middle, last = _near(analysis, span)
    if middle is None or last is None:
        return pictures(file, LONG_SIDE)
    begin = album.at(span.start) if first == span.start else first_picture(file, LONG_SIDE)
    return [begin, album.at(middle), album.at(last)]


def _near(analysis: Analysis, span: Span) -> list[int | None]:
    """Return the time stamps in the album that are nearest to a clip's beginning, middle and end; None without any.

    The last one is the frame before the keyframe at which the clip ends, or at most half a second before the end; the
    middle one lies within half a second of the middle.
    """
    moments = (span.start, (span.start + span.end) // 2, span.end)
    return [nearest(analysis.kept, pts, span.start, span.end) for pts in moments]


def _wanted(analysis: Analysis, span: Span) -> set[int]:
    """Return the time stamps of the pictures that a clip takes from the album."""
    first, *others = _near(analysis, span)
    return {pts for pts in (*others, first if first == span.start else None) if pts is not None}


def _clip_row(
    item: Item, config: CurationConfig, facts: Probe, analysis: Analysis, span: Span, name: str
) -> dict[str, Any]:
    unit = Fraction(facts.time_base)
    first = analysis.pts[0]
    motion = config.motion
    return {
        "clip_id": name,
        "source_id": item.source_id,
        "source_path": item.shown,
        "path": rows.clip_file(name),
        "start_pts": span.start,
        "end_pts": span.end,
        "time_base": facts.time_base,
        "start": float((span.start - first) * unit),
        "end": float((span.end - first) * unit),
        "duration": float(span.length * unit),
        "interlaced": analysis.interlaced / len(analysis.pts),
        "hdr": int(analysis.transfer in rows.HDR),
        "method": span.method,
        **scores(analysis.pairs, span.start, span.end),
        "motion_algorithm": motion.algorithm,
        "motion_size": analysis.flow_size,
        "motion_fps": motion.fps if motion.algorithm != "none" else 0.0,
        "licence": config.licence,
        "caption": _caption(item, float((span.start - first) * unit), float((span.end - first) * unit)),
    }


def _caption(item: Item, start: float, end: float) -> str:
    """Return the text of the listed stretch that covers most of a clip, or that of the whole film."""
    from kineograph.curation.lists import ListedSource, Span

    spans = tuple(Span(*listed) for listed in item.spans)
    return ListedSource(Path(item.path), item.shown, item.caption, spans).caption_for(start, end)
