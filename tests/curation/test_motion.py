"""Motion scores: units, sizes, and which pairs belong to a clip."""

import math

import numpy as np
import pytest

from kineograph.curation.config import MotionConfig
from kineograph.curation.motion import Motion, flow_size, magnitude, scores


def test_magnitude_is_a_mean_of_lengths_not_of_components():
    """Half the picture goes right, half left: signed components cancel, lengths do not."""
    flow = np.zeros((10, 20, 2), np.float32)
    flow[:, :10, 0], flow[:, 10:, 0] = 3, -3
    flow[..., 1] = 4
    assert magnitude(flow) == pytest.approx(5 / 10)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1280, 720), (320, 180)), ((720, 1280), (180, 320)), ((160, 96), (160, 96)), ((100, 8), (100, 16))],
)
def test_size_of_flow(size, expected):
    assert flow_size(*size, 180) == expected


@pytest.mark.parametrize("algorithm", ["farneback", "dis"])
def test_a_shift_of_known_length(algorithm):
    from films import texture

    wide = texture(3, (120, 220))[..., 1]
    motion = Motion(MotionConfig(algorithm))
    motion.feed(0, wide[10:110, 10:210])
    motion.feed(6, wide[10:110, 7:207])
    [(first, second, value)] = motion.pairs
    assert (first, second) == (0, 6)
    assert value == pytest.approx(3 / 100, rel=0.1)


def test_restart_makes_no_pair_across_a_cut():
    motion = Motion(MotionConfig("dis"))
    picture = np.random.default_rng(0).integers(0, 255, (48, 64)).astype(np.uint8)
    motion.feed(0, picture)
    motion.restart()
    motion.feed(1, picture)
    motion.feed(2, picture)
    assert [pair[:2] for pair in motion.pairs] == [(1, 2)]


def test_a_pair_across_a_clips_end_does_not_count():
    pairs = [(0, 10, 1.0), (10, 20, 2.0), (20, 30, 100.0), (30, 40, 4.0)]
    found = scores(pairs, 0, 25)
    assert found["motion_mean"] == 1.5
    assert found["motion_median"] == 1.5
    assert found["motion_p10"] == pytest.approx(1.1)
    assert found["motion_p90"] == pytest.approx(1.9)
    assert all(math.isnan(value) for value in scores(pairs, 11, 19).values())
