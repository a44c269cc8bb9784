"""What a network may predict, and how each prediction gives the data and the noise.

With `x = alpha * x0 + sigma * noise`, one known combination of x0 and noise fixes the other two. Every kind is one row
of `KINDS`: the target, and the way back to x0.

Sources: epsilon, Ho et al. 2020, arXiv:2006.11239, eq. 14; x0, same paper, sec. 3.2; v, Salimans & Ho 2022,
arXiv:2202.00512, app. D; velocity, Lipman et al. 2023, arXiv:2210.02747.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from kineograph.errors import unknown

Level = TypeVar("Level", float, Tensor)


@dataclass(frozen=True)
class Kind:
    """One row of the table: `target(x0, noise, alpha, sigma)` and its inverse `to_x0(x, output, alpha, sigma)`."""

    target: Callable[..., Tensor]
    to_x0: Callable[..., Tensor]


KINDS = {
    "epsilon": Kind(
        target=lambda x0, noise, alpha, sigma: noise,
        to_x0=lambda x, epsilon, alpha, sigma: (x - sigma * epsilon) / alpha,
    ),
    "x0": Kind(
        target=lambda x0, noise, alpha, sigma: x0,
        to_x0=lambda x, x0, alpha, sigma: x0,
    ),
    "v": Kind(
        target=lambda x0, noise, alpha, sigma: alpha * noise - sigma * x0,
        to_x0=lambda x, v, alpha, sigma: (alpha * x - sigma * v) / (alpha**2 + sigma**2),
    ),
    "velocity": Kind(
        target=lambda x0, noise, alpha, sigma: noise - x0,
        to_x0=lambda x, velocity, alpha, sigma: (x - sigma * velocity) / (alpha + sigma),
    ),
}


def expand(level: Level, x: Tensor) -> Level:
    """Give a level of shape (batch,) or (batch, frames) trailing axes until it broadcasts against x; floats pass."""
    if not isinstance(level, Tensor):
        return level
    return level.to(x.device).reshape(level.shape + (1,) * (x.ndim - level.ndim))


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise unknown("parameterization", name, KINDS)
    return KINDS[name]


def training_target(kind: str, x0: Tensor, noise: Tensor, alpha: Level, sigma: Level) -> Tensor:
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
    return _kind(kind).target(x0, noise, expand(alpha, x0), expand(sigma, x0))


def to_x0(kind: str, x: Tensor, output: Tensor, alpha: Level, sigma: Level) -> Tensor:
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
    return _kind(kind).to_x0(x, output, expand(alpha, x), expand(sigma, x))


def to_noise(kind: str, x: Tensor, output: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """Return the estimate of the noise that the network's output means; arguments as in `to_x0`, sigma not 0.

    An epsilon is returned as it is, so that no division by alpha is done and undone.
    """
    if kind == "epsilon":
        return output
    return noise_of(x, to_x0(kind, x, output, alpha, sigma), alpha, sigma)


def noise_of(x: Tensor, denoised: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """Return the noise that x holds if its clean data is `denoised`; sigma must not be 0."""
    return (x - expand(alpha, x) * denoised) / expand(sigma, x)


def add_noise(x0: Tensor, noise: Tensor, alpha: Level, sigma: Level) -> Tensor:
    """Return `alpha * x0 + sigma * noise`, the forward process in one step (Ho et al. 2020, eq. 4)."""
    return expand(alpha, x0) * x0 + expand(sigma, x0) * noise
