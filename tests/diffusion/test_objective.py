import math

import pytest
import torch
from diffusers import DDPMScheduler
from scipy import stats

from kineograph.diffusion.denoiser import NetworkDenoiser
from kineograph.diffusion.levels import Levels
from kineograph.diffusion.noise import iid
from kineograph.diffusion.objective import (
    WEIGHTS,
    discretised_log_likelihood,
    edm_weight,
    gaussian_divergence,
    log_normal_sigmas,
    logit_normal_times,
    loss_weight,
    low_discrepancy,
    min_snr,
    p2,
    snr,
    split_variance,
    timesteps_of,
    truncated_snr,
    two_to_one_target,
    uniform,
    variational_bound,
    weighted_mse,
)
from kineograph.diffusion.parameterization import KINDS, add_noise, edm, to_x0, training_target
from kineograph.diffusion.process import CosineLogSNR, VarianceExploding
from kineograph.diffusion.samplers import ddim, posterior
from kineograph.diffusion.schedule import Schedule
from kineograph.errors import InputError

SCHEDULE = Schedule.named("scaled_linear")
TIMESTEPS = torch.tensor([0, 10, 250, 600, 999])
ALPHA, SIGMA = SCHEDULE.alpha_sigma(TIMESTEPS)


@pytest.mark.parametrize("name", sorted(set(WEIGHTS) - {"simple"}))
@pytest.mark.parametrize("kind", ["epsilon", "v", "velocity", "edm"])
def test_an_objective_is_the_same_whatever_is_predicted(name, kind):
    """Weighted error of any output equals weighted error of x0."""
    x0, noise = iid((2, 3, 4, 4), [1] * 5), iid((2, 3, 4, 4), [2] * 5)
    x = add_noise(x0, noise, ALPHA, SIGMA)
    target = training_target(kind, x0, noise, ALPHA, SIGMA)
    output = target + 0.1 * iid((2, 3, 4, 4), [3] * 5)
    through_output = weighted_mse(output, target, loss_weight(name, kind, ALPHA, SIGMA))
    denoised = to_x0(kind, x, output, ALPHA, SIGMA)
    through_x0 = weighted_mse(denoised, x0, loss_weight(name, "x0", ALPHA, SIGMA))
    torch.testing.assert_close(through_output, through_x0, rtol=5e-3, atol=1e-6)


def test_weights_are_their_papers_formulas():
    ratio = snr(ALPHA, SIGMA)
    ones = torch.ones_like(ratio)
    torch.testing.assert_close(loss_weight("simple", "v", ALPHA, SIGMA), ones)
    torch.testing.assert_close(loss_weight("snr", "epsilon", ALPHA, SIGMA), ones)
    torch.testing.assert_close(loss_weight("snr", "x0", ALPHA, SIGMA), ratio)
    torch.testing.assert_close(min_snr(5.0)(ALPHA, SIGMA, "epsilon"), ratio.clamp(max=5) / ratio)
    torch.testing.assert_close(min_snr(5.0)(ALPHA, SIGMA, "v"), ratio.clamp(max=5) / (ratio + 1))
    torch.testing.assert_close(truncated_snr(ALPHA, SIGMA, "x0"), ratio.clamp(min=1))
    torch.testing.assert_close(p2(1.0, 1.0)(ALPHA, SIGMA, "epsilon"), 1 / (1 + ratio))
    sigma = torch.tensor([0.01, 1.0, 50.0])
    lam = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    torch.testing.assert_close(edm_weight()(torch.ones(3), sigma, "x0"), lam)
    torch.testing.assert_close(edm_weight()(torch.ones(3), sigma, edm()), torch.ones(3))


def test_v_is_trained_at_zero_terminal_snr():
    alpha, sigma = SCHEDULE.rescale_zero_terminal_snr().alpha_sigma(torch.tensor([999, 500]))
    assert loss_weight("truncated_snr", "x0", alpha, sigma).isfinite().all()
    assert loss_weight("simple", "v", alpha, sigma).tolist() == [1, 1]
    assert loss_weight("min_snr", "v", alpha, sigma).isfinite().all()


def test_weighted_mse_counts_frames_that_count():
    output, target = torch.zeros(2, 3, 1, 2, 2), torch.ones(2, 3, 1, 2, 2)
    target[:, 2] = 100.0
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert weighted_mse(output, target, mask=mask).tolist() == [1.0, 0.0]
    weight = torch.tensor([[1.0, 3.0, 0.0], [2.0, 2.0, 0.0]])
    assert weighted_mse(output, target, weight).tolist() == [pytest.approx(4 / 3), pytest.approx(4 / 3)]
    assert weighted_mse(output.bfloat16(), target.bfloat16()).dtype == torch.float32


def test_low_discrepancy_covers_and_uniform_is_uniform():
    generator = torch.Generator().manual_seed(0)
    u = low_discrepancy(64, generator)
    assert torch.equal((u * 64).long().sort().values.unique(), torch.arange(64))
    gaps = torch.stack([low_discrepancy(16, generator).mean() for _ in range(300)])
    plain = torch.stack([uniform(16, generator).mean() for _ in range(300)])
    assert gaps.std() < plain.std() / 3
    firsts = torch.stack([low_discrepancy(8, generator)[0] for _ in range(2000)])
    assert stats.kstest(firsts.numpy(), "uniform").pvalue > 1e-3


def test_timesteps_are_all_reached():
    u = torch.arange(0, 1, 1 / 4000, dtype=torch.float64)
    counts = torch.bincount(timesteps_of(u, 1000), minlength=1000)
    assert set(counts.tolist()) <= {3, 4, 5}
    assert timesteps_of(torch.tensor([0.0, 1.0]), 1000).tolist() == [0, 999]


def test_level_distributions():
    u = uniform(20_000, torch.Generator().manual_seed(1))
    logs = log_normal_sigmas(u).log().double().numpy()
    assert stats.kstest(logs, "norm", args=(-1.2, 1.2)).pvalue > 1e-3
    logits = torch.logit(logit_normal_times(u, 0.5, 0.8).double()).numpy()
    assert stats.kstest(logits, "norm", args=(0.5, 0.8)).pvalue > 1e-3
    assert log_normal_sigmas(torch.tensor([0.0, 1.0])).isfinite().all()


def test_unknown_weight():
    with pytest.raises(InputError, match="did you mean 'min_snr'"):
        loss_weight("minsnr", "v", ALPHA, SIGMA)


def test_divergence_of_gaussians():
    p, q = torch.distributions.Normal(0.3, 0.7), torch.distributions.Normal(-0.2, 1.9)
    ours = gaussian_divergence(*(torch.tensor(v) for v in (0.3, 2 * math.log(0.7), -0.2, 2 * math.log(1.9))))
    torch.testing.assert_close(ours, torch.distributions.kl_divergence(p, q))


def test_likelihoods_of_all_bins_add_up_to_one():
    bins = torch.linspace(-1, 1, 256, dtype=torch.float64)
    for mean, deviation in ((0.1, 0.05), (-0.98, 0.3), (2.0, 1.0)):
        log_likelihood = discretised_log_likelihood(bins, torch.tensor(mean), torch.tensor(math.log(deviation)))
        assert float(log_likelihood.exp().sum()) == pytest.approx(1.0, abs=1e-6)


def levels_at(schedule, t):
    alpha, sigma = schedule.alpha_sigma(t)
    before = schedule.alpha_sigma((t - 1).clamp(min=0))
    first = t == 0
    return alpha, sigma, torch.where(first, torch.ones_like(alpha), before[0]), torch.where(first, 0 * sigma, before[1])


def test_variational_bound_is_smallest_for_the_right_variance():
    """With the true x0 that is the posterior's (share 0), whose divergence is 0; with an error it is larger."""
    schedule = Schedule.named("linear", 50)
    t = torch.tensor([5, 20, 49])
    x0 = iid((1, 3, 32, 32), [1, 2, 3]).clamp(-1, 1)
    levels = levels_at(schedule, t)
    x = add_noise(x0, iid((1, 3, 32, 32), [4, 5, 6]), levels[0], levels[1])
    floor = schedule.posterior_variance(1)
    at = lambda denoised, share: variational_bound(x0, x, denoised, torch.full_like(x, share), levels, floor)
    torch.testing.assert_close(at(x0, 0.0), torch.zeros(3), atol=1e-5, rtol=0)
    assert (at(x0, 0.5) > 0).all()
    wrong = x0 + 0.3 * iid((1, 3, 32, 32), [7, 8, 9])
    assert (at(wrong, 0.0) > at(wrong, 0.5))[:2].all()


def test_bound_at_the_first_timestep_is_a_likelihood():
    schedule = Schedule.named("linear")
    t = torch.zeros(2, dtype=torch.long)
    x0 = (torch.randint(0, 256, (2, 1, 3, 8, 8), generator=torch.Generator().manual_seed(0)) / 127.5) - 1
    levels = levels_at(schedule, t)
    x = add_noise(x0, iid((1, 3, 8, 8), [1, 2]), levels[0], levels[1])
    floor = schedule.posterior_variance(1)
    share = torch.zeros_like(x)
    exact = variational_bound(x0, x, x0, share, levels, floor)
    expected = -discretised_log_likelihood(x0, x0, torch.full_like(x0, math.log(floor) / 2)) / math.log(2)
    torch.testing.assert_close(exact, expected.mean(dim=(1, 2, 3, 4)))
    assert (variational_bound(x0, x, x0 + 0.1, share, levels, floor) > exact).all()


def test_learned_share_is_the_range_of_diffusers():
    """`learned_range` of DDPMScheduler, from the same raw output."""
    raw = iid((1, 6, 4, 4), [1])
    prediction, share = split_variance(raw)
    assert torch.equal(prediction, raw[:, :, :3])
    scheduler = DDPMScheduler(variance_type="learned_range")
    log_variance = scheduler._get_variance(torch.tensor(400), predicted_variance=raw[:, :, 3:])
    schedule = Schedule.named("linear")
    _, _, small, large = posterior(*schedule.alpha_sigma(400), *schedule.alpha_sigma(399))
    ours = math.log(small) + share * (math.log(large) - math.log(small))
    torch.testing.assert_close(ours, log_variance, rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match="even number"):
        split_variance(raw[:, :, :5])


@pytest.mark.parametrize("process", [CosineLogSNR(), VarianceExploding()])
def test_one_student_step_lands_where_two_teacher_steps_did(process):
    """Salimans & Ho, app. G: with the target as estimate the student's DDIM step is the teacher's pair, exactly."""
    times = (0.9, 0.7, 0.5)
    levels = Levels.of(process, times)
    kind = "v" if isinstance(process, CosineLogSNR) else "edm"
    teacher = NetworkDenoiser(lambda x, t, c: torch.sin(3 * x + 1), process, kind)
    x = iid((2, 3, 4, 4), [1, 2], dtype=torch.float64)
    landed = ddim(teacher, x, levels)
    target = two_to_one_target(x, landed, levels.alpha[0], levels.sigma[0], levels.alpha[2], levels.sigma[2])
    student = ddim(lambda x, t, c: target, x, Levels.of(process, (0.9, 0.5)))
    torch.testing.assert_close(student, landed, rtol=1e-10, atol=1e-10)
    batch = [torch.full((2,), v, dtype=torch.float64) for v in (levels.alpha[0], levels.sigma[0])]
    torch.testing.assert_close(two_to_one_target(x, landed, *batch, levels.alpha[2], levels.sigma[2]), target)


def test_rows_and_weights_cover_each_other():
    for kind in KINDS:
        for name in WEIGHTS:
            assert loss_weight(name, kind, ALPHA, SIGMA).shape == (5,)
