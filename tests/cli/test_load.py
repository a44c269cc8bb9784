"""A machine that is too busy to be timed is told by what others took, by what was given and by the rounds."""

import itertools
import time

import pytest

from kineograph.cli import _load
from kineograph.cli._timing import Timing

STAT = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 0 50 800 20 0 0 30 0 0\ncpu1 10 0 5 900 0 0 0 0 0 0\nintr 5\n"


def test_only_processors_that_may_be_used_are_counted(tmp_path, monkeypatch):
    file = tmp_path / "stat"
    file.write_text(STAT)
    monkeypatch.setattr(_load, "processors", lambda: frozenset({0}))
    assert _load.read_ticks(file) == {
        "user": 100, "nice": 0, "system": 50, "idle": 800, "iowait": 20, "irq": 0, "softirq": 0, "steal": 30,
    }  # fmt: skip
    monkeypatch.setattr(_load, "processors", lambda: frozenset({0, 1}))
    assert _load.read_ticks(file)["user"] == 110
    assert _load.read_ticks(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("busy", "own", "others"), [(0, 0.0, 0.0), (100, 1.0, 0.0), (100, 0.25, 0.375), (200, 0.0, 1.0)]
)
def test_the_share_of_others_is_what_is_neither_idle_nor_ours(monkeypatch, busy, own, others):
    """Two hundred ticks pass, two seconds of a hundred ticks each."""
    before = dict.fromkeys(_load.TICKS, 0)
    watch = _load.Watch(wall=0.0, own=0.0, ticks=before, waiting=0.0)
    monkeypatch.setattr(_load, "read_ticks", lambda: before | {"user": busy, "idle": 200 - busy})
    monkeypatch.setattr(_load, "own_seconds", lambda: own)
    monkeypatch.setattr(_load.os, "sysconf", lambda name: 100)
    assert watch.others() == pytest.approx(others)


def test_work_that_waits_was_given_little(monkeypatch):
    assert _load.given_share(lambda: time.sleep(0.05), threads=1) < 0.5
    clock = itertools.count(step=2)
    monkeypatch.setattr(_load.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(_load, "own_seconds", itertools.count(step=3).__next__)
    assert _load.given_share(lambda: None, threads=2) == pytest.approx(0.75)


def test_reasons():
    assert _load.doubts(0.02, 9.0, 0.95, 2) == []
    assert "Other programs had 88% of the 2 processors" in _load.doubts(0.88, None, None, 2)[0]
    assert "got 13%" in _load.doubts(0.0, None, 0.13, 2)[0]
    assert "5.0 programs" in _load.doubts(None, 5.0, None, 2)[0]
    assert _load.doubts(None, 0.3, None, 2) == []


def test_unsteady_comparisons():
    calm = Timing((1.0, 1.01, 0.99))
    assert _load.unsteady(calm, calm, 0.8) == []
    assert _load.unsteady(calm, calm, 1.07) == ["107% of the ceiling"]
    assert _load.unsteady(calm, Timing((0.48, 1.0, 1.45))) == ["spread 49%", "ratios 0.48 to 1.46"]


def test_a_verdict_is_a_paragraph_or_nothing():
    watch = _load.Watch(ticks={}, waiting=0.0)
    good = _load.described(watch, 0.9, [{"unsteady": []}])
    assert (good["believable"], good["verdict"], good["share_of_others"]) == (True, "", None)
    bad = _load.described(watch, 0.3, [{"unsteady": []}, {"unsteady": ["spread 40%"]}])
    assert not bad["believable"]
    assert "1 of 2" in bad["verdict"]
    assert bad["verdict"].startswith("Too busy a machine to believe these numbers:")
