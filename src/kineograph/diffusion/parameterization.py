"""What a network may predict, and how each prediction gives the data and the noise.

With `x = alpha * x0 + sigma * noise`, one known combination of x0 and noise fixes the other two. Every kind is one row
of `KINDS`: the target, the way back to x0, and how the network likes its input scaled and its noise level told.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from kineograph.errors import unknown

Level = TypeVar("Level", float, Tensor)


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    Attributes:
        target: `target(x0, noise, alpha, sigma)`, what the network should output.
        to_x0: `to_x0(x, output, alpha, sigma)`, its inverse.
        c_in: `c_in(alpha, sigma)`, the factor of x before the network; None is 1.
        c_noise: `c_noise(alpha, sigma)`, what the network is told about the level; None tells it t.
    """

    target: Callable[..., Tensor]
    to_x0: Callable[..., Tensor]
    c_in: Callable[[Any, Any], Any] | None = None
    c_noise: Callable[[Any, Any], Any] | None = None


def log(level: Any) -> Any:
    """Natural logarithm of a number or a tensor."""
    return torch.log(level) if isinstance(level, Tensor) else math.log(level)


def unit_variance(alpha: Any, sigma: Any) -> Any:
    """Return the factor that gives x variance 1 if the data has variance 1: `1 / sqrt(alpha**2 + sigma**2)`."""
    return (alpha**2 + sigma**2) ** -0.5


def quarter_log(alpha: Any, sigma: Any) -> Any:
    """Return `log(sigma / alpha) / 4`, EDM's c_noise (Karras et al. 2022, arXiv:2206.00364, table 1)."""
    return log(sigma / alpha) / 4


# Ho et al. 2020, arXiv:2006.11239, eq. 14: the noise. At alpha = 0 it says nothing about the data.
EPSILON = Kind(
    target=lambda x0, noise, alpha, sigma: noise,
    to_x0=lambda x, epsilon, alpha, sigma: (x - sigma * epsilon) / alpha,
)
# Ho et al. 2020, sec. 3.2: the data.
X0 = Kind(
    target=lambda x0, noise, alpha, sigma: x0,
    to_x0=lambda x, x0, alpha, sigma: x0,
)
# Salimans & Ho 2022, arXiv:2202.00512, app. D. The norm is 1 in variance-preserving coordinates and lets the row hold
# in all others.
V = Kind(
    target=lambda x0, noise, alpha, sigma: (alpha * noise - sigma * x0) * unit_variance(alpha, sigma),
    to_x0=lambda x, v, alpha, sigma: (
        (alpha * x * unit_variance(alpha, sigma) - sigma * v) * unit_variance(alpha, sigma)
    ),
)
# Lipman et al. 2023, arXiv:2210.02747: dx/dt of the straight path, noise minus data because t = 0 is data here.
VELOCITY = Kind(
    target=lambda x0, noise, alpha, sigma: noise - x0,
    to_x0=lambda x, velocity, alpha, sigma: (x - sigma * velocity) / (alpha + sigma),
)
# Blattmann et al. 2023 (SVD), arXiv:2311.15127, app. D: v, told sigma in EDM's way.
# With alpha = 1: c_skip = 1 / (sigma^2 + 1), c_out = -sigma / sqrt(sigma^2 + 1), c_in = 1 / sqrt(sigma^2 + 1).
SVD = Kind(target=V.target, to_x0=V.to_x0, c_in=unit_variance, c_noise=quarter_log)


def edm(sigma_data: float = 0.5, sign: float = 1.0) -> Kind:
    """Return the row of EDM's preconditioning: `x0 = c_skip * x + c_out * output`, for any scale alpha of the data.

    Source: Karras et al. 2022, arXiv:2206.00364, table 1 and app. B.6.

    Args:
        sigma_data: Standard deviation of the data.
        sign: -1 turns the output's sign; `sigma_data=1, sign=-1` is v prediction.
    """

    def c_skip(alpha: Any, sigma: Any) -> Any:
        return alpha * sigma_data**2 / (sigma**2 + (alpha * sigma_data) ** 2)

    def c_out(alpha: Any, sigma: Any) -> Any:
        return sign * sigma * sigma_data * c_in(alpha, sigma)

    def c_in(alpha: Any, sigma: Any) -> Any:
        return (sigma**2 + (alpha * sigma_data) ** 2) ** -0.5

    def target(x0: Tensor, noise: Tensor, alpha: Any, sigma: Any) -> Tensor:
        return (x0 - c_skip(alpha, sigma) * (alpha * x0 + sigma * noise)) / c_out(alpha, sigma)

    def to_x0(x: Tensor, output: Tensor, alpha: Any, sigma: Any) -> Tensor:
        return c_skip(alpha, sigma) * x + c_out(alpha, sigma) * output

    return Kind(target, to_x0, c_in, quarter_log)


KINDS = {"epsilon": EPSILON, "x0": X0, "v": V, "velocity": VELOCITY, "edm": edm(), "svd": SVD}


def row(kind: str | Kind) -> Kind:
    """Return a row of `KINDS` by name; a `Kind` is its own row.

    Raises:
        InputError: The name is unknown.
    """
    if isinstance(kind, Kind):
        return kind
    if kind not in KINDS:
        raise unknown("parameterization", kind, KINDS)
    return KINDS[kind]


def expand(level: Level, x: Tensor) -> Level:
    """Give a level of shape (batch,) or (batch, frames) trailing axes until it broadcasts against x; floats pass."""
    if not isinstance(level, Tensor):
        return level
    return level.to(x.device).reshape(level.shape + (1,) * (x.ndim - level.ndim))


def training_target(kind: str | Kind, x0: Tensor, noise: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """Return what the network should output for `x = alpha * x0 + sigma * noise`.

    Args:
        kind: A row of `KINDS`.
        x0: Clean data (batch, ...).
        noise: Standard normal noise of the same shape.
        alpha: Factor of the data: a float, or (batch,), or (batch, frames).
        sigma: Factor of the noise, like alpha.

    Raises:
        InputError: The kind is unknown.
    """
    return row(kind).target(x0, noise, expand(alpha, x0), expand(sigma, x0))


def to_x0(kind: str | Kind, x: Tensor, output: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """Return the estimate of the clean data that the network's output means.

    Args:
        kind: A row of `KINDS`.
        x: Noisy input (batch, ...).
        output: The network's output, of the same shape.
        alpha: Factor of the data: a float, or (batch,), or (batch, frames). For `"epsilon"` it must not be 0: at
            zero terminal SNR the noise says nothing about the data.
        sigma: Factor of the noise, like alpha.

    Raises:
        InputError: The kind is unknown.
    """
    return row(kind).to_x0(x, output, expand(alpha, x), expand(sigma, x))


def to_noise(kind: str | Kind, x: Tensor, output: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """Return the estimate of the noise that the network's output means; arguments as in `to_x0`, sigma not 0.

    An epsilon is returned as it is, so that no division by alpha is done and undone.
    """
    if row(kind) is EPSILON:
        return output
    return noise_of(x, to_x0(kind, x, output, alpha, sigma), alpha, sigma)


def noise_of(x: Tensor, denoised: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """Return the noise that x holds if its clean data is `denoised`; sigma must not be 0."""
    return (x - expand(alpha, x) * denoised) / expand(sigma, x)


def add_noise(x0: Tensor, noise: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """Return `alpha * x0 + sigma * noise`, the forward process in one step (Ho et al. 2020, eq. 4)."""
    return expand(alpha, x0) * x0 + expand(sigma, x0) * noise
