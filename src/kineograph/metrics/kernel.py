r"""Maximum mean discrepancy with the polynomial kernel (KID, KVD).

Gretton et al. 2012, "A kernel two-sample test", JMLR 13, eq. 3 (unbiased) and eq. 5 (biased);
Binkowski et al. 2018, arXiv:1801.01401, section 4: k(a, b) = (gamma <a, b> + coef)^degree with degree 3,
gamma 1/d, coef 1. The full U-statistic is the default: it has the expectation of the customary "100 subsets of 1000",
a smaller variance, and no random numbers.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from kineograph.errors import InputError, unknown
from kineograph.metrics.arrays import ArrayLike, as_feature_pair

Estimator = Literal["unbiased", "biased", "block", "subset"]
ESTIMATORS = ("unbiased", "biased", "block", "subset")


def mmd(
    x: ArrayLike,
    y: ArrayLike,
    degree: int = 3,
    gamma: float | None = None,
    coef: float = 1.0,
    *,
    estimator: Estimator = "unbiased",
    size: int = 1000,
    subsets: int = 100,
    seed: int = 2020,
) -> float:
    """Squared maximum mean discrepancy with a polynomial kernel, in float64.

    Args:
        x: Features of shape (n, dimensions).
        y: Features of shape (m, dimensions).
        degree: Power of the kernel.
        gamma: Scale of the inner product; None is 1 / dimensions (KID, sklearn; the KVD of DIGAN, TATS and LVDM).
            The FVD paper writes 1, which changes the value by about 10^6.
        coef: Constant of the kernel.
        estimator: `"unbiased"` is the full U-statistic; `"biased"` keeps the diagonals (JEDi); `"block"` averages
            consecutive blocks of about `size` (TF-GAN); `"subset"` averages `subsets` random subsets of `size`
            (torch-fidelity, torchmetrics, clean-fid).
        size: Samples per block or subset.
        subsets: Number of random subsets.
        seed: Of the random subsets.

    Returns:
        The squared discrepancy, not multiplied by 1000 (StyleGAN-V) or 100 (JEDi). Unbiased estimates may be negative.

    Raises:
        InputError: Wrong shapes, too few samples, an unknown estimator, or a subset larger than the data.
    """
    first, second = as_feature_pair(x, y)
    if estimator in ("unbiased", "biased"):
        return float(_mmd(first, second, degree, gamma, coef, estimator == "unbiased"))
    if estimator not in ESTIMATORS:
        raise unknown("MMD estimator", estimator, ESTIMATORS)
    pairs = _blocks(first, second, size) if estimator == "block" else _subsets(first, second, size, subsets, seed)
    return float(torch.stack([_mmd(a, b, degree, gamma, coef, True) for a, b in pairs]).mean())


def mmd_influence(
    x: ArrayLike, y: ArrayLike, degree: int = 3, gamma: float | None = None, coef: float = 1.0
) -> tuple[float, Tensor, Tensor]:
    """Unbiased squared discrepancy and the influence of every sample on it.

    The influence is twice the projection of the kernel difference on the sample, the first term of the Hoeffding
    decomposition (Serfling 1980, section 5.2; Binkowski et al. 2018, arXiv:1801.01401, appendix A: zeta_1). Estimated
    from the same samples, its variance also counts the second-order term, which is all there is when both sets have
    one distribution.

    Args:
        x: Features of shape (n, dimensions).
        y: Features of shape (m, dimensions).
        degree: As in `mmd`.
        gamma: As in `mmd`.
        coef: As in `mmd`.

    Returns:
        The estimate, the influences of x of shape (n,), the influences of y of shape (m,), each with mean zero.

    Raises:
        InputError: As `mmd`.
    """
    first, second = as_feature_pair(x, y)
    own_x, own_y = (_mean_of_others(polynomial_kernel(z, z, degree, gamma, coef)) for z in (first, second))
    between = polynomial_kernel(first, second, degree, gamma, coef)
    value = own_x.mean() + own_y.mean() - 2 * between.mean()
    influence_x, influence_y = 2 * (own_x - between.mean(1)), 2 * (own_y - between.mean(0))
    return float(value), influence_x - influence_x.mean(), influence_y - influence_y.mean()


def polynomial_kernel(x: Tensor, y: Tensor, degree: int, gamma: float | None, coef: float) -> Tensor:
    """Kernel matrix (gamma x y^T + coef)^degree of shape (n, m)."""
    scale = 1 / x.shape[1] if gamma is None else gamma
    return (scale * (x @ y.T) + coef) ** degree


def _mmd(x: Tensor, y: Tensor, degree: int, gamma: float | None, coef: float, unbiased: bool) -> Tensor:
    within = sum(_mean_within(polynomial_kernel(z, z, degree, gamma, coef), unbiased) for z in (x, y))
    return within - 2 * polynomial_kernel(x, y, degree, gamma, coef).mean()


def _mean_within(kernel: Tensor, unbiased: bool) -> Tensor:
    n = len(kernel)
    return (kernel.sum() - kernel.trace()) / (n * (n - 1)) if unbiased else kernel.mean()


def _blocks(x: Tensor, y: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Consecutive, nearly equal blocks; TF-GAN `kernel_classifier_distance_and_std_from_activations`."""
    count = max(-(-len(x) // size), -(-len(y) // size))
    if min(len(x), len(y)) < 2 * count:
        raise InputError(
            f"Blocks of {size} split {len(x)} and {len(y)} samples into {count}: too few for one of the sides."
        )
    return list(zip(x.tensor_split(count), y.tensor_split(count), strict=True))


def _subsets(x: Tensor, y: Tensor, size: int, subsets: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    if not 2 <= size <= min(len(x), len(y)):
        raise InputError(
            f"Subsets of {size} cannot be drawn from {len(x)} and {len(y)} samples; allowed: 2 to "
            f"{min(len(x), len(y))}. "
            'estimator="unbiased" uses all samples and needs no subset size.'
        )
    generator = torch.Generator().manual_seed(seed)
    draw = lambda z: z[torch.randperm(len(z), generator=generator)[:size].to(z.device)]
    return [(draw(x), draw(y)) for _ in range(subsets)]


def _mean_of_others(kernel: Tensor) -> Tensor:
    return (kernel.sum(1) - kernel.diagonal()) / (len(kernel) - 1)
