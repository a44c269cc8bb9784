import itertools
import json
import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UniPCMultistepScheduler
from diffusers.training_utils import compute_snr

from kineograph.diffusion.levels import Levels
from kineograph.diffusion.process import (
    CosineLogSNR,
    Flow,
    VarianceExploding,
    VariancePreserving,
    exponential_sigmas,
    karras_sigmas,
    shift_times,
    uniform_times,
)
from kineograph.diffusion.schedule import BETA_RANGES, Schedule, beta_schedule
from kineograph.errors import InputError

NAMES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2", "sigmoid": "sigmoid"}


def reference(kind, **extra):
    start, end = BETA_RANGES[kind]
    betas = {} if kind == "cosine" else {"beta_start": start, "beta_end": end}
    return DDPMScheduler(beta_schedule=NAMES[kind], **betas, **extra)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("zero", [False, True])
def test_tables_are_those_of_diffusers(kind, zero):
    schedule = Schedule.named(kind)
    schedule = schedule.rescale_zero_terminal_snr() if zero else schedule
    theirs = reference(kind, rescale_betas_zero_snr=zero).alphas_cumprod.double()
    torch.testing.assert_close(schedule.alphas_cumprod, theirs, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(
        schedule.betas, reference(kind, rescale_betas_zero_snr=zero).betas.double(), atol=1e-6, rtol=1e-4
    )


def test_cosine_betas_telescope_to_the_cosine():
    """Where no beta is clipped, alphas_cumprod is eq. 17 of Nichol & Dhariwal itself."""
    t = torch.arange(1, 999, dtype=torch.float64) / 1000
    curve = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(Schedule.named("cosine").alphas_cumprod[:998], curve, rtol=1e-10, atol=0)


def test_zero_terminal_snr_keeps_the_first_and_empties_the_last():
    before = Schedule.named("scaled_linear")
    after = before.rescale_zero_terminal_snr()
    assert after.alphas_cumprod[-1] == 0
    assert after.alphas_cumprod[0] == pytest.approx(float(before.alphas_cumprod[0]), rel=1e-12)
    alpha, sigma = after.alpha_sigma(torch.tensor(999))
    assert (float(alpha), float(sigma)) == (0.0, 1.0)


@pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
def test_alpha_sigma_of_tensors_and_numbers_agree(shape):
    schedule = Schedule.named("linear")
    timesteps = torch.randint(0, 1000, shape, generator=torch.Generator().manual_seed(0))
    alpha, sigma = schedule.alpha_sigma(timesteps)
    assert alpha.shape == sigma.shape == shape
    assert alpha.dtype == torch.float32
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(shape))
    for a, s, t in zip(alpha.flatten(), sigma.flatten(), timesteps.flatten(), strict=True):
        assert schedule.alpha_sigma(int(t)) == (pytest.approx(float(a), rel=1e-6), pytest.approx(float(s), rel=1e-6))
    snr = compute_snr(reference("linear"), timesteps.flatten()).double()
    torch.testing.assert_close(((alpha / sigma) ** 2).flatten().double(), snr, rtol=1e-4, atol=1e-6)


def test_a_timestep_between_two_is_refused():
    with pytest.raises(InputError, match="integer from 0 to 999"):
        Schedule.named("linear").alpha_sigma(3.5)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("steps", [1, 7, 20, 30, 50, 999, 1000])
def test_timesteps_are_those_of_diffusers(spacing, steps):
    theirs = DDIMScheduler(timestep_spacing=spacing)
    theirs.set_timesteps(steps)
    ours = Schedule.named("linear").timesteps(steps, spacing)
    assert ours.dtype == torch.int64
    assert ours.tolist() == [t if steps > 1 or spacing != "linspace" else 0 for t in theirs.timesteps.tolist()]


def test_steps_offset_shifts_leading_timesteps():
    schedule = Schedule.named("scaled_linear")
    assert (schedule.timesteps(50, "leading", 1) - schedule.timesteps(50, "leading")).unique().tolist() == [1]


@pytest.mark.parametrize("steps", [1, 2, 3, 20, 300, 999, 1000])
@pytest.mark.parametrize("name", ["linear", "cosine", "scaled_linear"])
def test_log_snr_spacing_falls_strictly_from_the_last_to_a_hundredth(name, steps):
    timesteps = Schedule.named(name).timesteps(steps, "log_snr").tolist()
    assert len(timesteps) == steps
    assert timesteps[0] == 999
    assert all(a > b for a, b in itertools.pairwise(timesteps))
    assert timesteps[-1] == min(10, 1000 - steps) or steps == 1


def test_log_snr_spacing_has_equal_steps():
    schedule = Schedule.named("cosine")
    rises = schedule.levels(schedule.timesteps(20, "log_snr")).rises[1:-1]
    assert max(rises) / min(rises) < 1.5
    trailing = schedule.levels(schedule.timesteps(20)).rises[1:-1]
    assert max(trailing) / min(trailing) > 3


@pytest.mark.parametrize(("steps", "spacing", "message"), [(0, "leading", "1 to 1000"), (5, "trailling", "trailing")])
def test_bad_spacing_is_explained(steps, spacing, message):
    with pytest.raises(InputError, match=message):
        Schedule.named("linear").timesteps(steps, spacing)


def test_description_survives_json():
    for schedule in (
        Schedule.named("cosine", 50),
        Schedule.named("scaled_linear").rescale_zero_terminal_snr(),
        Schedule.from_betas(torch.linspace(0.01, 0.5, 7)),
    ):
        again = Schedule.from_dict(json.loads(json.dumps(schedule.to_dict())))
        assert torch.equal(again.alphas_cumprod, schedule.alphas_cumprod)
    with pytest.raises(InputError, match="did you mean 'beta_start'"):
        Schedule.from_dict({"kind": "linear", "beta_strat": 0.1})


@pytest.mark.parametrize(("kind", "start", "end"), [("lineal", None, None), ("linear", 0.5, 0.1), ("linear", 0.1, 1.5)])
def test_impossible_betas_are_refused(kind, start, end):
    with pytest.raises(InputError):
        beta_schedule(kind, 10, start, end)


def test_a_rising_table_is_refused():
    with pytest.raises(InputError, match="never rise"):
        Schedule(torch.tensor([0.1, 0.5]))


@pytest.mark.parametrize("interpolation", ["log", "linear"])
def test_timestep_at_inverts_the_table(interpolation):
    schedule = Schedule.named("scaled_linear")
    for timestep in (0, 1, 250, 998, 999):
        assert schedule.timestep_at(float(schedule.ratios[timestep]), interpolation) == pytest.approx(
            timestep, abs=1e-8
        )
    assert schedule.timestep_at(1e9) == 999
    assert schedule.timestep_at(1e-9) == 0
    assert schedule.timestep_at(schedule.ratio_at(321.25), "linear") == pytest.approx(321.25)


def test_karras_sigmas_have_their_ends_and_equal_steps_in_the_root():
    sigmas = torch.tensor(karras_sigmas(18, 0.002, 80.0), dtype=torch.float64)
    assert (float(sigmas[0]), float(sigmas[-1])) == (pytest.approx(80), pytest.approx(0.002))
    roots = (sigmas ** (1 / 7)).diff()
    torch.testing.assert_close(roots, roots[:1].expand_as(roots))
    logs = torch.tensor(exponential_sigmas(9), dtype=torch.float64).log().diff()
    torch.testing.assert_close(logs, logs[:1].expand_as(logs))


def test_flow_shift_multiplies_the_ratio():
    times = uniform_times(10, 0.9)
    shifted = shift_times(times, 3.0)
    assert [s / (1 - s) for s in shifted] == pytest.approx([3 * t / (1 - t) for t in times])
    theirs = UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction")
    theirs.set_timesteps(10)
    even = [1 - 0.999 * i / 10 for i in range(10)]
    assert shift_times(even, 3.0)[1:] == pytest.approx(theirs.sigmas[1:-1].tolist(), rel=1e-5)


def test_continuous_log_snr():
    process = CosineLogSNR()
    assert (process.log_snr(0.0), process.log_snr(1.0)) == (pytest.approx(20), pytest.approx(-20))
    assert process.log_snr(0.5) == pytest.approx(0, abs=1e-9)
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    alpha, sigma = process.alpha_sigma(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    torch.testing.assert_close(torch.log(alpha**2 / sigma**2), process.log_snr(t))
    for log_snr in (-15.0, 0.3, 12.0):
        assert process.log_snr(process.time(log_snr)) == pytest.approx(log_snr)


def test_resolution_shift_is_the_noise_that_averaging_removes():
    """Averaging 4x4 pixels divides the noise's variance by 16: at 256 the shifted SNR, times 16, is that at 64."""
    base, large = CosineLogSNR(), CosineLogSNR.for_resolution(256)
    for t in (0.2, 0.5, 0.9):
        assert math.exp(large.log_snr(t)) * 16 == pytest.approx(math.exp(base.log_snr(t)))
    assert large.log_snr(large.time(-1.0)) == pytest.approx(-1.0)


@pytest.mark.parametrize("process", [VarianceExploding(), VariancePreserving()])
def test_ratio_processes_have_their_ratio(process):
    t = torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64)
    alpha, sigma = process.alpha_sigma(t)
    torch.testing.assert_close(sigma / alpha, t)
    for value in t.tolist():
        a, s = process.alpha_sigma(value)
        assert s / a == pytest.approx(value)


def test_pure_noise_has_no_data():
    assert VariancePreserving().alpha_sigma(math.inf) == (0.0, 1.0)
    alpha, sigma = VariancePreserving().alpha_sigma(torch.tensor([math.inf, 1.0]))
    assert (float(alpha[0]), float(sigma[0])) == (0.0, 1.0)


def test_levels_must_fall():
    with pytest.raises(InputError, match="from noise to data"):
        Levels.of(Flow(), [0.2, 0.6])
    with pytest.raises(InputError, match="at least two"):
        Levels.of(Flow(), [0.2])
    levels = Levels.of(Flow(), [1.0, 0.5, 0.0])
    assert levels.log_snr == (-math.inf, 0.0, math.inf)
    assert len(levels) == 2


def test_posterior_variance_is_that_of_diffusers():
    schedule, theirs = Schedule.named("linear"), reference("linear")
    for timestep in (1, 10, 500, 999):
        assert schedule.posterior_variance(timestep) == pytest.approx(float(theirs._get_variance(timestep)), rel=1e-3)
