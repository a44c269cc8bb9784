"""Time curation on one core beside bare decoding and beside PySceneDetect, on one film.

    python benchmarks/curation.py FILM [--seconds 120] [--rounds 3] [--whole] [--json OUT]

All rivals take turns, in rounds, in one process on one thread; numbers are medians of processor time. The film is cut
(by copying packets) to its first seconds. Rivals: decoding alone (PyAV, one thread); the same with PySceneDetect's
ContentDetector and AdaptiveDetector at their defaults fed through its own PyAV backend; our whole analysis (decode,
three-level cascade, optical flow, pictures for strips). Also: stream copy of clips, and the memory of one analysis.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
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
from kineograph.curation.clipping import Span, copy, plan
from kineograph.curation.config import ClipConfig, Limits, MotionConfig
from kineograph.curation.probe import examine, footage

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


def decode_only(film: Path) -> int:
    """Decode every frame on one thread and do nothing with it."""
    with footage(str(film)) as container:
        return sum(1 for _ in decoded(container, examine(container, Limits())[0]))


def scenedetect(film: Path, name: str) -> int:
    """Run one of PySceneDetect's detectors at its defaults over the PyAV backend on one thread."""
    import scenedetect

    video = scenedetect.open_video(str(film), backend="pyav", threading_mode="NONE")
    manager = scenedetect.SceneManager()
    manager.add_detector(getattr(scenedetect, name)())
    manager.detect_scenes(video)
    return len(manager.get_scene_list())


def analysis(film: Path, algorithm: str) -> int:
    """Run the whole pass as a run does, with an album on disk."""
    with tempfile.TemporaryDirectory() as folder, Album(Path(folder) / "album") as album:
        _, found = analyse(str(film), motion=MotionConfig(algorithm), album=album)  # pyright: ignore
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
    spans = plan(facts, found, indexed(film)[1], ClipConfig(min_seconds=0.5, max_seconds=4.0))
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("film", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--whole", action="store_true", help="also measure the memory of the whole film's analysis")
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
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
            "PySceneDetect Content": lambda: scenedetect(film, "ContentDetector"),
            "PySceneDetect Adaptive": lambda: scenedetect(film, "AdaptiveDetector"),
            "analysis, no flow": lambda: analysis(film, "none"),
            "analysis, DIS": lambda: analysis(film, "dis"),
            "analysis, Farneback": lambda: analysis(film, "farneback"),
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
