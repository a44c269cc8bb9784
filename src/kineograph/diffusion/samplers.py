"""Samplers as free functions over one protocol: a denoiser, a start, and the noise levels to walk through.

Each takes x at `levels` number 0 and returns x at the last. The state is float32, or float64 if x comes as float64.
Coefficients are Python floats, so a step never waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kineograph.diffusion.denoiser import Denoiser
from kineograph.diffusion.levels import Levels
from kineograph.diffusion.parameterization import noise_of
from kineograph.errors import unknown

NoiseSource = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """What a callback sees after a step.

    Attributes:
        i: Number of the step, from 0.
        num_steps: How many there are.
        t: Time the denoiser was told.
        x: The state after the step.
        denoised: The estimate of the data that the step used.
    """

    i: int
    num_steps: int
    t: float
    x: Tensor
    denoised: Tensor


Callback = Callable[[Step], None]


def working(x: Tensor) -> Tensor:
    """Return the state in the precision of the sampler: float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def posterior(alpha: float, sigma: float, alpha_to: float, sigma_to: float) -> tuple[float, float, float, float]:
    """Return how x at a cleaner level is distributed, given x and the data.

    `mean = from_x * x + from_x0 * x0`; for consecutive DDPM timesteps these are eqs. 6 and 7 of Ho et al. 2020,
    arXiv:2006.11239, and for any two levels those of Kingma et al. 2021, arXiv:2107.00630, app. A.2.

    Returns:
        from_x, from_x0, the posterior ("small") variance, and the variance of the forward step ("large").
    """
    ratio = alpha / alpha_to
    large = sigma**2 - ratio**2 * sigma_to**2
    return ratio * sigma_to**2 / sigma**2, alpha_to * large / sigma**2, large * sigma_to**2 / sigma**2, large


@torch.no_grad()
def ddpm(
    denoiser: Denoiser,
    x: Tensor,
    levels: Levels,
    condition: Any = None,
    *,
    noise: NoiseSource,
    variance: str = "small",
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral sampling on any subset of the steps (Ho et al. 2020, arXiv:2006.11239, algorithm 2).

    Args:
        denoiser: Estimates x0.
        x: Noise at the first level (batch, ...).
        levels: Where to go.
        condition: Handed to the denoiser.
        noise: Fresh noise for a state, such as a `ClipGenerators`.
        variance: `"small"` (posterior, "beta tilde") or `"large"` (forward, "beta").
        callback: Called after each step.

    Returns:
        x at the last level, without noise added by the last step.

    Raises:
        InputError: The variance is unknown.
    """
    if variance not in ("small", "large"):
        raise unknown("variance", variance, ("small", "large"))
    x = working(x)
    for i in range(len(levels)):
        denoised = denoiser(x, levels.t[i], condition)
        from_x, from_x0, small, large = posterior(
            levels.alpha[i], levels.sigma[i], levels.alpha[i + 1], levels.sigma[i + 1]
        )
        x = from_x * x + from_x0 * denoised
        if i < len(levels) - 1:
            x = x + math.sqrt(small if variance == "small" else large) * noise(x)
        if callback is not None:
            callback(Step(i, len(levels), levels.t[i], x, denoised))
    return x


@torch.no_grad()
def ddim(
    denoiser: Denoiser,
    x: Tensor,
    levels: Levels,
    condition: Any = None,
    *,
    eta: float = 0.0,
    noise: NoiseSource | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Denoising diffusion implicit models (Song et al. 2020, arXiv:2010.02502, eqs. 12 and 16).

    Args:
        denoiser: Estimates x0.
        x: Noise at the first level (batch, ...).
        levels: Where to go.
        condition: Handed to the denoiser.
        eta: 0 is deterministic; 1 has the posterior variance of DDPM.
        noise: Fresh noise for a state, needed when eta is not 0.
        callback: Called after each step.

    Returns:
        x at the last level.
    """
    assert eta == 0 or noise is not None, "eta > 0 draws noise: give a noise source"
    x = working(x)
    for i in range(len(levels)):
        alpha, sigma, alpha_to, sigma_to = levels.alpha[i], levels.sigma[i], levels.alpha[i + 1], levels.sigma[i + 1]
        denoised = denoiser(x, levels.t[i], condition)
        fresh = eta * math.sqrt(posterior(alpha, sigma, alpha_to, sigma_to)[2])
        kept = math.sqrt(max(sigma_to**2 - fresh**2, 0.0))
        x = alpha_to * denoised + kept * noise_of(x, denoised, alpha, sigma)
        if noise is not None and fresh > 0:
            x = x + fresh * noise(x)
        if callback is not None:
            callback(Step(i, len(levels), levels.t[i], x, denoised))
    return x
