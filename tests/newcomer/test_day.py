"""A newcomer's day: a fresh clone, the demo, an own film, an own model, an own clip; `make newcomer` runs it."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from newcomer.commands import ROOT
from newcomer.stand_ins import films

from kineograph.video import Video

STEPS = 20
"""Training steps of the own model; enough for the loss to fall, few enough for a coffee."""


class Day:
    """A folder in which commands are typed, and the clock."""

    def __init__(self, folder: Path):
        self.folder, self.began, self.spent = folder, time.perf_counter(), {}

    def type(self, words: str, name: str = "") -> str:
        """Run a command line with the clone's programs first on the path; return what it printed."""
        path = f"{self.folder / 'kineograph' / '.venv' / 'bin'}:{os.environ['PATH']}"
        keep = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HF_HUB_OFFLINE", "VIRTUAL_ENV")}
        began = time.perf_counter()
        done = subprocess.run(
            words, shell=True, cwd=self.folder, env={**keep, "PATH": path}, capture_output=True, text=True, check=False
        )
        self.spent[name or words] = round(time.perf_counter() - began, 1)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.mark.slow
@pytest.mark.net
@pytest.mark.timeout(3600)
def test_from_a_clone_to_an_own_clip(tmp_path, capsys):
    day = Day(tmp_path)
    day.type(f"git clone -q file://{ROOT} kineograph", "clone")
    day.type("make -C kineograph demo", "make demo, installation included")
    assert len(Video.read(tmp_path / "kineograph" / "demo.mp4")) == 16
    assert (tmp_path / "kineograph" / "demo.png").is_file()
    assert "The core works." in day.type("echo kineograph doctor | SHELL=/bin/sh make -s -C kineograph shell")
    day.type('kineograph generate "a juggling man"', "the first own prompt")
    day.type('kineograph generate "a cat"', "the second")
    assert sorted(p.name for p in tmp_path.glob("clip*.mp4")) == ["clip-2.mp4", "clip.mp4"]
    day.type("make -C kineograph install-test", "the extras")
    films(tmp_path / "raw")
    (tmp_path / "raw" / "film0.txt").write_text("coloured squares that drift to the right\n")
    day.type("kineograph curate raw/ -o dataset/", "curate two films")
    rows = [json.loads(line) for line in (tmp_path / "dataset" / "manifest.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    words = f"kineograph train modelscope --data dataset/ --base emoji --output-dir run --max-train-steps {STEPS}"
    day.type(f"{words} --num-frames 8 --train-batch-size 2 --validation-prompt 'coloured squares'", "train on them")
    day.type('kineograph generate "coloured squares" --model run -o own.mp4 --num-frames 8', "an own clip")
    assert len(Video.read(tmp_path / "own.mp4")) == 8
    total = time.perf_counter() - day.began
    with capsys.disabled():
        print(*(f"{seconds:7.1f} s  {name}" for name, seconds in day.spent.items()), sep="\n")
        print(f"{total / 60:7.1f} min from the clone to an own trained clip")
