"""Fréchet distance at infinite sample size, and the diagnosis of too few samples.

Chong and Forsyth 2020, arXiv:1911.07023: the bias falls as 1/n, so a line through distances at several n meets the
unbiased value at 1/n = 0. That law holds only once both covariances have full rank: with fewer samples than
dimensions the curve bends and the line ends several times too high. This module refuses there.

Differs from the paper: both sides are subsampled to the same n (the paper keeps the real side whole, and its bias with
it), sizes are even in 1/n, and each size averages disjoint subsamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kineograph.errors import InputError
from kineograph.metrics.arrays import ArrayLike, as_feature_pair
from kineograph.metrics.frechet import frechet_distance


@dataclass(frozen=True)
class Extrapolation:
    """A line through Fréchet distances.

    Attributes:
        value: Intercept: the distance at infinite n, may be slightly negative.
        stderr: Standard error of the intercept from a jackknife over groups of samples; None if not asked for.
        sizes: Sample counts, shape (points,).
        distances: Mean distance at each count.
        slope: Bias times n.
    """

    value: float
    stderr: float | None
    sizes: tuple[int, ...]
    distances: tuple[float, ...]
    slope: float


def too_few_samples(n: int, m: int, dimensions: int) -> str | None:
    """Say what is wrong with the sample counts of a Fréchet distance, or None.

    Args:
        n: Generated samples.
        m: Reference samples.
        dimensions: Feature dimensions.

    Returns:
        One sentence for the user.
    """
    fewest = min(n, m)
    if fewest > dimensions:
        return None
    return (
        f"{fewest} samples for {dimensions} dimensions: the covariance has rank {max(fewest - 1, 0)}, and the distance "
        f"is mostly bias. Compare it only with distances at n={n}, m={m}; use the unbiased kernel distance, or more "
        f"than {dimensions} clips."
    )


def frechet_infinity(
    x: ArrayLike, y: ArrayLike, *, points: int = 6, groups: int = 0, repeats: int = 3, seed: int = 0
) -> Extrapolation:
    """Extrapolate the Fréchet distance to infinite sample size.

    Args:
        x: Features of shape (n, dimensions).
        y: Features of shape (m, dimensions).
        points: Number of sample counts between max(dimensions, N/4) and N = min(n, m), even in 1/n.
        groups: Groups of the jackknife for the standard error, which repeats the fit that often; 0 leaves it out.
        repeats: Random orders over which each count is averaged.
        seed: Of the subsamples.

    Returns:
        The fit.

    Raises:
        InputError: Fewer than twice as many samples as dimensions, so that a line would have to use rank-deficient
            covariances.
    """
    first, second = as_feature_pair(x, y)
    fit = _fit(first, second, points, repeats, seed)
    if not groups:
        return fit
    orders = [torch.randperm(len(z), generator=torch.Generator().manual_seed(seed)) for z in (first, second)]
    rest = lambda z, order, g: z[torch.cat([order[k::groups] for k in range(groups) if k != g])]
    values = torch.tensor(
        [
            _fit(rest(first, orders[0], g), rest(second, orders[1], g), points, repeats, seed).value
            for g in range(groups)
        ]
    )
    error = ((groups - 1) * values.var(correction=0)).sqrt().item()
    return Extrapolation(fit.value, error, fit.sizes, fit.distances, fit.slope)


def frechet_curve(
    x: ArrayLike, y: ArrayLike, sizes: tuple[int, ...], seed: int = 0, repeats: int = 1
) -> tuple[float, ...]:
    """Mean Fréchet distance over disjoint subsamples of each size, for plots against n; any n >= 2 is allowed."""
    first, second = as_feature_pair(x, y)
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        sum(_mean_distance(first, second, size, generator) for _ in range(repeats)) / repeats for size in sizes
    )


def _fit(x: Tensor, y: Tensor, points: int, repeats: int, seed: int) -> Extrapolation:
    d, most = x.shape[1], min(len(x), len(y))
    least = max(d, most // 4)
    if most < 2 * d:
        raise InputError(
            f"Cannot extrapolate from {most} samples of {d} dimensions: the 1/n law needs every fitted n to be at "
            f"least {d}, and so at least {2 * d} samples on both sides. Report the distance at n={most}, or use "
            "`mmd`, which has no bias to remove."
        )
    inverse = torch.linspace(1 / most, 1 / least, points, dtype=torch.float64)
    sizes = tuple(round(1 / v) for v in inverse.tolist())
    distances = frechet_curve(x, y, sizes, seed, repeats)
    design = torch.stack([torch.ones(points, dtype=torch.float64), 1 / torch.tensor(sizes, dtype=torch.float64)], 1)
    weights = torch.tensor([float(most // n) for n in sizes], dtype=torch.float64).sqrt()[:, None]
    target = torch.tensor(distances, dtype=torch.float64)[:, None]
    value, slope = torch.linalg.lstsq(design * weights, target * weights).solution.flatten().tolist()
    return Extrapolation(value, None, sizes, distances, slope)


def _mean_distance(x: Tensor, y: Tensor, size: int, generator: torch.Generator) -> float:
    orders = [torch.randperm(len(z), generator=generator).to(z.device) for z in (x, y)]
    parts = min(len(x), len(y)) // size
    cut = lambda z, order, i: z[order[i * size : (i + 1) * size]]
    return sum(frechet_distance(cut(x, orders[0], i), cut(y, orders[1], i)) for i in range(parts)) / parts
