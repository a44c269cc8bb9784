"""A published checkpoint's `scheduler_config.json`, honoured field by field.

The configuration of a diffusers scheduler mixes three things: the process that the network was trained with, what it
predicts, and a solver. `read` takes it apart into this library's own parts and returns them as a `Plan`. Fields that
would change the samples and cannot be honoured are errors; `adapter.run_scheduler` still runs those schedulers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kineograph.diffusion import samplers, solvers
from kineograph.diffusion.denoiser import Denoiser, Network, NetworkDenoiser
from kineograph.diffusion.guidance import clipped, dynamic_thresholding
from kineograph.diffusion.levels import Levels
from kineograph.diffusion.parameterization import KINDS, Kind, edm, quarter_log, unit_variance
from kineograph.diffusion.process import (
    Flow,
    Process,
    VarianceExploding,
    VariancePreserving,
    exponential_sigmas,
    karras_sigmas,
    shift_times,
)
from kineograph.diffusion.schedule import Schedule
from kineograph.diffusion.scheduler_fields import FIELDS, INERT
from kineograph.errors import InputError, unknown

PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v", "flow_prediction": "velocity"}
CURVES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine", "sigmoid": "sigmoid"}
# With zero terminal SNR, the solvers over sigma / alpha put this in place of 0 (diffusers, half precision's smallest).
SMALLEST_SHARE = 2.0**-24


@dataclass(frozen=True)
class Plan:
    """What a scheduler's configuration says.

    Attributes:
        name: Class that the configuration was written for.
        fields: Every field of that class, as given or by its default.
        schedule: The discrete schedule the network was trained with, or None for EDM and flows.
        process: Times that the denoiser is told.
        kind: What the network predicts, with its input scale and its own way to be told the time.
        levels: Levels for a number of steps.
        start_scale: Standard deviation of x at the first level of these.
        sampler: `sampler(denoiser, x, levels, condition, noise=, callback=)`.
        limit: Bounds a denoiser's estimate (clipping, dynamic thresholding).
    """

    name: str
    fields: Mapping[str, Any]
    schedule: Schedule | None
    process: Process
    kind: Kind
    levels: Callable[[int], Levels]
    start_scale: Callable[[Levels], float]
    sampler: Callable[..., Tensor]
    limit: Callable[[Denoiser], Denoiser]

    def denoiser(self, network: Network) -> Denoiser:
        """Return the denoiser that samplers take, from the checkpoint's network."""
        return self.limit(NetworkDenoiser(network, self.process, self.kind))

    def sample(
        self,
        denoiser: Denoiser,
        x: Tensor,
        num_steps: int,
        condition: Any = None,
        *,
        noise: samplers.NoiseSource | None = None,
        callback: samplers.Callback | None = None,
    ) -> Tensor:
        """Sample as the configuration says, from standard normal x (batch, ...)."""
        levels = self.levels(num_steps)
        x = samplers.working(x) * self.start_scale(levels)
        return self.sampler(denoiser, x, levels, condition, noise=noise, callback=callback)


def read(config: Mapping[str, Any], data_scale: tuple[float, int] | None = None, eta: float = 0.0) -> Plan:
    """Take a scheduler's configuration apart.

    Differs from diffusers in DDIM only: a step goes to the next chosen timestep, where diffusers always jumps
    `T // num_steps` (the same for `"leading"`, and for `"trailing"` if num_steps divides T), and a clipped estimate
    also decides the noise, as with diffusers' `use_clipped_model_output`.

    Args:
        config: Content of a `scheduler_config.json`, with `_class_name`; other names with a leading underscore are
            about the file and not read.
        data_scale: Arguments of `Schedule.scale_data`, which no class of diffusers has a field for; DDIM only.
        eta: Share of fresh noise in each step of DDIM, for which diffusers has no field either.

    Returns:
        The plan.

    Raises:
        InputError: The class or a field is unknown, or a value cannot be honoured exactly.
    """
    name = config.get("_class_name")
    if name not in FIELDS:
        raise unknown("scheduler class", name, FIELDS)
    fields = dict(FIELDS[name])
    for field, value in config.items():
        if field in fields:
            fields[field] = value
        elif not field.startswith("_"):
            _check_foreign(name, field, value)
    if (data_scale is not None or eta) and name != "DDIMScheduler":
        raise InputError(
            f"A scale of the data (data_scale) and fresh noise (eta) are for DDIMScheduler, not for {name}."
        )
    if name == "DDIMScheduler":
        return _timestep_plan(name, fields, data_scale, eta)
    if name.startswith("EDM"):
        return _edm_plan(name, fields)
    if name.startswith("FlowMatch"):
        return _flow_plan(name, fields)
    if name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        return _multistep_plan(name, fields)
    if name in ("DDPMScheduler", "PNDMScheduler", "LCMScheduler"):
        return _timestep_plan(name, fields)
    return _ratio_plan(name, fields)


def _check_foreign(name: str, field: str, value: Any) -> None:
    """Accept a field that another class reads if it is inert or switches something off; refuse all else."""
    everything = {key for known in FIELDS.values() for key in known}
    if field not in everything:
        raise unknown(f"field of {name}", field, FIELDS[name])
    if field not in INERT and value not in (None, False, 0):
        raise InputError(f"{name} does not read '{field}', so {field}={value!r} would be ignored: remove it.")


def _only(name: str, fields: Mapping[str, Any], **allowed: tuple[Any, ...]) -> None:
    for field, values in allowed.items():
        if field in fields and fields[field] not in values:
            raise InputError(
                f"{name} with {field}={fields[field]!r} is not built in (only {', '.join(map(repr, values))}); "
                "kineograph.diffusion.adapter.run_scheduler runs it."
            )


def _schedule(fields: Mapping[str, Any]) -> Schedule:
    if fields["trained_betas"] is not None:
        schedule = Schedule.from_betas(torch.tensor(fields["trained_betas"], dtype=torch.float64))
    elif fields["beta_schedule"] in CURVES:
        end = 0.999 if fields["beta_schedule"] == "squaredcos_cap_v2" else fields["beta_end"]  # fixed in diffusers
        curve = CURVES[fields["beta_schedule"]]
        schedule = Schedule.named(curve, fields["num_train_timesteps"], fields["beta_start"] if end < 0.9 else 0.0, end)
    else:
        raise unknown("beta_schedule", fields["beta_schedule"], CURVES)
    return schedule.rescale_zero_terminal_snr() if fields.get("rescale_betas_zero_snr") else schedule


def _kind(fields: Mapping[str, Any]) -> Kind:
    if fields["prediction_type"] not in PREDICTIONS:
        raise unknown("prediction_type", fields["prediction_type"], PREDICTIONS)
    return KINDS[PREDICTIONS[fields["prediction_type"]]]


def _limit(fields: Mapping[str, Any]) -> Callable[[Denoiser], Denoiser]:
    if fields.get("thresholding"):
        ratio, highest = fields["dynamic_thresholding_ratio"], fields["sample_max_value"]
        return partial(dynamic_thresholding, percentile=ratio, highest=highest)
    if fields.get("clip_sample"):
        return partial(clipped, bound=fields["clip_sample_range"])
    return lambda denoiser: denoiser


def _without_noise(sampler: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *arguments, noise=None, callback=None: sampler(*arguments, callback=callback)


def _one(_levels: Levels) -> float:
    return 1.0


# --- Samplers that walk over whole timesteps, in variance-preserving coordinates -----------------------------------


def _timestep_plan(
    name: str, fields: Mapping[str, Any], data_scale: tuple[float, int] | None = None, eta: float = 0.0
) -> Plan:
    _only(name, fields, variance_type=("fixed_small", "fixed_large", "learned_range"), skip_prk_steps=(True,))
    schedule = _schedule(fields)
    if data_scale is not None:
        schedule = schedule.scale_data(*data_scale)
    if name == "PNDMScheduler":
        _only(name, fields, timestep_spacing=("leading", "trailing"))
    final = 1.0 if fields.get("set_alpha_to_one", True) else float(schedule.alphas_cumprod[0])
    limit = _limit(fields)
    if name == "LCMScheduler":
        limit = partial(_consistency_boundary, inner=limit, scaling=fields["timestep_scaling"])
    return Plan(
        name=name,
        fields=fields,
        schedule=schedule,
        process=schedule,
        kind=_kind(fields),
        levels=partial(_timestep_levels, name, fields, schedule, final),
        start_scale=_one,
        sampler={
            "DDPMScheduler": partial(
                samplers.ddpm, variance="large" if fields.get("variance_type") == "fixed_large" else "small"
            ),
            "DDIMScheduler": partial(samplers.ddim, eta=eta),
            "PNDMScheduler": _without_noise(solvers.plms),
            "LCMScheduler": samplers.consistency,
        }[name],
        limit=limit,
    )


def _timestep_levels(name: str, fields: Mapping[str, Any], schedule: Schedule, final: float, num_steps: int) -> Levels:
    if name == "LCMScheduler":
        return schedule.levels(_distilled_timesteps(fields, num_steps), 1.0)
    timesteps = schedule.timesteps(num_steps, fields["timestep_spacing"], fields["steps_offset"])
    if float(schedule.alphas_cumprod[timesteps[-1]]) >= final:
        timesteps = timesteps[:-1]  # set_alpha_to_one=False ends at timestep 0: from there the last step stands still
    return schedule.levels(timesteps, final)


def _distilled_timesteps(fields: Mapping[str, Any], num_steps: int) -> list[int]:
    """Luo et al. 2023 (LCM), arXiv:2310.04378: a subset of the timesteps that the student was trained on."""
    original = fields["original_inference_steps"]
    if not 1 <= num_steps <= original:
        raise InputError(f"num_steps must be from 1 to original_inference_steps={original}, not {num_steps}.")
    every = fields["num_train_timesteps"] // original
    return [(original - i * original // num_steps) * every - 1 for i in range(num_steps)]


def _consistency_boundary(denoiser: Denoiser, inner: Callable[[Denoiser], Denoiser], scaling: float) -> Denoiser:
    """Make the estimate x itself as t goes to 0 (Song et al. 2023, arXiv:2303.01469, eq. 5; sigma_data = 0.5)."""
    limited = inner(denoiser)

    def bounded(x: Tensor, t: Any, condition: Any = None, /) -> Tensor:
        scaled = t * scaling
        c_skip, c_out = 0.25 / (scaled**2 + 0.25), scaled / (scaled**2 + 0.25) ** 0.5
        return c_out * limited(x, t, condition) + c_skip * x

    return bounded


# --- Samplers over sigma / alpha: between timesteps, with EDM's spacings ---------------------------------------------


def _ratio_plan(name: str, fields: Mapping[str, Any]) -> Plan:
    _only(name, fields, use_beta_sigmas=(False,), interpolation_type=("linear",))
    schedule = _with_floor(_schedule(fields), fields)
    continuous = fields.get("timestep_type") == "continuous" and fields["prediction_type"] == "v_prediction"
    interpolation = "log" if fields.get("use_karras_sigmas") or fields.get("use_exponential_sigmas") else "linear"
    told = quarter_log if continuous else partial(_told_timestep, schedule, interpolation, None)
    offset = fields["timestep_spacing"] == "leading"
    return Plan(
        name=name,
        fields=fields,
        schedule=schedule,
        process=VarianceExploding(),
        kind=replace(_kind(fields), c_in=unit_variance, c_noise=told),
        levels=lambda num_steps: Levels.of(VarianceExploding(), _ratios(fields, schedule, num_steps)),
        start_scale=lambda levels: math.hypot(levels.sigma[0], 1.0) if offset else levels.sigma[0],
        sampler={
            "EulerDiscreteScheduler": _without_noise(solvers.euler),
            "EulerAncestralDiscreteScheduler": samplers.euler_ancestral,
            "HeunDiscreteScheduler": _without_noise(solvers.heun),
            "LMSDiscreteScheduler": _without_noise(solvers.lms),
        }[name],
        limit=_limit(fields),
    )


def _with_floor(schedule: Schedule, fields: Mapping[str, Any]) -> Schedule:
    if not fields.get("rescale_betas_zero_snr"):
        return schedule
    return Schedule(torch.cat([schedule.alphas_cumprod[:-1], torch.tensor([SMALLEST_SHARE], dtype=torch.float64)]))


def _told_timestep(
    schedule: Schedule, interpolation: str, whole: Callable[[float], int] | None, alpha: Any, sigma: Any
) -> Any:
    """Return the timestep of a level; `whole` makes it an integer where the scheduler does."""
    if isinstance(sigma, Tensor):
        told = [_told_timestep(schedule, interpolation, whole, a, s) for a, s in zip(alpha, sigma, strict=True)]
        return torch.tensor(told, device=sigma.device)
    timestep = schedule.timestep_at(sigma / alpha, interpolation)
    return timestep if whole is None else float(whole(timestep))


def _ratios(fields: Mapping[str, Any], schedule: Schedule, num_steps: int) -> list[float]:
    if fields["timestep_spacing"] == "linspace":
        timesteps = torch.linspace(schedule.num_timesteps - 1, 0, num_steps, dtype=torch.float64).tolist()
    else:
        timesteps = schedule.timesteps(num_steps, fields["timestep_spacing"], fields["steps_offset"]).tolist()
    ratios = [schedule.ratio_at(timestep) for timestep in timesteps]
    low, high = fields.get("sigma_min") or ratios[-1], fields.get("sigma_max") or ratios[0]
    last = float(schedule.ratios[0]) if fields.get("final_sigmas_type") == "sigma_min" else 0.0
    return [*_respaced(fields, ratios, num_steps, low, high), last]


def _respaced(fields: Mapping[str, Any], ratios: list[float], num_steps: int, low: float, high: float) -> list[float]:
    if fields.get("use_karras_sigmas"):
        return karras_sigmas(num_steps, low, high)
    if fields.get("use_exponential_sigmas"):
        return exponential_sigmas(num_steps, low, high)
    return ratios


# --- DPM-Solver++ and UniPC: sigma / alpha in variance-preserving coordinates, or a flow ---------------------------


def _multistep_plan(name: str, fields: Mapping[str, Any]) -> Plan:
    _only(
        name,
        fields,
        use_beta_sigmas=(False,),
        use_exponential_sigmas=(False,),  # diffusers tells the network 998 or 999 first, as its rounding falls
        algorithm_type=("dpmsolver++", "sde-dpmsolver++"),
        solver_order=(1, 2) if fields.get("algorithm_type") == "sde-dpmsolver++" else (1, 2, 3),
        solver_type=("midpoint",) if name.startswith("DPM") else ("bh1", "bh2"),
        use_dynamic_shifting=(False,),
        predict_x0=(True,),
        disable_corrector=([],),
        solver_p=(None,),
        shift_terminal=(None,),
        variance_type=(None,),
        sigma_min=(None,),
        sigma_max=(None,),
        lower_order_final=(True,) if name.startswith("Uni") else (True, False),
    )
    if fields["use_karras_sigmas"] or fields.get("use_lu_lambdas"):
        _only(name, fields, beta_schedule=("linear", "scaled_linear"))  # with others diffusers repeats timesteps
    schedule = _with_floor(_schedule(fields), fields)
    flow = fields["use_flow_sigmas"]
    kind = replace(_kind(fields), c_noise=partial(_told_multistep, fields, schedule))
    return Plan(
        name=name,
        fields=fields,
        schedule=schedule,
        process=Flow() if flow else VariancePreserving(),
        kind=kind,
        levels=partial(_flow_multistep_levels if flow else _multistep_levels, name, fields, schedule),
        start_scale=_one,
        sampler=_dpm_sampler(fields)
        if name.startswith("DPM")
        else _without_noise(partial(solvers.unipc, order=fields["solver_order"], variant=fields["solver_type"])),
        limit=_limit(fields),
    )


def _told_multistep(fields: Mapping[str, Any], schedule: Schedule, alpha: Any, sigma: Any) -> Any:
    if fields["use_flow_sigmas"]:
        return int(sigma * fields["num_train_timesteps"])
    respaced = fields["use_karras_sigmas"] or fields.get("use_lu_lambdas")
    return _told_timestep(schedule, "log" if respaced else "linear", round, alpha, sigma)


def _multistep_levels(name: str, fields: Mapping[str, Any], schedule: Schedule, num_steps: int) -> Levels:
    timesteps = _multistep_timesteps(fields, schedule, num_steps)
    ratios = [float(schedule.ratios[timestep]) for timestep in timesteps]
    low, high = float(schedule.ratios[0]), float(schedule.ratios[-1])
    if fields.get("use_lu_lambdas"):  # Lu et al. 2022, arXiv:2206.00927: equal steps of log(alpha / sigma)
        ratios = exponential_sigmas(num_steps, low, high)
    ratios = _respaced(fields, ratios, num_steps, low, high)
    if fields["use_karras_sigmas"]:
        _only(name, fields, final_sigmas_type=("zero",))  # the last step of the other kind stands still
    last = low if fields["final_sigmas_type"] == "sigma_min" else 0.0
    return Levels.of(VariancePreserving(), [*ratios, last])


def _multistep_timesteps(fields: Mapping[str, Any], schedule: Schedule, num_steps: int) -> list[int]:
    """These schedulers space one step more than they take and drop the cleanest, except for `"trailing"`."""
    lowest = fields.get("lambda_min_clipped", -math.inf)
    total = sum(1 for ratio in schedule.ratios.tolist() if -math.log(ratio) >= lowest)
    spacing, count = fields["timestep_spacing"], torch.arange(num_steps, dtype=torch.float64)
    if not 1 <= num_steps < total:
        raise InputError(f"num_steps must be from 1 to {total - 1}, not {num_steps}.")
    if spacing == "linspace":
        return torch.linspace(0, total - 1, num_steps + 1, dtype=torch.float64).round().long().flip(0)[:-1].tolist()
    if spacing == "leading":
        return ((num_steps - count) * (total // (num_steps + 1)) + fields["steps_offset"]).long().tolist()
    if spacing == "trailing":
        chosen = (total - count * (schedule.num_timesteps / num_steps)).round().long() - 1
        return chosen[chosen >= 0].tolist()
    raise unknown("timestep_spacing", spacing, ("linspace", "leading", "trailing"))


def _flow_multistep_levels(name: str, fields: Mapping[str, Any], _schedule: Schedule, num_steps: int) -> Levels:
    total = fields["num_train_timesteps"]
    if name.startswith("DPM"):
        even = [(1 - 1 / total) * (num_steps - i) / num_steps for i in range(num_steps)]
    else:
        even = [1 - (1 - 1 / total) * i / num_steps for i in range(num_steps)]
    times = shift_times(even, fields["flow_shift"])
    times[0] -= 1e-6 if abs(times[0] - 1) < 1e-6 else 0.0  # as diffusers, to keep log(alpha) finite
    _only(name, fields, final_sigmas_type=("zero",), use_karras_sigmas=(False,))
    return Levels.of(Flow(), [*times, 0.0])


def _dpm_sampler(fields: Mapping[str, Any]) -> Callable[..., Tensor]:
    def sample(
        denoiser: Denoiser, x: Tensor, levels: Levels, condition: Any, *, noise: Any = None, callback: Any = None
    ) -> Tensor:
        stochastic = fields["algorithm_type"] == "sde-dpmsolver++"
        assert not stochastic or noise is not None, "this scheduler draws noise: give a noise source"
        return solvers.dpm_solver_pp(
            denoiser,
            x,
            levels,
            condition,
            order=fields["solver_order"],
            noise=noise if stochastic else None,
            lower_order_final=fields["lower_order_final"] and len(levels) < 15,
            euler_at_final=fields["euler_at_final"],
            callback=callback,
        )

    return sample


# --- EDM and flows ---------------------------------------------------------------------------------------------------


def _edm_plan(name: str, fields: Mapping[str, Any]) -> Plan:
    _only(
        name,
        fields,
        prediction_type=("epsilon", "v_prediction"),
        sigma_schedule=("karras", "exponential"),
        algorithm_type=("dpmsolver++", "sde-dpmsolver++"),
        solver_order=(1, 2),
        solver_type=("midpoint",),
    )
    low, high = fields["sigma_min"], fields["sigma_max"]

    def levels(num_steps: int) -> Levels:
        karras = fields["sigma_schedule"] == "karras"
        sigmas = (
            karras_sigmas(num_steps, low, high, fields["rho"]) if karras else exponential_sigmas(num_steps, low, high)
        )
        if fields["final_sigmas_type"] == "sigma_min":
            raise InputError(
                f"{name} with final_sigmas_type='sigma_min' would stand still in its last step; use 'zero'."
            )
        return Levels.of(VarianceExploding(), [*sigmas, 0.0])

    return Plan(
        name=name,
        fields=fields,
        schedule=None,
        process=VarianceExploding(),
        kind=edm(fields["sigma_data"], sign=1.0 if fields["prediction_type"] == "epsilon" else -1.0),
        levels=levels,
        start_scale=lambda levels: math.hypot(levels.sigma[0], 1.0),
        sampler=_without_noise(solvers.euler) if name == "EDMEulerScheduler" else _dpm_sampler(fields),
        limit=_limit(fields),
    )


def _flow_plan(name: str, fields: Mapping[str, Any]) -> Plan:
    _only(
        name,
        fields,
        use_dynamic_shifting=(False,),
        invert_sigmas=(False,),
        shift_terminal=(None,),
        use_karras_sigmas=(False,),
        use_exponential_sigmas=(False,),
        use_beta_sigmas=(False,),
    )
    total, shift = fields["num_train_timesteps"], fields["shift"]

    def levels(num_steps: int) -> Levels:
        cleanest = shift_times([1 / total], shift)[0]  # shifted here and once more below, as diffusers does
        even = torch.linspace(1.0, cleanest, num_steps, dtype=torch.float64).tolist()
        return Levels.of(Flow(), [*shift_times(even, shift), 0.0])

    solver = solvers.heun if name == "FlowMatchHeunDiscreteScheduler" else solvers.euler
    return Plan(
        name=name,
        fields=fields,
        schedule=None,
        process=Flow(),
        kind=replace(KINDS["velocity"], c_noise=lambda alpha, sigma: sigma * total),
        levels=levels,
        start_scale=_one,
        sampler=samplers.consistency if fields.get("stochastic_sampling") else _without_noise(solver),
        limit=lambda denoiser: denoiser,
    )
