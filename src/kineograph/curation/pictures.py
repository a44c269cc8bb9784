"""Pictures of a data set: what a threshold keeps and drops, and how a film was cut.

Histograms and timelines are SVG text without scripts, which any browser and any document shows; contact sheets are
JPEG.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from kineograph.curation.parts import place
from kineograph.curation.rows import seconds, strip_file
from kineograph.errors import DataError

KEPT, DROPPED, CUT, GRADUAL, HOLE = "#2f7d6b", "#c9c3b8", "#1d2a38", "#e3a53d", "#c2453d"


def histogram(
    values: np.ndarray,
    keep: np.ndarray | None = None,
    threshold: float | None = None,
    *,
    title: str,
    bins: int = 40,
    width: int = 420,
    height: int = 150,
) -> str:
    """Draw how many clips have which score, those kept and those dropped on top of each other.

    Args:
        values: One per clip; NaN is left out and counted in the caption.
        keep: Which clips a selection keeps; None draws all alike.
        threshold: Where to draw a line.
        title: Under the picture.
        bins: Number of bars.
        width: In pixels.
        height: In pixels.

    Returns:
        An `<svg>` element.
    """
    known = ~np.isnan(values)
    keep = np.ones(len(values), bool) if keep is None else keep
    low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    kept = np.histogram(values[known & keep], edges)[0]
    dropped = np.histogram(values[known & ~keep], edges)[0]
    tallest = max(1, int((kept + dropped).max()))
    top, base, left, right = 8, height - 34, 6, width - 6
    step, scale = (right - left) / bins, (base - top) / tallest
    bars = []
    for i, (k, d) in enumerate(zip(kept.tolist(), dropped.tolist(), strict=True)):
        x = left + i * step
        bars.append(_rect(x, base - k * scale, step * 0.9, k * scale, KEPT) if k else "")
        bars.append(_rect(x, base - (k + d) * scale, step * 0.9, d * scale, DROPPED) if d else "")
    shown = [True, True]
    if threshold is not None:
        x = left + (right - left) * (threshold - edges[0]) / (edges[-1] - edges[0])
        if left <= x <= right:
            bars.append(f'<path d="M{x:.1f} {top}V{base + 4}" stroke="{HOLE}" stroke-width="1.5"/>')
            bars.append(_text(min(max(x, left + 18), right - 18), base + 15, f"{threshold:.4g}", "middle", HOLE))
            shown = [x - left > 80, right - x > 80]
    lacking = f" ({int((~known).sum())} without a value)" if not known.all() else ""
    ends = [_text(left, base + 15, f"{edges[0]:.3g}"), _text(right, base + 15, f"{edges[-1]:.3g}", "end")]
    labels = [text for text, clear in zip(ends, shown, strict=True) if clear]
    labels.append(_text(left, height - 4, title + lacking))
    return _svg(width, height, [f'<path d="M{left} {base}H{right}" stroke="{DROPPED}"/>', *bars, *labels], title)


def timeline(
    source: dict[str, Any], clips: Sequence[dict[str, Any]], keep: set[str] | None = None, *, width: int = 1160
) -> str:
    """Draw a film's cuts and clips from left to right.

    From top to bottom: keyframes as dots; hard cuts as lines; gradual transitions and damaged stretches as bands; the
    clips as bars, those that a selection drops in grey.

    Args:
        source: A row of the catalogue's `sources`.
        clips: Its clips.
        keep: Ids kept; None keeps all.
        width: In pixels.

    Returns:
        An `<svg>` element.
    """
    whole = max(seconds(source["end_pts"] - source["start_pts"], source["time_base"]), 1e-6)
    height, left, right = 62, 6, width - 6

    def at(pts: int) -> float:
        return left + (right - left) * seconds(pts - source["start_pts"], source["time_base"]) / whole

    parts = [_rect(left, 14, right - left, 16, "#f3efe7")]
    parts += [_rect(at(a), 14, max(1.0, at(b) - at(a)), 16, GRADUAL) for a, b in source["gradual"] or ()]
    parts += [_rect(at(a), 14, max(1.0, at(b) - at(a)), 16, HOLE) for a, b in source["holes"] or ()]
    parts += [_path([at(pts) for pts in source["keyframes"] or ()], 7, 4, "#8a97a5")]
    parts += [_path([at(pts) for pts in source["hard_cuts"] or ()], 11, 22, CUT)]
    for clip in clips:
        x, end = at(clip["start_pts"]), at(clip["end_pts"])
        colour = KEPT if keep is None or clip["clip_id"] in keep else DROPPED
        label = f"{clip['start']:.2f} s to {clip['end']:.2f} s, {clip['frames']} frames"
        parts.append(_rect(x, 34, max(1.0, end - x - 0.8), 10, colour, label))
    parts += [_text(left, 58, "0 s"), _text(right, 58, f"{whole:.1f} s", "end")]
    return _svg(width, height, parts, f"cuts and clips of {source['name']}")


def contact_sheet(
    out: str | Path,
    ids: Sequence[str],
    file: str | Path,
    *,
    columns: int = 6,
    width: int = 200,
    whole: bool = False,
) -> Path:
    """Put clips side by side.

    Args:
        out: Folder that `kineograph curate` wrote.
        ids: Clips, in the order to show them.
        file: JPEG to write.
        columns: Pictures per row, at most.
        width: Of each picture in pixels.
        whole: Show first, middle and last frame of each; otherwise the middle one.

    Raises:
        DataError: There is no clip to show, or a strip is missing.
    """
    from PIL import Image

    if not ids:
        raise DataError("A contact sheet needs at least one clip.")
    frames = [_shown(Path(out), one, width, whole) for one in ids]
    cell, columns = max(frame.height for frame in frames), min(columns, len(frames))
    lines = -(-len(frames) // columns)
    sheet = Image.new("RGB", (columns * (width + 4) + 4, lines * (cell + 4) + 4), CUT)
    for i, frame in enumerate(frames):
        row, column = divmod(i, columns)
        sheet.paste(frame, (4 + column * (width + 4), 4 + row * (cell + 4) + (cell - frame.height) // 2))
    place(Path(file), lambda target: sheet.save(target, "JPEG", quality=88))
    return Path(file)


def _shown(out: Path, clip_id: str, width: int, whole: bool) -> Any:
    """Return a strip, or its middle third, scaled."""
    from PIL import Image

    path = out / strip_file(clip_id)
    if not path.is_file():
        raise DataError(f"The strip '{path}' is missing. Run `kineograph curate` again with --resume.")
    with Image.open(path) as strip:
        third = strip.width // 3
        frame = strip.convert("RGB")
        frame = frame if whole else frame.crop((third, 0, 2 * third, strip.height))
    return frame.resize((width, max(1, round(width * frame.height / frame.width))))


def _rect(x: float, y: float, width: float, height: float, colour: str, label: str = "") -> str:
    title = f"<title>{escape(label)}</title>" if label else ""
    box = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {box} fill="{colour}">{title}</rect>' if title else f'<rect {box} fill="{colour}"/>'


def _path(xs: Sequence[float], y: float, height: float, colour: str) -> str:
    lines = "".join(f"M{x:.1f} {y}v{height}" for x in xs)
    return f'<path d="{lines}" stroke="{colour}"/>' if lines else ""


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "currentColor") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _svg(width: int, height: int, parts: Sequence[str], label: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    style = 'font-family="system-ui, sans-serif" font-size="11"'
    return f'{head} {style} role="img" aria-label="{escape(label, quote=True)}">{"".join(parts)}</svg>'
