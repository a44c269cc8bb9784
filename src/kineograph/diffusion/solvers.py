"""Solvers of the probability-flow equation: Euler, Heun, DPM-Solver++ and UniPC, over the protocol of `samplers`.

With `x = alpha * x0 + sigma * noise`, the deterministic path from noise to data obeys `dx = x0 dalpha + noise dsigma`,
where x0 and noise are the denoiser's estimates along the way (Song et al. 2021, arXiv:2011.13456, eq. 13, for any alpha
and sigma). EDM, variance-preserving diffusion and flows differ only in how alpha and sigma fall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kineograph.diffusion.denoiser import Denoiser
from kineograph.diffusion.levels import Levels
from kineograph.diffusion.parameterization import noise_of
from kineograph.diffusion.samplers import Callback, NoiseSource, ddim, report, working


@dataclass(frozen=True)
class Churn:
    """EDM's stochasticity: each step first goes back up a little (Karras et al. 2022, arXiv:2206.00364, algorithm 2).

    Only for `alpha = 1` and time told as sigma, the coordinates it is defined in.

    Attributes:
        amount: Total over all steps, "S_churn"; 40 for ImageNet.
        low: Lowest sigma where it acts, "S_tmin".
        high: Highest sigma where it acts, "S_tmax".
        scale: Standard deviation of the noise, "S_noise", at least 1; 1.003 for ImageNet.
        noise: Fresh noise for a state.
    """

    amount: float
    noise: NoiseSource
    low: float = 0.0
    high: float = math.inf
    scale: float = 1.0

    def __call__(self, x: Tensor, sigma: float, num_steps: int) -> tuple[Tensor, float]:
        """Return x raised to a higher sigma, and that sigma."""
        gamma = min(self.amount / num_steps, math.sqrt(2) - 1) if self.low <= sigma <= self.high else 0.0
        raised = sigma * (1 + gamma)
        if gamma == 0:
            return x, sigma
        return x + math.sqrt(raised**2 - sigma**2) * self.scale * self.noise(x), raised


def euler(
    denoiser: Denoiser,
    x: Tensor,
    levels: Levels,
    condition: Any = None,
    *,
    churn: Churn | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Euler's method, order 1: `x + x0 * dalpha + noise * dsigma`.

    Since `x = alpha * x0 + sigma * noise`, the step lands on `alpha_to * x0 + sigma_to * noise`: without churn it *is*
    DDIM (Song et al. 2020, arXiv:2010.02502, sec. 4.3), for a flow the plain Euler step along the velocity.
    """
    if churn is None:
        return ddim(denoiser, x, levels, condition, callback=callback)
    return heun(denoiser, x, levels, condition, churn=churn, callback=callback, corrected=False)


@torch.no_grad()
def heun(
    denoiser: Denoiser,
    x: Tensor,
    levels: Levels,
    condition: Any = None,
    *,
    churn: Churn | None = None,
    callback: Callback | None = None,
    corrected: bool = True,
) -> Tensor:
    """Heun's method, order 2, two calls a step (Karras et al. 2022, arXiv:2206.00364, algorithms 1 and 2).

    The trapezoid rule is taken over dalpha and dsigma: with `alpha = 1` that is EDM's, for a flow it is Heun's in t.
    A last step onto sigma = 0 stays an Euler step, as in the paper.

    Args:
        denoiser: Estimates x0.
        x: Noise at the first level (batch, ...).
        levels: Where to go; with churn they must have alpha = 1 and t = sigma.
        condition: Handed to the denoiser.
        churn: Stochasticity; None is deterministic.
        callback: Called after each step.
        corrected: False leaves out the second call: Euler's method.

    Returns:
        x at the last level.
    """
    assert churn is None or all(alpha == 1 for alpha in levels.alpha), "churn is defined for alpha = 1"
    x = working(x)
    for i in range(len(levels)):
        alpha, sigma, alpha_to, sigma_to = levels.pair(i)
        t = levels.t[i]
        if churn is not None:
            x, sigma = churn(x, sigma, len(levels))
            t = sigma
        denoised = denoiser(x, t, condition)
        epsilon = noise_of(x, denoised, alpha, sigma)
        landed = alpha_to * denoised + sigma_to * epsilon
        if corrected and sigma_to > 0:
            again = denoiser(landed, levels.t[i + 1], condition)
            epsilon = (epsilon + noise_of(landed, again, alpha_to, sigma_to)) / 2
            landed = x + (alpha_to - alpha) * (denoised + again) / 2 + (sigma_to - sigma) * epsilon
        x = landed
        report(callback, levels, i, x, denoised)
    return x


@torch.no_grad()
def dpm_solver_pp(
    denoiser: Denoiser,
    x: Tensor,
    levels: Levels,
    condition: Any = None,
    *,
    order: int = 2,
    noise: NoiseSource | None = None,
    lower_order_final: bool = False,
    euler_at_final: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M) and (3M), or SDE-DPM-Solver++(2M) when given noise (Lu et al. 2022, arXiv:2211.01095, app. D).

    One call a step; how x0 changes over `log(alpha / sigma)` comes from the steps before. A step onto sigma = 0 is
    always of first order, because its end lies at infinity.

    Args:
        denoiser: Estimates x0.
        x: Noise at the first level (batch, ...).
        levels: Where to go.
        condition: Handed to the denoiser.
        order: 1 (DDIM, or DDIM with eta = 1 given noise), 2, or 3 (without noise).
        noise: Fresh noise for a state: solve the stochastic equation.
        lower_order_final: Let the order fall to 2 and 1 in the last steps.
        euler_at_final: Make the last step of first order even where sigma does not end at 0.
        callback: Called after each step.

    Returns:
        x at the last level.
    """
    assert order in (1, 2) or (order == 3 and noise is None), "order must be 1, 2, or without noise 3"
    x, rises, history = working(x), levels.rises, []
    for i in range(len(levels)):
        _, sigma, alpha_to, sigma_to = levels.pair(i)
        denoised, left = denoiser(x, levels.t[i], condition), len(levels) - i
        first = left == 1 and (euler_at_final or sigma_to == 0)
        used = 1 if first else min(order, left) if lower_order_final else order
        history = [denoised, *history[: order - 1]]
        target, decay = _extrapolated(history[:used], rises, i), math.exp(-rises[i])
        if noise is None:
            x = sigma_to / sigma * x + alpha_to * (1 - decay) * target
        else:
            x = sigma_to / sigma * decay * x + alpha_to * (1 - decay**2) * target
            x = x + sigma_to * math.sqrt(1 - decay**2) * noise(x) if sigma_to > 0 else x
        report(callback, levels, i, x, denoised)
    return x


def _extrapolated(history: list[Tensor], rises: Sequence[float], i: int) -> Tensor:
    """Return the x0 that, held through step i, lands where the polynomial through the estimates would.

    Source: Lu et al. 2022, arXiv:2211.01095, eq. 14 (two estimates, newest first); their released code and diffusers
    (three), whose weight of the square is half of what integrating the parabola gives, so that order 3 is a name.
    """
    if len(history) == 1:
        return history[0]
    h, slope = rises[i], (history[0] - history[1]) / rises[i - 1]
    if len(history) == 2:
        return history[0] + h / 2 * slope
    earlier = (history[1] - history[2]) / rises[i - 2]
    bend = (slope - earlier) / (rises[i - 1] + rises[i - 2])
    rise = 1 - math.exp(-h)
    linear, square = (h - rise) / rise, (h**2 / 2 - h + rise) / rise
    return history[0] + linear * (slope + rises[i - 1] * bend) + square * bend


@torch.no_grad()
def unipc(
    denoiser: Denoiser,
    x: Tensor,
    levels: Levels,
    condition: Any = None,
    *,
    order: int = 2,
    variant: str = "bh2",
    callback: Callback | None = None,
) -> Tensor:
    """UniPC-p: one call a step serves as predictor and as corrector (Zhao et al. 2023, arXiv:2302.04867, alg. 5 to 8).

    The order rises from 1 at the start and falls to 1 at the end, as published.

    Args:
        denoiser: Estimates x0.
        x: Noise at the first level (batch, ...).
        levels: Where to go.
        condition: Handed to the denoiser.
        order: p in 1..3: of the predictor; the corrector is one higher.
        variant: B(h): `"bh1"` is h, `"bh2"` is e^h - 1.
        callback: Called after each step.

    Returns:
        x at the last level.
    """
    x = start = working(x)
    history, used = [], 0
    for i in range(len(levels)):
        denoised = denoiser(x, levels.t[i], condition)
        if i > 0 and levels.rises[i - 1] < math.inf:
            x = _unified(start, history[:used], levels, i - 1, variant, latest=denoised)
        history = [denoised, *history[: order - 1]]
        used = min(order, len(levels) - i, sum(snr > -math.inf for snr in levels.log_snr[: i + 1]) or 1)
        start = x
        x = _unified(start, history[:used], levels, i, variant)
        report(callback, levels, i, x, denoised)
    return x


def _unified(
    x: Tensor, history: list[Tensor], levels: Levels, i: int, variant: str, latest: Tensor | None = None
) -> Tensor:
    """Step i of UniP from the estimates at levels i, i-1, ...; with the one at level i+1 as well, of UniC."""
    _, sigma, alpha_to, sigma_to = levels.pair(i)
    h = levels.rises[i]
    growth = math.expm1(-h)
    offsets = [(levels.log_snr[i - k] - levels.log_snr[i]) / h for k in range(1, len(history))]
    slopes = [(earlier - history[0]) / offset for earlier, offset in zip(history[1:], offsets, strict=True)]
    if latest is not None:
        offsets, slopes = [*offsets, 1.0], [*slopes, latest - history[0]]
    x = sigma_to / sigma * x - alpha_to * growth * history[0]
    scale = -h if variant == "bh1" else growth
    for weight, slope in zip(unipc_weights(offsets, -h, scale), slopes, strict=True):
        x = x - alpha_to * scale * weight * slope
    return x


def unipc_weights(offsets: list[float], h: float, scale: float) -> list[float]:
    """Return the weights of the slopes: the solution of R a = b of Zhao et al. 2023, arXiv:2302.04867, theorem 3.1.

    Of order 1 (no slopes) there are none; with one slope the weight is 1/2, as the paper prescribes.
    """
    if len(offsets) < 2:
        return [0.5] * len(offsets)
    phi, factorial, b = math.expm1(h) / h - 1, 1, []
    for k in range(1, len(offsets) + 1):
        b.append(phi * factorial / scale)
        factorial *= k + 1
        phi = phi / h - 1 / factorial
    matrix = torch.tensor(offsets, dtype=torch.float64) ** torch.arange(len(offsets), dtype=torch.float64)[:, None]
    return torch.linalg.solve(matrix, torch.tensor(b, dtype=torch.float64)).tolist()


@torch.no_grad()
def lms(
    denoiser: Denoiser,
    x: Tensor,
    levels: Levels,
    condition: Any = None,
    *,
    order: int = 4,
    callback: Callback | None = None,
) -> Tensor:
    """Linear multistep, Adams-Bashforth over sigma / alpha (k-diffusion, `sample_lms`).

    The noise estimates of the last steps are joined by a polynomial, which is integrated exactly over the step.

    Args:
        denoiser: Estimates x0.
        x: Noise at the first level (batch, ...).
        levels: Where to go.
        condition: Handed to the denoiser.
        order: How many estimates, 1 to 4.
        callback: Called after each step.

    Returns:
        x at the last level.
    """
    x, history = working(x), []
    ratios = [sigma / alpha for alpha, sigma in zip(levels.alpha, levels.sigma, strict=True)]
    for i in range(len(levels)):
        alpha, sigma, alpha_to, _ = levels.pair(i)
        denoised = denoiser(x, levels.t[i], condition)
        history = [noise_of(x, denoised, alpha, sigma), *history[: order - 1]]
        nodes = [ratios[i - k] for k in range(len(history))]
        weights = _integrated_lagrange(nodes, ratios[i], ratios[i + 1])
        slope = sum(weight * epsilon for weight, epsilon in zip(weights, history, strict=True))
        x = alpha_to * (x / alpha + slope)
        report(callback, levels, i, x, denoised)
    return x


def _integrated_lagrange(nodes: list[float], start: float, end: float) -> list[float]:
    """Integrate over [start, end] each polynomial that is 1 at its own node and 0 at the others."""
    width = end - start
    powers = torch.arange(len(nodes), dtype=torch.float64)
    matrix = ((torch.tensor(nodes, dtype=torch.float64) - start) / width) ** powers[:, None]
    return (width * torch.linalg.solve(matrix, 1 / (powers + 1))).tolist()


ADAMS_BASHFORTH = {2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}


@torch.no_grad()
def plms(
    denoiser: Denoiser,
    x: Tensor,
    levels: Levels,
    condition: Any = None,
    *,
    callback: Callback | None = None,
) -> Tensor:
    """Pseudo linear multistep: DDIM steps with the noise of up to four estimates (Liu et al. 2022, arXiv:2202.09778).

    The first step is taken twice, the second time with the mean of the noise at both of its ends, as Stable Diffusion's
    own sampler does; the paper starts with Runge-Kutta steps. One call a step, two in the first.

    Args:
        denoiser: Estimates x0.
        x: Noise at the first level (batch, ...).
        levels: Where to go.
        condition: Handed to the denoiser.
        callback: Called after each step.

    Returns:
        x at the last level.
    """
    x, history = working(x), []
    for i in range(len(levels)):
        alpha, sigma, alpha_to, sigma_to = levels.pair(i)
        denoised = denoiser(x, levels.t[i], condition)
        history = [noise_of(x, denoised, alpha, sigma), *history[:3]]
        epsilon = history[0]
        if len(history) > 1:
            epsilon = sum(w * e for w, e in zip(ADAMS_BASHFORTH[len(history)], history, strict=True))
        elif sigma_to > 0:
            landed = alpha_to * denoised + sigma_to * epsilon
            again = noise_of(landed, denoiser(landed, levels.t[i + 1], condition), alpha_to, sigma_to)
            epsilon = (epsilon + again) / 2
        x = alpha_to * (x - sigma * epsilon) / alpha + sigma_to * epsilon
        report(callback, levels, i, x, denoised)
    return x
