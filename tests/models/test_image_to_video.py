"""What an image-to-video network is told, and the forms of the network."""

import pytest
import torch
from tiny_svd import perturbed

from kineograph.errors import InputError
from kineograph.models.image_to_video import (
    ConditionedNetwork,
    ImageCondition,
    ImageToVideoModel,
    ImageToVideoSettings,
    augmentation_noise,
    ends,
    interpolate,
    masked_frames,
    training_augmentation,
    widen_input,
)
from kineograph.systems import systems

SVD = systems()["stable_video_diffusion"]


class Autoencoder:
    """Latents are the picture's first four of 3 channels, repeated; enough to see what was encoded."""

    latent_channels, factor = 4, 1
    vae = torch.zeros(())

    def encode_mode(self, images):
        return torch.cat([images, images[:, :1]], 1)


def model():
    network = perturbed(SVD.build("tiny")).eval()
    settings = ImageToVideoSettings(wave_channels=8)
    encoder = lambda images: images.mean((2, 3))[:, None].repeat(1, 1, 11)[..., :32]
    return ImageToVideoModel(network, Autoencoder(), encoder, settings)


def condition(parts, images, frames=3, noise=None, **changes):
    values = {"fps": [7], "motion_bucket_id": [127], "noise_aug_strength": [0.5]} | changes
    return parts.condition(images, frames, noise=torch.zeros_like(images) if noise is None else noise, **values)


def test_condition_holds_the_noised_picture_and_three_numbers():
    images, noise = torch.rand(1, 3, 8, 8), torch.randn(1, 3, 8, 8)
    told = condition(model(), images, noise=noise)
    assert told.codes.tolist() == [[6, 127, 0.5]]
    assert told.latents.shape == (1, 3, 4, 8, 8)
    assert torch.allclose(told.latents[:, 2, :3], images + 0.5 * noise)
    assert torch.allclose(told.context[0, 0, :3], images.mean((2, 3))[0])
    nothing = told.unconditional()
    assert not nothing.latents.any()
    assert not nothing.context.any()
    assert torch.equal(nothing.codes, told.codes)
    other = ImageCondition(torch.ones(2, 1, 4), torch.ones(2, 3, 4, 2, 2), torch.ones(2, 3))
    dropped = other.dropped(torch.tensor([True, False]))
    assert dropped.latents.amax((1, 2, 3, 4)).tolist() == dropped.context.amax((1, 2)).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("fps", 0, "--fps must be from 1 to 120, not 0"),
        ("motion_bucket_id", 256, "--motion-bucket-id must be from 0 to 255, not 256"),
        ("noise_aug_strength", -0.1, "--noise-aug-strength must be from 0"),
    ],
)
def test_numbers_out_of_range_are_refused(name, value, words):
    with pytest.raises(InputError, match=words):
        condition(model(), torch.rand(1, 3, 8, 8), **{name: [value]})


def test_every_number_reaches_the_network():
    parts = model()
    images, x = torch.rand(1, 3, 8, 8), torch.randn(1, 3, 4, 8, 8)
    with torch.no_grad():
        plain = parts.denoiser()(x, 2.0, condition(parts, images))
        for change in ({"fps": [20]}, {"motion_bucket_id": [3]}, {"noise_aug_strength": [0.6]}):
            assert (parts.denoiser()(x, 2.0, condition(parts, images, **change)) - plain).abs().max() > 1e-6


def test_augmentation_noise_belongs_to_the_seed():
    images = torch.zeros(2, 3, 4, 4)
    both = augmentation_noise(images, [5, 6])
    assert torch.equal(both[1:], augmentation_noise(images[1:], [6]))
    from kineograph.diffusion.noise import iid

    assert not torch.equal(both[0], iid((3, 4, 4, 1), [5])[0, ..., 0])


def test_training_augmentation_has_the_published_distribution():
    sigma = training_augmentation(torch.rand(20_000, generator=torch.Generator().manual_seed(0)))
    assert abs(sigma.log().mean() + 3) < 0.02
    assert abs(sigma.log().std() - 0.5) < 0.02


def test_text_network_becomes_a_picture_network_and_stays_what_it_was():
    from dataclasses import replace

    from kineograph.systems.stable_video_diffusion import PRESETS

    tiny = PRESETS["tiny"]
    text = perturbed(SVD.build(replace(tiny, image={**tiny.image, "in_channels": 4}))).eval()
    x, told, codes = torch.randn(1, 3, 4, 8, 8), torch.tensor(0.3), torch.rand(1, 3)
    context, beside = torch.randn(1, 5, 32), torch.randn(1, 3, 4, 8, 8)
    with torch.no_grad():
        before = ConditionedNetwork(text, 8)(x, told, ImageCondition(context, None, codes))
        with pytest.raises(InputError, match=r"takes 4\. widen_input\(network, 8\)"):
            ImageToVideoModel(text, Autoencoder(), None, ImageToVideoSettings())
        widen_input(text, 8)
        after = ConditionedNetwork(text, 8)(x, told, ImageCondition(context, beside, codes))
    assert torch.allclose(after, before, atol=1e-6)
    assert text.config["in_channels"] == 8
    with pytest.raises(InputError, match="already takes 8"):
        widen_input(text, 8)


def test_interpolation_keeps_what_is_given_and_shows_only_that():
    latents = torch.randn(2, 3, 4, 2, 2)
    seen = []

    def sample(noise, gap, left):
        assert left == len(seen)
        seen.append(masked_frames(gap, ends(5)))
        return noise + 10

    noise = torch.randn(2, 5, 4, 2, 2)
    made = interpolate(sample, latents, noise)
    assert made.shape == (2, 9, 4, 2, 2)
    assert torch.equal(made[:, ::4], latents)
    assert torch.equal(made[:, 5:8], noise[:, 1:4] + 10)
    assert torch.equal(seen[1][:, 0, :4], latents[:, 1])
    assert torch.equal(seen[1][:, 4, :4], latents[:, 2])
    assert seen[0][:, :, 4].amax((0, 2, 3)).tolist() == [1, 0, 0, 0, 1]
    assert not seen[0][:, 1:4].any()
    unknown = torch.full_like(latents, torch.nan)
    assert masked_frames(unknown, torch.zeros(3, dtype=torch.bool)).isfinite().all()
    with pytest.raises(InputError, match="between two"):
        interpolate(sample, latents, noise, between=2)


@torch.no_grad()
def test_interpolation_network_samples_what_lies_between():
    from dataclasses import replace

    from kineograph.diffusion.scheduler_config import read
    from kineograph.models.image_to_video import EDM_V
    from kineograph.systems.stable_video_diffusion import PRESETS

    assert PRESETS["interpolation"].image["in_channels"] == 9
    tiny = PRESETS["tiny"]
    network = perturbed(SVD.build(replace(tiny, image={**tiny.image, "in_channels": 9}))).eval()
    plan, text, codes = read(EDM_V), torch.randn(1, 5, 32), torch.rand(1, 3)
    denoiser = plan.denoiser(ConditionedNetwork(network, 8))

    def sample(noise, gap, left):
        return plan.sample(denoiser, noise, 2, ImageCondition(text, masked_frames(gap, ends(5)), codes))

    latents, noise = torch.randn(1, 2, 4, 8, 8), torch.randn(1, 5, 4, 8, 8)
    made = interpolate(sample, latents, noise)
    assert made.shape == (1, 5, 4, 8, 8)
    assert torch.equal(made[:, ::4], latents)
    assert (interpolate(sample, latents + 1, noise)[:, 2] - made[:, 2]).abs().max() > 1e-3
