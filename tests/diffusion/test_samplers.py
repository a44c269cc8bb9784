"""Samplers against closed forms: Gaussian data, whose exact denoiser is known."""

import math

import pytest
import torch

from kineograph.diffusion.denoiser import NetworkDenoiser
from kineograph.diffusion.inversion import bdia, ddim_inversion, edict
from kineograph.diffusion.levels import Levels
from kineograph.diffusion.noise import ClipGenerators, iid
from kineograph.diffusion.parameterization import add_noise
from kineograph.diffusion.process import (
    CosineLogSNR,
    Flow,
    VarianceExploding,
    VariancePreserving,
    exponential_sigmas,
    karras_sigmas,
    uniform_times,
)
from kineograph.diffusion.samplers import consistency, ddim, ddpm, euler_ancestral
from kineograph.diffusion.schedule import Schedule
from kineograph.diffusion.solvers import Churn, dpm_solver_pp, euler, heun, lms, plms, unipc
from kineograph.errors import InputError

MEAN, DEVIATION = 0.4, 0.6
SEEDS = (1, 2)


def gaussian_denoiser(process, mean=MEAN, deviation=DEVIATION):
    """E[x0 | x] for independent data N(mean, deviation^2)."""

    def denoiser(x, t, condition=None):
        alpha, sigma = process.alpha_sigma(t)
        gain = alpha * deviation**2 / ((alpha * deviation) ** 2 + sigma**2)
        return mean + gain * (x - alpha * mean)

    return denoiser


def exact_flow(x, levels, mean=MEAN, deviation=DEVIATION):
    """The solution of the probability-flow equation for Gaussian data: x keeps its place in the distribution."""
    alpha, sigma, alpha_to, sigma_to = levels.alpha[0], levels.sigma[0], levels.alpha[-1], levels.sigma[-1]
    start, end = math.hypot(alpha * deviation, sigma), math.hypot(alpha_to * deviation, sigma_to)
    return alpha_to * mean + end / start * (x - alpha * mean)


def noise(like, seed=5):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=like.dtype)


PROCESSES = {
    "edm": (VarianceExploding(), lambda n: exponential_sigmas(n + 1, 0.02, 20.0)),
    "vp": (VariancePreserving(), lambda n: exponential_sigmas(n + 1, 0.02, 20.0)),
    "flow": (Flow(), lambda n: [*uniform_times(n, 0.95, 0.05), 0.05]),
    "cosine": (CosineLogSNR(), lambda n: [*uniform_times(n, 0.95, 0.05), 0.05]),
}
ORDERS = {euler: 1, ddim: 1, heun: 2, dpm_solver_pp: 2, unipc: 2, plms: 2, lms: 2}


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("solver", ORDERS, ids=lambda solver: solver.__name__)
def test_measured_order_of_convergence(solver, process):
    """The error at the end falls like steps^-order; measured between 256 and 1024 steps in float64.

    The multistep methods start with a step of order 1, whose error is quadratic: that is all of it in the end.
    """
    assert order(solver, process) > ORDERS[solver] - 0.15


def order(solver, process):
    errors = [error(solver, process, steps) for steps in (256, 1024)]
    return math.log(errors[0] / errors[1]) / math.log(4)


def error(solver, name, steps):
    process, times = PROCESSES[name]
    levels = Levels.of(process, times(steps))
    x = noise(torch.empty(64, dtype=torch.float64)) * levels.sigma[0]
    result = solver(gaussian_denoiser(process), x, levels)
    return float((result - exact_flow(x, levels)).abs().max())


def test_euler_and_ddim_are_of_order_one_not_two():
    for process in PROCESSES:
        assert 0.85 < order(euler, process) < 1.15
        assert 0.85 < order(ddim, process) < 1.15


@pytest.mark.parametrize("bend", [0.0, 0.2])
def test_third_order_is_exact_where_x0_is_a_line_and_takes_half_the_bend_of_a_parabola(bend):
    """From its third step on; with u the log of alpha / sigma, x is `sigma` times the integral of `exp(u) x0(u)`."""
    levels = Levels.of(VariancePreserving(), exponential_sigmas(6, 0.2, 5.0))
    log_snr = [math.log(alpha / sigma) for alpha, sigma in zip(levels.alpha, levels.sigma, strict=True)]
    told = dict(zip(levels.t, log_snr, strict=True))
    parabola = lambda x, t, _=None: torch.full_like(x, 0.3 - 0.7 * told[t] + bend * told[t] ** 2)
    area = lambda u: math.exp(u) * (0.3 - 0.7 * (u - 1) + bend * (u**2 - 2 * u + 2))
    states = [torch.tensor([0.8], dtype=torch.float64)]
    dpm_solver_pp(parabola, states[0], levels, order=3, callback=lambda step: states.append(step.x))
    for i in range(2, 5):
        h = log_snr[i + 1] - log_snr[i]
        missing = levels.alpha[i + 1] * bend * (h**2 / 2 - h + 1 - math.exp(-h))
        exact = levels.sigma[i + 1] * (states[i] / levels.sigma[i] + area(log_snr[i + 1]) - area(log_snr[i]))
        torch.testing.assert_close(states[i + 1] + missing, exact, rtol=1e-12, atol=1e-12)


def test_euler_is_ddim_and_is_the_first_order_solver():
    levels = Levels.of(Flow(), [*uniform_times(12), 0.0])
    x, denoiser = iid((2, 3, 4, 4), SEEDS), gaussian_denoiser(Flow())
    by_hand = x
    for t, t_to in zip(levels.t, levels.t[1:], strict=False):
        by_hand = by_hand + (t_to - t) * (by_hand - denoiser(by_hand, t)) / t
    torch.testing.assert_close(euler(denoiser, x, levels), by_hand, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ddim(denoiser, x, levels), by_hand, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dpm_solver_pp(denoiser, x, levels, order=1), by_hand, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", [ddim, euler, heun, dpm_solver_pp, unipc, plms, lms], ids=lambda s: s.__name__)
def test_coordinates_do_not_matter_where_none_are_meant(solver):
    """Scaling x along the way changes nothing, except for Heun's average and its relatives of equal order."""
    sigmas = [*karras_sigmas(12, 0.01, 40.0), 0.0]
    x = iid((2, 3, 4, 4), SEEDS, dtype=torch.float64)
    exploding, preserving = Levels.of(VarianceExploding(), sigmas), Levels.of(VariancePreserving(), sigmas)
    one = solver(gaussian_denoiser(VarianceExploding()), x * exploding.sigma[0], exploding)
    other = solver(gaussian_denoiser(VariancePreserving()), x * preserving.sigma[0], preserving)
    difference = float((one - other).abs().max())
    assert difference < (0.2 if solver in (heun,) else 1e-9)


@pytest.mark.parametrize("solver", [ddim, euler, heun, dpm_solver_pp, unipc, plms, lms], ids=lambda s: s.__name__)
def test_one_datum_is_hit(solver):
    """With a single point as data the denoiser is constant and every solver lands on it."""
    levels = Levels.of(VariancePreserving(), [*karras_sigmas(9, 0.01, 40.0), 0.0])
    datum = noise(torch.empty(2, 3, 2, 4, 4, dtype=torch.float64))
    result = solver(lambda x, t, condition=None: datum, iid((3, 2, 4, 4), SEEDS, dtype=torch.float64), levels)
    torch.testing.assert_close(result, datum, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", [ddim, heun, dpm_solver_pp, unipc], ids=lambda s: s.__name__)
def test_zero_terminal_snr_is_no_special_case(solver):
    schedule = Schedule.named("scaled_linear").rescale_zero_terminal_snr()
    levels = schedule.levels(schedule.timesteps(250, "trailing"))
    assert levels.alpha[0] == 0
    x = iid((2, 2, 8, 8), SEEDS, dtype=torch.float64)
    denoiser = gaussian_denoiser(schedule)
    result = solver(denoiser, x, levels)
    assert (result - exact_flow(x, levels)).abs().max() < 0.05


MANY = 10_000


@pytest.mark.parametrize(
    ("steps", "variance", "deviation"),
    [
        (1000, "small", DEVIATION),
        (1000, "large", DEVIATION),
        (1000, 0.3, DEVIATION),
        (100, "small", 0.0),
        (100, "large", 1.0),
    ],
)
def test_ddpm_mean_and_variance(steps, variance, deviation):
    """With the exact denoiser, ancestral sampling reproduces the data's mean and deviation within sampling error.

    At 1000 steps for any data; with few steps the posterior variance is right for data that are one point, the forward
    variance for data of variance 1 (Ho et al. 2020, sec. 3.2).
    """
    schedule = Schedule.named("linear")
    levels = schedule.levels(schedule.timesteps(steps, "leading"))
    x = noise(torch.empty(1, MANY, dtype=torch.float64))
    result = ddpm(
        gaussian_denoiser(schedule, deviation=deviation), x, levels, noise=ClipGenerators([3]), variance=variance
    )
    error_of_mean = max(deviation, 0.01) / math.sqrt(MANY)
    assert abs(float(result.mean()) - MEAN) < 5 * error_of_mean
    assert float(result.std()) == pytest.approx(deviation, rel=5 / math.sqrt(2 * MANY) + 0.005, abs=0.011)


@pytest.mark.parametrize("sampler", ["ddim1", "sde", "ancestral"])
def test_stochastic_samplers_keep_the_distribution(sampler):
    process = VariancePreserving()
    levels = Levels.of(process, [*exponential_sigmas(200, 0.005, 50.0), 0.0])
    x, fresh = noise(torch.empty(1, MANY, dtype=torch.float64)), ClipGenerators([4])
    denoiser = gaussian_denoiser(process)
    if sampler == "ddim1":
        result = ddim(denoiser, x, levels, eta=1.0, noise=fresh)
    elif sampler == "sde":
        result = dpm_solver_pp(denoiser, x, levels, noise=fresh)
    else:
        result = euler_ancestral(denoiser, x, levels, noise=fresh)
    assert abs(float(result.mean()) - MEAN) < 5 * DEVIATION / math.sqrt(MANY) + 0.01
    assert float(result.std()) == pytest.approx(DEVIATION, rel=0.03)


def test_ddim_with_eta_one_is_ddpm_with_small_variance():
    schedule = Schedule.named("scaled_linear")
    levels = schedule.levels(schedule.timesteps(13))
    x, denoiser = iid((2, 3, 4, 4), SEEDS, dtype=torch.float64), gaussian_denoiser(schedule)
    one = ddim(denoiser, x, levels, eta=1.0, noise=ClipGenerators(SEEDS))
    torch.testing.assert_close(one, ddpm(denoiser, x, levels, noise=ClipGenerators(SEEDS)), rtol=1e-10, atol=1e-10)


def test_churn_keeps_the_distribution_and_changes_the_sample():
    levels = Levels.of(VarianceExploding(), [*karras_sigmas(200, 0.005, 60.0), 0.0])
    x = noise(torch.empty(1, MANY, dtype=torch.float64)) * 60
    denoiser = gaussian_denoiser(VarianceExploding())
    still = heun(denoiser, x, levels)
    for solver in (heun, euler):
        churned = solver(denoiser, x, levels, churn=Churn(20.0, ClipGenerators([7])))
        assert (churned - still).abs().max() > 0.1
        assert float(churned.mean()) == pytest.approx(MEAN, abs=0.03)
        assert float(churned.std()) == pytest.approx(DEVIATION, rel=0.08)
    outside = heun(denoiser, x, levels, churn=Churn(20.0, ClipGenerators([7]), low=1e3))
    assert torch.equal(outside, still)


def test_learned_variance_between_small_and_large():
    """A share of 0 is the small variance, 1 the large one, and a tensor may differ from pixel to pixel."""
    schedule = Schedule.named("linear")
    levels = schedule.levels(schedule.timesteps(10, "leading"))
    x, plain = iid((2, 3, 4, 4), SEEDS, dtype=torch.float64), gaussian_denoiser(schedule)
    for share, variance in ((0.0, "small"), (1.0, "large"), (0.4, 0.4)):
        learned = ddpm(
            lambda x, t, c, share=share: (plain(x, t), torch.full_like(x, share)),
            x,
            levels,
            noise=ClipGenerators(SEEDS),
        )
        fixed = ddpm(plain, x, levels, noise=ClipGenerators(SEEDS), variance=variance)
        torch.testing.assert_close(learned, fixed, rtol=1e-9, atol=1e-9)


def test_consistency_sampling_renews_the_noise():
    levels = Levels.of(VariancePreserving(), [*karras_sigmas(4, 0.1, 50.0), 0.0])
    datum, x = noise(torch.empty(2, 3, 2, 4, 4)), iid((3, 2, 4, 4), SEEDS)
    states = []
    consistency(lambda *_: datum, x, levels, noise=ClipGenerators(SEEDS), callback=lambda step: states.append(step.x))
    draws = ClipGenerators(SEEDS)
    expected = add_noise(datum, draws(x), levels.alpha[1], levels.sigma[1])
    torch.testing.assert_close(states[0], expected)
    torch.testing.assert_close(states[-1], datum)
    halfway = consistency(lambda *_: datum, x, levels, noise=draws, gamma=0.0)
    torch.testing.assert_close(halfway, ddim(lambda *_: datum, x, levels))


SAMPLERS = {
    "ddpm": lambda d, x, levels, seeds: ddpm(d, x, levels, noise=ClipGenerators(seeds)),
    "ddim": lambda d, x, levels, seeds: ddim(d, x, levels, eta=0.5, noise=ClipGenerators(seeds)),
    "sde": lambda d, x, levels, seeds: dpm_solver_pp(d, x, levels, noise=ClipGenerators(seeds)),
    "unipc": lambda d, x, levels, seeds: unipc(d, x, levels),
    "heun": lambda d, x, levels, seeds: heun(d, x, levels),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_seed_is_a_clip_whatever_the_batch(name):
    schedule = Schedule.named("scaled_linear")
    levels = schedule.levels(schedule.timesteps(8))
    denoiser = gaussian_denoiser(schedule)
    together = SAMPLERS[name](denoiser, iid((2, 3, 4, 4), [5, 9, 11]), levels, [5, 9, 11])
    alone = SAMPLERS[name](denoiser, iid((2, 3, 4, 4), [9]), levels, [9])
    assert torch.equal(together[1:2], alone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_precision_of_the_state(dtype):
    schedule = Schedule.named("scaled_linear")
    seen = []
    network = NetworkDenoiser(lambda x, t, c: torch.zeros_like(x, dtype=torch.bfloat16), schedule, "v")
    x = iid((2, 3, 4, 4), SEEDS).to(dtype)
    ddim(network, x, schedule.levels(schedule.timesteps(3)), callback=lambda step: seen.append(step.x.dtype))
    assert set(seen) == {torch.float64 if dtype == torch.float64 else torch.float32}


def test_callback_sees_every_step():
    schedule = Schedule.named("linear")
    levels = schedule.levels(schedule.timesteps(6))
    for sampler in (ddim, heun, dpm_solver_pp, unipc, plms, lms):
        steps = []
        result = sampler(gaussian_denoiser(schedule), iid((2, 3, 4, 4), SEEDS), levels, callback=steps.append)
        assert [(step.i, step.num_steps, step.t) for step in steps] == [(i, 6, levels.t[i]) for i in range(6)]
        assert torch.equal(steps[-1].x, result)


def test_samplers_leave_their_start_alone_and_build_no_graph():
    schedule = Schedule.named("linear")
    weight = torch.ones((), requires_grad=True)
    x = iid((2, 3, 4, 4), SEEDS)
    before = x.clone()
    result = ddim(lambda x, t, c: weight * x * 0.5, x, schedule.levels(schedule.timesteps(4)))
    assert not result.requires_grad
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", [*SAMPLERS, "euler", "plms", "lms", "consistency", "edict", "bdia", "inversion"])
def test_a_step_never_waits_for_the_device(name):
    """On the meta device there are no values: reading one back, as `.item()` or `if x > 0` would, raises."""
    schedule = Schedule.named("scaled_linear")
    levels = schedule.levels(schedule.timesteps(6))
    x = torch.empty(2, 3, 4, 4, 4, device="meta")
    denoiser = NetworkDenoiser(lambda x, t, c: torch.tanh(x), schedule, "v")
    more = {
        "euler": lambda: euler(denoiser, x, levels),
        "plms": lambda: plms(denoiser, x, levels),
        "lms": lambda: lms(denoiser, x, levels),
        "consistency": lambda: consistency(denoiser, x, levels, noise=ClipGenerators(SEEDS)),
        "edict": lambda: edict(denoiser, (x, x), levels)[0],
        "bdia": lambda: bdia(denoiser, (x, x), levels)[1],
        "inversion": lambda: ddim_inversion(denoiser, x, levels),
    }
    result = more[name]() if name in more else SAMPLERS[name](denoiser, x, levels, list(SEEDS))
    assert result.device.type == "meta"
    assert result.shape == x.shape


def test_unknown_variance():
    schedule = Schedule.named("linear")
    with pytest.raises(InputError, match="did you mean 'large'"):
        ddpm(lambda *_: _, torch.zeros(1), schedule.levels([5]), noise=ClipGenerators([0]), variance="larg")
