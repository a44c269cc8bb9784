"""The report of a run: one HTML page beside the data, without scripts and without network.

It shows what became of every source and every second of it, how each score is distributed and what a selection's
thresholds keep and drop, the clips on both sides of each threshold, where each film was cut, and the clips themselves.
Pictures are the strips that lie beside it. All text that comes from files is escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from kineograph.curation import select
from kineograph.curation.accounts import by_source, footage_of
from kineograph.curation.catalogue import Catalogue
from kineograph.curation.export import caption_of
from kineograph.curation.parts import place_text
from kineograph.curation.pictures import CUT, DROPPED, GRADUAL, HOLE, KEPT, histogram, timeline
from kineograph.curation.rows import FAILED, OK, strip_file
from kineograph.curation.yields import LOSSES

REPORT = "report.html"
MAX_TIMELINES = 100
"""Films whose timelines are drawn; the page says how many are left out."""
MAX_CLIPS = 300
"""Clips shown with their scores, evenly spread over the run; the page says how many are left out."""
BESIDE = 6
"""Clips shown on either side of a threshold."""
_NO_SCORES = frozenset(
    ["start_pts", "end_pts", "start", "end", "corrupt_frames", "motion_median", "motion_p10", "motion_p90"]
) | {"motion_fps", "frames", "width"}

_STYLE = f"""
:root {{ color-scheme: light dark; --ink: {CUT}; --paper: #fbf9f5;
  --line: #ddd6c9; --soft: #6b7480; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e8e4dc; --paper: #171c22; --line: #36404b; --soft: #9aa5b1; }} }}
body {{ margin: 0 auto; max-width: 76rem; padding: 1.5rem;
       font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); }}
h1 {{ font-size: 1.6rem; margin: 0; }} h2 {{ font-size: 1.15rem; margin: 2.2rem 0 .6rem; }}
h3 {{ font-size: .95rem; margin: 1.1rem 0 .3rem; overflow-wrap: anywhere; }}
p, td, figcaption {{ color: var(--soft); }}
b {{ color: var(--ink); }}
table {{ border-collapse: collapse; }}
td, th {{ padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top;
       border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }}
.row {{ display: flex; flex-wrap: wrap; gap: 1rem; }}
.clips {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: .8rem; }}
figure {{ margin: 0; border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }}
figure img {{ display: block; width: 100%; background: #000; }}
figure.dropped img {{ opacity: .55; }}
figcaption {{ padding: .4rem .6rem; font-size: .8rem; overflow-wrap: anywhere; }}
svg {{ max-width: 100%; height: auto; }}
.key span {{ display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 1em; }}
"""


def write(out: str | Path, selection: str | None = None) -> Path:
    """Write `report.html` into an output folder.

    Args:
        out: Folder that `kineograph curate` wrote.
        selection: Name of a stored selection whose thresholds to show; None takes `default` if there is one.

    Returns:
        The page.

    Raises:
        DataError: The folder holds no finished source, or there is no such selection.
    """
    out = Path(out)
    if selection is None and "default" in select.stored(out):
        selection = "default"
    chosen = None if selection is None else select.load(out, selection)
    keep = None if selection is None else set(select.kept(out, selection))
    with Catalogue(out) as catalogue:
        clips, sources = catalogue.clips(), catalogue.sources()
        body = [
            _summary(out, sources, clips, chosen),
            _statuses(sources),
            _yield(out),
            _histograms(catalogue, chosen, keep),
            _sides(catalogue, chosen),
            _timelines(sources, clips, keep),
            _gallery(catalogue, clips, keep),
        ]
    place_text(out / REPORT, _page(out, body))
    return out / REPORT


def _page(out: Path, body: Sequence[str]) -> str:
    title = f"Curation of {escape(out.resolve().name)}"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    page = f"<body>\n<h1>{title}</h1>\n" + "\n".join(body) + "\n</body>"
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n{page}</html>\n'


def _summary(
    out: Path, sources: list[dict[str, Any]], clips: list[dict[str, Any]], chosen: select.Selection | None
) -> str:
    ok = sum(source["status"] == OK for source in sources)
    failed = sum(source["status"] in FAILED for source in sources)
    raw = sum(source["duration"] for source in sources)
    cut = sum(clip["duration"] for clip in clips)
    text = (
        f"<p><b>{len(sources)}</b> sources ({ok} ok, {len(sources) - ok - failed} filtered, {failed} failed; "
        f"{_length(raw)}) gave <b>{len(clips)}</b> clips ({_length(cut)}).</p>"
    )
    if chosen is not None:
        lines = escape(chosen.summary()).split("\n")
        items = "".join(f"<li>{line.strip()}</li>" for line in lines[1:])
        text += f"<p><b>{lines[0]}</b></p><ul>{items}</ul>"
        text += f"<p>population {chosen.population_hash[:16]}</p>"
    return text


def _length(value: float) -> str:
    return f"{value / 3600:.2f} h" if value >= 3600 else f"{value:.1f} s"


def _statuses(sources: list[dict[str, Any]]) -> str:
    """List the sources that gave nothing, each with its reason."""
    counts = Counter(source["status"] for source in sources)
    total = ", ".join(f"{escape(status)} {count}" for status, count in sorted(counts.items()))
    bad = [source for source in sources if source["status"] != OK]
    rows = "".join(
        f"<tr><td>{escape(one['path'])}</td><td>{escape(one['status'])}</td><td>{escape(one['reason'])}</td></tr>"
        for one in bad
    )
    table = f"<table><tr><th>file</th><th>status</th><th>reason</th></tr>{rows}</table>" if bad else ""
    return f"<h2>Sources</h2><p>{total}</p>{table}"


def _yield(out: Path) -> str:
    """Show where the seconds of footage went, in all and for each source."""
    each = by_source(out)
    lost = [name for name in LOSSES if any(one["lost"][name] for one in each)]
    head = "".join(f"<th>{escape(name)}</th>" for name in ("file", "in", "in shots", *lost, "in clips"))
    lines = [("all", footage_of(out).to_json()), *((one["path"], one) for one in each[:MAX_TIMELINES])]
    body = "".join(_yield_row(name, one, lost) for name, one in lines)
    meaning = "; ".join(f"{name}: {LOSSES[name]}" for name in lost)
    more = f" {len(each) - MAX_TIMELINES} more files are not shown." if len(each) > MAX_TIMELINES else ""
    note = f"<p>Seconds; what is not in clips is lost. {escape(meaning)}{more}</p>"
    return f"<h2>Yield</h2>{note}<table><tr>{head}</tr>{body}</table>"


def _yield_row(name: str, one: dict[str, Any], lost: list[str]) -> str:
    values = [one["in"], one["shots"], *(one["lost"][reason] for reason in lost), one["out"]]
    cells = "".join(f"<td>{value:.3f}</td>" for value in values)
    return f"<tr><td>{escape(name)}</td>{cells}</tr>"


def _histograms(catalogue: Catalogue, chosen: select.Selection | None, keep: set[str] | None) -> str:
    ids = catalogue.ids()
    kept = None if keep is None else np.array([one in keep for one in ids], bool)
    thresholds = {rule.axis: rule for rule in chosen.rules} if chosen else {}
    drawn = []
    for axis in catalogue.axes():
        values = catalogue.axis(axis)
        rule = thresholds.get(axis)
        if axis in _NO_SCORES or (rule is None and (np.isnan(values).all() or np.ptp(values[~np.isnan(values)]) == 0)):
            continue
        title = f"{axis} (rule: {rule.rule})" if rule else axis
        drawn.append(histogram(values, kept, rule.threshold if rule else None, title=title))
    key = (
        "" if keep is None else f'<p class="key">{_key(KEPT, "kept by all rules")}{_key(DROPPED, "dropped by any")}</p>'
    )
    return f'<h2>Scores</h2>{key}<div class="row">{"".join(drawn)}</div>'


def _key(colour: str, text: str) -> str:
    return f'<span style="background:{colour}"></span>{text}'


def _sides(catalogue: Catalogue, chosen: select.Selection | None) -> str:
    """Show, for each rule, the clips nearest to its threshold on either side."""
    if chosen is None:
        return ""
    parts = ["<h2>Beside the thresholds</h2>"]
    ids = catalogue.ids()
    for rule in chosen.rules:
        if rule.operator == select.NONE:
            continue
        kept, dropped = beside(ids, select.values_of(catalogue, rule.axis), rule)
        for name, side in (("kept", kept), ("dropped", dropped)):
            figures = [_figure(one, "", f"{rule.axis} {value:.4g}", False) for one, value in side]
            nothing = "<p>none</p>"
            shown = f'<div class="clips">{"".join(figures)}</div>' if figures else nothing
            parts.append(f"<h3>{escape(rule.rule)}: just {name}</h3>{shown}")
    return "".join(parts)


def beside(
    ids: np.ndarray, values: np.ndarray, rule: select.Frozen, count: int = BESIDE
) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """Return the clips nearest to a threshold: those that pass, and those that do not, each with its value.

    Args:
        ids: Clip ids, shape (clips,).
        values: On the rule's axis, shape (clips,).
        rule: The frozen rule.
        count: At most so many on each side.
    """
    passes, known = rule.passes(values), ~np.isnan(values)
    order = np.argsort(np.abs(values - rule.threshold), kind="stable")
    sides = [[i for i in order if known[i] and passes[i] == want][:count] for want in (True, False)]
    kept, dropped = ([(str(ids[i]), float(values[i])) for i in side] for side in sides)
    return kept, dropped


def _timelines(sources: list[dict[str, Any]], clips: list[dict[str, Any]], keep: set[str] | None) -> str:
    good = [source for source in sources if source["status"] == OK]
    mine: dict[str, list[dict[str, Any]]] = {source["source_id"]: [] for source in good}
    for clip in clips:
        mine[clip["source_id"]].append(clip)
    parts = []
    for source in good[:MAX_TIMELINES]:
        cuts, gradual = len(source["hard_cuts"] or ()), len(source["gradual"] or ())
        facts = f"{source['width']}x{source['height']}, {source['fps']:.4g} fps, {cuts} hard and {gradual} gradual cuts"
        some = mine[source["source_id"]]
        parts.append(
            f"<h3>{escape(source['path'])}</h3><p>{facts}, {len(some)} clips</p>{timeline(source, some, keep)}"
        )
    left_out = f"<p>{len(good) - MAX_TIMELINES} more films are not drawn.</p>" if len(good) > MAX_TIMELINES else ""
    marks = _key(CUT, "hard cut") + _key(GRADUAL, "gradual") + _key(HOLE, "damaged")
    clip_key = _key(KEPT, "clip") + (_key(DROPPED, "clip not selected") if keep is not None else "")
    return f'<h2>Cuts</h2><p class="key">{marks}{clip_key}</p>{"".join(parts)}{left_out}'


def _gallery(catalogue: Catalogue, clips: list[dict[str, Any]], keep: set[str] | None) -> str:
    places = np.linspace(0, len(clips) - 1, min(len(clips), MAX_CLIPS)).round().astype(int) if clips else []
    scored = [axis for axis in catalogue.axes() if axis not in _NO_SCORES and axis not in ("height", "fps")]
    figures = []
    for i in places:
        clip = clips[i]
        scores = ", ".join(f"{axis} {clip[axis]:.4g}" for axis in scored if _is_number(clip[axis]))
        text = f"<b>{escape(caption_of(clip))}</b> {scores}"
        dropped = keep is not None and clip["clip_id"] not in keep
        figures.append(_figure(clip["clip_id"], clip["path"], text, dropped))
    more = f" ({len(clips) - MAX_CLIPS} more are not shown)" if len(clips) > MAX_CLIPS else ""
    shown = "".join(figures)
    return f'<h2>Clips</h2><p>First, middle and last frame{more}.</p><div class="clips">{shown}</div>'


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value


def _figure(clip_id: str, path: str, caption: str, dropped: bool) -> str:
    """Show a strip; `caption` is HTML, escaped by the caller."""
    picture = f'<img loading="lazy" alt="" src="{escape(strip_file(clip_id), quote=True)}">'
    linked = f'<a href="{escape(path, quote=True)}">{picture}</a>' if path else picture
    mark = ' class="dropped"' if dropped else ""
    return f"<figure{mark}>{linked}<figcaption>{caption}</figcaption></figure>"
