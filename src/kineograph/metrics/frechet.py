r"""Fréchet distance between two Gaussians fitted to features (FID, FVD), without a matrix square root.

Dowson and Landau 1982; Heusel et al. 2017, arXiv:1706.08500, eq. 6; Unterthiner et al. 2018, arXiv:1812.01717, eq. 2:

.. math:: d^2 = |\mu_1-\mu_2|^2 + tr S_1 + tr S_2 - 2\, tr (S_1 S_2)^{1/2}

With factors S_1 = A^T A and S_2 = B^T B, the nonzero eigenvalues of S_1 S_2 are the squared singular values of A B^T,
so tr (S_1 S_2)^{1/2} is the nuclear norm of A B^T. The centred, scaled features are such factors. Nothing is inverted,
so fewer samples than dimensions need no jitter, no imaginary part appears, and the small eigenvalues, which a root of
S_1 S_2 blows up from 1e-16 to 1e-8, are never formed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kineograph.errors import InputError
from kineograph.metrics.arrays import ArrayLike, as_feature_pair
from kineograph.metrics.moments import Moments, gram

TALL = 1.5
"""From this many samples per dimension on, a Cholesky factor of the covariance replaces the factor by QR."""
CONDITION = 1e-5
"""Smallest ratio of Cholesky pivots (so 1e-10 of the variance) that counts as a safe factor."""
SQUARING = 1e-10
"""Largest bound on the relative error for which eigenvalues of M^T M stand in for singular values of M."""


def frechet_distance(x: ArrayLike, y: ArrayLike, *, ddof: int = 1) -> float:
    """Fréchet distance of two sets of features, in float64.

    Args:
        x: Features of shape (n, dimensions).
        y: Features of shape (m, dimensions).
        ddof: 1 divides covariances by n - 1 (pytorch-fid, TF-GAN, torchmetrics, the original FVD); 0 divides by n
            (StyleGAN2-ADA, StyleGAN-V, cd-fvd).

    Returns:
        The squared distance, never negative. It is biased upwards by about 1/n: compare only equal n and m.

    Raises:
        InputError: Wrong shapes, one sample only, or values that are not finite.
    """
    first, second = as_feature_pair(x, y)
    _check_ddof(ddof)
    factors = _factor(first, ddof), _factor(second, ddof)
    spread = sum(factor.square().sum() for factor in factors)
    return _assemble(first.mean(0) - second.mean(0), spread, _cross_trace(*factors))


def frechet_from_moments(x: Moments, y: Moments, *, ddof: int = 1) -> float:
    """Fréchet distance of two streams of which only the moments were kept.

    Args:
        x: Moments of the first stream.
        y: Moments of the second.
        ddof: As in `frechet_distance`.

    Returns:
        The squared distance, never negative.

    Raises:
        InputError: A stream has too few samples, or the sizes differ.
    """
    _check_ddof(ddof)
    covariances = x.covariance(ddof), y.covariance(ddof)
    return frechet_from_statistics(x.mean, covariances[0], y.mean, covariances[1])


def frechet_from_statistics(mean_x: ArrayLike, cov_x: ArrayLike, mean_y: ArrayLike, cov_y: ArrayLike) -> float:
    """Fréchet distance of two Gaussians given by mean and covariance, such as published FID statistics.

    Args:
        mean_x: Shape (dimensions,).
        cov_x: Shape (dimensions, dimensions), symmetric, positive semi-definite.
        mean_y: As `mean_x`.
        cov_y: As `cov_x`.

    Returns:
        The squared distance, never negative.

    Raises:
        InputError: Shapes that do not fit or values that are not finite.
    """
    means = as_feature_pair(_row(mean_x), _row(mean_y), minimum=1)
    covariances = as_feature_pair(cov_x, cov_y, minimum=1)
    d = means[0].shape[1]
    if any(cov.shape != (d, d) for cov in covariances):
        raise InputError(f"Covariances must have shape ({d}, {d}), given {[tuple(c.shape) for c in covariances]}.")
    trace = _cross_trace(*(_covariance_factor(cov) for cov in covariances))
    return _assemble(means[0][0] - means[1][0], sum(cov.trace() for cov in covariances), trace)


def frechet_influence(x: ArrayLike, y: ArrayLike) -> tuple[float, Tensor, Tensor]:
    """Fréchet distance (ddof 1) and the influence of every sample on it.

    The influence of a sample is the derivative of the distance with respect to the weight of that sample. With
    A B^T = U s V^T the transport part of the i-th sample of x is n sum_k U_ik^2 s_k, so one singular value
    decomposition gives all of them. Influences have mean zero; their variance over n is the variance of the distance
    to first order (infinitesimal jackknife, Jaeckel 1972; Efron and Stein 1981).

    Args:
        x: Features of shape (n, dimensions).
        y: Features of shape (m, dimensions).

    Returns:
        The distance, the influences of x of shape (n,), the influences of y of shape (m,).

    Raises:
        InputError: As `frechet_distance`.
    """
    first, second = as_feature_pair(x, y)
    a, b = (_scaled(z, 1) for z in (first, second))
    left, values, right = _thin_svd(a, b)
    shift = first.mean(0) - second.mean(0)
    distance = _assemble(shift, a.square().sum() + b.square().sum(), values.sum())
    return distance, _influence(a, left, values, shift), _influence(b, right, values, -shift)


def _check_ddof(ddof: int) -> None:
    if ddof not in (0, 1):
        raise InputError(f"ddof must be 0 or 1, given {ddof}.")


def _row(value: ArrayLike) -> Tensor:
    from kineograph.metrics.arrays import as_tensor

    return as_tensor(value, "mean").reshape(1, -1)


def _assemble(shift: Tensor, spread: Tensor | float, trace: Tensor) -> float:
    return max(float(shift.square().sum() + spread - 2 * trace), 0.0)


def _scaled(features: Tensor, ddof: int) -> Tensor:
    return (features - features.mean(0)) / (len(features) - ddof) ** 0.5


def _factor(features: Tensor, ddof: int) -> Tensor:
    """A matrix F with F^T F = covariance and at most `dimensions` rows."""
    scaled = _scaled(features, ddof)
    rows, columns = scaled.shape
    if rows <= columns:
        return scaled
    if rows >= TALL * columns:
        upper, safe = _cholesky(gram(scaled))
        if safe:
            return upper
    return torch.linalg.qr(scaled, mode="r").R


def _cholesky(covariance: Tensor) -> tuple[Tensor, bool]:
    upper, info = torch.linalg.cholesky_ex(covariance, upper=True)
    pivots = upper.diagonal()
    return upper, bool(info == 0) and bool(pivots.min() > CONDITION * pivots.max())


def _covariance_factor(covariance: Tensor) -> Tensor:
    """A factor of a covariance, dropping eigenvalues that are rounding noise."""
    upper, safe = _cholesky(covariance)
    if safe:
        return upper
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    noise = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    kept = values > noise
    return (vectors[:, kept] * values[kept].sqrt()).T


def _cross_trace(a: Tensor, b: Tensor) -> Tensor:
    """Nuclear norm of A B^T for factors of shapes (p, dimensions) and (q, dimensions)."""
    product = a @ b.T
    if 0 in product.shape:
        return product.sum()
    if min(product.shape) >= 1024:
        values = torch.linalg.eigvalsh(gram(product.T if len(product) <= product.shape[1] else product))
        roots = values.clamp_min(0).sqrt()
        bound = torch.finfo(values.dtype).eps * values[-1] * (0.5 / roots.clamp_min(1e-300)).sum()
        if bound < SQUARING * (a.square().sum() + b.square().sum()):
            return roots.sum()
    return torch.linalg.svdvals(product).sum()


def _thin_svd(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Left vectors (n, r), singular values (r,), right vectors (m, r) of A B^T, through QR where samples abound."""
    bases = [_basis(z) for z in (a, b)]
    left, values, right = torch.linalg.svd(bases[0][1] @ bases[1][1].T, full_matrices=False)
    return bases[0][0] @ left, values, bases[1][0] @ right.T


def _basis(z: Tensor) -> tuple[Tensor, Tensor]:
    if len(z) <= z.shape[1]:
        return torch.eye(len(z), dtype=z.dtype, device=z.device), z
    q, r = torch.linalg.qr(z)
    return q, r


def _influence(scaled: Tensor, vectors: Tensor, values: Tensor, shift: Tensor) -> Tensor:
    n = len(scaled)
    linear = 2 * (n - 1) ** 0.5 * (scaled @ shift)
    influence = linear + n * (scaled.square().sum(1) - vectors.square() @ values)
    return influence - influence.mean()
