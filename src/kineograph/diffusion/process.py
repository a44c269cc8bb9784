"""Continuous processes, and the times at which samplers visit them.

A process says how much data and how much noise there is at a time: `x = alpha(t) * x0 + sigma(t) * noise`. The discrete
one is `schedule.Schedule`; these are its continuous relatives. All take one number or a tensor of times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from kineograph.errors import InputError

Time = TypeVar("Time", float, Tensor)


class Process(Protocol):
    """Anything that knows its noise levels, such as `Schedule`, `VarianceExploding` or `Flow`."""

    def alpha_sigma(self, t: Any, /) -> tuple[Any, Any]:
        """Return the factors of data and noise at these times: tensors for a tensor, floats for a number."""
        ...


@dataclass(frozen=True)
class VarianceExploding:
    """Data stays, noise grows: alpha = 1, sigma = t. The coordinates of EDM and k-diffusion.

    Source: Karras et al. 2022, arXiv:2206.00364, sec. 3 ("sigma(t) = t, s(t) = 1").
    """

    def alpha_sigma(self, t: Any, /) -> tuple[Any, Any]:
        """Return (1, t) for noise-to-data ratios t >= 0."""
        return t**0, t


@dataclass(frozen=True)
class VariancePreserving:
    """The same levels as `VarianceExploding`, scaled to alpha**2 + sigma**2 = 1; time is still the ratio sigma / alpha.

    It serves a discrete schedule that is sampled between its timesteps (see `Schedule.timestep_at`).
    """

    def alpha_sigma(self, t: Any, /) -> tuple[Any, Any]:
        """Return (1, t) / sqrt(1 + t**2) for noise-to-data ratios t >= 0; infinity is pure noise."""
        alpha = (1 + t**2) ** -0.5
        return alpha, _sigma_from_ratio(t, alpha)


def _sigma_from_ratio(t: Any, alpha: Any) -> Any:
    if isinstance(t, Tensor):
        return torch.where(t.isinf(), torch.ones_like(t), t * alpha)
    return 1.0 if math.isinf(t) else t * alpha


@dataclass(frozen=True)
class Flow:
    """A straight line from data to noise: alpha = 1 - t, sigma = t, t in [0, 1].

    Source: Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2022, arXiv:2209.03003. Here t = 0 is data; the first of
    these papers runs time the other way.
    """

    def alpha_sigma(self, t: Any, /) -> tuple[Any, Any]:
        """Return (1 - t, t)."""
        return 1 - t, t


@dataclass(frozen=True)
class CosineLogSNR:
    """The cosine schedule in continuous time, t in [0, 1], variance preserving, as VDM and Imagen Video use it.

    `log(alpha**2 / sigma**2) = -2 log tan(a t + b) + shift`, with a and b such that the unshifted values run from
    `log_snr_max` at t = 0 to `log_snr_min` at t = 1.
    Source: Salimans & Ho 2022, arXiv:2202.00512; shift: Hoogeboom et al. 2023, arXiv:2301.11093, sec. 2.

    Attributes:
        log_snr_min: Log signal-to-noise ratio of the noisiest time.
        log_snr_max: Log signal-to-noise ratio of the cleanest time.
        shift: Added everywhere; negative is noisier.
    """

    log_snr_min: float = -20.0  # Ho et al. 2022 (VDM), arXiv:2204.03458, app. A
    log_snr_max: float = 20.0
    shift: float = 0.0

    @classmethod
    def for_resolution(cls, resolution: int, reference: int = 64) -> CosineLogSNR:
        """Shift for larger pictures, whose neighbouring pixels repeat each other: 2 log(reference / resolution)."""
        return cls(shift=2 * math.log(reference / resolution))

    def log_snr(self, t: Any) -> Any:
        """Return log(alpha**2 / sigma**2)."""
        b = math.atan(math.exp(-self.log_snr_max / 2))
        a = math.atan(math.exp(-self.log_snr_min / 2)) - b
        if isinstance(t, Tensor):
            return -2 * torch.log(torch.tan(a * t + b)) + self.shift
        return -2 * math.log(math.tan(a * t + b)) + self.shift

    def alpha_sigma(self, t: Any, /) -> tuple[Any, Any]:
        """Return sqrt(sigmoid(log SNR)) and sqrt(sigmoid(-log SNR))."""
        log_snr = self.log_snr(t)
        if isinstance(log_snr, Tensor):
            return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()
        return (1 + math.exp(-log_snr)) ** -0.5, (1 + math.exp(log_snr)) ** -0.5

    def time(self, log_snr: float) -> float:
        """Return t at which the log signal-to-noise ratio has this value: the inverse of `log_snr`."""
        b = math.atan(math.exp(-self.log_snr_max / 2))
        a = math.atan(math.exp(-self.log_snr_min / 2)) - b
        return (math.atan(math.exp((self.shift - log_snr) / 2)) - b) / a


def _check_range(low: float, high: float, num_steps: int) -> None:
    if not (0 < low <= high and num_steps >= 1):
        raise InputError(
            f"Noise must fall between two positive sigmas in at least one step, not {high}..{low} in {num_steps}."
        )


def karras_sigmas(num_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> list[float]:
    """Return sigmas that crowd at the clean end, without the closing 0.

    Source: Karras et al. 2022, arXiv:2206.00364, eq. 5; defaults of table 1. SVD: sigma_min 0.002, sigma_max 700.
    """
    _check_range(sigma_min, sigma_max, num_steps)
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return ((high + ramp * (low - high)) ** rho).tolist()


def exponential_sigmas(num_steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> list[float]:
    """Return sigmas equally spaced in their logarithm, without the closing 0."""
    _check_range(sigma_min, sigma_max, num_steps)
    return torch.linspace(math.log(sigma_max), math.log(sigma_min), num_steps, dtype=torch.float64).exp().tolist()


def uniform_times(num_steps: int, start: float = 1.0, end: float = 0.0) -> list[float]:
    """Return equally spaced times from `start` down, without the closing `end`."""
    return [start + (end - start) * i / num_steps for i in range(num_steps)]


def shift_times(times: list[float], shift: float) -> list[float]:
    """Move flow times towards noise, each by `shift_time`."""
    return [shift_time(t, shift) for t in times]


def shift_time(t: Time, shift: float) -> Time:
    """Move a time in [0, 1] towards noise, `t -> shift * t / (1 + (shift - 1) * t)`; it keeps 0 and 1.

    Of a flow time it multiplies sigma / alpha by shift.
    Source: Esser et al. 2024, arXiv:2403.03206, eq. 23; shift = sqrt(pixels / reference pixels), 3 in the paper.
    """
    return shift * t / (1 + (shift - 1) * t)
