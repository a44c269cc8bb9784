"""The cascade by itself, and against PySceneDetect and a stretch of real film checked by eye."""

import sys
from pathlib import Path

import numpy as np
import pytest
from films import big_buck_bunny, dissolve, join, shot, write

from kineograph.curation.config import CutConfig
from kineograph.curation.cuts import SMALL, Cascade, Sample, Sketcher, coarse, is_mixture, jump, merged, progress

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


def flat(luma, u=128, v=128):
    """A picture of one colour as planar YUV 4:2:0 in the detector's size."""
    width, height = SMALL
    picture = np.empty((height * 3 // 2, width), np.uint8)
    picture[:height] = luma
    chroma = picture[height:].reshape(2, -1)
    chroma[0], chroma[1] = u, v
    return picture


def run(pictures, fps=24, config=None):
    """Feed pictures at frame numbers as pts; return hard cuts and transitions as frame numbers."""
    cascade, sketch = Cascade(config or CutConfig(), 1 / fps, 0), Sketcher()
    for i, picture in enumerate(pictures):
        cascade.feed(i, sketch(None, picture))
    found = cascade.finish()
    return found.hard, found.gradual


def noise(seed, level=128):
    rng = np.random.default_rng(seed)
    return rng.normal(level, 40, flat(0).shape).clip(0, 255).astype(np.uint8)


def test_a_jump_is_a_sum_of_planes():
    assert jump(flat(100), flat(110)) == 10
    assert jump(flat(100, 120), flat(100, 140)) == 20
    assert jump(flat(100, 120, 130), flat(101, 122, 133)) == 1 + 2 + 3


def test_coarse_planes_are_block_means():
    planes = coarse(flat(50, 100, 200))
    assert planes.shape == (32 * 18 + 2 * 16 * 9,)
    assert sorted(set(planes.tolist())) == [50, 100, 200]


def test_two_cuts_near_each_other_are_both_found():
    """A rule against short scenes would leave the second cut inside a clip."""
    assert run([flat(40)] * 20 + [flat(120)] * 5 + [flat(200, 90)] * 20)[0] == [20, 25]


def test_a_cut_in_the_last_frames_is_found():
    assert run([flat(40)] * 20 + [flat(120)] * 2)[0] == [20]
    assert run([flat(40)] * 20 + [flat(120)])[0] == [20]


def test_steady_change_is_no_hard_cut():
    assert run([noise(i) for i in range(40)])[0] == []


def test_a_picture_after_a_hole_begins_a_shot():
    cascade, sketch = Cascade(CutConfig(), 1 / 24, 0), Sketcher()
    for i in range(10):
        cascade.feed(i, sketch(None, flat(40)))
    cascade.restart(20, sketch(None, flat(42)))
    assert cascade.finish().hard == [20]


def test_a_mixture_and_what_is_none():
    rng = np.random.default_rng(0)
    first, last = (rng.uniform(0, 255, 864).astype(np.float32) for _ in range(2))
    shares = np.linspace(0, 1, 6)
    mixed = [Sample(i, (1 - s) * first + s * last) for i, s in enumerate(shares)]
    assert np.allclose(progress(np.stack([sample.planes for sample in mixed])), shares, atol=1e-5)
    assert is_mixture(mixed, 0, CutConfig())
    other = [Sample(i, rng.uniform(0, 255, 864).astype(np.float32)) for i in range(6)]
    assert not is_mixture(other, 0, CutConfig())
    wipe = [Sample(i, np.where(np.arange(864) < s * 864, last, first)) for i, s in enumerate(shares)]
    assert not is_mixture(wipe, 0, CutConfig())
    dimmed = [Sample(i, first * (1 - s / 2)) for i, s in enumerate(shares)]
    assert not is_mixture(dimmed, 0, CutConfig()), "the same picture in less light"


def test_merging():
    assert merged([[5, 7], [0, 2], [1, 3], [7, 9]]) == [[0, 3], [5, 9]]


@pytest.mark.slow
def test_hard_cuts_are_pyscenedetects(tmp_path):
    """On plain hard cuts of textured shots, both of its detectors and ours agree, frame by frame."""
    from cut_table import ours, peer

    path = write(tmp_path / "film.mp4", join(*(shot(50 + i, 30, pan=(0.5, 0.5)) for i in range(6))))
    expected = [30 * i / 24 for i in range(1, 6)]
    assert ours(path)[0] == pytest.approx(expected)
    for name in ("ContentDetector", "AdaptiveDetector"):
        assert peer(name)(path)[0] == pytest.approx(expected)


@pytest.mark.slow
def test_dissolves_that_pyscenedetect_misses(tmp_path):
    from cut_table import ours, peer

    path = write(tmp_path / "film.mp4", dissolve(shot(60, 60), shot(61, 60), 24))
    assert [len(part) for part in ours(path)] == [0, 1]
    assert peer("AdaptiveDetector")(path)[0] == []


@pytest.mark.net
def test_the_checked_stretch_of_big_buck_bunny(tmp_path):
    from cut_table import checked_stretch, counts, ours, rates

    truth = checked_stretch(big_buck_bunny(), tmp_path)
    total = counts(truth, ours(truth.path))
    assert rates(total, "hard")[1] == 1.0
    assert total["hard false"] <= 1
    assert (total["gradual hit"], total["gradual false"]) == (2, 0)
