"""Training objectives: which noise levels to train at, how much each counts, and the bound for learned variances.

A loss is a weighted squared error between a network's output and `parameterization.training_target`. Weights are given
for the squared error *of x0* or *of the output*, and `output_weight` turns the one into the other, so that an objective
is named once whatever the network predicts.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from einops import reduce
from torch import Tensor

from kineograph.diffusion.parameterization import Kind, expand, row
from kineograph.errors import InputError, unknown

Weight = Callable[[Tensor, Tensor], Tensor]

# --- Weights --------------------------------------------------------------------------------------------------------


def snr(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the signal-to-noise ratio alpha**2 / sigma**2."""
    return (alpha / sigma) ** 2


def x0_error_of_output(kind: str | Kind, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the squared error of x0 for each unit of squared error of the output: (dx0 / doutput)**2.

    1 for x0, sigma**2 / alpha**2 for epsilon, sigma**2 / (alpha**2 + sigma**2) for v, and so on, read off the row.
    """
    zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
    return row(kind).to_x0(zero, one, alpha, sigma) ** 2


def simple(alpha: Tensor, sigma: Tensor, kind: str | Kind = "epsilon") -> Tensor:
    """Weight every level's squared error of the output alike (Ho et al. 2020, arXiv:2006.11239, eq. 14)."""
    return torch.ones_like(alpha)


def truncated_snr(alpha: Tensor, sigma: Tensor, kind: str | Kind = "epsilon") -> Tensor:
    """Weight the error of x0 by max(SNR, 1) (Salimans & Ho 2022, arXiv:2202.00512, sec. 4)."""
    return snr(alpha, sigma).clamp(min=1) * x0_error_of_output(kind, alpha, sigma)


def snr_weight(alpha: Tensor, sigma: Tensor, kind: str | Kind = "epsilon") -> Tensor:
    """Weight the error of x0 by the SNR, which is the simple loss of epsilon (Salimans & Ho 2022, sec. 4)."""
    return snr(alpha, sigma) * x0_error_of_output(kind, alpha, sigma)


def min_snr(gamma: float = 5.0) -> Callable[..., Tensor]:
    """Weight the error of x0 by min(SNR, gamma) (Hang et al. 2023, arXiv:2303.09556; gamma = 5).

    For epsilon the output's weight is min(SNR, gamma) / SNR, for v it is min(SNR, gamma) / (SNR + 1).
    """

    def weight(alpha: Tensor, sigma: Tensor, kind: str | Kind = "epsilon") -> Tensor:
        return snr(alpha, sigma).clamp(max=gamma) * x0_error_of_output(kind, alpha, sigma)

    return weight


def p2(gamma: float = 1.0, k: float = 1.0) -> Callable[..., Tensor]:
    """Weight the error of epsilon by 1 / (k + SNR)**gamma (Choi et al. 2022, arXiv:2204.00227, sec. 3)."""

    def weight(alpha: Tensor, sigma: Tensor, kind: str | Kind = "epsilon") -> Tensor:
        ratio = snr(alpha, sigma)
        return ratio * (k + ratio) ** -gamma * x0_error_of_output(kind, alpha, sigma)

    return weight


def edm_weight(sigma_data: float = 0.5) -> Callable[..., Tensor]:
    """Weight the error of x0 by 1 / c_out**2, so that of EDM's output by 1 (Karras et al. 2022, arXiv:2206.00364)."""

    def weight(alpha: Tensor, sigma: Tensor, kind: str | Kind = "edm") -> Tensor:
        ratio = sigma / alpha
        lam = (ratio**2 + sigma_data**2) / (ratio * sigma_data) ** 2
        return lam * x0_error_of_output(kind, alpha, sigma)

    return weight


WEIGHTS: dict[str, Callable[..., Tensor]] = {
    "simple": simple,
    "snr": snr_weight,
    "truncated_snr": truncated_snr,
    "min_snr": min_snr(),
    "p2": p2(),
    "edm": edm_weight(),
}


def loss_weight(name: str, kind: str | Kind, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the weight of the squared error of the output, by the name of the objective.

    Args:
        name: A key of `WEIGHTS`, with its published constants.
        kind: What the network predicts.
        alpha: Factor of the data (batch,) or (batch, frames), above 0 except for `"simple"`.
        sigma: Factor of the noise, above 0.

    Raises:
        InputError: The name is unknown.
    """
    if name not in WEIGHTS:
        raise unknown("loss weighting", name, WEIGHTS)
    return WEIGHTS[name](alpha, sigma, kind)


def weighted_mse(output: Tensor, target: Tensor, weight: Tensor | float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Return the weighted mean squared error of each clip.

    Args:
        output: The network's output (batch, frames, ...).
        target: `training_target` of the same shape.
        weight: (batch,) or (batch, frames).
        mask: True where a frame counts, bool (batch, frames); None counts all. Each clip's mean is over the frames that
            count; a clip without any has loss 0.

    Returns:
        Loss of each clip, float32 (batch,).
    """
    error = (output.float() - target.float()).square()
    if isinstance(weight, Tensor):
        error = error * expand(weight, error)
    if mask is None:
        return reduce(error, "b ... -> b", "mean")
    per_frame = reduce(error, "b f ... -> b f", "mean") * mask
    return per_frame.sum(dim=1) / mask.sum(dim=1).clamp(min=1)


# --- Which levels ---------------------------------------------------------------------------------------------------


def uniform(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Return independent numbers in [0, 1), float32 (count,)."""
    return torch.rand(count, generator=generator)


def low_discrepancy(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Return numbers in [0, 1), each uniform, that together cover it evenly: one shift for all.

    Source: Kingma et al. 2021 (VDM), arXiv:2107.00630, app. I.1. Shuffled, so that a clip's place in the batch says
    nothing about its level.
    """
    even = (torch.rand(1, generator=generator) + torch.arange(count) / count) % 1
    return even[torch.randperm(count, generator=generator)]


def timesteps_of(u: Tensor, num_timesteps: int) -> Tensor:
    """Turn numbers in [0, 1) into integer timesteps 0 .. T - 1, int64."""
    return (u * num_timesteps).long().clamp(max=num_timesteps - 1)


def normal(u: Tensor, mean: float, std: float) -> Tensor:
    """Turn uniform numbers into normal ones by the inverse distribution function."""
    safe = u.double().clamp(1e-9, 1 - 1e-9)
    return (mean + std * math.sqrt(2) * torch.erfinv(2 * safe - 1)).float()


def log_normal_sigmas(u: Tensor, mean: float = -1.2, std: float = 1.2) -> Tensor:
    """Turn uniform numbers into sigmas with a normal logarithm.

    Source: Karras et al. 2022, arXiv:2206.00364, table 1 (P_mean, P_std). SVD: 0.7 and 1.6 at 14 x 256 x 384, then 1.0.
    """
    return normal(u, mean, std).exp()


def logit_normal_times(u: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Turn uniform numbers into flow times, dense in the middle (Esser et al. 2024, arXiv:2403.03206, eq. 19)."""
    return torch.sigmoid(normal(u, mean, std))


# --- Learned variance -----------------------------------------------------------------------------------------------


def split_variance(output: Tensor) -> tuple[Tensor, Tensor]:
    """Split an output of twice the channels into the prediction and the learned share of the large variance.

    Source: Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15; released networks put out 2 * share - 1.

    Args:
        output: (batch, frames, 2 * channels, height, width).

    Returns:
        Prediction and share, each (batch, frames, channels, height, width); the share is in [0, 1] if trained so.
    """
    if output.shape[2] % 2:
        raise InputError(f"A learned variance needs an even number of output channels, not {output.shape[2]}.")
    prediction, raw = output.chunk(2, dim=2)
    return prediction, (raw + 1) / 2


def variational_bound(
    x0: Tensor,
    x: Tensor,
    denoised: Tensor,
    share: Tensor,
    levels: tuple[Tensor, Tensor, Tensor, Tensor],
    smallest_variance: float,
) -> Tensor:
    """Return the bound on the negative log-likelihood that trains a learned variance, for one step of the chain.

    The divergence between the true and the learned posterior at t > 0; at t = 0 the likelihood of 8-bit pixels. Pass
    `denoised` detached, as in the paper, so that only the variance learns from it.
    Source: Nichol & Dhariwal 2021, arXiv:2102.09672, sec. 3.1 (L_vlb); Ho et al. 2020, arXiv:2006.11239, eqs. 5, 13.

    Args:
        x0: Data in [-1, 1] (batch, frames, channels, height, width).
        x: Noisy data of the same shape.
        denoised: The estimate of x0.
        share: Share of the large variance in the log-linear mixture.
        levels: alpha and sigma at t, then alpha and sigma at t - 1, each (batch,); at t = 0 those are 1 and 0.
        smallest_variance: Stands in for the posterior variance at t = 0, which is 0; the released code takes that of
            t = 1, `Schedule.posterior_variance(1)`.

    Returns:
        Bits for each dimension, (batch,).
    """
    alpha, sigma, alpha_to, sigma_to = (expand(level, x) for level in levels)
    ratio = alpha / alpha_to
    large = sigma**2 - ratio**2 * sigma_to**2
    from_x, from_x0 = ratio * sigma_to**2 / sigma**2, alpha_to * large / sigma**2
    log_small = torch.log((large * sigma_to**2 / sigma**2).clamp(min=smallest_variance))
    log_variance = log_small + share * (torch.log(large) - log_small)
    true_mean, mean = from_x * x + from_x0 * x0, from_x * x + from_x0 * denoised
    divergence = gaussian_divergence(true_mean, log_small, mean, log_variance)
    likelihood = -discretised_log_likelihood(x0, mean, log_variance / 2)
    bits = torch.where(sigma_to > 0, divergence, likelihood) / math.log(2)
    return reduce(bits, "b ... -> b", "mean")


def gaussian_divergence(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) || N(other_mean, other_variance)) of each element, in nats."""
    return 0.5 * (
        other_log_variance
        - log_variance
        - 1
        + torch.exp(log_variance - other_log_variance)
        + (mean - other_mean) ** 2 * torch.exp(-other_log_variance)
    )


def discretised_log_likelihood(x0: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Return the log-probability that a Gaussian gives to the 8-bit bin of each pixel.

    Source: Ho et al. 2020, arXiv:2006.11239, eq. 13: bins of width 2/255 in [-1, 1], the outermost open.
    """
    inverse = torch.exp(-log_deviation)
    upper = torch.special.ndtr((x0 - mean + 1 / 255) * inverse)
    lower = torch.special.ndtr((x0 - mean - 1 / 255) * inverse)
    upper = torch.where(x0 > 0.999, torch.ones_like(upper), upper)
    lower = torch.where(x0 < -0.999, torch.zeros_like(lower), lower)
    return torch.log((upper - lower).clamp(min=1e-12))


# --- Progressive distillation ---------------------------------------------------------------------------------------


def two_to_one_target(
    x: Tensor,
    landed: Tensor,
    alpha: Tensor | float,
    sigma: Tensor | float,
    alpha_to: Tensor | float,
    sigma_to: Tensor | float,
) -> Tensor:
    """Return the x0 with which one DDIM step from x lands where the teacher's two steps landed.

    Source: Salimans & Ho 2022, arXiv:2202.00512, algorithm 2; Imagen Video halves 256 steps to 8 with it.

    Args:
        x: State before the teacher's two steps (batch, ...).
        landed: State after them, of the same shape.
        alpha: Level before, a float or (batch,).
        sigma: Level before.
        alpha_to: Level after.
        sigma_to: Level after.
    """
    ratio = sigma_to / sigma
    scale = alpha_to - ratio * alpha
    return (landed - _spread(ratio, x) * x) / _spread(scale, x)


def _spread(level: Tensor | float, x: Tensor) -> Tensor | float:
    return expand(level, x) if isinstance(level, Tensor) else level
