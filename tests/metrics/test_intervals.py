import math

import pytest
import torch

from kineograph.errors import InputError
from kineograph.metrics import intervals
from kineograph.metrics.classifier_score import inception_score
from kineograph.metrics.extrapolation import frechet_curve, frechet_infinity, too_few_samples
from kineograph.metrics.frechet import frechet_distance
from kineograph.metrics.kernel import mmd

SCENARIOS = [(16, 64, 64, 0.0, 1.0), (16, 64, 256, 0.1, 1.2), (64, 64, 64, 0.05, 1.0), (100, 50, 50, 0.1, 1.2)]
"""Dimensions, n, m, shift, scale: equal and unequal distributions, n below and above the dimensions."""
SLOW_SCENARIOS = [
    (16, 256, 256, 0.1, 1.1),
    (64, 256, 256, 0.0, 1.0),
    (64, 256, 256, 0.05, 1.05),
    (100, 50, 150, 0.0, 1.0),
    (100, 50, 150, 0.1, 1.2),
    (100, 400, 400, 0.1, 1.2),
    (100, 400, 400, 0.0, 1.0),
]


def draws(d, n, m, shift, scale, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    spectrum = (4 / (1 + torch.arange(d, dtype=torch.float64))).sqrt()
    sample = lambda size: torch.randn(size, d, generator=generator, dtype=torch.float64) * spectrum
    return [(sample(n), sample(m) * scale + shift) for _ in range(count)]


def coverage(estimates):
    expectation = sum(e.value for e in estimates) / len(estimates)
    return sum(e.low <= expectation <= e.high for e in estimates) / len(estimates)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_error_bars_of_distances_cover(scenario):
    """Nominal 0.95; 200 draws leave a standard error of 0.015."""
    pairs = draws(*scenario, 200)
    assert 0.92 - 0.03 <= coverage([intervals.frechet_interval(x, y) for x, y in pairs]) <= 0.98 + 0.02
    assert 0.92 - 0.03 <= coverage([intervals.mmd_interval(x, y) for x, y in pairs]) <= 0.98 + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS + SLOW_SCENARIOS)
def test_coverage_over_many_draws(scenario):
    pairs = draws(*scenario, 600, seed=5)
    assert 0.92 - 0.01 <= coverage([intervals.frechet_interval(x, y) for x, y in pairs]) <= 0.98 + 0.01
    assert 0.92 - 0.01 <= coverage([intervals.mmd_interval(x, y) for x, y in pairs]) <= 0.98 + 0.01


def test_error_bars_of_the_inception_score_cover():
    generator = torch.Generator().manual_seed(3)
    logits = [2 * torch.randn(300, 10, generator=generator, dtype=torch.float64) for _ in range(300)]
    estimates = [intervals.inception_score_interval(x.softmax(1)) for x in logits]
    assert 0.92 <= coverage(estimates) <= 0.98
    assert estimates[0].value == pytest.approx(inception_score(logits[0].softmax(1)), rel=1e-12)


def test_subsampling_agrees_with_the_influence_where_the_first_order_leads():
    x, y = draws(4, 400, 400, 1.0, 1.5, 1)[0]
    influence = intervals.frechet_interval(x, y)
    subsamples = intervals.subsample_interval(frechet_distance, x, y, repeats=200)
    assert subsamples.value == pytest.approx(influence.value, rel=1e-12)
    assert subsamples.stderr == pytest.approx(influence.stderr, rel=0.15)


def test_a_plain_bootstrap_would_miss_its_own_estimate():
    """Why there is no bootstrap here: repeats add bias, so the resampled distances lie above the estimate."""
    x, y = draws(100, 60, 60, 0.0, 1.0, 1)[0]
    generator = torch.Generator().manual_seed(0)
    resampled = lambda z: z[torch.randint(len(z), (len(z),), generator=generator)]
    values = torch.tensor([frechet_distance(resampled(x), resampled(y)) for _ in range(50)])
    interval = intervals.frechet_interval(x, y)
    assert values.min() > interval.value
    assert interval.low < interval.value < interval.high


def test_interval_is_seeded_and_leaves_the_global_generator_alone():
    x, y = draws(8, 20, 30, 0.1, 1.0, 1)[0]
    state = torch.random.get_rng_state()
    assert intervals.frechet_interval(x, y) == intervals.frechet_interval(x, y)
    assert torch.equal(state, torch.random.get_rng_state())


def test_student_quantiles():
    from scipy.stats import t

    for freedom in (1, 2, 3, 5, 10, 100):
        assert intervals.student_quantile(0.95, freedom) == pytest.approx(t.ppf(0.975, freedom), rel=3e-3)


def test_mean_interval_of_one_clip_is_infinite_not_narrow():
    estimate = intervals.mean_interval([0.5])
    assert (estimate.low, estimate.high) == (-math.inf, math.inf)
    with pytest.raises(InputError, match="No values"):
        intervals.mean_interval([])
    with pytest.raises(InputError, match="NaN"):
        intervals.mean_interval([0.5, math.nan])
    with pytest.raises(InputError, match="between 0 and 1"):
        intervals.mean_interval([0.5, 0.6, 0.7, 0.8], level=95)


def test_extrapolation_removes_the_bias():
    d = 12
    spectrum = (4 / (1 + torch.arange(d, dtype=torch.float64))).sqrt()
    true = (0.2**2 * d) + (spectrum.square() * 0.3**2).sum().item()
    fits = [frechet_infinity(x, y, seed=1) for x, y in draws(d, 400, 400, 0.2, 1.3, 60, seed=9)]
    values = torch.tensor([f.value for f in fits], dtype=torch.float64)
    error = (values.std() / len(values) ** 0.5).item()
    assert abs(values.mean().item() - true) < 3 * error + 0.005 * true
    plain = sum(f.distances[0] for f in fits) / len(fits)
    assert plain > true + 5 * error
    assert fits[0].slope > 0
    assert min(fits[0].sizes) >= d


def test_extrapolation_gives_a_jackknife_error():
    x, y = draws(6, 120, 120, 0.2, 1.3, 1)[0]
    fit = frechet_infinity(x, y, groups=8)
    assert fit.stderr is not None
    assert 0 < fit.stderr < 2


def test_extrapolation_refuses_rank_deficient_covariances():
    x, y = draws(100, 150, 400, 0.0, 1.0, 1)[0]
    with pytest.raises(InputError, match="at least 200 samples on both sides"):
        frechet_infinity(x, y)


def test_few_samples_are_diagnosed():
    message = too_few_samples(256, 2048, 400)
    assert message is not None
    assert "rank 255" in message
    assert too_few_samples(401, 2048, 400) is None


def test_averaging_batches_inflates_the_distance():
    """Advice found in the field, 32.7 instead of 1.12 there: the mean over batches is not the distance."""
    x, y = draws(64, 512, 512, 0.0, 1.0, 1)[0]
    whole, batches = frechet_curve(x, y, (512, 16))
    assert batches > 8 * whole
    assert whole == pytest.approx(frechet_distance(x, y), rel=1e-9)
    assert abs(mmd(x, y)) < 0.05
