"""An evaluation as a page: table with protocols, plots, best and worst clips.

HTML stands alone; Markdown has its pictures in a folder beside it.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from kineograph.errors import InputError, KineographError
from kineograph.metrics.extrapolation import frechet_curve
from kineograph.metrics.features.resize import to_bytes
from kineograph.metrics.outcome import Evaluation
from kineograph.metrics.score import Score

BLUE, ORANGE, GREY = "#3566b0", "#d9732f", "#888888"
WIDTH, HEIGHT, MARGIN = 420, 260, 42
Frames = Callable[[str], Tensor]


def write_report(evaluation: Evaluation, path: Path, frames: Frames | None = None, title: str = "Evaluation") -> Path:
    """Write a report.

    Args:
        evaluation: What was measured.
        path: File ending in `.html` or `.md`.
        frames: Gives the frames (frames, 3, height, width) of a generated clip by name, for pictures; None leaves them
            out.
        title: Heading.

    Returns:
        The path.

    Raises:
        InputError: Another suffix.
    """
    if path.suffix not in (".html", ".md"):
        raise InputError(f"A report ends in .html or .md, given '{path.name}'.")
    plots, pictures = figures(evaluation), strips(evaluation, frames)
    text = (
        _page(evaluation, plots, pictures, title)
        if path.suffix == ".html"
        else _markdown(evaluation, plots, pictures, path, title)
    )
    _write(path, text.encode())
    return path


def figures(evaluation: Evaluation) -> dict[str, str]:
    """SVG plots by caption: feature space, distance against n, values of single clips."""
    plots = {}
    for extractor, sides in evaluation.features.items():
        if len(sides) == 2 and min(len(x) for x in sides.values()) > 2:
            plots[f"Feature space of {extractor}: first two principal axes of the reference"] = _projection(sides)
            plots[f"Fréchet distance of clip features of {extractor} against the number of clips"] = _curve(sides)
    for score in evaluation.scores.values():
        if len(score.per_clip) > 1:
            plots[f"{score.name}: {'nearest reference' if score.reference else 'values'} by clip, sorted"] = _sorted(
                score
            )
    return plots


def strips(evaluation: Evaluation, frames: Frames | None, count: int = 3) -> dict[str, bytes]:
    """PNG strips of the best and worst clips of the first score with values by clip."""
    ranked = next((s for s in evaluation.scores.values() if len(s.per_clip) > 1), None)
    if frames is None or ranked is None:
        return {}
    higher = ranked.better == "higher" and not ranked.reference
    order = sorted(ranked.per_clip, key=lambda name: ranked.per_clip[name], reverse=higher)
    chosen = [("best", n) for n in order[:count]] + [("worst", n) for n in reversed(order[count:][-count:])]
    pictures = {}
    for kind, name in chosen:
        try:
            pictures[f"{kind} by {ranked.name}: {name} ({ranked.per_clip[name]:.4g})"] = _strip(frames(name))
        except (KineographError, OSError):
            continue
    return pictures


def _strip(frames: Tensor) -> bytes:
    """Eight frames side by side, 96 pixels high, as PNG."""
    from PIL import Image

    chosen = frames[torch.linspace(0, len(frames) - 1, min(8, len(frames))).round().long()]
    row = torch.cat(list(to_bytes(chosen)), -1).to(torch.uint8).movedim(0, -1).numpy()
    picture = Image.fromarray(row)
    picture = picture.resize((max(1, round(picture.width * 96 / picture.height)), 96))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _projection(sides: Mapping[str, Tensor]) -> str:
    real, fake = sides["reference"].double(), sides["generated"].double()
    axes = torch.linalg.svd(real - real.mean(0), full_matrices=False).Vh[:2].T
    points = [((x - real.mean(0)) @ axes).tolist() for x in (real, fake)]
    return _plot([("reference", BLUE, points[0], False), ("generated", ORANGE, points[1], False)])


def _curve(sides: Mapping[str, Tensor]) -> str:
    most = min(len(x) for x in sides.values())
    sizes = sorted({max(2, round(most * share)) for share in (0.125, 0.25, 0.5, 0.75, 1.0)})
    values = frechet_curve(sides["generated"], sides["reference"], tuple(sizes))
    return _plot([("distance", BLUE, [[n, v] for n, v in zip(sizes, values, strict=True)], True)])


def _sorted(score: Score) -> str:
    values = sorted(score.per_clip.values())
    return _plot([(score.name, BLUE, [[i + 1, v] for i, v in enumerate(values)], True)])


def _plot(series: Sequence[tuple[str, str, list[list[float]], bool]]) -> str:
    """Points or lines with labelled ends of the axes, as SVG."""
    xs, ys = ([p[axis] for _, _, points, _ in series for p in points] for axis in (0, 1))
    place_x = _scale(min(xs), max(xs), MARGIN, WIDTH - 10)
    place_y = _scale(min(ys), max(ys), HEIGHT - MARGIN, 10)
    inner = f'width="{WIDTH - MARGIN - 10}" height="{HEIGHT - MARGIN - 10}"'
    parts = [f'<rect x="{MARGIN}" y="10" {inner} fill="none" stroke="{GREY}"/>']
    for label, colour, points, joined in series:
        spots = [(place_x(x), place_y(y)) for x, y in points]
        if joined:
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        title = f"<title>{html.escape(label)}</title>"
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}" fill-opacity="0.6">{title}</circle>'
            for x, y in spots
        ]
    parts += [_text(MARGIN, HEIGHT - 24, f"{min(xs):.4g}"), _text(WIDTH - 10, HEIGHT - 24, f"{max(xs):.4g}", "end")]
    parts += [
        _text(MARGIN - 4, HEIGHT - MARGIN, f"{min(ys):.3g}", "end"),
        _text(MARGIN - 4, 18, f"{max(ys):.3g}", "end"),
    ]
    parts += [
        _text(MARGIN + 90 * i, HEIGHT - 8, label, colour=colour) for i, (label, colour, _, _) in enumerate(series)
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"'
    return f'{head} font-family="sans-serif" font-size="10">{"".join(parts)}</svg>'


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = "#333333") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{html.escape(text)}</text>'


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda v: start + (v - low) / span * (end - start)


def rows(evaluation: Evaluation) -> list[tuple[str, str, str, str, str, str]]:
    """The table: metric, value, interval, clips, protocol, warnings."""
    result = []
    for score in evaluation.scores.values():
        bar = "none" if score.low is None or score.high is None else f"{score.low:.4g} to {score.high:.4g}"
        count = f"{score.generated}" + (f" against {score.reference}" if score.reference else "")
        protocol = score.protocol.hash + (f" ({score.protocol.published})" if score.protocol.published else "")
        result.append((score.name, f"{score.value:.5g}", bar, count, protocol, "; ".join(score.warnings)))
    return result


HEADINGS = ("metric", "value", "95 % interval", "clips", "protocol", "warnings")


def _headings(evaluation: Evaluation) -> tuple[str, ...]:
    level = next((s.level for s in evaluation.scores.values() if s.level), 0.95)
    return (*HEADINGS[:2], f"{100 * level:g} % interval", *HEADINGS[3:])


def remarks(evaluation: Evaluation) -> list[str]:
    """Notes, failures and skipped metrics, a line each."""
    lines = list(evaluation.notes)
    by = lambda failure: f" by {failure.metric}" if failure.metric else ""
    lines += [f"Not measured{by(f)}: {f.side} clip {f.clip}: {f.reason}" for f in evaluation.failures]
    named: dict[str, list[str]] = {}
    for name, reason in evaluation.skipped.items():
        named.setdefault(reason, []).append(name)
    return lines + [f"Skipped {', '.join(names)}: {reason}" for reason, names in named.items()]


def _protocol_lines(evaluation: Evaluation) -> list[str]:
    return [
        f"{s.protocol.hash} {s.name}: " + ", ".join(f"{k} {v}" for k, v in s.protocol.facts.items())
        for s in evaluation.scores.values()
    ]


def _page(evaluation: Evaluation, plots: dict[str, str], pictures: dict[str, bytes], title: str) -> str:
    cells = lambda tag, row: "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in row) + "</tr>"
    items = lambda lines: "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"
    picture = lambda data: f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}" alt="">'
    figure = lambda body, caption: f"<figure>{body}<figcaption>{html.escape(caption)}</figcaption></figure>"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>",
        f"<h1>{html.escape(title)}</h1><table>{cells('th', _headings(evaluation))}",
        *(cells("td", row) for row in rows(evaluation)),
        "</table>",
        items(remarks(evaluation)),
        *(figure(svg, caption) for caption, svg in plots.items()),
        *(figure(picture(data), caption) for caption, data in pictures.items()),
        "<h2>Protocols</h2>",
        items(_protocol_lines(evaluation)),
        "</html>",
    ]
    return "\n".join(parts)


STYLE = (
    "body{font-family:sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse}"
    "td,th{border-bottom:1px solid #ccc;padding:.3rem .6rem;text-align:left}figure{display:inline-block;margin:1rem}"
    "figcaption{font-size:.85rem;max-width:26rem}"
)


def _markdown(evaluation: Evaluation, plots: dict[str, str], pictures: dict[str, bytes], path: Path, title: str) -> str:
    folder = path.with_name(f"{path.stem}_files")
    line = lambda row: "| " + " | ".join(c.replace("|", "\\|") for c in row) + " |"
    images = []
    files = [(c, f"plot{i}.svg", svg.encode()) for i, (c, svg) in enumerate(plots.items())]
    files += [(c, f"clip{i}.png", data) for i, (c, data) in enumerate(pictures.items())]
    for caption, name, data in files:
        _write(folder / name, data)
        images.append(f"![{caption}]({folder.name}/{name})\n\n{caption}\n")
    table = [line(_headings(evaluation)), line(["---"] * len(HEADINGS)), *map(line, rows(evaluation))]
    bullets = lambda lines: [f"- {text}" for text in lines]
    body = [f"# {title}", "", *table, "", *bullets(remarks(evaluation)), "", *images, "## Protocols", ""]
    return "\n".join([*body, *bullets(_protocol_lines(evaluation)), ""])


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)
