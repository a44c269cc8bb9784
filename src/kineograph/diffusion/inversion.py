"""Inversion: from data back to the noise that gives it.

DDIM's map from noise to data is an ordinary differential equation taken in steps, so it can be walked backwards. Walked
with the same steps it is only nearly the inverse; `edict` and `bdia` are samplers whose steps can be undone up to
rounding. All walk the same `Levels` that the sampler walks, from their end to their start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from kineograph.diffusion.denoiser import Denoiser
from kineograph.diffusion.guidance import extrapolate
from kineograph.diffusion.levels import Levels
from kineograph.diffusion.parameterization import noise_of
from kineograph.diffusion.samplers import Callback, ddim, ddim_step, report, working


@torch.no_grad()
def ddim_inversion(
    denoiser: Denoiser, x: Tensor, levels: Levels, condition: Any = None, *, callback: Callback | None = None
) -> Tensor:
    """Walk DDIM backwards from data to noise (Song et al. 2020, arXiv:2010.02502, sec. 4.3).

    Step i of the sampler used the noise estimate at its own noisier end. Its inverse starts from the cleaner end, so it
    asks for the noise there instead, told the time of the noisier one: this is the only error. The error shrinks in
    proportion to the size of the steps.

    Args:
        denoiser: Estimates x0; usually without strong guidance, which makes the error large.
        x: Data at the last level (batch, ...).
        levels: The levels that the sampler will walk.
        condition: Handed to the denoiser.
        callback: Called after each step, with i counting down.

    Returns:
        Noise at the first level.
    """
    x = working(x)
    for i in reversed(range(len(levels))):
        x, denoised = _step_back(denoiser, x, levels, i, condition)
        report(callback, levels, i, x, denoised)
    return x


def _step_back(denoiser: Denoiser, x: Tensor, levels: Levels, i: int, condition: Any) -> tuple[Tensor, Tensor]:
    """Undo step i as if its noise estimate were that at its clean end."""
    alpha, sigma, alpha_to, sigma_to = levels.pair(i)
    denoised = denoiser(x, levels.t[i], condition)
    if alpha == 0:  # pure noise: there the estimate is data, and x is the noise that remains
        return (x - alpha_to * denoised) / sigma_to, denoised
    epsilon = noise_of(x, denoised, alpha, sigma)
    return alpha / alpha_to * (x - sigma_to * epsilon) + sigma * epsilon, denoised


def refined_inversion(
    denoiser: Denoiser,
    x: Tensor,
    levels: Levels,
    condition: Any = None,
    *,
    iterations: int = 5,
    callback: Callback | None = None,
) -> Tensor:
    """Invert each DDIM step by fixed-point iteration (Pan et al. 2023 (AIDI), arXiv:2309.04907, sec. 3).

    Where the map is a contraction this finds the very state that the sampler's step would take to x.

    Args:
        denoiser: Estimates x0.
        x: Data at the last level (batch, ...).
        levels: The levels that the sampler will walk.
        condition: Handed to the denoiser.
        iterations: Calls of the denoiser for each step; 1 is `ddim_inversion`.
        callback: Called after each step, with i counting down.

    Returns:
        Noise at the first level.
    """
    x = working(x)
    with torch.no_grad():
        for i in reversed(range(len(levels))):
            alpha, sigma, alpha_to, sigma_to = levels.pair(i)
            raised, denoised = _step_back(denoiser, x, levels, i, condition)
            for _ in range(iterations - 1 if alpha > 0 else 0):
                denoised = denoiser(raised, levels.t[i], condition)
                epsilon = noise_of(raised, denoised, alpha, sigma)
                raised = alpha / alpha_to * (x - sigma_to * epsilon) + sigma * epsilon
            x = raised
            report(callback, levels, i, x, denoised)
    return x


def dual_bridge(
    source: Denoiser, target: Denoiser, x: Tensor, levels: Levels, source_condition: Any, target_condition: Any
) -> Tensor:
    """Carry data of one model or prompt to another through their common noise (Su et al. 2022, arXiv:2203.08382).

    Args:
        source: Model that x comes from.
        target: Model to go to; it may be the same one.
        x: Data (batch, ...).
        levels: The levels to walk, up and down.
        source_condition: What x shows.
        target_condition: What it shall show.

    Returns:
        Data of the target.
    """
    return ddim(target, ddim_inversion(source, x, levels, source_condition), levels, target_condition)


# --- Null-text inversion --------------------------------------------------------------------------------------------


def null_text_inversion(
    denoiser: Denoiser,
    x: Tensor,
    levels: Levels,
    condition: Any,
    unconditional: Tensor,
    scale: float,
    *,
    iterations: int = 10,
    learning_rate: float = 1e-2,
    tolerance: float = 1e-5,
) -> tuple[Tensor, dict[float, Tensor]]:
    """Fit an empty-text embedding to each step, so that guided sampling returns to the data.

    The path of the unguided inversion is the pivot; at each step the embedding is optimised until the guided DDIM step
    lands on it. Sample with `null_text_guidance`.
    Source: Mokady et al. 2022, arXiv:2211.09794, algorithm 1; learning rate falls as in the released code.

    Args:
        denoiser: Estimates x0, differentiable in its condition.
        x: Data at the last level (batch, ...).
        levels: The levels to walk, t all different.
        condition: Features of the text that describes x.
        unconditional: Features of the empty text, the start of the optimisation.
        scale: Guidance scale of the sampling to come, 7.5 in the paper.
        iterations: Optimiser steps in each sampling step, 10 in the paper.
        learning_rate: Adam's at the first step; it falls to half over 50 steps, as in the released code.
        tolerance: Mean squared error at which a step is good enough; it grows by 2e-5 with each step.

    Returns:
        Noise at the first level, and the embedding for each time.
    """
    path = [working(x)]
    ddim_inversion(denoiser, x, levels, condition, callback=lambda step: path.append(step.x))
    path, embeddings, embedding = path[::-1], {}, unconditional
    x = noise = path[0]
    for i in range(len(levels)):
        rate = learning_rate * (1 - i / (2 * max(len(levels), 50)))
        limit = tolerance + 2e-5 * i
        guide = _GuidedStep(denoiser, x, levels, i, condition, scale)
        embedding = _fit_embedding(guide, path[i + 1], embedding, iterations, rate, limit)
        embeddings[levels.t[i]] = embedding
        with torch.no_grad():
            x = guide(embedding)
    return noise, embeddings


class _GuidedStep:
    """A guided DDIM step as a function of the unconditional embedding; the conditional estimate is computed once."""

    def __init__(self, denoiser: Denoiser, x: Tensor, levels: Levels, i: int, condition: Any, scale: float) -> None:
        self.denoiser, self.x, self.levels, self.i, self.scale = denoiser, x, levels, i, scale
        with torch.no_grad():
            self.positive = denoiser(x, levels.t[i], condition)

    def __call__(self, unconditional: Tensor) -> Tensor:
        negative = self.denoiser(self.x, self.levels.t[self.i], unconditional)
        return ddim_step(self.x, extrapolate(negative, self.positive, self.scale), self.levels, self.i)[0]


def _fit_embedding(
    step: Callable[[Tensor], Tensor], goal: Tensor, start: Tensor, iterations: int, rate: float, tolerance: float
) -> Tensor:
    with torch.enable_grad():
        embedding = start.detach().clone().requires_grad_()
        optimiser = torch.optim.Adam([embedding], lr=rate)
        for _ in range(iterations):
            loss = (step(embedding) - goal).square().mean()
            (embedding.grad,) = torch.autograd.grad(loss, embedding)
            optimiser.step()
            if float(loss.detach()) < tolerance:
                break
    return embedding.detach()


def null_text_guidance(
    denoiser: Denoiser, condition: Any, embeddings: Mapping[float, Tensor], scale: float
) -> Denoiser:
    """Guide with the embedding that `null_text_inversion` fitted to each time."""

    def guided(x: Tensor, t: Any, _condition: Any = None, /) -> Tensor:
        return extrapolate(denoiser(x, t, embeddings[float(t)]), denoiser(x, t, condition), scale)

    return guided


# --- Exact inversion ------------------------------------------------------------------------------------------------


def _linear_step(levels: Levels, i: int) -> tuple[float, float]:
    """Return a and b of DDIM's `x_next = a * x + b * noise` for step i."""
    alpha, sigma, alpha_to, sigma_to = levels.pair(i)
    a = alpha_to / alpha
    return a, sigma_to - a * sigma


def _noise_at(denoiser: Denoiser, x: Tensor, levels: Levels, i: int, condition: Any) -> Tensor:
    """Return the noise that the network reads in x if told the time of level i."""
    return noise_of(x, denoiser(x, levels.t[i], condition), levels.alpha[i], levels.sigma[i])


@torch.no_grad()
def edict(
    denoiser: Denoiser, pair: tuple[Tensor, Tensor], levels: Levels, condition: Any = None, *, mixing: float = 0.93
) -> tuple[Tensor, Tensor]:
    """Sample with two coupled states, each stepped with the noise of the other, so that every step can be undone.

    Source: Wallace et al. 2022, arXiv:2211.12446, sec. 4. Keep the pair in float64 for an exact round trip.

    Args:
        denoiser: Estimates x0.
        pair: Two states at the first level, from `edict_inversion`, or the same noise twice.
        levels: Where to go; alpha must be above 0 throughout.
        condition: Handed to the denoiser.
        mixing: "p", how far the two are kept apart; 1 never mixes them. 0.93 in the paper.

    Returns:
        Two states at the last level; the first is the sample.
    """
    x, y = working(pair[0]), working(pair[1])
    for i in range(len(levels)):
        a, b = _linear_step(levels, i)
        x = a * x + b * _noise_at(denoiser, y, levels, i, condition)
        y = a * y + b * _noise_at(denoiser, x, levels, i, condition)
        x = mixing * x + (1 - mixing) * y
        y = mixing * y + (1 - mixing) * x
    return x, y


@torch.no_grad()
def edict_inversion(
    denoiser: Denoiser, pair: tuple[Tensor, Tensor], levels: Levels, condition: Any = None, *, mixing: float = 0.93
) -> tuple[Tensor, Tensor]:
    """Undo `edict` exactly (Wallace et al. 2022, arXiv:2211.12446, sec. 4); start from (data, data)."""
    x, y = working(pair[0]), working(pair[1])
    for i in reversed(range(len(levels))):
        a, b = _linear_step(levels, i)
        y = (y - (1 - mixing) * x) / mixing
        x = (x - (1 - mixing) * y) / mixing
        y = (y - b * _noise_at(denoiser, x, levels, i, condition)) / a
        x = (x - b * _noise_at(denoiser, y, levels, i, condition)) / a
    return x, y


@torch.no_grad()
def bdia(
    denoiser: Denoiser, pair: tuple[Tensor, Tensor], levels: Levels, condition: Any = None, *, gamma: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Sample by bidirectional integration: each state from the two before it, one call a step, exactly reversible.

    `x_{i+1} = gamma (x_{i-1} - B_i) + F_i`: F_i is the DDIM step forward from x_i, B_i the one back to level i - 1.
    Source: Zhang et al. 2023 (BDIA), arXiv:2307.10829, sec. 4.

    Args:
        denoiser: Estimates x0.
        pair: States at the first and the second level, from `bdia_inversion` or `bdia_start`.
        levels: Where to go; alpha must be above 0 throughout.
        condition: Handed to the denoiser.
        gamma: In (0, 1]; 1 is the symmetric rule, smaller is closer to DDIM and multiplies rounding errors by 1/gamma
            each step when undone.

    Returns:
        States at the last but one and at the last level.
    """
    before, x = working(pair[0]), working(pair[1])
    for i in range(1, len(levels)):
        forward, backward = _both_ways(denoiser, x, levels, i, condition)
        before, x = x, gamma * (before - backward) + forward
    return before, x


@torch.no_grad()
def bdia_inversion(
    denoiser: Denoiser, pair: tuple[Tensor, Tensor], levels: Levels, condition: Any = None, *, gamma: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Undo `bdia` exactly; start from `bdia_end` (Zhang et al. 2023, arXiv:2307.10829)."""
    x, after = working(pair[0]), working(pair[1])
    for i in reversed(range(1, len(levels))):
        forward, backward = _both_ways(denoiser, x, levels, i, condition)
        x, after = (after - forward) / gamma + backward, x
    return x, after


def _both_ways(denoiser: Denoiser, x: Tensor, levels: Levels, i: int, condition: Any) -> tuple[Tensor, Tensor]:
    epsilon = _noise_at(denoiser, x, levels, i, condition)
    clean = (x - levels.sigma[i] * epsilon) / levels.alpha[i]
    forward = levels.alpha[i + 1] * clean + levels.sigma[i + 1] * epsilon
    return forward, levels.alpha[i - 1] * clean + levels.sigma[i - 1] * epsilon


@torch.no_grad()
def bdia_start(denoiser: Denoiser, x: Tensor, levels: Levels, condition: Any = None) -> tuple[Tensor, Tensor]:
    """Return noise and the state after one DDIM step from it: the pair that `bdia` starts from."""
    x = working(x)
    return x, ddim_step(x, denoiser(x, levels.t[0], condition), levels, 0)[0]


@torch.no_grad()
def bdia_end(denoiser: Denoiser, x: Tensor, levels: Levels, condition: Any = None) -> tuple[Tensor, Tensor]:
    """Return the state one DDIM inversion step before data, and the data: what `bdia_inversion` starts from."""
    x = working(x)
    return _step_back(denoiser, x, levels, len(levels) - 1, condition)[0], x
