import math

import pytest
import torch
from diffusers import DDIMInverseScheduler

from kineograph.diffusion.denoiser import NetworkDenoiser
from kineograph.diffusion.guidance import classifier_free
from kineograph.diffusion.inversion import (
    bdia,
    bdia_end,
    bdia_inversion,
    bdia_start,
    ddim_inversion,
    dual_bridge,
    edict,
    edict_inversion,
    null_text_guidance,
    null_text_inversion,
    refined_inversion,
)
from kineograph.diffusion.noise import iid
from kineograph.diffusion.samplers import ddim
from kineograph.diffusion.schedule import Schedule

SHAPE, SEEDS = (3, 4, 6, 6), (1, 2)
SCHEDULE = Schedule.named("scaled_linear")
DATA = iid(SHAPE, SEEDS, dtype=torch.float64) * 0.5


def network(x, t, condition=None):
    """Smooth, not affine, and sensitive to the time and the condition."""
    shift = 0.0 if condition is None else condition
    return 0.8 * torch.tanh(x.roll(1, dims=-1) + shift + t / 1000) + 0.3 * x


DENOISER = NetworkDenoiser(network, SCHEDULE, "epsilon")


def levels(steps, spacing="trailing", offset=0, final=1.0):
    return SCHEDULE.levels(SCHEDULE.timesteps(steps, spacing, offset), final)


def psnr(a, b, span=2.0):
    return 10 * math.log10(span**2 / float((a - b).square().mean()))


@pytest.mark.parametrize(("spacing", "offset", "one"), [("leading", 1, False), ("trailing", 0, True)])
def test_ddim_inversion_is_diffusers_inverse_scheduler(spacing, offset, one):
    """For epsilon. From v or x0 diffusers reads the noise at the clean end, where for x0 it divides by sigma = 0."""
    scheduler = DDIMInverseScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=one,
        timestep_spacing=spacing,
        steps_offset=offset,
    )
    scheduler.set_timesteps(50)
    x = DATA.float()
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, float(t)), t, x).prev_sample
    final = 1.0 if one else float(SCHEDULE.alphas_cumprod[0])
    ours = ddim_inversion(DENOISER, DATA.float(), levels(50, spacing, offset, final))
    assert (ours - x).abs().max() < 1e-5 * x.abs().max()


def test_round_trip_error_falls_with_the_steps():
    errors = []
    for steps in (50, 200, 1000):
        grid = levels(steps)
        noise = ddim_inversion(DENOISER, DATA, grid)
        errors.append(float((ddim(DENOISER, noise, grid) - DATA).square().mean().sqrt()))
    assert errors[1] < errors[0] / 2.5
    assert errors[2] < errors[1] / 3.5


def test_fixed_points_make_it_exact():
    grid = levels(50)
    plain = psnr(ddim(DENOISER, ddim_inversion(DENOISER, DATA, grid), grid), DATA)
    refined = psnr(ddim(DENOISER, refined_inversion(DENOISER, DATA, grid, iterations=12), grid), DATA)
    assert plain < 50
    assert refined > 80
    one = refined_inversion(DENOISER, DATA, grid, iterations=1)
    assert torch.equal(one, ddim_inversion(DENOISER, DATA, grid))


@pytest.mark.parametrize("kind", ["epsilon", "v", "x0"])
def test_edict_and_bdia_are_exact(kind):
    """At least 60 dB is asked for; both are at the end of float64."""
    denoiser, grid = NetworkDenoiser(network, SCHEDULE, kind), levels(50)
    pair = edict_inversion(denoiser, (DATA, DATA), grid)
    for back in edict(denoiser, pair, grid):
        assert psnr(back, DATA) > 150
    start = bdia_inversion(denoiser, bdia_end(denoiser, DATA, grid), grid)
    assert psnr(bdia(denoiser, start, grid)[1], DATA) > 150
    contracted = bdia_inversion(denoiser, bdia_end(denoiser, DATA, grid), grid, gamma=0.9)
    assert psnr(bdia(denoiser, contracted, grid, gamma=0.9)[1], DATA) > 100


def test_exact_pairs_survive_guidance():
    grid = levels(40)
    guided = classifier_free(DENOISER, 0.4, 0.0, 5.0)
    pair = edict_inversion(guided, (DATA, DATA), grid)
    assert psnr(edict(guided, pair, grid)[0], DATA) > 100


def test_edict_samples_like_ddim():
    """From the same noise twice the pair stays near DDIM's path, nearer with more steps, thanks to the mixing."""
    noise = iid(SHAPE, SEEDS, dtype=torch.float64)

    def distance(steps, mixing):
        grid = levels(steps)
        return float((edict(DENOISER, (noise, noise), grid, mixing=mixing)[0] - ddim(DENOISER, noise, grid)).std())

    assert distance(200, 0.93) < distance(50, 0.93) < 0.3
    assert distance(50, 0.93) < distance(50, 1.0)


def test_bdia_samples_like_ddim():
    noise = iid(SHAPE, SEEDS, dtype=torch.float64)
    fine = ddim(DENOISER, noise, levels(1000))
    grid = levels(100)
    ours = bdia(DENOISER, bdia_start(DENOISER, noise, grid), grid, gamma=0.5)[1]
    assert (ours - fine).std() < 0.1 * fine.std()


def test_bridge_to_the_same_model_returns_and_to_another_differs():
    grid = levels(400)
    back = dual_bridge(DENOISER, DENOISER, DATA, grid, 0.2, 0.2)
    assert psnr(back, DATA) > 35
    there = dual_bridge(DENOISER, DENOISER, DATA, grid, 0.2, 0.9)
    assert (there - DATA).abs().mean() > 0.05
    again = dual_bridge(DENOISER, DENOISER, there, grid, 0.9, 0.2)
    assert psnr(again, DATA) > psnr(there, DATA) + 10


def test_null_text_inversion_returns_under_strong_guidance():
    """Mokady et al., fig. 4: guided sampling from a DDIM inversion misses; with fitted embeddings it comes back."""
    grid = levels(20)
    condition = torch.full((1, 1, 4, 1, 1), 0.5, dtype=torch.float64)
    empty = torch.zeros_like(condition)
    noise, embeddings = null_text_inversion(
        DENOISER, DATA, grid, condition, empty, 5.0, iterations=60, learning_rate=0.1
    )
    torch.testing.assert_close(noise, ddim_inversion(DENOISER, DATA, grid, condition))
    assert set(embeddings) == set(grid.t[:-1])
    plain = ddim(classifier_free(DENOISER, condition, empty, 5.0), noise, grid)
    fitted = ddim(null_text_guidance(DENOISER, condition, embeddings, 5.0), noise, grid)
    straight = ddim(DENOISER, noise, grid, condition)
    assert psnr(fitted, DATA) > psnr(plain, DATA) + 10
    assert psnr(fitted, DATA) > psnr(straight, DATA) - 3
    assert not any(embedding.requires_grad for embedding in embeddings.values())


def test_zero_terminal_snr_can_be_inverted():
    schedule = SCHEDULE.rescale_zero_terminal_snr()
    grid = schedule.levels(schedule.timesteps(200))
    denoiser = NetworkDenoiser(network, schedule, "v")
    back = ddim(denoiser, ddim_inversion(denoiser, DATA, grid), grid)
    assert psnr(back, DATA) > 20


def test_callback_counts_down():
    seen = []
    ddim_inversion(DENOISER, DATA, levels(4), callback=lambda step: seen.append((step.i, step.t)))
    assert seen == [(i, levels(4).t[i]) for i in (3, 2, 1, 0)]
