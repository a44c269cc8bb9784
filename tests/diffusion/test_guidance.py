import math

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from kineograph.diffusion import guidance
from kineograph.diffusion.denoiser import NetworkDenoiser
from kineograph.diffusion.frames import first_known
from kineograph.diffusion.guidance import (
    both,
    classifier_free,
    clipped,
    dynamic_thresholding,
    extrapolate,
    interval_scale,
    known_frames,
    linear_frame_scale,
    motion_free,
    nested,
    oscillating_scale,
    quantile,
    reconstruction,
    rescaled,
    text_and_image,
)
from kineograph.diffusion.levels import Levels
from kineograph.diffusion.noise import iid
from kineograph.diffusion.parameterization import expand
from kineograph.diffusion.process import VariancePreserving, exponential_sigmas
from kineograph.diffusion.samplers import ddim
from kineograph.diffusion.schedule import Schedule
from kineograph.errors import InputError

SHAPE, SEEDS = (4, 3, 5, 5), (1, 2)
X = iid(SHAPE, SEEDS, dtype=torch.float64)
FIELDS = {name: iid(SHAPE, [seed, seed + 1], dtype=torch.float64) for seed, name in enumerate("abcd")}


class Counting:
    """A denoiser that depends on x, t and the condition, and counts its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, condition=None):
        self.calls.append((t, condition))
        return 0.3 * x + math.cos(t) * FIELDS[condition]


def test_scale_one_is_the_conditional_model_in_one_call():
    model = Counting()
    assert torch.equal(classifier_free(model, "a", "b", 1.0)(X, 2.0), model(X, 2.0, "a"))
    assert model.calls == [(2.0, "a"), (2.0, "a")]
    guided = classifier_free(model, "a", "b", 0.0)(X, 2.0)
    torch.testing.assert_close(guided, model(X, 2.0, "b"))


def told(values, size=3):
    """A condition (batch, tokens, channels)."""
    return torch.stack([torch.full((size, 2), float(value), dtype=X.dtype) for value in values])


def per_clip(calls, learned=False):
    """A denoiser that mixes each clip with its own time and condition, and notes how many clips each call held."""

    def denoiser(x, t, condition):
        calls.append(len(x))
        time = expand(t, x) if isinstance(t, torch.Tensor) else t
        data = torch.tanh(x * time) + expand(condition.mean((1, 2)), x)
        return (data, data.sigmoid()) if learned else data

    return denoiser


@pytest.mark.parametrize("t", [0.7, torch.tensor([0.7, 0.2], dtype=X.dtype)])
@pytest.mark.parametrize("learned", [False, True])
def test_both_halves_share_a_call_where_they_are_small(monkeypatch, t, learned):
    together, apart = [], []
    result = both(per_clip(together, learned), X, t, told([1, 2]), told([0, -1]))
    monkeypatch.setattr(guidance, "TOGETHER", X.numel() - 1)
    expected = both(per_clip(apart, learned), X, t, told([1, 2]), told([0, -1]))
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    assert (together, apart) == ([4], [2, 2])
    assert not torch.equal(data_of(result[0]), data_of(result[1]))


def data_of(estimate):
    return estimate[0] if isinstance(estimate, tuple) else estimate


@pytest.mark.parametrize(
    ("condition", "unconditional"),
    [
        (told([1, 1]), told([0, 0], size=5)),
        (told([1, 1]), told([0])),
        (told([1]), told([0])),
        (torch.tensor(1.0), torch.tensor(0.0)),
    ],
)
def test_conditions_of_other_shapes_get_calls_of_their_own(condition, unconditional):
    calls = []
    denoiser = lambda x, t, c: calls.append(len(x)) or x + c.mean()
    positive, negative = both(denoiser, X, 1.0, condition, unconditional)
    assert calls == [2, 2]
    torch.testing.assert_close(positive - negative, torch.ones_like(X))


@pytest.mark.parametrize("kind", ["epsilon", "v", "velocity", "edm"])
def test_guiding_x0_is_guiding_the_output(kind):
    schedule = Schedule.named("linear")
    network = lambda x, t, c: torch.tanh(x) + FIELDS[c]
    on_x0 = classifier_free(NetworkDenoiser(network, schedule, kind), "a", "b", 7.5)
    on_output = NetworkDenoiser(classifier_free(network, "a", "b", 7.5), schedule, kind)
    torch.testing.assert_close(on_x0(X, 400.0), on_output(X, 400.0))


def test_scale_for_each_clip_and_frame():
    model = Counting()
    scale = linear_frame_scale(4, 1.0, 3.0)
    guided = classifier_free(model, "a", "b", scale)(X, 1.0)
    for frame, strength in enumerate((1.0, 5 / 3, 7 / 3, 3.0)):
        alone = classifier_free(model, "a", "b", strength)(X, 1.0)
        torch.testing.assert_close(guided[:, frame], alone[:, frame], rtol=1e-6, atol=1e-6)
    guided = classifier_free(model, "a", "b", torch.tensor([1.0, 4.0]))(X, 1.0)
    torch.testing.assert_close(guided[1], classifier_free(model, "a", "b", 4.0)(X, 1.0)[1])
    torch.testing.assert_close(guided[0], model(X, 1.0, "a")[0])


def test_learned_share_is_that_of_the_conditional_call():
    denoiser = lambda x, t, c: (FIELDS[c], FIELDS[c] * 0 + (0.2 if c == "a" else 0.9))
    data, share = classifier_free(denoiser, "a", "b", 3.0)(X, 1.0)
    torch.testing.assert_close(data, FIELDS["b"] + 3 * (FIELDS["a"] - FIELDS["b"]))
    assert share.unique().tolist() == [0.2]
    data, share = clipped(denoiser)(X, 1.0, "a")
    assert data.abs().max() == 1
    assert share.unique().tolist() == [0.2]


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_rescaled_network_is_diffusers_guidance_rescale(share):
    network = lambda x, t, c: FIELDS[c]
    plain = extrapolate(FIELDS["b"], FIELDS["a"], 9.0)
    expected = rescale_noise_cfg(plain, FIELDS["a"], guidance_rescale=share)
    result = rescaled(network, "a", "b", 9.0, share)(X, 1.0)
    torch.testing.assert_close(result, expected)
    if share == 1.0:
        torch.testing.assert_close(result.std(dim=(1, 2, 3, 4)), FIELDS["a"].std(dim=(1, 2, 3, 4)))


def test_interval_guides_inside_only():
    model = Counting()
    guided = classifier_free(model, "a", "b", interval_scale(5.0, 1.0, 3.0))
    assert torch.equal(guided(X, 1.0), model(X, 1.0, "a"))
    assert torch.equal(guided(X, 3.5), model(X, 3.5, "a"))
    torch.testing.assert_close(guided(X, 3.0), classifier_free(model, "a", "b", 5.0)(X, 3.0))


def test_oscillation_after_constant_steps():
    times = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0]
    scale = oscillating_scale(times, 15.0, 1.0, constant_steps=2)
    assert [scale(t) for t in times] == [15, 15, 15, 1, 15, 1]
    assert [oscillating_scale(times, 15.0)(t) for t in times] == [15, 1, 15, 1, 15, 1]


def test_nested_guidance_is_its_formula():
    model = Counting()
    result = text_and_image(model, "a", "b", "c", text_scale=7.5, image_scale=1.5)(X, 1.0)
    neither, image, both = (model(X, 1.0, name) for name in "cba")
    torch.testing.assert_close(result, neither + 1.5 * (image - neither) + 7.5 * (both - image))
    only_text = text_and_image(model, "a", "b", "b", 7.5, 1.5)(X, 1.0)
    torch.testing.assert_close(only_text, classifier_free(model, "a", "b", 7.5)(X, 1.0))
    with pytest.raises(InputError, match="need 1 scales"):
        nested([(model, "a"), (model, "b")], [])


def test_motion_free_guidance_makes_three_calls_one_of_them_still():
    model, still = Counting(), Counting()
    result = motion_free(model, still, "a", "b", text_scale=7.5, motion_scale=1.2)(X, 1.0)
    assert (model.calls, still.calls) == ([(1.0, "b"), (1.0, "a")], [(1.0, "b")])
    base, moving, full = still(X, 1.0, "b"), model(X, 1.0, "b"), model(X, 1.0, "a")
    torch.testing.assert_close(result, base + 1.2 * (moving - base) + 7.5 * (full - moving))


@pytest.mark.parametrize("highest", [1.0, 1.7, None])
def test_dynamic_thresholding_is_that_of_diffusers(highest):
    data = 2 * FIELDS["a"].float()
    scheduler = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=highest or 1e9)
    result = dynamic_thresholding(lambda *_: data, 0.9, highest)(X, 1.0)
    torch.testing.assert_close(result, scheduler._threshold_sample(data))
    small = dynamic_thresholding(lambda *_: data / 100, 0.9)(X, 1.0)
    torch.testing.assert_close(small, data / 100)


def test_thresholding_of_each_frame():
    data = FIELDS["a"] * torch.tensor([0.1, 1, 2, 5], dtype=torch.float64)[None, :, None, None, None]
    result = dynamic_thresholding(lambda *_: data, 0.8, per="frame")(X, 1.0)
    for frame in range(4):
        alone = dynamic_thresholding(lambda *_, frame=frame: data[:, frame : frame + 1], 0.8)(X, 1.0)
        torch.testing.assert_close(result[:, frame : frame + 1], alone)
    with pytest.raises(InputError, match="did you mean 'frame'"):
        dynamic_thresholding(lambda *_: data, per="frames")


def test_quantile_is_that_of_torch():
    values = torch.randn(3, 1001, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for q in (0.0, 0.5, 0.995, 1.0):
        torch.testing.assert_close(quantile(values, q), torch.quantile(values, q, dim=1))


def correlated_denoiser(process, covariance):
    """E[x0 | x] of zero-mean Gaussian clips whose frames covary: known in closed form."""

    def denoiser(x, t, condition=None):
        alpha, sigma = process.alpha_sigma(t)
        eye = torch.eye(len(covariance), dtype=covariance.dtype)
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * eye)
        return torch.einsum("fg,bgchw->bfchw", gain, x)

    return denoiser


def extended(weight, replace):
    """Sample the second of two strongly correlated frames given the first, and return its slope on the first."""
    process, rho = VariancePreserving(), 0.9
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
    given = iid((1, 1, 60, 60), [1], dtype=torch.float64)
    denoiser = correlated_denoiser(process, covariance)
    if weight:
        denoiser = reconstruction(denoiser, process, given, lambda x0: x0[:, :1], weight)
    if replace:
        known = torch.cat([given, torch.full_like(given, float("nan"))], dim=1)
        denoiser = known_frames(denoiser, known, first_known(2, 1))
    levels = Levels.of(process, [*exponential_sigmas(100, 0.01, 50.0), 0.0])
    clip = ddim(denoiser, iid((2, 1, 60, 60), [2], dtype=torch.float64), levels)
    slope = float((clip[:, 1] * given[:, 0]).mean() / given.square().mean())
    return slope, float((clip[:, 0] - given[:, 0]).abs().max())


def test_known_frames_are_reached_exactly_and_guidance_makes_the_others_follow():
    """VDM, sec. 3.1: replacing alone leaves the new frame too independent, the gradient mends it."""
    replaced, error = extended(0.0, replace=True)
    assert error < 1e-9
    guided, error = extended(4.0, replace=True)
    assert error < 1e-9
    assert abs(guided - 0.9) < abs(replaced - 0.9)
    assert guided == pytest.approx(0.9, abs=0.05)
    assert replaced < 0.5


def test_reconstruction_gradient_is_its_formula():
    process = VariancePreserving()
    covariance = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    denoiser, x = correlated_denoiser(process, covariance), iid((2, 1, 3, 3), [3], dtype=torch.float64)
    observed = iid((1, 1, 3, 3), [4], dtype=torch.float64)
    result = reconstruction(denoiser, process, observed, lambda x0: x0[:, :1], 3.0)(x, 1.5)
    alpha, sigma = process.alpha_sigma(1.5)
    gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(2, dtype=torch.float64))
    miss = (denoiser(x, 1.5)[:, :1] - observed) * 2
    gradient = torch.einsum("f,bchw->bfchw", gain[0], miss[:, 0])
    torch.testing.assert_close(result, denoiser(x, 1.5) - 3.0 / 2 * alpha * gradient)
    assert not result.requires_grad
