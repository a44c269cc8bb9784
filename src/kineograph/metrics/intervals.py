"""Error bars for metrics of sets of clips.

A plain bootstrap is wrong for Fréchet distances: resampling with replacement repeats samples, which adds bias, and the
interval misses its own estimate. Here the variance comes from the influence of each sample (infinitesimal jackknife),
which costs one more singular value decomposition instead of hundreds. An interval covers the expectation of the
estimator at these sample counts: it says nothing about the bias of a Fréchet distance, which `extrapolation` removes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from kineograph.errors import InputError
from kineograph.metrics.arrays import ArrayLike, as_feature_pair, as_tensor, finite
from kineograph.metrics.classifier_score import divergences, log_probabilities
from kineograph.metrics.frechet import frechet_influence
from kineograph.metrics.kernel import mmd_influence

FLOOR = 0.7
"""Smallest share of the influence variance kept after the second-order correction; set by simulation of coverage."""


@dataclass(frozen=True)
class Estimate:
    """A number with its error bar.

    Attributes:
        value: The point estimate.
        low: Lower end of the interval.
        high: Upper end.
        stderr: Standard error; None when there is one sample only.
        level: Nominal coverage, such as 0.95.
        method: How the interval was found.
    """

    value: float
    low: float
    high: float
    stderr: float
    level: float
    method: str


def frechet_interval(x: ArrayLike, y: ArrayLike, *, level: float = 0.95, halvings: int = 2, seed: int = 0) -> Estimate:
    """Fréchet distance (ddof 1) with an error bar.

    The influence variance counts the second-order part of the distance twice (Efron and Stein 1981, eq. 4.1). That
    part falls as 1/n^2, the first-order part as 1/n, so the influence variance of half-samples tells them apart:
    V1 + V2 = 1.5 I(n) - 0.25 I(n/2).

    Args:
        x: Features of shape (n, dimensions).
        y: Features of shape (m, dimensions).
        level: Nominal coverage.
        halvings: Random splits into halves for the correction; 0 leaves it out, which is conservative.
        seed: Of the splits.

    Returns:
        The distance and an interval for its expectation at these sample counts.

    Raises:
        InputError: As `frechet_distance`.
    """
    first, second = as_feature_pair(x, y)
    value, variance = _frechet_variance(first, second)
    halves = _halves(first, second, halvings if min(len(first), len(second)) >= 8 else 0, seed)
    if halves:
        half = sum(_frechet_variance(a, b)[1] for a, b in halves) / len(halves)
        variance = max(1.5 * variance - 0.25 * half, FLOOR * variance)
    return _normal(value, variance, level, "influence function, second order corrected by half-samples")


def mmd_interval(
    x: ArrayLike, y: ArrayLike, degree: int = 3, gamma: float | None = None, coef: float = 1.0, *, level: float = 0.95
) -> Estimate:
    """Unbiased squared discrepancy with the error bar of its U-statistic.

    Args:
        x: Features of shape (n, dimensions).
        y: Features of shape (m, dimensions).
        degree: As in `mmd`.
        gamma: As in `mmd`.
        coef: As in `mmd`.
        level: Nominal coverage.

    Returns:
        The estimate and its interval.

    Raises:
        InputError: As `mmd`.
    """
    value, *influences = mmd_influence(x, y, degree, gamma, coef)
    return _normal(value, _variance(influences), level, "U-statistic projections")


def inception_score_interval(p: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Inception score of all samples in one split, with an error bar from the influence of each on its logarithm.

    Args:
        p: Probabilities of shape (samples, classes).
        level: Nominal coverage.

    Returns:
        The score and its interval, which is not symmetric.

    Raises:
        InputError: As `inception_score`.
    """
    kl = divergences(log_probabilities(p))
    value, error = kl.mean().exp().item(), (kl.var() / len(kl)).sqrt().item() if len(kl) > 1 else math.nan
    reach = math.exp(_z(level) * error)
    return Estimate(value, value / reach, value * reach, value * error, level, "influence function of log IS")


def mean_interval(values: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Mean over independent clips with Student's interval.

    Args:
        values: One number per clip, shape (clips,). Frames of one clip are not independent: average them first.
        level: Nominal coverage.

    Returns:
        The mean and its interval; with one clip the interval is infinite.

    Raises:
        InputError: No values, or values that are not finite.
    """
    x = finite(as_tensor(values, "values").double().flatten(), "values")
    if not len(x):
        raise InputError("No values to average.")
    if len(x) == 1:
        return Estimate(x.item(), -math.inf, math.inf, math.nan, level, "Student, undefined for one clip")
    value, error = x.mean().item(), (x.var() / len(x)).sqrt().item()
    reach = student_quantile(level, len(x) - 1) * error
    return Estimate(value, value - reach, value + reach, error, level, "Student over clips")


def subsample_interval(
    statistic: Callable[[Tensor, Tensor], float],
    x: ArrayLike,
    y: ArrayLike,
    *,
    level: float = 0.95,
    repeats: int = 100,
    seed: int = 0,
) -> Estimate:
    """Error bar for any statistic of two samples, by half-samples without replacement (Politis and Romano 1994).

    A half-sample shares half its members with the whole, so given the data its spread is the standard error of the
    whole to first order, without a factor. The interval is centred on the estimate from all samples, not on the
    half-samples, whose bias is larger.

    Args:
        statistic: Function of two feature matrices.
        x: Features of shape (n, dimensions).
        y: Features of shape (m, dimensions).
        level: Nominal coverage.
        repeats: Number of half-samples, at least 2.
        seed: Of the half-samples.

    Returns:
        The statistic and its interval.

    Raises:
        InputError: Wrong shapes, or too few samples to halve.
    """
    first, second = as_feature_pair(x, y, minimum=4)
    draws = [statistic(a, b) for a, b in _halves(first, second, -(-repeats // 2), seed)]
    variance = torch.tensor(draws, dtype=torch.float64).var().item()
    return _normal(float(statistic(first, second)), variance, level, f"{len(draws)} half-samples")


def student_quantile(level: float, freedom: int) -> float:
    """Two-sided Student quantile by the expansion of Abramowitz and Stegun 26.7.5; exact forms for 1 and 2 degrees."""
    z, v = _z(level), freedom
    if freedom == 1:
        return math.tan(math.pi * level / 2)
    if freedom == 2:
        return level * math.sqrt(2 / (1 - level * level))
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / v ** (k + 1) for k, term in enumerate(terms))


def _z(level: float) -> float:
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, given {level}; the usual one is 0.95.")
    return NormalDist().inv_cdf((1 + level) / 2)


def _normal(value: float, variance: float, level: float, method: str) -> Estimate:
    error = math.sqrt(variance)
    return Estimate(value, value - _z(level) * error, value + _z(level) * error, error, level, method)


def _variance(influences: list[Tensor]) -> float:
    return sum((psi.var() / len(psi)).item() for psi in influences)


def _frechet_variance(x: Tensor, y: Tensor) -> tuple[float, float]:
    value, *influences = frechet_influence(x, y)
    return value, _variance(influences)


def _halves(x: Tensor, y: Tensor, halvings: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    orders = [[torch.randperm(len(z), generator=generator).to(z.device) for z in (x, y)] for _ in range(halvings)]
    return [(x[p[i::2]], y[q[i::2]]) for p, q in orders for i in (0, 1)]
