"""An image network told log(sigma) / 4 instead of a timestep is the same network."""

import copy

import pytest
import torch
from tiny_models import smooth_image_model

from kineograph.diffusion.scheduler_config import read
from kineograph.errors import InputError
from kineograph.models.edm_conversion import take_numbers, tell_quarter_log


@pytest.fixture
def image():
    """Return a tiny image model whose group norms do not take out what the time embedding adds."""
    model = smooth_image_model()
    for module in model.network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = 4
    return model


@pytest.mark.parametrize("sigma", [0.01, 0.4, 3.0, 80.0])
@torch.no_grad()
def test_the_network_is_the_same_at_the_same_noise_level(image, sigma):
    before = copy.deepcopy(image.network.unet)
    error = tell_quarter_log(image.network.unet, image.plan)
    assert error < 0.05
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 32)
    at = image.plan.schedule.timestep_at(sigma)
    expected = before(x, at, context).sample
    told = torch.tensor(sigma).log() / 4
    found = image.network.unet(x, told, context).sample
    assert (found - expected).norm() < 0.02 * expected.norm()
    assert (before(x, 1000 - at, context).sample - expected).norm() > 0.02 * expected.norm()  # the level matters


@torch.no_grad()
def test_numbers_change_nothing_at_first_and_reach_the_network_later(image):
    unet = image.network.unet
    x, context, codes = torch.randn(1, 4, 8, 8), torch.randn(1, 3, 32), torch.randn(1, 24)
    before = unet(x, 5, context).sample
    take_numbers(unet, 24)
    assert torch.equal(unet(x, 5, context, class_labels=codes).sample, before)
    assert unet.config["class_embed_type"] == "projection"
    unet.class_embedding.linear_2.weight.normal_()
    assert not torch.allclose(unet(x, 5, context, class_labels=codes).sample, before)
    with pytest.raises(InputError, match="already told"):
        take_numbers(unet, 24)


def test_a_network_that_predicts_noise_is_refused(image):
    plan = read({"_class_name": "DDIMScheduler", "prediction_type": "epsilon", "clip_sample": False})
    with pytest.raises(InputError, match="predicts v"):
        tell_quarter_log(image.network.unet, plan)
