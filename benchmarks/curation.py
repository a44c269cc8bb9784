"""Time curation on one core beside bare decoding and beside PySceneDetect, on one film.

    python benchmarks/curation.py FILM [--seconds 120] [--rounds 3] [--whole] [--json OUT]
    python benchmarks/curation.py FILM --workers 1 2 [--rounds 3]
    python benchmarks/curation.py FILM --lengths 1 2 4 8 [--svg OUT.svg]

All rivals take turns, in rounds, in one process on one thread; numbers are medians of processor time. The film is cut
(by copying packets) to its first seconds. Rivals: decoding alone (PyAV, one thread); the same with PySceneDetect's
ContentDetector and AdaptiveDetector at their defaults fed through its own PyAV backend; our whole analysis (decode,
three-level cascade, optical flow, pictures for strips), which decodes without H.264's loop filter by default, and the
same with exact decoding. Also: stream copy of clips, and the memory of one analysis.

With --workers a whole run of `kineograph curate` over the one film (split into stretches if it is long enough) is timed
by the clock with so many workers each, in turns: for this the machine must have that many idle cores. With --lengths
the film's first minutes, so many each, are curated in one go by a fresh child each; processor time and peak resident
memory of that child are printed and drawn.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av

from kineograph.curation import keyframes
from kineograph.curation.album import Album
from kineograph.curation.analyse import analyse, decoded
from kineograph.curation.clipping import copy
from kineograph.curation.config import ClipConfig, Decoding, Limits, MotionConfig
from kineograph.curation.probe import examine, footage
from kineograph.curation.spans import Span, plan

TARGETS = {"analysis / decode": 2.5, "analysis, x real time": 15.0, "copies per second": 100.0, "peak MB": 300.0}
"""Most of the first and last, least of the others."""


def head(film: Path, seconds: float, folder: Path) -> Path:
    """Copy the first seconds of a film, up to a keyframe."""
    _, index = indexed(film)
    with footage(str(film)) as container:
        unit = float(container.streams.video[0].time_base)
    found = index.copy_range(int(index.pts.min()), int(index.pts.min() + seconds / unit))
    assert found is not None
    span = Span(int(index.pts[found[0]].min()), found[1], found[0])
    copy(str(film), [span], [folder / "head.mp4"], Limits())
    return folder / "head.mp4"


def indexed(film: Path):
    """Return the header's facts and the packet index."""
    with footage(str(film)) as container:
        stream, facts = examine(container, Limits())
        return facts, keyframes.index(container, stream)


def decode_only(film: Path, decoding: Decoding = "exact") -> int:
    """Decode every frame on one thread and do nothing with it."""
    with footage(str(film)) as container:
        return sum(1 for _ in decoded(container, examine(container, Limits())[0], decoding=decoding))


def scenedetect(film: Path, name: str) -> int:
    """Run one of PySceneDetect's detectors at its defaults over the PyAV backend on one thread."""
    import scenedetect

    video = scenedetect.open_video(str(film), backend="pyav", threading_mode="NONE")
    manager = scenedetect.SceneManager()
    manager.add_detector(getattr(scenedetect, name)())
    manager.detect_scenes(video)
    return len(manager.get_scene_list())


def analysis(film: Path, algorithm: str, decoding: Decoding = "fast") -> int:
    """Run the whole pass as a run does, with an album on disk."""
    with tempfile.TemporaryDirectory() as folder, Album(Path(folder) / "album") as album:
        motion = MotionConfig(algorithm)  # pyright: ignore
        _, found = analyse(str(film), motion=motion, album=album, decoding=decoding)
    return len(found.hard_cuts)


def take_turns(rivals: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median processor time of each rival."""
    spent: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, work in rivals.items():
            start = time.process_time()
            work()
            spent[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in spent.items()}


def copies(film: Path, rounds: int) -> tuple[int, float, float]:
    """Copy every stretch between keyframes of at least half a second; return clips, seconds spent, seconds of film."""
    facts, found = analyse(str(film), motion=MotionConfig("none"))
    spans = plan(facts, found, indexed(film)[1], ClipConfig("copy", min_seconds=0.5, max_seconds=4.0))
    spent = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            copy(str(film), spans, [Path(folder) / f"{i}.mp4" for i in range(len(spans))], Limits())
            spent.append(time.process_time() - start)
    with footage(str(film)) as container:
        unit = float(container.streams.video[0].time_base)
    return len(spans), statistics.median(spent), sum(span.end - span.start for span in spans) * unit


def peak_memory(film: Path) -> float:
    """Return the peak resident megabytes of a process that analyses a film and nothing else."""
    code = (
        "import sys, resource\nfrom kineograph.curation.analyse import analyse\n"
        "from kineograph.curation.album import Album\nfrom pathlib import Path\n"
        "import tempfile\nwith tempfile.TemporaryDirectory() as d, Album(Path(d) / 'a') as album:\n"
        "    analyse(sys.argv[1], album=album)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(film)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def side_by_side(film: Path, workers: list[int], rounds: int) -> None:
    """Print the wall time of a whole run with so many workers each, and how often faster it is than with the first."""
    from kineograph.curation.run import curate

    spent: dict[int, list[float]] = {count: [] for count in workers}
    for _ in range(rounds):
        for count in workers:
            with tempfile.TemporaryDirectory() as folder:
                raw = Path(folder) / "raw"
                raw.mkdir()
                shutil.copy(film, raw)
                start = time.monotonic()
                made = curate(raw, Path(folder) / "out", workers=count)
                spent[count].append(time.monotonic() - start)
    print(f"{film.name}: {made.clips} clips; load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    first = statistics.median(spent[workers[0]])
    for count, times in spent.items():
        value = statistics.median(times)
        print(f"{count} workers {value:8.1f} s by the clock, {first / value:5.2f} x as fast as {workers[0]}")


CHILD = """
import json, resource, sys, time
from kineograph.curation import pipeline
from kineograph.curation.config import from_json
from kineograph.curation.worker import _spare_pandas
_spare_pandas()
item = {"path": sys.argv[1], "shown": "film", "source_id": "00" * 20, "out": sys.argv[2]}
config = from_json({"limits": {"split_minutes": 0}})
start = time.process_time()
made = pipeline.process({**item, "config": config.to_json()}, lambda seconds: None)
spent, peak = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({**made, "spent": spent, "peak": peak}))
"""


def lengths(film: Path, minutes: list[float], svg: Path | None) -> None:
    """Print, and draw, what the first minutes of a film cost a child that curates them in one go."""
    found = []
    for value in minutes:
        with tempfile.TemporaryDirectory() as name:
            part = head(film, 60 * value, Path(name))
            command = [sys.executable, "-c", CHILD, str(part), f"{name}/out"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
        one = found[-1]
        print(
            f"{one['seconds'] / 60:5.2f} min of film: {one['spent']:6.1f} s of processor time "
            f"({one['seconds'] / one['spent']:.1f} x real time), {one['peak']:4.0f} MB, {one['clips']} clips",
            flush=True,
        )
    if svg:
        draw(found, svg)


def draw(found: list[dict], svg: Path) -> None:
    """Draw processor time and peak memory over length."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "curation", "font.size": 9})
    x = [one["seconds"] / 60 for one in found]
    slope = sum(a * one["spent"] for a, one in zip(x, found, strict=True)) / sum(a * a for a in x)
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
    left.plot([0, x[-1]], [0, slope * x[-1]], color="0.7", label=f"{slope:.1f} s per minute of film")
    left.plot(x, [one["spent"] for one in found], "o", color="#2a6fb0")
    left.set(xlabel="minutes of film", ylabel="processor time / s", ylim=(0, None), xlim=(0, None))
    left.legend(frameon=False)
    right.axhline(TARGETS["peak MB"], color="0.7", label="goal")
    right.plot(x, [one["peak"] for one in found], "o-", color="#2a6fb0")
    right.set(xlabel="minutes of film", ylabel="peak memory / MB", ylim=(0, 330), xlim=(0, None))
    right.legend(frameon=False)
    figure.savefig(svg, metadata={"Date": None})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("film", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--whole", action="store_true", help="also measure the memory of the whole film's analysis")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", help="only time whole runs with so many workers each")
    parser.add_argument("--lengths", type=float, nargs="+", help="only measure the first so many minutes each")
    parser.add_argument("--svg", type=Path)
    told = parser.parse_args()
    if told.workers:
        return side_by_side(told.film, told.workers, told.rounds)
    if told.lengths:
        return lengths(told.film, told.lengths, told.svg)
    import cv2

    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        film = head(told.film, told.seconds, Path(folder))
        with av.open(str(film)) as container:
            stream = container.streams.video[0]
            seconds = float(stream.duration * stream.time_base)
            size = f"{stream.width}x{stream.height}"
        rivals: dict[str, Callable[[], object]] = {
            "demux (packet index)": lambda: indexed(film),
            "decode": lambda: decode_only(film),
            "decode, no loop filter": lambda: decode_only(film, "fast"),
            "PySceneDetect Content": lambda: scenedetect(film, "ContentDetector"),
            "PySceneDetect Adaptive": lambda: scenedetect(film, "AdaptiveDetector"),
            "analysis, no flow": lambda: analysis(film, "none"),
            "analysis, DIS": lambda: analysis(film, "dis"),
            "analysis, Farneback": lambda: analysis(film, "farneback"),
            "exact decoding, DIS": lambda: analysis(film, "dis", "exact"),
            "exact, Farneback": lambda: analysis(film, "farneback", "exact"),
        }
        times = take_turns(rivals, told.rounds)
        count, spent, kept = copies(film, told.rounds)
        memory = {"head": peak_memory(film)} | ({"whole film": peak_memory(told.film)} if told.whole else {})
    report = {
        "film": f"{told.film.name}, first {seconds:.1f} s, {size}",
        "load": os.getloadavg()[0],
        "seconds": times,
        "times real time": {name: seconds / value for name, value in times.items()},
        "over decode": {name: value / times["decode"] for name, value in times.items()},
        "copy": {"clips": count, "seconds": spent, "clips per second": count / spent, "times real time": kept / spent},
        "peak MB": memory,
        "own peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(report["film"], f"(load {report['load']:.1f})")
    for name, value in times.items():
        print(f"{name:24} {value:8.2f} s {seconds / value:10.1f} x real time {value / times['decode']:6.2f} x decode")
    print(f"{'stream copy':24} {count} clips in {spent:.2f} s: {count / spent:.0f} clips/s, {kept / spent:.0f} x")
    print("peak memory:", ", ".join(f"{value:.0f} MB for the {name}" for name, value in memory.items()))
    if told.json:
        told.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
