"""Networks that are built for weights: nothing random is drawn, and every value comes from the file."""

import threading

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_pipelines import tiny_image_unet
from torch import nn

from kineograph.errors import WeightsError
from kineograph.models.weights import Undrawn, built, load_diffusers, save_diffusers


def test_a_network_built_for_weights_draws_nothing_and_is_the_one_that_was_saved(tmp_path):
    unet = tiny_image_unet().eval()
    save_diffusers(unet, tmp_path)
    before = torch.get_rng_state()
    again = load_diffusers(UNet2DConditionModel, tmp_path).eval()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in unet.state_dict().items())
    x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 3, unet.config["cross_attention_dim"])
    with torch.no_grad():
        assert torch.equal(unet(x, 5, text).sample, again(x, 5, text).sample)


def test_constants_are_filled_and_other_threads_draw():
    drawn = []
    with Undrawn():
        norm = nn.LayerNorm(3)
        thread = threading.Thread(target=lambda: drawn.append(nn.Linear(3, 3).weight.detach().clone()))
        thread.start()
        thread.join()
    assert norm.weight.tolist() == [1, 1, 1]
    assert 0 < drawn[0].abs().max() <= 3**-0.5
    assert nn.Linear(3, 3).weight.detach().abs().max() > 0


def test_a_configuration_of_another_size_is_refused():
    with pytest.raises(WeightsError, match="describes a network of 4,196,352 values, and its weights are 3"):
        built(lambda: nn.Linear(2048, 2048), {"weight": torch.zeros(3)}, "here")
