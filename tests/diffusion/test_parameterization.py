import itertools
import math

import pytest
import torch
from diffusers import EDMEulerScheduler

from kineograph.diffusion.denoiser import NetworkDenoiser
from kineograph.diffusion.parameterization import (
    KINDS,
    add_noise,
    edm,
    expand,
    noise_of,
    to_noise,
    to_x0,
    training_target,
)
from kineograph.diffusion.process import Flow, VarianceExploding
from kineograph.diffusion.schedule import Schedule
from kineograph.errors import InputError

GENERATOR = torch.Generator().manual_seed(0)
X0 = torch.randn(4, 3, 2, 5, 5, generator=GENERATOR, dtype=torch.float64)
NOISE = torch.randn(4, 3, 2, 5, 5, generator=GENERATOR, dtype=torch.float64)
RATIOS = torch.tensor([0.01, 0.3, 2.0, 30.0], dtype=torch.float64)
LEVELS = {
    "vp": ((1 + RATIOS**2) ** -0.5, RATIOS * (1 + RATIOS**2) ** -0.5),
    "ve": (torch.ones_like(RATIOS), RATIOS),
    "flow": (1 / (1 + RATIOS), RATIOS / (1 + RATIOS)),
    "frames": tuple(torch.rand(2, 4, 3, generator=GENERATOR, dtype=torch.float64) + 0.1),
}


@pytest.mark.parametrize(("kind", "levels"), list(itertools.product(KINDS, LEVELS)))
def test_round_trip_in_float64(kind, levels):
    alpha, sigma = LEVELS[levels]
    x = add_noise(X0, NOISE, alpha, sigma)
    output = training_target(kind, X0, NOISE, alpha, sigma)
    torch.testing.assert_close(to_x0(kind, x, output, alpha, sigma), X0, rtol=0, atol=1e-12 * 30)
    torch.testing.assert_close(to_noise(kind, x, output, alpha, sigma), NOISE, rtol=0, atol=1e-12 * 100)


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(["epsilon", "x0", "v", "velocity", "edm"], 2)))
def test_any_kind_can_be_turned_into_any_other(one, other):
    alpha, sigma = LEVELS["vp"]
    x = add_noise(X0, NOISE, alpha, sigma)
    output = training_target(one, X0, NOISE, alpha, sigma)
    x0, noise = to_x0(one, x, output, alpha, sigma), to_noise(one, x, output, alpha, sigma)
    expected = training_target(other, X0, NOISE, alpha, sigma)
    torch.testing.assert_close(training_target(other, x0, noise, alpha, sigma), expected, rtol=1e-9, atol=1e-9)


def test_v_is_the_slope_along_the_circle_and_velocity_that_along_the_line():
    small = 1e-5
    before, after = (add_noise(X0, NOISE, math.cos(angle), math.sin(angle)) for angle in (0.7 - small, 0.7 + small))
    slope = (after - before) / (2 * small)
    torch.testing.assert_close(training_target("v", X0, NOISE, math.cos(0.7), math.sin(0.7)), slope, atol=1e-8, rtol=0)
    before, after = (add_noise(X0, NOISE, *Flow().alpha_sigma(t)) for t in (0.3 - small, 0.3 + small))
    slope = (after - before) / (2 * small)
    torch.testing.assert_close(training_target("velocity", X0, NOISE, 0.7, 0.3), slope, atol=1e-8, rtol=0)


def test_svd_row_is_its_published_coefficients():
    """c_skip = 1 / (s^2 + 1), c_out = -s / sqrt(s^2 + 1), c_in = 1 / sqrt(s^2 + 1), c_noise = log(s) / 4."""
    kind, one = KINDS["svd"], torch.ones_like(RATIOS)
    c_skip = kind.to_x0(one, torch.zeros_like(one), one, RATIOS)
    c_out = kind.to_x0(torch.zeros_like(one), one, one, RATIOS)
    torch.testing.assert_close(c_skip, 1 / (RATIOS**2 + 1))
    torch.testing.assert_close(c_out, -RATIOS / (RATIOS**2 + 1).sqrt())
    torch.testing.assert_close(kind.c_in(one, RATIOS), 1 / (RATIOS**2 + 1).sqrt())
    torch.testing.assert_close(kind.c_noise(one, RATIOS), RATIOS.log() / 4)


@pytest.mark.parametrize(("prediction", "sign"), [("epsilon", 1.0), ("v_prediction", -1.0)])
def test_edm_row_is_diffusers_preconditioning(prediction, sign):
    theirs, kind = EDMEulerScheduler(sigma_data=0.7, prediction_type=prediction), edm(0.7, sign)
    for sigma in RATIOS.tolist():
        level = torch.tensor(sigma, dtype=torch.float64)
        expected = theirs.precondition_outputs(X0, NOISE, level)
        torch.testing.assert_close(kind.to_x0(X0, NOISE, 1.0, sigma), expected)
        torch.testing.assert_close(kind.c_in(1.0, sigma) * X0, theirs.precondition_inputs(X0, level))
        assert kind.c_noise(1.0, sigma) == pytest.approx(float(theirs.precondition_noise(level)))


def test_edm_target_has_unit_variance_at_every_level():
    """The reason for its constants: with data of deviation sigma_data the effective target has variance 1."""
    kind = edm(0.5)
    x0, noise = 0.5 * torch.randn(4, 200_000, generator=GENERATOR), torch.randn(4, 200_000, generator=GENERATOR)
    sigma = expand(RATIOS.float(), x0)
    target = kind.target(x0, noise, 1.0, sigma)
    scaled = kind.c_in(1.0, sigma) * (x0 + sigma * noise)
    torch.testing.assert_close(target.var(dim=1), torch.ones(4), atol=0.02, rtol=0)
    torch.testing.assert_close(scaled.var(dim=1), torch.ones(4), atol=0.02, rtol=0)


def test_edm_with_unit_data_and_turned_sign_is_v():
    alpha, sigma = LEVELS["vp"]
    turned = training_target(edm(1.0, -1.0), X0, NOISE, alpha, sigma)
    torch.testing.assert_close(turned, training_target("v", X0, NOISE, alpha, sigma), rtol=1e-9, atol=1e-9)


def test_v_needs_no_data_in_x():
    """At zero terminal SNR epsilon cannot give the data, v can."""
    schedule = Schedule.named("linear").rescale_zero_terminal_snr()
    alpha, sigma = schedule.alpha_sigma(torch.full((4,), 999))
    output = training_target("v", X0, NOISE, alpha, sigma)
    torch.testing.assert_close(to_x0("v", NOISE, output, alpha, sigma), X0)
    assert not to_x0("epsilon", NOISE, NOISE, alpha, sigma).isfinite().any()


def test_unknown_kind():
    with pytest.raises(InputError, match="did you mean 'epsilon'"):
        training_target("epsilom", X0, NOISE, 1.0, 1.0)


def test_network_denoiser_scales_input_and_tells_the_level():
    seen = {}

    def network(x, t, condition):
        seen.update(x=x, t=t, condition=condition)
        return torch.zeros_like(x, dtype=torch.bfloat16)

    denoiser = NetworkDenoiser(network, VarianceExploding(), "edm")
    x = X0.float()
    denoised = denoiser(x, 2.0, "text")
    assert denoised.dtype == torch.float32
    torch.testing.assert_close(seen["x"], x / (4 + 0.25) ** 0.5)
    assert seen["t"] == pytest.approx(torch.tensor(2.0).log().item() / 4)
    assert seen["condition"] == "text"
    torch.testing.assert_close(denoised, 0.25 / 4.25 * x)
    batch = denoiser(x, torch.full((4,), 2.0))
    torch.testing.assert_close(batch, denoised)
    schedule = Schedule.named("linear")
    NetworkDenoiser(network, schedule, "epsilon")(x, torch.tensor([1, 2, 3, 4]))
    assert seen["t"].tolist() == [1, 2, 3, 4]


def test_noise_of_undoes_add_noise():
    alpha, sigma = LEVELS["frames"]
    torch.testing.assert_close(noise_of(add_noise(X0, NOISE, alpha, sigma), X0, alpha, sigma), NOISE)


def test_network_keeps_its_own_precision():
    seen = []

    def network(x, t, condition):
        seen.append(x.dtype)
        return torch.tanh(x)

    denoised = NetworkDenoiser(network, VarianceExploding(), "svd", torch.bfloat16)(X0, 1.5)
    assert seen == [torch.bfloat16]
    assert denoised.dtype == torch.float64


def test_epsilon_at_zero_terminal_snr_is_refused():
    schedule = Schedule.named("linear").rescale_zero_terminal_snr()
    with pytest.raises(InputError, match="predicts v or x0"):
        NetworkDenoiser(lambda x, t, c: x, schedule, "epsilon")(X0, 999.0)
    assert NetworkDenoiser(lambda x, t, c: x, schedule, "v")(X0, 999.0).isfinite().all()
