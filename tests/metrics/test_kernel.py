import numpy as np
import pytest
import torch

from kineograph.errors import InputError
from kineograph.metrics.kernel import mmd, mmd_influence

GENERATOR = torch.Generator().manual_seed(0)


def features(n, d=8, shift=0.0):
    return torch.randn(n, d, generator=GENERATOR, dtype=torch.float64) + shift


def direct(x, y, degree=3, gamma=None, coef=1.0):
    gamma = 1 / x.shape[1] if gamma is None else gamma
    k = lambda a, b: (gamma * float(a @ b) + coef) ** degree
    n, m = len(x), len(y)
    within = lambda z: sum(k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j)
    between = sum(k(a, b) for a in x for b in y)
    return within(x) / (n * (n - 1)) + within(y) / (m * (m - 1)) - 2 * between / (n * m)


@pytest.mark.parametrize(
    "kernel", [{}, {"degree": 2, "gamma": 1.0, "coef": 0.0}, {"degree": 3, "gamma": 0.1, "coef": 2.0}]
)
def test_equals_the_sum_over_pairs(kernel):
    x, y = features(7), features(5, shift=0.3)
    assert mmd(x, y, **kernel) == pytest.approx(direct(x, y, **kernel), rel=1e-12)


def test_jedi_example():
    """mmd_polynomial.py of JEDi: degree 2, c = 0, biased. (Its comment for degree 3 does not follow from its code.)"""
    a = torch.arange(1.0, 10.0).reshape(3, 3)
    b = torch.tensor([[7, 6, 5], [4, 3, 2], [1, 1, 8], [0, 2, 5]], dtype=torch.float64)
    assert mmd(a, b, degree=2, coef=0.0, estimator="biased") == pytest.approx(270.7222, abs=5e-5)


TORCH_FIDELITY_KID = 0.06601993437224118
"""torch-fidelity 0.4.0, kid_features_to_metric with one subset of all samples, on the features of the test below."""


def test_torch_fidelity_and_torchmetrics_agree():
    from torchmetrics.image.kid import poly_mmd

    r = np.random.RandomState(7)
    x = (r.randn(300, 64) * np.linspace(2, 0.1, 64))[:250]
    y = r.randn(250, 64) * np.linspace(1.5, 0.2, 64) + 0.1
    assert mmd(x, y) == pytest.approx(TORCH_FIDELITY_KID, rel=1e-10)
    expected = poly_mmd(torch.from_numpy(x), torch.from_numpy(y)).item()
    assert mmd(x, y) == pytest.approx(expected, rel=1e-10)


def test_unbiased_mean_is_zero_for_one_distribution_and_biased_is_not():
    values = torch.tensor([[mmd(x, y, estimator=e) for e in ("unbiased", "biased")] for x, y in _pairs(200)])
    error = values[:, 0].std() / len(values) ** 0.5
    assert abs(values[:, 0].mean()) < 4 * error
    assert values[:, 1].mean() > 20 * error


def _pairs(count):
    return [(features(20), features(20)) for _ in range(count)]


def test_blocks_and_subsets_estimate_the_same_quantity():
    x, y = features(400), features(400, shift=0.5)
    full = mmd(x, y)
    assert mmd(x, y, estimator="block", size=100) == pytest.approx(full, rel=0.2)
    assert mmd(x, y, estimator="subset", size=100, subsets=200) == pytest.approx(full, rel=0.1)
    assert mmd(x, y, estimator="subset", size=400, subsets=2) == pytest.approx(full, rel=1e-10)


def test_subsets_are_seeded_and_leave_the_global_generator_alone():
    x, y = features(50), features(50)
    state = torch.random.get_rng_state()
    values = [mmd(x, y, estimator="subset", size=20, subsets=5, seed=s) for s in (1, 1, 2)]
    assert values[0] == values[1] != values[2]
    assert torch.equal(state, torch.random.get_rng_state())


def test_blocks_are_consecutive():
    x, y = features(6), features(4)
    expected = (mmd(x[:3], y[:2]) + mmd(x[3:], y[2:])) / 2
    assert mmd(x, y, estimator="block", size=3) == pytest.approx(expected, rel=1e-12)


def test_influence_matches_leaving_one_out():
    x, y = features(30), features(25, shift=0.4)
    value, influence, _ = mmd_influence(x, y)
    assert value == pytest.approx(mmd(x, y), rel=1e-12)
    left_out = torch.tensor([mmd(torch.cat([x[:i], x[i + 1 :]]), y) for i in range(30)], dtype=torch.float64)
    pseudo = 29 * (left_out.mean() - left_out)
    assert torch.allclose(influence, pseudo, atol=0.1 * influence.std().item())
    assert influence.mean().abs() < 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "subset", "size": 11}, "allowed: 2 to 10"),
        ({"estimator": "blocks"}, "did you mean 'block'"),
        ({"estimator": "block", "size": 1}, "too few"),
    ],
)
def test_bad_options_are_explained(options, message):
    with pytest.raises(InputError, match=message):
        mmd(features(10), features(12), **options)
