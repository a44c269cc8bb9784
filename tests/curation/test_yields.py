"""Lengths of footage by what became of them: every part of a film counts once, and rounded parts add up."""

import numpy as np

from kineograph.curation.analyse import Analysis
from kineograph.curation.yields import LOSSES, NOTHING, Yield, lengths, of_film, thousandths, total


def test_each_moment_counts_once():
    """A film of 100 units with a cut, a dissolve that runs into damage, damage at its end, and one short shot."""
    found = Analysis(
        pts=list(range(0, 90, 10)), end_pts=90, hard_cuts=[20], gradual=[[35, 50]], holes=[[45, 60], [90, 100]]
    )
    told = lengths(found, [(25, 35, "copy"), (60, 90, "encode")], shortest=15, time_base="1/10")
    assert told == {
        "clip_seconds": 4.0,
        "lost_transitions": 1.0,
        "lost_holes": 2.5,
        "lost_corrupt": 0.0,
        "lost_too_short": 0.0,
        "lost_keyframes": 2.5,
    }
    short = lengths(found, [(60, 90, "encode")], shortest=25, time_base="1/10")
    assert (short["lost_too_short"], short["lost_keyframes"], sum(short.values())) == (3.5, 0.0, 10.0)
    found.status = "corrupt"
    assert lengths(found, [], shortest=15, time_base="1/10")["lost_corrupt"] == 6.5


def test_rounded_lengths_add_up():
    rng = np.random.default_rng(0)
    for _ in range(200):
        some = rng.exponential(2.0, 6).tolist()
        found = thousandths(some)
        assert sum(found) == round(sum(some) * 1000)
        assert max(abs(a - 1000 * b) for a, b in zip(found, some, strict=True)) < 1


def test_yields_are_added_and_come_back():
    row = {f"lost_{name}": 1 / 3 for name in LOSSES if name != "duplicates"} | {
        "clip_seconds": 2 / 3,
        "clips": 2,
        "frames": 9,
    }
    one, copied = of_film(row), of_film(row, is_copy=True)
    assert (one.all, copied.all, copied.out, copied.lost["duplicates"]) == (2333, 2333, 0, 2333)
    both = total([one, copied, NOTHING])
    assert (both.all, both.clips) == (4666, 2)
    assert Yield.from_json(both.to_json()) == both
    assert "4.666 s in, " in both.in_words()
    assert "duplicates" in both.in_words()


def test_sources_of_older_runs_are_of_unknown_length():
    old = dict.fromkeys([*(f"lost_{name}" for name in LOSSES), "clip_seconds"]) | {"clips": 3, "frames": 9}
    assert of_film(old) == Yield(NOTHING.lost, clips=3, unmeasured=1)
