"""Guidance: functions that take a denoiser and return a stronger or a bounded one.

All work on estimates of x0. Where a paper writes epsilon or v, the formula is the same on x0 as long as it is an affine
combination of estimates at the same x, because each of the three is affine in the others there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from kineograph.diffusion.denoiser import Denoiser
from kineograph.diffusion.parameterization import expand
from kineograph.diffusion.process import Process
from kineograph.errors import InputError, unknown

Scale = float | Tensor
TOGETHER = 2**12
"""Values in x up to which both halves of guidance share one call. On one AVX512 core, the bundled network, frames of
8x16x16 latents: 1.3 times as fast for one frame, 1.2 for two, 0.75 to 1.1 for four to sixteen, at twice the memory."""


def classifier_free(
    denoiser: Denoiser, condition: Any, unconditional: Any, scale: Scale | Callable[[Any], Scale]
) -> Denoiser:
    """Push the estimate away from the unconditional one.

    Source: Ho & Salimans 2022, arXiv:2207.12598, eq. 6, with scale = 1 + w.

    Args:
        denoiser: The conditional model. If it returns (x0, share) for a learned variance, the share is that of the
            conditional call.
        condition: What is asked for.
        unconditional: The empty or negative condition, of the same form.
        scale: 1 is the conditional model alone (one call), 0 the unconditional one. A tensor (batch,) or
            (batch, frames) gives each clip or frame its own (`linear_frame_scale`); a function of t gives each step
            its own (`interval_scale`, `oscillating_scale`).

    Returns:
        A denoiser that ignores the condition it is called with.
    """

    def guided(x: Tensor, t: Any, _condition: Any = None, /) -> Any:
        strength = scale(t) if callable(scale) else scale
        if not isinstance(strength, Tensor) and strength == 1:
            return denoiser(x, t, condition)
        positive, negative = both(denoiser, x, t, condition, unconditional)
        return _on_data(positive, lambda data: extrapolate(_data(negative), data, strength))

    return guided


def both(denoiser: Denoiser, x: Tensor, t: Any, condition: Any, unconditional: Any) -> tuple[Any, Any]:
    """Estimate with and without the condition, in one call where that is faster.

    Args:
        denoiser: The conditional model.
        x: Noisy data (batch, ...).
        t: A time for all, or (batch,).
        condition: What is asked for. Only tensors (batch, ...) of equal shape share a call.
        unconditional: The empty or negative condition.

    Returns:
        Both estimates, each of the form that the denoiser returns.
    """
    if not _share_a_call(x, condition, unconditional):
        return denoiser(x, t, condition), denoiser(x, t, unconditional)
    times = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
    estimate = denoiser(torch.cat([x, x]), times, torch.cat([condition, unconditional]))
    if isinstance(estimate, tuple):
        (data, other), (share, other_share) = (part.chunk(2) for part in estimate)
        return (data, share), (other, other_share)
    positive, negative = estimate.chunk(2)
    return positive, negative


def _share_a_call(x: Tensor, condition: Any, unconditional: Any) -> bool:
    tensors = isinstance(condition, Tensor) and isinstance(unconditional, Tensor)
    if not tensors or x.numel() > TOGETHER:
        return False
    return condition.shape == unconditional.shape and condition.shape[:1] == x.shape[:1]


def extrapolate(negative: Tensor, positive: Tensor, scale: Scale) -> Tensor:
    """Return `negative + scale * (positive - negative)`; the scale may be (batch,) or (batch, frames)."""
    return negative + _expanded(scale, positive) * (positive - negative)


def _expanded(scale: Scale, x: Tensor) -> Scale:
    return expand(scale, x) if isinstance(scale, Tensor) else scale


def _data(estimate: Any) -> Tensor:
    return estimate[0] if isinstance(estimate, tuple) else estimate


def _on_data(estimate: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change the x0 of an estimate and leave a learned share of the variance as it is."""
    return (change(estimate[0]), estimate[1]) if isinstance(estimate, tuple) else change(estimate)


def rescaled(denoiser: Denoiser, condition: Any, unconditional: Any, scale: Scale, share: float = 0.7) -> Denoiser:
    """Guide, then bring the standard deviation of each clip back towards that of the conditional estimate.

    This is not affine, so it matters what is rescaled: wrap a denoiser for x0, or the network itself for its own
    output, as diffusers' pipelines do with `guidance_rescale`.
    Source: Lin et al. 2023, arXiv:2305.08891, eqs. 14 to 16; share = 0.7 there.

    Args:
        denoiser: The conditional model.
        condition: What is asked for.
        unconditional: The empty or negative condition.
        scale: As in `classifier_free`.
        share: 0 leaves the guided estimate, 1 rescales it fully ("phi").
    """

    def guided(x: Tensor, t: Any, _condition: Any = None, /) -> Tensor:
        positive, negative = denoiser(x, t, condition), denoiser(x, t, unconditional)
        combined = extrapolate(negative, positive, scale)
        factor = _deviation(positive) / _deviation(combined)
        return combined * (1 - share + share * factor)

    return guided


def _deviation(x: Tensor) -> Tensor:
    return x.std(dim=tuple(range(1, x.ndim)), keepdim=True)


def interval_scale(scale: Scale, low: float, high: float) -> Callable[[Any], Scale]:
    """Guide only while low < t <= high, in the process's own time; elsewhere the scale is 1.

    Source: Kynkäänniemi et al. 2024, arXiv:2404.07724, sec. 3, with t their sigma.
    """
    return lambda t: scale if low < float(t) <= high else 1.0


def oscillating_scale(
    times: Sequence[float], scale: float, low: float = 1.0, constant_steps: int = 0
) -> Callable[[Any], float]:
    """Alternate between a strong and a weak scale after some steps of the strong one.

    Source: Ho et al. 2022 (Imagen Video), arXiv:2210.02303: 15 and 1 in turn; saturates less.

    Args:
        times: The times the denoiser will be told, `levels.t`.
        scale: The strong scale, used in even steps.
        low: The weak scale, used in odd steps.
        constant_steps: Steps at the start that all use the strong one.
    """
    table = {t: scale if i < constant_steps or (i - constant_steps) % 2 == 0 else low for i, t in enumerate(times)}
    return lambda t: table[t]


def linear_frame_scale(num_frames: int, first: float, last: float) -> Tensor:
    """Return a scale (1, frames) that grows along the clip.

    Source: Blattmann et al. 2023 (SVD), arXiv:2311.15127, app. D: from 1 to 3, weak where the given frame is near.
    """
    return torch.linspace(first, last, num_frames)[None]


def nested(branches: Sequence[tuple[Denoiser, Any]], scales: Sequence[Scale]) -> Denoiser:
    """Guide along several conditions, each added to those before it.

    `D_0 + scale_1 (D_1 - D_0) + scale_2 (D_2 - D_1) + ...`

    Args:
        branches: (denoiser, condition) from the least to the most conditioned.
        scales: One for each but the first.

    Raises:
        InputError: The numbers do not match.
    """
    if len(scales) != len(branches) - 1:
        raise InputError(f"{len(branches)} branches need {len(branches) - 1} scales, not {len(scales)}.")

    def combined(x: Tensor, t: Any, _condition: Any = None, /) -> Tensor:
        estimates = [denoiser(x, t, condition) for denoiser, condition in branches]
        guided = estimates[0]
        for scale, less, more in zip(scales, estimates, estimates[1:], strict=False):
            guided = guided + _expanded(scale, x) * (more - less)
        return guided

    return combined


def text_and_image(
    denoiser: Denoiser, both: Any, image_only: Any, neither: Any, text_scale: Scale, image_scale: Scale
) -> Denoiser:
    """Guide by a picture and by a text, each with its own scale (Brooks et al. 2023, arXiv:2211.09800, eq. 3)."""
    return nested([(denoiser, neither), (denoiser, image_only), (denoiser, both)], [image_scale, text_scale])


def motion_free(
    denoiser: Denoiser, still: Denoiser, condition: Any, unconditional: Any, text_scale: Scale, motion_scale: Scale
) -> Denoiser:
    """Guide by the text and by motion (Chen et al. 2023 (GenTron), arXiv:2312.04557, sec. 3.3).

    Args:
        denoiser: The video model.
        still: The same model without motion: its temporal attention masked to the identity. The caller knows how.
        condition: Text features.
        unconditional: Features of the empty text.
        text_scale: "lambda_T", 7.5 in the paper.
        motion_scale: "lambda_M", 1.0 to 1.3 in the paper.
    """
    branches = [(still, unconditional), (denoiser, unconditional), (denoiser, condition)]
    return nested(branches, [motion_scale, text_scale])


def clipped(denoiser: Denoiser, bound: float = 1.0) -> Denoiser:
    """Clip the estimate to [-bound, bound]: for pixels, never for latents (Ho et al. 2020, released code)."""

    def bounded(x: Tensor, t: Any, condition: Any = None, /) -> Any:
        return _on_data(denoiser(x, t, condition), lambda data: data.clamp(-bound, bound))

    return bounded


def dynamic_thresholding(
    denoiser: Denoiser, percentile: float = 0.995, highest: float | None = None, per: str = "clip"
) -> Denoiser:
    """Clip the estimate to a percentile of its magnitude, at least 1, and divide by it.

    Source: Saharia et al. 2022 (Imagen), arXiv:2205.11487, sec. 2.3, p = 99.5 %.

    Args:
        denoiser: Estimates pixels in [-1, 1].
        percentile: In [0, 1].
        highest: Bound on the threshold; diffusers' `sample_max_value`.
        per: `"clip"` takes one percentile over all frames, `"frame"` one for each (batch, frames, ...).

    Raises:
        InputError: `per` is neither.
    """
    if per not in ("clip", "frame"):
        raise unknown("per", per, ("clip", "frame"))

    def threshold(data: Tensor) -> Tensor:
        kept = 1 if per == "clip" else 2
        level = quantile(data.abs().flatten(kept), percentile).clamp(min=1, max=highest)
        level = expand(level, data)
        return data.clamp(-level, level) / level

    def bounded(x: Tensor, t: Any, condition: Any = None, /) -> Any:
        return _on_data(denoiser(x, t, condition), threshold)

    return bounded


def quantile(values: Tensor, q: float) -> Tensor:
    """Return the q-quantile over the last axis, for any size (torch.quantile stops at 16 million values)."""
    ordered = values.sort(dim=-1).values
    position = q * (values.shape[-1] - 1)
    below = int(position)
    above = min(below + 1, values.shape[-1] - 1)
    return torch.lerp(ordered[..., below], ordered[..., above], position - below)


def reconstruction(
    denoiser: Denoiser, process: Process, observed: Tensor, measure: Callable[[Tensor], Tensor], weight: float
) -> Denoiser:
    """Pull the estimate towards data of which a part or a small version is known.

    `x0 - weight * alpha / 2 * gradient of |observed - measure(x0(x))|^2 by x`. For extension in time, `measure` picks
    the known frames; for super-resolution it scales down.
    Source: Ho et al. 2022 (VDM), arXiv:2204.03458, eqs. 7 and 8; weight 2 to 5 there.

    Args:
        denoiser: Differentiable estimate of x0.
        process: Gives alpha at t.
        observed: What is known, of the shape that `measure` returns.
        measure: From an estimate of the data to what is observed of it.
        weight: "w_r".

    Returns:
        A denoiser that costs one backward pass each call.
    """

    def guided(x: Tensor, t: Any, condition: Any = None, /) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            denoised = denoiser(x, t, condition)
            error = (observed - measure(denoised)).square().sum()
            (gradient,) = torch.autograd.grad(error, x)
        alpha, _ = process.alpha_sigma(t)
        return (denoised - weight / 2 * expand(alpha, x) * gradient).detach()

    return guided


def known_frames(denoiser: Denoiser, known: Tensor, mask: Tensor) -> Denoiser:
    """Put the data of known frames into the estimate, so that sampling leads those frames to them exactly.

    The replacement method (Song et al. 2021, arXiv:2011.13456, app. I.2; VDM sec. 3.1) on x0; `reconstruction` adds
    what it lacks, the influence on the other frames.

    Args:
        denoiser: Estimates x0.
        known: Data (batch, frames, channels, height, width); what the mask leaves out is not read.
        mask: True where a frame is known, bool (batch, frames).
    """
    where = rearrange(mask, "b f -> b f 1 1 1")

    def replaced(x: Tensor, t: Any, condition: Any = None, /) -> Any:
        return _on_data(denoiser(x, t, condition), lambda data: torch.where(where, known.to(data), data))

    return replaced
