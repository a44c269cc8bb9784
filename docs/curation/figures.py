"""Measure what the pages on curation say of Big Buck Bunny and its trailer, write it there, and draw their pictures.

    python docs/curation/figures.py [--work DIR]

Both films (CC BY 3.0, (c) 2008 Blender Foundation) come from moviepy's sources on PyPI. They are curated by the methods
`auto` and `copy`, and once more with exact decoding, which takes minutes each; runs that are in the work folder already
are not repeated. The numbers go to `numbers.json`, and from there into the blocks `<!-- numbers: NAME -->` of the
pages; a test compares the two.
"""

import argparse
import json
import re
import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
NUMBERS = HERE / "numbers.json"
PAGES = ("index.md", "choosing.md")
RUNS: dict[str, dict[str, Any]] = {
    "auto": {"clips": {"method": "auto"}},
    "copy": {"clips": {"method": "copy"}},
    "exact": {"clips": {"method": "copy"}, "decoding": "exact"},
}
RULES = ("motion_mean>=p25", "text_area<=0.07")
_BLOCK = re.compile(r"<!-- numbers: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


# Measuring ---------------------------------------------------------------------------------------------------------


def measure(work: Path) -> dict[str, Any]:
    """Curate both films by both methods and return what the pages say."""
    from kineograph.curation import select
    from kineograph.curation.catalogue import Catalogue
    from kineograph.curation.config import CurationConfig, from_json
    from kineograph.curation.run import curate

    raw, cost = films(work / "raw"), work / "processor.json"
    spent = json.loads(cost.read_text()) if cost.exists() else {}
    found: dict[str, Any] = {}
    for name, told in RUNS.items():
        before = _processor()
        summary = curate(raw, work / name, from_json({"scorers": {}, **told}), resume=True, workers=1)
        if summary.computed == summary.sources["in"]:
            spent[name] = round(_processor() - before, 1)
        found[name] = summary.to_json()["yield"]
    before = _processor()
    whole = curate(raw, work / "auto", CurationConfig(), resume=True, workers=1)
    if sum(whole.scored.values()) == 2 * whole.clips:
        spent["scores"] = round((_processor() - before) / whole.clips, 2)
    cost.write_text(json.dumps(spent))
    found["processor"] = spent
    found["summary"] = replace(whole, changed=[]).summary().split("\n")[:3]
    with Catalogue(work / "auto") as catalogue:
        made = catalogue.query("SELECT method, count(*) AS clips, sum(duration) AS seconds FROM clips GROUP BY 1")
        found["methods"] = {row["method"]: [row["clips"], round(row["seconds"], 3)] for row in made}
        text = catalogue.query("SELECT text_area FROM scored WHERE text_area > 0 ORDER BY text_area DESC")
        found["text"] = [round(row["text_area"], 4) for row in text]
    found["selection"] = select.run(work / "auto", list(RULES), "default").summary().split("\n")
    found["small"] = select.run(work / "auto", [*RULES, "motion_mean>=p90"], "small").kept
    found["decoding"] = compared(work / "copy", work / "exact")
    return found


def compared(fast: Path, exact: Path) -> dict[str, Any]:
    """Return what fast decoding changes of an analysis: cuts, and the motion of the clips that both runs have."""
    from kineograph.curation.catalogue import Catalogue

    cuts, motion = [], []
    for out in (fast, exact):
        with Catalogue(out) as catalogue:
            cuts.append([(row["hard_cuts"], row["gradual"]) for row in catalogue.sources()])
            clips = catalogue.clips()
            motion.append({(row["source_id"], row["start_pts"], row["end_pts"]): row["motion_mean"] for row in clips})
    shared = sorted(motion[0].keys() & motion[1].keys())
    one, two = (np.array([some[key] for key in shared]) for some in motion)
    change, ranks = np.abs(one / two - 1), [np.argsort(np.argsort(some)) for some in (one, two)]
    return {
        "hard": [sum(len(hard) for hard, _ in some) for some in cuts],
        "same_hard": [hard for hard, _ in cuts[0]] == [hard for hard, _ in cuts[1]],
        "gradual": [sum(len(gradual) for _, gradual in some) for some in cuts],
        "clips": [len(motion[0]), len(motion[1]), len(shared)],
        "motion": [round(float(np.median(change)), 4), round(float(change.max()), 4)],
        "ranks": round(float(np.corrcoef(*ranks)[0, 1]), 4),
    }


def _processor() -> float:
    """Return the processor time of this process and its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def films(raw: Path) -> Path:
    """Put both films into a folder."""
    sys.path.insert(0, str(HERE.parents[1] / "tests" / "curation"))
    from films import big_buck_bunny

    raw.mkdir(parents=True, exist_ok=True)
    for film in big_buck_bunny(), big_buck_bunny().with_name("trailer_bbb.mp4"):
        if not (raw / film.name).exists():
            shutil.copyfile(film, raw / film.name)
    return raw


# Writing -----------------------------------------------------------------------------------------------------------


def run(numbers: dict[str, Any]) -> str:
    """What the command prints."""
    lines = ["$ kineograph curate raw -o bunny", *numbers["summary"]]
    return "\n".join(f"    {line}" for line in lines)


def methods(numbers: dict[str, Any]) -> str:
    """What the methods keep and cost."""
    rows = ['| `"method"` | clips | seconds in clips | of all shots of two seconds and more | processor time |']
    rows.append("| --- | --- | --- | --- | --- |")
    for name in ("copy", "auto"):
        one, spent = numbers[name], numbers["processor"].get(name)
        accepted = one["shots"] - one["lost"]["too_short"]
        cost = "not measured" if spent is None else f"{spent:.0f} s"
        rows.append(f"| `{name}` | {one['clips']} | {one['out']:.1f} | {100 * one['out'] / accepted:.2f} % | {cost} |")
    clips, seconds = numbers["methods"].get("encode", [0, 0.0])
    lost = numbers["auto"]["lost"]
    note = (
        f"Big Buck Bunny and its trailer, {numbers['auto']['in']:.1f} s, one worker, no scorers. With `auto`, {clips} "
        f"clips of {seconds:.0f} s were encoded. {lost['too_short']:.1f} s lie in shots too short for a clip and "
        f"{lost['transitions']:.1f} s in transitions, with either method."
    )
    return "\n".join([*rows, "", note])


def text(numbers: dict[str, Any]) -> str:
    """What has text."""
    large, small = ([area for area in numbers["text"] if (area > 0.01) == is_large] for is_large in (True, False))
    rest = f", and {len(small)} of at most {small[0]:.4f}" if small else ""
    return (
        f"Of the {numbers['auto']['clips']} clips of Big Buck Bunny and its trailer, {len(numbers['text'])} have any "
        f"text area: {', '.join(f'{area:.2f}' for area in large)}{rest}. Text and marks together take "
        f"{numbers['processor']['scores']:.2f} s of processor time per clip."
    )


def selection(numbers: dict[str, Any]) -> str:
    """What two rules keep."""
    command = f"$ kineograph curate select bunny {' '.join(chr(34) + rule + chr(34) for rule in RULES)}"
    return "\n".join(f"    {line}" for line in (command, *numbers["selection"]))


def small(numbers: dict[str, Any]) -> str:
    """How many clips the strictest selection keeps."""
    return f"These rules and `motion_mean>=p90` leave {numbers['small']} clips, and training takes them as they are:"


def decoding(numbers: dict[str, Any]) -> str:
    """What fast decoding changes."""
    one = numbers["decoding"]
    spent = [
        f"{numbers['processor'][name]:.0f} s" if name in numbers["processor"] else "" for name in ("copy", "exact")
    ]
    middle, largest = (f"{100 * value:.1f} %" for value in one["motion"])
    rows = [
        ("Big Buck Bunny and its trailer", '`"fast"`', '`"exact"`'),
        ("---", "---", "---"),
        ("hard cuts", one["hard"][0], f"{one['hard'][1]}, {'the same' if one['same_hard'] else 'not the same'}"),
        ("gradual transitions", *one["gradual"]),
        ("clips by copying", one["clips"][0], f"{one['clips'][1]}, {one['clips'][2]} of them the same"),
        ("`motion_mean` of these: median, largest change", f"{middle}, {largest}", ""),
        ("rank correlation of `motion_mean`", f"{one['ranks']:.4f}", ""),
        ("processor time of the run, with clips", *spent),
    ]
    return "\n".join(f"| {first} | {second} | {third} |" for first, second, third in rows)


BLOCKS: dict[str, Callable[[dict[str, Any]], str]] = {
    one.__name__: one for one in (run, methods, text, selection, small, decoding)
}


def filled(page: str, numbers: dict[str, Any]) -> str:
    """Return a page with its blocks written anew."""
    return _BLOCK.sub(lambda m: f"<!-- numbers: {m[1]} -->\n{BLOCKS[m[1]](numbers)}\n<!-- end -->", page)


# Drawing -----------------------------------------------------------------------------------------------------------


def draw(out: Path) -> None:
    """Draw the pictures of the page on choosing clips."""
    from kineograph.curation import select
    from kineograph.curation.catalogue import Catalogue
    from kineograph.curation.pictures import contact_sheet, histogram
    from kineograph.curation.report import beside

    motion, area = select.load(out, "default").rules
    with Catalogue(out) as catalogue:
        ids, values, areas = catalogue.ids(), catalogue.axis("motion_mean"), catalogue.axis("text_area")
    drawn = histogram(values, motion.passes(values), motion.threshold, title=f"motion_mean ({motion.rule})", width=560)
    (HERE / "motion_mean.svg").write_text(drawn.replace("currentColor", "#6b7480") + "\n")
    for name, side in zip(("kept", "dropped"), beside(ids, values, motion), strict=True):
        contact_sheet(out, [clip for clip, _ in side], HERE / f"motion_mean-{name}.jpg", width=150)
    worst = [clip for clip, _ in beside(ids, areas, area)[1]]
    contact_sheet(out, worst, HERE / "text_area-dropped.jpg", columns=1, width=640, whole=True)


def main() -> None:
    """Measure, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--work", type=Path, default=Path("~/.cache/kineograph-dev/curation").expanduser())
    work = parser.parse_args().work
    numbers = measure(work)
    NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n")
    for name in PAGES:
        page = HERE / name
        page.write_text(filled(page.read_text(encoding="utf-8"), numbers), encoding="utf-8")
    draw(work / "auto")


if __name__ == "__main__":
    main()
