"""Samplers as free functions over one protocol: a denoiser, a start, and the noise levels to walk through.

Each takes x at the first of `levels` and returns x at the last. The state is float32, or float64 if x comes as float64.
Coefficients are Python floats, so a step never waits for the device. Solvers of higher order are in `solvers`.
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
        denoised: The estimate of the data that the step used; None where a foreign scheduler does not say.
    """

    i: int
    num_steps: int
    t: float
    x: Tensor
    denoised: Tensor | None


Callback = Callable[[Step], None]


def working(x: Tensor) -> Tensor:
    """Return the state in the precision of the sampler: float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def report(callback: Callback | None, levels: Levels, i: int, x: Tensor, denoised: Tensor) -> None:
    """Tell the callback, if there is one, about step i."""
    if callback is not None:
        callback(Step(i, len(levels), levels.t[i], x, denoised))


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


def variance_exponents(variance: str | float) -> float:
    """Return the share of the large variance in the log-linear mixture of small and large.

    Raises:
        InputError: The word is unknown.
    """
    if isinstance(variance, str):
        if variance not in ("small", "large"):
            raise unknown("variance", variance, ("small", "large"))
        return float(variance == "large")
    return variance


@torch.no_grad()
def ddpm(
    denoiser: Denoiser,
    x: Tensor,
    levels: Levels,
    condition: Any = None,
    *,
    noise: NoiseSource,
    variance: str | float = "small",
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral sampling on any subset of the steps (Ho et al. 2020, arXiv:2006.11239, algorithm 2).

    Args:
        denoiser: Estimates x0. It may return (x0, share) instead, where share in [0, 1] is the learned share of the
            large variance (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15); it then overrides `variance`.
        x: Noise at the first level (batch, ...).
        levels: Where to go.
        condition: Handed to the denoiser.
        noise: Fresh noise for a state, such as a `ClipGenerators`.
        variance: `"small"` (posterior, "beta tilde"), `"large"` (forward, "beta"), or a number gamma in [0, 1] for
            small^(1 - gamma) large^gamma (Salimans & Ho 2022, arXiv:2202.00512; Imagen Video).
        callback: Called after each step.

    Returns:
        x at the last level, without noise added by the last step.

    Raises:
        InputError: The variance is unknown.
    """
    share = variance_exponents(variance)
    x = working(x)
    for i in range(len(levels)):
        estimate = denoiser(x, levels.t[i], condition)
        denoised, share = estimate if isinstance(estimate, tuple) else (estimate, share)
        from_x, from_x0, small, large = posterior(*levels.pair(i))
        x = from_x * x + from_x0 * denoised
        if i < len(levels) - 1:
            x = x + _mixed_deviation(share, small, large) * noise(x)
        report(callback, levels, i, x, denoised)
    return x


def _mixed_deviation(share: float | Tensor, small: float, large: float) -> float | Tensor:
    """Return `small**((1 - share) / 2) * large**(share / 2)`; a posterior without variance stays so unless learned."""
    if isinstance(share, Tensor):
        log_small, log_large = math.log(max(small, 1e-20)), math.log(large)
        return torch.exp((log_small + share * (log_large - log_small)) / 2)
    return math.sqrt(small ** (1 - share) * large**share)


def ddim_step(x: Tensor, denoised: Tensor, levels: Levels, i: int, eta: float = 0.0) -> tuple[Tensor, float]:
    """Take step i without its noise, and return what fresh noise is to be multiplied with before it is added.

    Source: Song et al. 2020, arXiv:2010.02502, eqs. 12 and 16, written for any alpha and sigma. Where the data is
    scaled, the fresh noise is that of the process without scale (VideoCrafter's `lvdm/models/samplers/ddim.py`).
    """
    alpha, sigma, alpha_to, sigma_to = levels.pair(i)
    fresh = min(eta * math.sqrt(posterior(*levels.unscaled_pair(i))[2]), sigma_to)
    kept = math.sqrt(sigma_to**2 - fresh**2)
    return alpha_to * denoised + kept * noise_of(x, denoised, alpha, sigma), fresh


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
        denoised = denoiser(x, levels.t[i], condition)
        x, fresh = ddim_step(x, denoised, levels, i, eta)
        if noise is not None and fresh > 0:
            x = x + fresh * noise(x)
        report(callback, levels, i, x, denoised)
    return x


def euler_ancestral(
    denoiser: Denoiser,
    x: Tensor,
    levels: Levels,
    condition: Any = None,
    *,
    noise: NoiseSource,
    eta: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """Euler steps down to below the next level, then fresh noise up to it (k-diffusion, `sample_euler_ancestral`).

    In the coordinates of its author (alpha = 1) the level below is `sigma_to**2 / sigma` and the noise added is
    DDIM's posterior variance, so this *is* DDIM(eta) and is only named here.
    """
    return ddim(denoiser, x, levels, condition, eta=eta, noise=noise, callback=callback)


@torch.no_grad()
def consistency(
    denoiser: Denoiser,
    x: Tensor,
    levels: Levels,
    condition: Any = None,
    *,
    noise: NoiseSource,
    gamma: float = 1.0,
    callback: Callback | None = None,
) -> Tensor:
    """Jump to the data, go back up with fresh noise (Song et al. 2023, arXiv:2303.01469, algorithm 1).

    Args:
        denoiser: Estimates x0, well enough in one call: a consistency model, LCM or TCD.
        x: Noise at the first level (batch, ...).
        levels: Where to go.
        condition: Handed to the denoiser.
        noise: Fresh noise for a state.
        gamma: Share of the next level that is fresh noise: 1 is consistency sampling (LCM), 0 is DDIM, between
            them the gamma-sampling of Kim et al. 2023 (CTM), arXiv:2310.02279.
        callback: Called after each step.

    Returns:
        x at the last level.
    """
    x = working(x)
    for i in range(len(levels)):
        alpha, sigma, alpha_to, sigma_to = levels.pair(i)
        denoised = denoiser(x, levels.t[i], condition)
        kept = math.sqrt(1 - gamma**2) * sigma_to
        x = alpha_to * denoised + (kept * noise_of(x, denoised, alpha, sigma) if kept > 0 else 0)
        if sigma_to > 0 and gamma > 0:
            x = x + gamma * sigma_to * noise(x)
        report(callback, levels, i, x, denoised)
    return x
