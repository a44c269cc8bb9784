"""The noise levels that a sampler visits, in one form for every process.

A process, whatever its name, corrupts data as `x = alpha * x0 + sigma * noise`. Variance-preserving diffusion has
`alpha**2 + sigma**2 = 1`, variance-exploding diffusion and EDM have `alpha = 1`, flow matching has `alpha = 1 - t` and
`sigma = t`. A sampler needs no more than the levels it walks through and the time that the denoiser is told at each:
so one DDIM, one Heun and one DPM-Solver++ serve them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from kineograph.diffusion.process import Process
from kineograph.errors import InputError


@dataclass(frozen=True)
class Levels:
    """Noise levels from the noisiest to the last, as plain floats, so that a step never waits for a device.

    Attributes:
        t: Times told to the denoiser, in the process's own unit; one per level.
        alpha: Factors of the data, at least 0; one per level.
        sigma: Standard deviations of the noise, at least 0, falling relative to alpha; one per level.
        data_scale: What of alpha is a scale of the data and no part of the process that fresh noise is drawn for
            (`Schedule.scale_data`); one per level, or None for 1.
    """

    t: tuple[float, ...]
    alpha: tuple[float, ...]
    sigma: tuple[float, ...]
    data_scale: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not len(self.t) == len(self.alpha) == len(self.sigma):
            raise InputError(
                f"Levels need as many t as alpha and sigma, not {len(self.t)}, {len(self.alpha)} and {len(self.sigma)}."
            )
        if len(self.t) < 2:
            raise InputError("Levels need at least two entries: where the walk starts and where it ends.")
        falling = zip(self.log_snr, self.log_snr[1:], strict=False)
        if any(not earlier < later for earlier, later in falling):
            raise InputError(
                "Levels must run from noise to data: each with a higher alpha / sigma than the one before."
            )

    @classmethod
    def of(cls, process: Process, times: Sequence[float]) -> Levels:
        """Return the levels of a process at these times, the last of which is where sampling ends.

        Example:
            `Levels.of(VarianceExploding(), [*karras_sigmas(18), 0.0])` are the levels of EDM,
            `Levels.of(Flow(), [*uniform_times(50), 0.0])` those of a flow.
        """
        pairs = [process.alpha_sigma(float(t)) for t in times]
        return cls(tuple(map(float, times)), tuple(alpha for alpha, _ in pairs), tuple(sigma for _, sigma in pairs))

    def __len__(self) -> int:
        """Return the number of steps, one less than the number of levels."""
        return len(self.t) - 1

    def part(self, start: int, stop: int) -> Levels:
        """Return the levels of steps `start` to `stop - 1`; negative and missing ends as in slices of the steps."""
        first, last, _ = slice(start, stop).indices(len(self))
        values = (self.t, self.alpha, self.sigma, self.data_scale)
        kept = (None if row is None else row[first : last + 1] for row in values)
        return Levels(*kept)  # pyright: ignore[reportArgumentType]

    def pair(self, i: int) -> tuple[float, float, float, float]:
        """Return alpha and sigma where step i starts, then alpha and sigma where it ends."""
        return self.alpha[i], self.sigma[i], self.alpha[i + 1], self.sigma[i + 1]

    def unscaled_pair(self, i: int) -> tuple[float, float, float, float]:
        """Return `pair(i)` with the scale of the data taken out."""
        alpha, sigma, alpha_to, sigma_to = self.pair(i)
        if self.data_scale is None:
            return alpha, sigma, alpha_to, sigma_to
        return alpha / self.data_scale[i], sigma, alpha_to / self.data_scale[i + 1], sigma_to

    @cached_property
    def rises(self) -> tuple[float, ...]:
        """How far the half-log SNR rises in each step ("h" in DPM-Solver), infinite onto clean data."""
        return tuple(after - before for before, after in zip(self.log_snr, self.log_snr[1:], strict=False))

    @cached_property
    def log_snr(self) -> tuple[float, ...]:
        """Half-log signal-to-noise ratios `log(alpha / sigma)` ("lambda" in DPM-Solver), infinite at either end."""
        return tuple(half_log_snr(alpha, sigma) for alpha, sigma in zip(self.alpha, self.sigma, strict=True))


def half_log_snr(alpha: float, sigma: float) -> float:
    """Return `log(alpha / sigma)`, with the limits at alpha = 0 (-inf) and sigma = 0 (inf)."""
    if sigma == 0:
        return math.inf
    return math.log(alpha / sigma) if alpha > 0 else -math.inf
