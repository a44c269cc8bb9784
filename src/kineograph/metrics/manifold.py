"""Fidelity and diversity from nearest neighbours: precision, recall, density, coverage.

Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1-2 (precision, recall); Naeem et al. 2020, arXiv:2002.09797, eq. 2-3
(density, coverage).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kineograph.errors import InputError
from kineograph.metrics.arrays import ArrayLike, as_feature_pair


@dataclass(frozen=True)
class Manifold:
    """Four numbers and, for error bars, the sample values of which each is the mean.

    Attributes:
        precision: Share of generated samples inside the real manifold.
        recall: Share of real samples inside the generated manifold.
        density: Mean number of real balls around a generated sample, over k; may exceed 1.
        coverage: Share of real balls that hold a generated sample.
        samples: Per-sample values by name, each a float64 tensor of shape (n,) or (m,).
    """

    precision: float
    recall: float
    density: float
    coverage: float
    samples: dict[str, Tensor]


def precision_recall(generated: ArrayLike, reference: ArrayLike, k: int = 5) -> Manifold:
    """Precision, recall, density and coverage.

    Args:
        generated: Features of shape (n, dimensions).
        reference: Features of shape (m, dimensions).
        k: Neighbours that set the radius of a ball: 3 in the precision-and-recall paper, 5 in the density-and-coverage
            paper and in prdc.

    Returns:
        The four numbers.

    Raises:
        InputError: Wrong shapes, or k not below both sample counts.
    """
    fake, real = as_feature_pair(generated, reference)
    if not 1 <= k < min(len(fake), len(real)):
        raise InputError(
            f"k={k} neighbours need more than {k} samples on both sides, given {len(fake)} and {len(real)}."
        )
    between = torch.cdist(fake, real)
    inside_real = between <= _radii(real, k)
    inside_fake = between <= _radii(fake, k)[:, None]
    samples = {
        "precision": inside_real.any(1).double(),
        "recall": inside_fake.any(0).double(),
        "density": inside_real.double().sum(1) / k,
        "coverage": inside_real.any(0).double(),
    }
    return Manifold(**{name: float(values.mean()) for name, values in samples.items()}, samples=samples)


def neighbour_distance(x: ArrayLike, reference: ArrayLike) -> Tensor:
    """Distance of every sample of x, shape (n, dimensions), to its nearest reference sample; shape (n,)."""
    first, second = as_feature_pair(x, reference, minimum=1)
    return torch.cdist(first, second).amin(1)


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance of every sample to its k-th neighbour, itself not counted."""
    return torch.cdist(x, x).kthvalue(k + 1, dim=1).values
