"""The border of the metrics: arrays, tensors and lists in, checked float64 tensors on the CPU out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from kineograph.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    ArrayLike: TypeAlias = Tensor | NDArray[np.generic] | Sequence["ArrayLike"] | Sequence[float]
else:
    ArrayLike = object


def as_tensor(value: ArrayLike, name: str) -> Tensor:
    """Turn any array into a detached tensor on the CPU, where float64 always exists.

    Args:
        value: A tensor, a NumPy array or nested lists of numbers.
        name: What it is, for the error message.

    Returns:
        The same values.

    Raises:
        InputError: The value is not numeric.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    try:
        return torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array or a tensor of numbers, given {type(value).__name__}.") from error


def finite(value: Tensor, name: str) -> Tensor:
    """Return `value` unchanged, or say which entries are not finite.

    Raises:
        InputError: A NaN or an infinity is present.
    """
    if not value.is_floating_point() or bool(torch.isfinite(value).all()):
        return value
    bad = (~torch.isfinite(value)).nonzero()
    raise InputError(
        f"{name} holds {len(bad)} values that are NaN or infinite, the first at index {tuple(bad[0].tolist())}. "
        "Remove those samples before measuring."
    )


def as_features(value: ArrayLike, name: str = "features", minimum: int = 2) -> Tensor:
    """Check a feature matrix.

    Args:
        value: Shape (samples, dimensions).
        name: What it is, for the error message.
        minimum: Fewest samples for which the metric is defined.

    Returns:
        float64 tensor of shape (samples, dimensions).

    Raises:
        InputError: Wrong rank, too few samples, or values that are not finite.
    """
    matrix = as_tensor(value, name)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise InputError(f"{name} must have shape (samples, dimensions), given {tuple(matrix.shape)}.")
    if len(matrix) < minimum:
        raise InputError(
            f"{name} has {len(matrix)} sample{'s' * (len(matrix) != 1)}; this metric needs at least {minimum}, "
            "and is only meaningful with many more (hundreds to thousands)."
        )
    return finite(matrix, name).double()


def as_feature_pair(x: ArrayLike, y: ArrayLike, minimum: int = 2) -> tuple[Tensor, Tensor]:
    """Check two feature matrices that are to be compared.

    Returns:
        Two float64 tensors of shapes (n, d) and (m, d).

    Raises:
        InputError: As `as_features`, or the dimensions differ.
    """
    first, second = as_features(x, "x", minimum), as_features(y, "y", minimum)
    if first.shape[1] != second.shape[1]:
        raise InputError(
            f"x has {first.shape[1]} feature dimensions and y has {second.shape[1]}: "
            "both must come from the same layer of the same network."
        )
    return first, second
