"""The rates that people write, and the rate behind frames' times."""

from fractions import Fraction

import av
import pytest
import torch

from kineograph._rates import exact_rate, timing
from kineograph.errors import InputError, MediaError
from kineograph.video import Video, probe


@pytest.mark.parametrize(
    ("written", "exact"),
    [
        (29.97, Fraction(30000, 1001)), (23.976, Fraction(24000, 1001)), (23.98, Fraction(24000, 1001)),
        (59.94, Fraction(60000, 1001)), (119.88, Fraction(120000, 1001)), (30000 / 1001, Fraction(30000, 1001)),
        (7.5, Fraction(15, 2)), (24, Fraction(24)), (23.9, Fraction(239, 10)), (0.1, Fraction(1, 10)),
    ],
)  # fmt: skip
def test_exact_rates(written, exact):
    assert exact_rate(written) == exact


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".mov"])
@pytest.mark.parametrize("fps", [7.5, 23.976, 29.97])
def test_fractional_rates_pass_through_containers(tmp_path, suffix, fps):
    path = Video(torch.rand(5, 3, 16, 16), fps).save(tmp_path / f"a{suffix}")
    back = Video.read(path)
    assert (back.fps, back.times, len(back), probe(path).fps) == (fps, None, 5, fps)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == exact_rate(fps)


def test_a_long_clip_keeps_the_rate_that_is_short_for_another():
    times = [index * 1001 / 30000 for index in range(5000)]
    assert timing(times, None, tick=1e-6, rates=(29.97,)).fps == 29.97
    assert timing(times, None, tick=1e-6, rates=()).fps == 30000 / 1001


def test_times_that_stand_still_are_refused():
    with pytest.raises(MediaError, match="do not increase"):
        timing([0, 1, 1], None, tick=0.01, rates=())


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_rates_that_are_none(fps):
    with pytest.raises(InputError, match="not a frame rate"):
        Video(torch.zeros(1, 3, 4, 4), fps)
