"""Discrete variance-preserving schedules: how much noise each of T timesteps adds.

Everything follows from one table, `alphas_cumprod` (the share of the variance that is still data): betas are only a
way to write it down. Tables are float64 on the CPU; what a network or a loss needs is handed out as float32.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import torch
from torch import Tensor

from kineograph.diffusion.levels import Levels
from kineograph.errors import InputError, unknown

Spacing = Literal["trailing", "leading", "linspace"]
SPACINGS = ("trailing", "leading", "linspace", "log_snr")
ENDS_OF_LOG_SNR = 0.98, 0.01
BETA_RANGES = {
    "linear": (1e-4, 0.02),  # Ho et al. 2020, arXiv:2006.11239, sec. 4
    "scaled_linear": (0.00085, 0.012),  # Rombach et al. 2022, arXiv:2112.10752, released configurations
    "cosine": (0.0, 0.999),  # Nichol & Dhariwal 2021, arXiv:2102.09672, sec. 3.2: only the upper clip
    "sigmoid": (1e-4, 0.02),  # Xu et al. 2022 (GeoDiff), arXiv:2203.02923, released code
}


def beta_schedule(
    kind: str, num_timesteps: int = 1000, beta_start: float | None = None, beta_end: float | None = None
) -> Tensor:
    """Return the noise variance that each timestep adds.

    Args:
        kind: `"linear"`, `"scaled_linear"` (linear in the square root), `"cosine"` (diffusers' `squaredcos_cap_v2`)
            or `"sigmoid"`.
        num_timesteps: Length T of the schedule.
        beta_start: First beta, in (0, 1); by default the published value of the kind. Unused by `"cosine"`.
        beta_end: Last beta; for `"cosine"` the upper clip.

    Returns:
        Betas, float64 (T,), each in [0, 1].

    Raises:
        InputError: The kind is unknown or the range is not within [0, 1].
    """
    if kind not in BETA_RANGES:
        raise unknown("beta schedule", kind, BETA_RANGES)
    start = BETA_RANGES[kind][0] if beta_start is None else beta_start
    end = BETA_RANGES[kind][1] if beta_end is None else beta_end
    if not (0 <= start <= end <= 1 and num_timesteps >= 1):
        raise InputError(
            f"Betas must rise within [0, 1] over at least one timestep, not {start}..{end} over {num_timesteps}."
        )
    if kind == "linear":
        return torch.linspace(start, end, num_timesteps, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, num_timesteps, dtype=torch.float64) ** 2
    if kind == "sigmoid":
        return torch.sigmoid(torch.linspace(-6, 6, num_timesteps, dtype=torch.float64)) * (end - start) + start
    return _cosine_betas(num_timesteps, end)


def _cosine_betas(num_timesteps: int, max_beta: float) -> Tensor:
    """Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17, with s = 0.008."""
    t = torch.linspace(0, 1, num_timesteps + 1, dtype=torch.float64)
    alpha_bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta)


@dataclass(frozen=True, eq=False)
class Schedule:
    """A discrete variance-preserving process: `x_t = sqrt(alphas_cumprod[t]) x0 + sqrt(1 - alphas_cumprod[t]) noise`.

    Attributes:
        alphas_cumprod: Share of data variance left at each timestep, float64 (T,), never rising, in [0, 1].
        recipe: How the table was made (`kind`, `beta_start`, ...), or None; it only keeps `to_dict` short.
        data_scale: Factor of x0 beside that of the formula, float64 (T,), or None for 1; see `scale_data`.
    """

    alphas_cumprod: Tensor
    recipe: Mapping[str, Any] | None = None
    data_scale: Tensor | None = None
    _lists: dict[str, list[float]] = field(default_factory=dict, init=False, repr=False)
    _tables: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        table = self.alphas_cumprod.detach().to("cpu", torch.float64)
        object.__setattr__(self, "alphas_cumprod", table)
        if table.ndim != 1 or len(table) == 0 or not bool(((table >= 0) & (table <= 1)).all()):
            raise InputError("alphas_cumprod must be one row of values in [0, 1].")
        if bool((table.diff() > 0).any()):
            raise InputError("alphas_cumprod must never rise: timestep 0 is the cleanest.")

    @classmethod
    def from_betas(cls, betas: Tensor) -> Schedule:
        """Build the schedule whose timestep t adds noise of variance `betas[t]`."""
        return cls(torch.cumprod(1 - betas.to(torch.float64), dim=0))

    @classmethod
    def named(
        cls, kind: str, num_timesteps: int = 1000, beta_start: float | None = None, beta_end: float | None = None
    ) -> Schedule:
        """Build a schedule from `beta_schedule`'s arguments and remember them."""
        table = torch.cumprod(1 - beta_schedule(kind, num_timesteps, beta_start, beta_end), dim=0)
        recipe = {"kind": kind, "num_timesteps": num_timesteps, "beta_start": beta_start, "beta_end": beta_end}
        return cls(table, recipe)

    @property
    def num_timesteps(self) -> int:
        """Number T of timesteps."""
        return len(self.alphas_cumprod)

    @property
    def betas(self) -> Tensor:
        """Variance that each timestep adds, float64 (T,)."""
        before = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod[:-1]])
        return 1 - self.alphas_cumprod / before

    def posterior_variance(self, timestep: int) -> float:
        """Return the variance of x_{t-1} given x_t and x0, "beta tilde" (Ho et al. 2020, arXiv:2006.11239, eq. 7)."""
        before = float(self.alphas_cumprod[timestep - 1]) if timestep > 0 else 1.0
        return (1 - before) / (1 - float(self.alphas_cumprod[timestep])) * float(self.betas[timestep])

    def product_of_alphas(self, start: int, stop: int) -> float:
        """Return the product of `1 - betas` over the timesteps from `start` to `stop - 1`; 1 if there are none."""
        shares = [1.0, *self.alphas_cumprod.tolist()]
        return shares[max(stop, start)] / shares[start]

    def rescale_zero_terminal_snr(self) -> Schedule:
        """Return this schedule with no data left at the last timestep.

        Source: Lin et al. 2023, arXiv:2305.08891, algorithm 1.
        """
        root = self.alphas_cumprod.sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        recipe = None if self.recipe is None else {**self.recipe, "zero_terminal_snr": True}
        return Schedule(root**2, recipe)

    def scale_data(self, end: float, num_timesteps: int) -> Schedule:
        """Return this schedule with data that is made weaker the noisier it is, by a factor that falls evenly from 1.

        The process then no longer preserves the variance. Source: VideoCrafter's `use_scale` (Chen et al. 2024,
        arXiv:2401.09047, released code: `lvdm/models/ddpm3d.py`, `scale_arr`).

        Args:
            end: Factor at timestep `num_timesteps - 1` and after it, in (0, 1]; 0.7 in VideoCrafter2.
            num_timesteps: Length of the fall; 400 there.

        Raises:
            InputError: A value is out of range.
        """
        if not 0 < end <= 1 or not 2 <= num_timesteps <= self.num_timesteps:
            raise InputError(
                f"Data is scaled to a factor in (0, 1] over 2 to {self.num_timesteps} timesteps, not to {end} over "
                f"{num_timesteps}."
            )
        fall = torch.linspace(1, end, num_timesteps, dtype=torch.float64)
        scale = torch.cat([fall, fall.new_full((self.num_timesteps - num_timesteps,), end)])
        recipe = None if self.recipe is None else {**self.recipe, "data_scale": [end, num_timesteps]}
        return Schedule(self.alphas_cumprod, recipe, scale)

    @property
    def data_factors(self) -> Tensor:
        """Factors of x0 at all timesteps, float64 (T,)."""
        root = self.alphas_cumprod.sqrt()
        return root if self.data_scale is None else root * self.data_scale

    @overload
    def alpha_sigma(self, timesteps: Tensor) -> tuple[Tensor, Tensor]: ...
    @overload
    def alpha_sigma(self, timesteps: float) -> tuple[float, float]: ...
    def alpha_sigma(self, timesteps: Tensor | float) -> tuple[Tensor, Tensor] | tuple[float, float]:
        """Return the factors of data and noise, `x_t = alpha * x0 + sigma * noise`.

        Args:
            timesteps: Integer timesteps in [0, T), a tensor of any shape and device, or one number.

        Returns:
            alpha and sigma: float32 tensors of the same shape and device, or two floats for one number.

        Raises:
            InputError: A single number is not an integer in [0, T).
        """
        if isinstance(timesteps, Tensor):
            alpha, sigma = self._on(timesteps.device)
            return alpha[timesteps.long()], sigma[timesteps.long()]
        if timesteps != int(timesteps) or not 0 <= timesteps < self.num_timesteps:
            raise InputError(f"A timestep is an integer from 0 to {self.num_timesteps - 1}, not {timesteps}.")
        share = float(self.alphas_cumprod[int(timesteps)])
        return math.sqrt(share) * self._scale(int(timesteps)), math.sqrt(1 - share)

    def _scale(self, timestep: int) -> float:
        return 1.0 if self.data_scale is None else float(self.data_scale[timestep])

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._tables:
            pair = self.data_factors, (1 - self.alphas_cumprod).sqrt()
            self._tables[device] = pair[0].to(device, torch.float32), pair[1].to(device, torch.float32)
        return self._tables[device]

    def timesteps(self, num_steps: int, spacing: str = "trailing", steps_offset: int = 0) -> Tensor:
        """Choose timesteps for a sampler, from the noisiest down.

        Args:
            num_steps: How many, in [1, T].
            spacing: `"trailing"` starts at T - 1 (right for zero terminal SNR), `"leading"` ends at 0, `"linspace"`
                holds both ends. Source: Lin et al. 2023, arXiv:2305.08891, table 2. `"log_snr"` starts at T - 1 and
                then takes equal steps of the log SNR, which high-order solvers like (Lu et al. 2022,
                arXiv:2206.00927, sec. 3.4), from 0.98 T to 0.01 T: beyond them it may change without bound, and
                steps there were measured to be wasted (`docs/process/samplers.md`).
            steps_offset: Added to every timestep of `"leading"`; Stable Diffusion 1 and 2 use 1.

        Returns:
            Timesteps, int64 (num_steps,), strictly falling.

        Raises:
            InputError: The spacing is unknown, or there are not that many timesteps.
        """
        total = self.num_timesteps
        if not 1 <= num_steps <= total:
            raise InputError(f"num_steps must be from 1 to {total}, the timesteps of the schedule, not {num_steps}.")
        index = torch.arange(num_steps, dtype=torch.float64)
        if spacing == "trailing":
            return (total - index * (total / num_steps)).round().long() - 1
        if spacing == "linspace":
            return torch.linspace(0, total - 1, num_steps, dtype=torch.float64).round().long().flip(0)
        if spacing == "leading":
            chosen = index.long().flip(0) * (total // num_steps) + steps_offset
            return chosen.clamp(max=total - 1)
        if spacing == "log_snr":
            return self._equal_log_snr(num_steps)
        raise unknown("timestep spacing", spacing, SPACINGS)

    def _equal_log_snr(self, num_steps: int) -> Tensor:
        """Choose the last timestep and others at equal steps of the log SNR, strictly falling."""
        last = self.num_timesteps - 1
        log_ratio = self.ratios.log()
        second, lowest = (round(share * last) for share in ENDS_OF_LOG_SNR)
        ends = log_ratio[lowest].item(), log_ratio[second].item()
        wanted = torch.linspace(*ends, max(1, num_steps - 1), dtype=torch.float64).flip(0)
        nearest = (log_ratio - wanted[:, None]).abs().argmin(dim=1)
        chosen = torch.cat([torch.tensor([last]), nearest])[:num_steps].tolist()
        for i in range(num_steps - 2, -1, -1):  # neighbours that fell on one timestep move apart, towards the noise
            chosen[i] = max(chosen[i], chosen[i + 1] + 1)
        for i in range(1, num_steps):
            chosen[i] = min(chosen[i], last - i)
        chosen[0] = min(chosen[0], last)
        return torch.tensor(chosen)

    @property
    def ratios(self) -> Tensor:
        """Noise-to-data ratios sigma / alpha of all timesteps ("sigmas" in k-diffusion and EDM), float64 (T,)."""
        return (1 - self.alphas_cumprod).sqrt() / self.data_factors

    def timestep_at(self, ratio: float, interpolation: str = "log") -> float:
        """Return the timestep, whole or between two, at which sigma / alpha has this value, clamped to [0, T - 1].

        Args:
            ratio: Noise-to-data ratio, above 0.
            interpolation: `"log"` interpolates the logarithm of the ratio (k-diffusion), `"linear"` the ratio itself.

        Raises:
            InputError: The interpolation is unknown.
        """
        if interpolation not in ("log", "linear"):
            raise unknown("interpolation", interpolation, ("log", "linear"))
        table = self._ratio_list(interpolation)
        value = math.log(ratio) if interpolation == "log" else ratio
        above = min(max(bisect.bisect_right(table, value), 1), len(table) - 1)
        low, high = table[above - 1], table[above]
        return above - 1 + min(max((value - low) / (high - low), 0.0), 1.0)

    def _ratio_list(self, interpolation: str) -> list[float]:
        if interpolation not in self._lists:
            self._lists[interpolation] = (self.ratios.log() if interpolation == "log" else self.ratios).tolist()
        return self._lists[interpolation]

    def ratio_at(self, timestep: float) -> float:
        """Return sigma / alpha at a timestep, linearly interpolated where it is not whole (k-diffusion, diffusers)."""
        table = self._ratio_list("linear")
        below = min(max(int(timestep), 0), len(table) - 2)
        return table[below] + (timestep - below) * (table[below + 1] - table[below])

    def levels(self, timesteps: Tensor | Sequence[int], final_alpha_cumprod: float = 1.0) -> Levels:
        """Return the noise levels at these timesteps, and after them the one where sampling ends.

        Args:
            timesteps: Falling timesteps in [0, T), such as `schedule.timesteps(50)`.
            final_alpha_cumprod: Share of data at the end: 1 is clean data (diffusers' `set_alpha_to_one`).
        """
        chosen = [int(timestep) for timestep in timesteps]
        share = [float(self.alphas_cumprod[timestep]) for timestep in chosen] + [final_alpha_cumprod]
        scale = (*(self._scale(timestep) for timestep in chosen), 1.0)
        return Levels(
            t=(*(float(timestep) for timestep in chosen), 0.0),
            alpha=tuple(math.sqrt(a) * s for a, s in zip(share, scale, strict=True)),
            sigma=tuple(math.sqrt(1 - a) for a in share),
            data_scale=None if self.data_scale is None else scale,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description: the recipe where there is one, else the table."""
        if self.recipe is not None:
            return dict(self.recipe)
        scale = {} if self.data_scale is None else {"data_scale": self.data_scale.tolist()}
        return {"alphas_cumprod": self.alphas_cumprod.tolist(), **scale}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Schedule:
        """Rebuild what `to_dict` described.

        Raises:
            InputError: A field is unknown.
        """
        fields = dict(description)
        if "alphas_cumprod" in fields and set(fields) <= {"alphas_cumprod", "data_scale"}:
            tables = {name: torch.tensor(table, dtype=torch.float64) for name, table in fields.items()}
            return cls(tables["alphas_cumprod"], None, tables.get("data_scale"))
        allowed = ("kind", "num_timesteps", "beta_start", "beta_end", "zero_terminal_snr", "data_scale")
        for name in fields:
            if name not in allowed:
                raise unknown("field of a schedule", name, (*allowed, "alphas_cumprod"))
        rescale = fields.pop("zero_terminal_snr", False)
        scale = fields.pop("data_scale", None)
        schedule = cls.named(**fields)
        schedule = schedule.rescale_zero_terminal_snr() if rescale else schedule
        return schedule if scale is None else schedule.scale_data(*scale)
