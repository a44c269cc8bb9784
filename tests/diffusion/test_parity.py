"""Full trajectories against every scheduler of diffusers that samples continuous data, with one fixed network.

`python tests/diffusion/test_parity.py` writes the table of what was compared to docs/process/parity.md.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from diffusers import schedulers
from einops import rearrange

from kineograph.diffusion import scheduler_config
from kineograph.diffusion.adapter import run_scheduler, scheduler_from_config
from kineograph.diffusion.noise import ClipGenerators, iid
from kineograph.errors import InputError

SEEDS = (3, 8)
SHAPE = (3, 4, 6, 5)


def fixed_network(dtype: torch.dtype, channels_out: int = 4):
    """A convolution, a shift by t and a bounded non-linearity, with every weight random."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(8, 4, 3, 3, generator=generator, dtype=torch.float64).to(dtype) / 6
    second = torch.randn(channels_out, 8, 3, 3, generator=generator, dtype=torch.float64).to(dtype) / 8
    bias = torch.randn(8, generator=generator, dtype=torch.float64).to(dtype)

    def network(x, t, condition=None):
        frames = rearrange(x, "b f c h w -> (b f) c h w")
        shift = torch.sin(bias * (1 + float(t) / 250))[:, None, None]
        hidden = torch.tanh(torch.nn.functional.conv2d(frames, first, padding=1) + shift)
        output = torch.nn.functional.conv2d(hidden, second, padding=1)
        return rearrange(output, "(b f) c h w -> b f c h w", b=len(x))

    return network


@dataclass(frozen=True)
class Case:
    name: str
    config: dict = field(default_factory=dict)
    steps: int = 20
    arguments: dict = field(default_factory=dict)
    double: bool = False
    native: bool = True
    tolerance: float = 1e-5

    @property
    def label(self) -> str:
        known = SD if SD.items() <= self.config.items() else {}
        words = ["betas of Stable Diffusion"] if known else []
        words += [f"{k}={v}" for k, v in {**self.config, **self.arguments}.items() if k not in known]
        return ", ".join([*words, f"steps={self.steps}"])


SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
OFF = {"clip_sample": False}
V, X0 = {"prediction_type": "v_prediction"}, {"prediction_type": "sample"}
TRAIL, LEAD = {"timestep_spacing": "trailing"}, {"timestep_spacing": "leading"}
KARRAS, EXPONENTIAL = {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
DPM, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
EULER, ANCESTRAL, HEUN, LMS = (f"{name}DiscreteScheduler" for name in ("Euler", "EulerAncestral", "Heun", "LMS"))
RECOMPUTED = {"use_clipped_model_output": True}
NATIVE = [
    Case("DDPMScheduler", {**SD, **OFF}),
    Case("DDPMScheduler", {}, 50),
    Case("DDPMScheduler", {**COSINE, **V, **OFF, "variance_type": "fixed_large"}, 25),
    Case("DDPMScheduler", {**SD, **TRAIL, **V, **OFF, "rescale_betas_zero_snr": True}, 10),
    Case("DDPMScheduler", {"thresholding": True, "sample_max_value": 1.4}, 25),
    Case("DDPMScheduler", {**OFF, **X0}, 30, double=True),
    Case("DDPMScheduler", {"beta_schedule": "sigmoid", "clip_sample_range": 2.0}, 20),
    Case("DDIMScheduler", {**SD, **OFF, "steps_offset": 1, "set_alpha_to_one": False}, 50),
    Case("DDIMScheduler", {**SD, **OFF, "set_alpha_to_one": False}, 25),
    Case("DDIMScheduler", {**SD, **OFF, **TRAIL, **V, "rescale_betas_zero_snr": True}, 50),
    Case("DDIMScheduler", {}, 20, RECOMPUTED),
    Case("DDIMScheduler", {**SD, **OFF}, 20, {"eta": 0.7}),
    Case("DDIMScheduler", {**SD, **OFF, **X0, **TRAIL}, 20, {"eta": 1.0}, double=True),
    Case("DDIMScheduler", {**SD, **OFF, **V}, 40, double=True),
    Case("PNDMScheduler", {**SD, "skip_prk_steps": True, "steps_offset": 1}, 25),
    Case("PNDMScheduler", {**SD, "skip_prk_steps": True, "steps_offset": 1}, 25, double=True),
    Case("PNDMScheduler", {**SD, "skip_prk_steps": True, "set_alpha_to_one": True}, 20),
    Case("LCMScheduler", {}, 4),
    Case("LCMScheduler", {**V, "original_inference_steps": 100}, 8),
    Case(EULER, SD, 20),
    Case(EULER, {**SD, **LEAD, "steps_offset": 1}, 30),
    Case(EULER, {**SD, **KARRAS, **V}, 25),
    Case(EULER, {**SD, **EXPONENTIAL, **TRAIL}, 25),
    Case(EULER, {**SD, **TRAIL, **V, "rescale_betas_zero_snr": True}, 10, tolerance=3e-5),
    Case(
        EULER, {**SD, **KARRAS, **V, **LEAD, "sigma_min": 0.002, "sigma_max": 700.0, "timestep_type": "continuous"}, 25
    ),
    Case(EULER, {**SD, **X0, "final_sigmas_type": "sigma_min", **TRAIL}, 20),
    Case(ANCESTRAL, SD, 20),
    Case(ANCESTRAL, {**SD, **TRAIL, **V, "rescale_betas_zero_snr": True}, 15),
    Case(HEUN, SD, 15),
    Case(HEUN, {**SD, **KARRAS, **V}, 15),
    Case(HEUN, {**SD, **V, **TRAIL}, 20, double=True),
    Case(HEUN, {**SD, "clip_sample": True, **EXPONENTIAL}, 12),
    Case(LMS, SD, 20),
    Case(LMS, {**SD, **KARRAS}, 20),
    Case(LMS, {**SD, **LEAD}, 20, double=True),
    Case(DPM, SD, 20),
    Case(DPM, {**SD, **KARRAS}, 20),
    Case(DPM, {**SD, **V, **TRAIL}, 12),
    Case(DPM, {**SD, **LEAD, "steps_offset": 1, "euler_at_final": True}, 20),
    Case(DPM, {**COSINE, "lambda_min_clipped": -5.1, "thresholding": True, "sample_max_value": 1.5}, 20),
    Case(DPM, {**SD, "solver_order": 1, **X0}, 20),
    Case(DPM, {**SD, "solver_order": 3}, 20),
    Case(DPM, {**SD, **KARRAS, **V, "solver_order": 3}, 12),
    Case(DPM, {**SD, **LEAD, "solver_order": 3, "lower_order_final": False}, 12),
    Case(DPM, {**SD, "use_lu_lambdas": True}, 20),
    Case(DPM, {**SD, "final_sigmas_type": "sigma_min"}, 20),
    Case(DPM, {**SD, **TRAIL, **V, "rescale_betas_zero_snr": True}, 20),
    Case(DPM, {**SD, "algorithm_type": "sde-dpmsolver++"}, 20),
    Case(DPM, {**SD, "algorithm_type": "sde-dpmsolver++", **KARRAS, **V}, 25),
    Case(DPM, {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}, 20),
    Case(UNIPC, SD, 20),
    Case(UNIPC, {**SD, "solver_order": 3}, 20, double=True),
    Case(UNIPC, {**SD, "solver_type": "bh1", **V, "final_sigmas_type": "sigma_min"}, 20, double=True),
    Case(UNIPC, {**SD, **KARRAS, "solver_order": 3}, 12),
    Case(UNIPC, {**SD, "final_sigmas_type": "sigma_min", **TRAIL}, 12),
    Case(UNIPC, {"use_flow_sigmas": True, "flow_shift": 5.0, "prediction_type": "flow_prediction"}, 20),
    Case("EDMEulerScheduler", {}, 18),
    Case("EDMEulerScheduler", {"sigma_schedule": "exponential", **V, "sigma_data": 1.0}, 18),
    Case("EDMDPMSolverMultistepScheduler", {}, 20),
    Case("EDMDPMSolverMultistepScheduler", {**V, "sigma_data": 0.7}, 20, double=True),
    Case("EDMDPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, 20),
    Case("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, 28),
    Case("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, 8),
    Case("FlowMatchHeunDiscreteScheduler", {"shift": 2.0}, 12),
]
ADAPTED = [
    Case("DDIMParallelScheduler", OFF, native=False),
    Case("DDPMParallelScheduler", OFF, native=False),
    Case("DDIMScheduler", {**SD, **OFF, "timestep_spacing": "linspace"}, native=False),
    Case("PNDMScheduler", SD, native=False),
    Case("DPMSolverSinglestepScheduler", SD, native=False),
    Case(DPM, {**SD, "solver_order": 3, "algorithm_type": "sde-dpmsolver++"}, native=False),
    Case(DPM, {**SD, "use_beta_sigmas": True}, native=False),
    Case(DPM, {**SD, **EXPONENTIAL}, native=False),
    Case("DEISMultistepScheduler", SD, native=False),
    Case("SASolverScheduler", SD, native=False),
    Case("KDPM2DiscreteScheduler", SD, native=False),
    Case("KDPM2AncestralDiscreteScheduler", SD, native=False),
    Case("IPNDMScheduler", {}, native=False),
    Case("TCDScheduler", {}, 4, {"eta": 0.3}, native=False),
    Case("CogVideoXDDIMScheduler", OFF, native=False),
    Case("FlowMatchLCMScheduler", {}, 4, native=False),
    Case("LTXEulerAncestralRFScheduler", {}, native=False),
    Case("CMStochasticIterativeScheduler", {}, 4, native=False),
]
NOT_COMPARED = {
    "DPMSolverSDEScheduler, CosineDPMSolverMultistepScheduler": "need torchsde, which is not installed",
    "DPMSolverMultistepInverseScheduler": "solver backwards; DDIM inversion is compared in test_inversion.py",
    "DDIMInverseScheduler": "compared in test_inversion.py",
    "RePaintScheduler, SCMScheduler, CogVideoXDPMScheduler, UnCLIPScheduler, KarrasVeScheduler, ScoreSde*": "their "
    "`step` needs more than an output, a time and a state, so no generic loop can drive them",
    "AmusedScheduler, VQDiffusionScheduler, BlockRefinement, EntropyBound, DiscreteDDIM": "discrete data",
}


def config_of(case: Case) -> dict:
    return {"_class_name": case.name, "_diffusers_version": "0.42.0", **case.config}


def ours(case: Case, network, x):
    arguments = dict(case.arguments)
    arguments.pop("use_clipped_model_output", None)
    if not case.native:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler = scheduler_from_config(config_of(case))
            return run_scheduler(
                scheduler, network, x, case.steps, generators=ClipGenerators(SEEDS), step_arguments=arguments
            )
    plan = scheduler_config.read(config_of(case))
    if arguments:
        sampler = plan.sampler
        plan = scheduler_config.replace(plan, sampler=lambda *a, **k: sampler(*a, **k, **arguments))
    return plan.sample(plan.denoiser(network), x, case.steps, noise=ClipGenerators(SEEDS))


def theirs(case: Case, network, x):
    """The loop of a diffusers pipeline, written out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = getattr(schedulers, case.name)(**case.config)
        if case.double:
            table = scheduler_config.read(config_of(case)).schedule
            if table is not None:
                scheduler.alphas_cumprod = table.alphas_cumprod
                scheduler.final_alpha_cumprod = (
                    torch.tensor(1.0, dtype=torch.float64)
                    if scheduler.config.get("set_alpha_to_one", True)
                    else table.alphas_cumprod[0]
                )
        scheduler.set_timesteps(case.steps)
        if case.double and hasattr(scheduler, "sigmas"):
            levels = scheduler_config.read(config_of(case)).levels(case.steps)
            ratios = [s / a for a, s in zip(levels.alpha, levels.sigma, strict=True)]
            doubled = ratios if len(scheduler.sigmas) == len(ratios) else heun_doubling(ratios)
            scheduler.sigmas = torch.tensor(doubled, dtype=torch.float64)
        arguments = dict(case.arguments)
        if "generator" in inspect.signature(scheduler.step).parameters:
            arguments["generator"] = ClipGenerators(SEEDS).generators
        x = x * getattr(scheduler, "init_noise_sigma", 1.0)
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(network(scaled, t), t, x, **arguments).prev_sample
    return x


def heun_doubling(ratios):
    return [ratios[0], *(r for ratio in ratios[1:-1] for r in (ratio, ratio)), ratios[-1]]


def difference(case: Case) -> float:
    """Largest difference over the largest value."""
    dtype = torch.float64 if case.double else torch.float32
    network, x = fixed_network(dtype), iid(SHAPE, SEEDS, dtype=dtype)
    reference = theirs(case, network, x)
    assert reference.dtype == dtype
    result = ours(case, network, x)
    assert result.dtype == dtype
    return float((result - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize("case", NATIVE + ADAPTED, ids=lambda case: f"{case.name}-{case.label}")
def test_trajectory(case):
    assert difference(case) < (1e-10 if case.double else case.tolerance)


@pytest.mark.parametrize("name", scheduler_config.FIELDS)
def test_fields_and_defaults_are_those_of_diffusers(name):
    parameters = inspect.signature(getattr(schedulers, name).__init__).parameters
    assert scheduler_config.FIELDS[name] == {k: p.default for k, p in parameters.items() if k != "self"}


def table() -> str:
    import diffusers

    lines = [
        "# Parity with diffusers' schedulers",
        "",
        f"Made by `python tests/diffusion/test_parity.py` with diffusers {diffusers.__version__} and torch "
        f"{torch.__version__}. Each row is a whole trajectory from the same noise through the same small random "
        "network; the difference is the largest one over the largest value. *float64* rows give diffusers' formulas "
        "our float64 tables, because its own are float32. *adapter* rows run the scheduler itself through "
        "`diffusion.adapter.run_scheduler`.",
        "",
        "| scheduler | configuration | through | dtype | difference |",
        "| --- | --- | --- | --- | --: |",
    ]
    for case in NATIVE + ADAPTED:
        dtype = "float64" if case.double else "float32"
        through = "own solver" if case.native else "adapter"
        lines.append(f"| {case.name} | {case.label} | {through} | {dtype} | {difference(case):.1e} |")
    lines += [
        "",
        "The one row above 1e-5 is diffusers' own rounding: it keeps x at sigma = 4096 in float32. There our float32 "
        "trajectory is 3e-7 from our float64 one, and theirs 1e-5 to 2e-5, as the processor rounds.",
    ]
    lines += [
        "",
        "Two habits of diffusers' DDIMScheduler are not ours. Its step jumps `1000 // steps` timesteps even where the "
        "next chosen timestep lies elsewhere (`linspace`, or a number of steps that does not divide 1000); ours goes "
        "to the next chosen one. And with `clip_sample` it keeps the noise of the unclipped estimate unless told "
        "`use_clipped_model_output`; ours always recomputes it. The adapter gives diffusers' way of both.",
    ]
    lines += ["", "Not compared here:", ""]
    lines += [f"* {name}: {why}." for name, why in NOT_COMPARED.items()]
    return "\n".join(lines) + "\n"


def test_zero_terminal_snr_in_float32_is_close_to_float64():
    case = next(case for case in NATIVE if case.tolerance > 1e-5)
    x = iid(SHAPE, SEEDS)
    exact = ours(case, fixed_network(torch.float64), x.double())
    assert (ours(case, fixed_network(torch.float32), x) - exact).abs().max() < 1e-6 * exact.abs().max()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_runs_of_one_scheduler_do_not_disturb_each_other():
    scheduler = scheduler_from_config(config_of(Case("DEISMultistepScheduler", SD)))
    network, x = fixed_network(torch.float32), iid(SHAPE, SEEDS)
    first = run_scheduler(scheduler, network, x, 8)
    assert torch.equal(run_scheduler(scheduler, network, x, 8), first)
    assert scheduler.num_inference_steps is None


def test_inherited_fields_of_published_checkpoints_are_read():
    """Stable Diffusion 1.5, ModelScope and SVD carry fields of the schedulers that they were converted from."""
    inherited = {**SD, "steps_offset": 1, "trained_betas": None, "skip_prk_steps": True, "set_alpha_to_one": False}
    for name, extra in {
        "PNDMScheduler": {"clip_sample": False},
        "DDIMScheduler": {"clip_sample": False, "prediction_type": "epsilon"},
        EULER: {"clip_sample": False, "sigma_min": 0.002, "sigma_max": 700.0, "use_karras_sigmas": True},
    }.items():
        plan = scheduler_config.read({"_class_name": name, **inherited, **extra})
        assert len(plan.levels(25)) == 25
        torch.testing.assert_close(plan.schedule.betas[[0, -1]], torch.tensor([0.00085, 0.012], dtype=torch.float64))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "DDIMSchedular"}, "did you mean 'DDIMScheduler'"),
        ({"_class_name": "DDIMScheduler", "beta_stat": 0.1}, "did you mean 'beta_start'"),
        ({"_class_name": "DDIMScheduler", "use_karras_sigmas": True}, "does not read 'use_karras_sigmas'"),
        ({"_class_name": DPM, "solver_order": 3, "algorithm_type": "sde-dpmsolver++"}, "run_scheduler"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "vprediction"}, "did you mean 'v_prediction'"),
        ({"_class_name": "DDIMScheduler", "beta_schedule": "scaled-linear"}, "did you mean 'scaled_linear'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(config, message):
    with pytest.raises(InputError, match=message):
        scheduler_config.read(config)


if __name__ == "__main__":
    page = Path(__file__).parents[2] / "docs" / "process" / "parity.md"
    page.write_text(table(), encoding="utf-8")
