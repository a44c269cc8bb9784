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

FRECHET_FLOOR, MMD_FLOOR = 0.7, 0.8
"""Smallest shares of the influence variance kept after the second-order correction; set by simulation of coverage."""


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


Clusters = tuple[Tensor, Tensor] | None
"""For each side, the clip that each sample belongs to, shape (n,): frames of one clip are not independent."""
Influence = Callable[[Tensor, Tensor], tuple[float, Tensor, Tensor]]
"""Maps two samples to a statistic and the influence of each member on it."""


def frechet_interval(
    x: ArrayLike, y: ArrayLike, *, level: float = 0.95, halvings: int = 2, seed: int = 0, clusters: Clusters = None
) -> Estimate:
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
        clusters: Which samples belong together; None takes all as independent.

    Returns:
        The distance and an interval for its expectation at these sample counts.

    Raises:
        InputError: As `frechet_distance`.
    """
    value, variance = _corrected(frechet_influence, *as_feature_pair(x, y), clusters, halvings, seed, FRECHET_FLOOR)
    return _normal(value, variance, level, "influence function, second order corrected by half-samples")


def mmd_interval(
    x: ArrayLike,
    y: ArrayLike,
    degree: int = 3,
    gamma: float | None = None,
    coef: float = 1.0,
    *,
    level: float = 0.95,
    halvings: int = 2,
    seed: int = 0,
    clusters: Clusters = None,
) -> Estimate:
    """Unbiased squared discrepancy with the error bar of its U-statistic.

    For samples of one distribution the first-order part of the variance vanishes and the second-order part is all there
    is; the same correction as for the Fréchet distance keeps it from being counted twice.

    Args:
        x: Features of shape (n, dimensions).
        y: Features of shape (m, dimensions).
        degree: As in `mmd`.
        gamma: As in `mmd`.
        coef: As in `mmd`.
        level: Nominal coverage.
        halvings: Random splits into halves for the correction; 0 leaves it out, which is conservative.
        seed: Of the splits.
        clusters: Which samples belong together; None takes all as independent.

    Returns:
        The estimate and its interval.

    Raises:
        InputError: As `mmd`.
    """
    influence = lambda a, b: mmd_influence(a, b, degree, gamma, coef)
    value, variance = _corrected(influence, *as_feature_pair(x, y), clusters, halvings, seed, MMD_FLOOR)
    return _normal(value, variance, level, "U-statistic projections, second order corrected by half-samples")


def inception_score_interval(p: ArrayLike, *, level: float = 0.95, clusters: Tensor | None = None) -> Estimate:
    """Inception score of all samples in one split, with an error bar from the influence of each on its logarithm.

    Args:
        p: Probabilities of shape (samples, classes).
        level: Nominal coverage.
        clusters: Which samples belong together, shape (samples,); None takes all as independent.

    Returns:
        The score and its interval, which is not symmetric.

    Raises:
        InputError: As `inception_score`.
    """
    kl = divergences(log_probabilities(p))
    groups = torch.arange(len(kl)) if clusters is None else clusters
    value, error = kl.mean().exp().item(), math.sqrt(_side_variance(kl - kl.mean(), groups))
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
    groups = torch.arange(len(first)), torch.arange(len(second))
    draws = [statistic(first[i], second[j]) for i, j in _halves(groups, -(-repeats // 2), seed)]
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


def _side_variance(influence: Tensor, group: Tensor) -> float:
    """Variance of the mean influence, whole clusters being independent; not known from one cluster."""
    _, place = group.unique(return_inverse=True)
    count = int(place.max()) + 1
    if count < 2:
        return math.nan
    sums = torch.zeros(count, dtype=influence.dtype).index_add_(0, place, influence.cpu())
    return float(count / (count - 1) * sums.square().sum() / len(influence) ** 2)


def _corrected(
    influence: Influence, x: Tensor, y: Tensor, clusters: Clusters, halvings: int, seed: int, floor: float
) -> tuple[float, float]:
    """Value of a statistic and its variance, V1 + V2 = 1.5 I(n) - 0.25 I(n/2)."""
    groups = clusters or (torch.arange(len(x)), torch.arange(len(y)))
    value, variance = _influence_variance(influence, x, y, groups)
    fewest = min(len(g.unique()) for g in groups)
    halves = _halves(groups, halvings if fewest >= 8 else 0, seed)
    if halves:
        cut = lambda i, j: (x[i], y[j], (groups[0][i], groups[1][j]))
        half = sum(_influence_variance(influence, *cut(i, j))[1] for i, j in halves) / len(halves)
        variance = max(1.5 * variance - 0.25 * half, floor * variance)
    return value, variance


def _influence_variance(
    influence: Influence, x: Tensor, y: Tensor, groups: tuple[Tensor, Tensor]
) -> tuple[float, float]:
    value, *psi = influence(x, y)
    return value, sum(_side_variance(p, group) for p, group in zip(psi, groups, strict=True))


def _halves(groups: tuple[Tensor, Tensor], halvings: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Indices of random halves of the clusters of both sides, each half beside its complement."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for _ in range(halvings):
        sides = []
        for group in groups:
            _, place = group.unique(return_inverse=True)
            count = int(place.max()) + 1
            rank = torch.empty(count, dtype=torch.long)
            rank[torch.randperm(count, generator=generator)] = torch.arange(count)
            sides.append(rank[place] % 2)
        pairs += [tuple((side == i).nonzero()[:, 0] for side in sides) for i in (0, 1)]
    return pairs
