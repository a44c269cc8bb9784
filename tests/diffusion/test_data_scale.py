"""Data that the process makes weaker in noise (VideoCrafter's `use_scale`), by its formulas written out again."""

import itertools
import json

import pytest
import torch

from kineograph.diffusion.noise import ClipGenerators
from kineograph.diffusion.schedule import Schedule
from kineograph.diffusion.scheduler_config import read
from kineograph.errors import InputError

PLAIN = Schedule.named("scaled_linear")
SCALED = PLAIN.scale_data(0.7, 400)
CONFIG = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def scale(t):
    return 1 - 0.3 * min(t, 399) / 399


@pytest.mark.parametrize("t", [0, 1, 200, 399, 400, 999])
def test_only_the_data_is_scaled(t):
    (alpha, sigma), (whole, same) = SCALED.alpha_sigma(t), PLAIN.alpha_sigma(t)
    assert (alpha, sigma) == (pytest.approx(whole * scale(t), rel=1e-12), same)
    many = SCALED.alpha_sigma(torch.tensor([t]))
    assert (many[0].item(), many[1].item()) == (pytest.approx(alpha), pytest.approx(sigma))
    assert SCALED.ratios[t].item() == pytest.approx(sigma / alpha)


def test_a_scale_of_one_changes_nothing():
    assert torch.equal(PLAIN.scale_data(1.0, 400).data_factors, PLAIN.data_factors)


def test_description_survives_json():
    for schedule in (SCALED, Schedule(SCALED.alphas_cumprod, None, SCALED.data_scale)):
        again = Schedule.from_dict(json.loads(json.dumps(schedule.to_dict())))
        assert torch.equal(again.data_factors, schedule.data_factors)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_steps_are_those_of_the_authors_formulas(eta):
    """x0 = (x - sigma e) / (a s); x' = a' s' x0 + sqrt(1 - a'^2 - fresh^2) e + fresh z; fresh as without scale."""
    network = lambda x, t, condition=None: torch.tanh(x) * (1 + t / 1000)
    x = torch.randn(1, 3, 4, 8, 8, dtype=torch.float64)
    plan = read(CONFIG, (0.7, 400), eta)
    found = plan.sample(plan.denoiser(network), x, 10, noise=ClipGenerators([5]))
    noise, share, times = ClipGenerators([5]), PLAIN.alphas_cumprod.tolist(), [*range(901, 0, -100), 0]
    for t, to in itertools.pairwise(times):
        e = network(x, t)
        x0 = (x - (1 - share[t]) ** 0.5 * e) / share[t] ** 0.5 / scale(t)
        fresh = eta * ((1 - share[to]) / (1 - share[t]) * (1 - share[t] / share[to])) ** 0.5
        x = share[to] ** 0.5 * scale(to) * x0 + (1 - share[to] - fresh**2) ** 0.5 * e
        x = x + fresh * noise(x) if fresh else x
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


def test_a_part_of_the_walk_keeps_its_scale():
    levels = SCALED.levels(SCALED.timesteps(10, "leading", 1))
    assert levels.part(3, 7).unscaled_pair(0) == levels.unscaled_pair(3)
    assert levels.unscaled_pair(3)[0] == pytest.approx(PLAIN.alpha_sigma(int(levels.t[3]))[0])


def test_bad_scales_are_explained():
    for end, length in ((0.0, 400), (1.5, 400), (0.7, 1), (0.7, 1001)):
        with pytest.raises(InputError, match="factor in"):
            PLAIN.scale_data(end, length)
    with pytest.raises(InputError, match="for DDIMScheduler, not for EulerDiscreteScheduler"):
        read({"_class_name": "EulerDiscreteScheduler"}, (0.7, 400))
