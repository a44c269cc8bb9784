"""Clips from a prompt and a picture."""

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny_model, tiny_text
from tiny_svd import perturbed, photo, tiny_pipeline

from kineograph.errors import InputError
from kineograph.models.image_encoder import ImageEncoder
from kineograph.models.latent_video import LatentVideoModel
from kineograph.models.picture import PictureTokens, build_resampler
from kineograph.sampling.picture_and_text import PictureAndText
from kineograph.systems import systems

SMALL = {"num_frames": 3, "num_inference_steps": 3, "precision": "fp32"}


@pytest.fixture(scope="module")
def model():
    base = tiny_model(None)
    config = replace(systems()["videocrafter"].preset("tiny"), picture_tokens=4)
    network = perturbed(systems()["videocrafter"].build(config, base.network.unet)).eval()
    parts = LatentVideoModel(network, base.autoencoder, tiny_text(), replace(base.settings, system="videocrafter"))
    resampler = build_resampler(in_channels=32, out_channels=32, width=16, depth=1, num_heads=2, head_dim=8, tokens=4)
    return PictureAndText(parts, PictureTokens(ImageEncoder(tiny_pipeline().image_encoder), perturbed(resampler)))


def test_prompt_picture_and_seed_each_matter(model):
    clip = model.generate("a red dog", photo(), seed=1, **SMALL)
    assert clip.frames.shape == (3, 3, 16, 16)
    assert torch.equal(clip.frames, model.generate("a red dog", photo(), seed=1, **SMALL).frames)
    other = photo().transpose(1)  # upside down
    for changed in (
        model.generate("a blue cat", photo(), seed=1, **SMALL),
        model.generate("a red dog", other, seed=1, **SMALL),
        model.generate("a red dog", photo(), seed=2, **SMALL),
        model.generate("a red dog", photo(), seed=1, eta=0.0, **SMALL),
    ):
        assert not torch.equal(clip.frames, changed.frames)
    assert clip.metadata["prompt"] == "a red dog"


def test_guidance_steers_away_from_the_negative_prompt_and_a_grey_picture(model):
    seen = []
    original = model.context
    model.context = lambda prompt, picture: (
        seen.append((prompt, picture.abs().max().item())) or original(prompt, picture)
    )
    try:
        model.generate("a dog", photo(), negative_prompt="a cat", **SMALL)
    finally:
        del model.context
    assert [prompt for prompt, _ in seen] == ["a dog", "a cat"]
    assert seen[0][1] > 0.5
    assert seen[1][1] == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_frames": 99}, "--num-frames must be from 1 to 16"),
        ({"num_inference_steps": 0}, "--num-inference-steps"),
        ({"eta": 1.5}, "^eta must be from 0 to 1, not 1.5"),
        ({"seed": -3}, "--seed"),
        ({"guidance_scale": -1}, "--guidance-scale"),
        ({"guidance_scale": 1, "negative_prompt": "a cat"}, "--negative-prompt would change no pixel"),
        ({"fps": 0}, "--fps"),
    ],
)
def test_values_out_of_range_are_refused(model, changes, words):
    with pytest.raises(InputError, match=words):
        model.generate("a dog", photo(), **{**SMALL, **changes})
    with pytest.raises(InputError, match="starts from a picture"):
        model.generate("a dog", None, **SMALL)


def test_a_network_without_pictures_is_refused():
    with pytest.raises(InputError, match="does not attend to pictures"):
        PictureAndText(tiny_model(), None)
