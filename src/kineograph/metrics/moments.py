"""Streaming mean and scatter of features, mergeable in any order.

Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances", eq. 2.1:
two centred sums merge without the cancellation of `sum(x x^T) - n mu mu^T`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kineograph.errors import InputError
from kineograph.metrics.arrays import ArrayLike, as_features


def gram(matrix: Tensor) -> Tensor:
    """`matrix^T matrix` of shape (columns, columns). NumPy calls the symmetric product, half the work of torch's."""
    if matrix.device.type != "cpu":
        return matrix.T @ matrix
    array = matrix.numpy()
    return torch.from_numpy(array.T @ array)


@dataclass
class Moments:
    """Count, mean and centred scatter of a stream of feature vectors, in float64.

    Attributes:
        count: Number of samples seen.
        mean: Shape (dimensions,).
        scatter: Sum of outer products of the centred samples, shape (dimensions, dimensions).
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, dimensions: int) -> Moments:
        """Start a stream of vectors of the given size."""
        return cls(
            0, torch.zeros(dimensions, dtype=torch.float64), torch.zeros(dimensions, dimensions, dtype=torch.float64)
        )

    @classmethod
    def of(cls, features: ArrayLike) -> Moments:
        """Moments of one batch of shape (samples, dimensions)."""
        x = as_features(features, minimum=1)
        mean = x.mean(0)
        centred = x - mean
        return cls(len(x), mean, gram(centred))

    def update(self, features: ArrayLike) -> Moments:
        """Add a batch of shape (samples, dimensions) in place, and return self."""
        return self.merge(Moments.of(features))

    def merge(self, other: Moments) -> Moments:
        """Add another stream in place, and return self. The order of merging does not matter.

        Raises:
            InputError: The two streams hold vectors of different sizes.
        """
        if self.mean.shape != other.mean.shape:
            raise InputError(f"Cannot merge moments of {len(self.mean)} and {len(other.mean)} dimensions.")
        total = self.count + other.count
        if other.count:
            delta = other.mean.to(self.mean.device) - self.mean
            weight = self.count * other.count / total
            self.scatter = self.scatter + other.scatter.to(self.mean.device) + weight * torch.outer(delta, delta)
            self.mean = self.mean + delta * (other.count / total)
            self.count = total
        return self

    def covariance(self, ddof: int = 1) -> Tensor:
        """Covariance of shape (dimensions, dimensions), divided by `count - ddof`.

        Raises:
            InputError: Too few samples.
        """
        if self.count - ddof < 1:
            raise InputError(f"A covariance with ddof={ddof} needs at least {ddof + 1} samples, given {self.count}.")
        return self.scatter / (self.count - ddof)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return the mean (dimensions,) and the unbiased covariance (dimensions, dimensions)."""
        return self.mean, self.covariance()
