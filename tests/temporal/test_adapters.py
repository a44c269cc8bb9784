"""Adapters on motion modules and on the image network: identity at first, train alone, fold exactly."""

import pytest
import torch
from tiny import perturb, relative

from kineograph.errors import InputError
from kineograph.systems import systems
from kineograph.temporal.adapters import adapted_layers, adapter_factors, add_adapter, fold_adapter, remove_adapter
from kineograph.temporal.tags import tag_of


def network():
    torch.manual_seed(0)
    return perturb(systems()["animatediff"].build("tiny")).eval()


def call(model):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 8, 8, generator=generator) * torch.linspace(0.3, 3, 3).view(3, 1, 1, 1)
    return model(x, torch.tensor([7, 900]), torch.randn(2, 5, 32, generator=generator))


def train(parameters, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


@pytest.mark.parametrize("part", ["motion", "domain"])
def test_an_adapter_starts_as_nothing_trains_alone_and_folds_exactly(part):
    model = network()
    keys = list(model.state_dict())
    with torch.no_grad():
        before = call(model)
    parameters = add_adapter(model.unet, part, rank=3, alpha=6)
    with torch.no_grad():
        assert torch.equal(call(model), before)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == len(parameters) == 2 * len(adapted_layers_without(model, part))
    assert {tag_of(name) for name in trained} == {"adapter"}
    assert all((".temporal." in name) == (part == "motion") for name in trained)
    train(parameters)
    with torch.no_grad():
        adapted = call(model)
        assert relative(adapted, before) > 1e-3
        fold_adapter(model.unet, part)
        assert list(model.state_dict()) == keys
        assert relative(call(model), adapted) < 1e-5


def adapted_layers_without(model, part):
    return list(adapter_factors(model.unet, part))


def test_both_adapters_live_side_by_side_and_leave_one_by_one():
    model = network()
    keys = list(model.state_dict())
    train(add_adapter(model.unet, "domain", rank=2))
    with torch.no_grad():
        domain = call(model)
    train(add_adapter(model.unet, "motion", rank=2), seed=1)
    with torch.no_grad():
        assert relative(call(model), domain) > 1e-3
        remove_adapter(model.unet, "motion")
        assert relative(call(model), domain) < 1e-6
        remove_adapter(model.unet, "domain")
    assert list(model.state_dict()) == keys


def test_half_the_scale_is_half_the_change():
    weights = []
    for scale in (0.0, 0.5, 1.0):
        model = network()
        train(add_adapter(model.unet, "motion", rank=2))
        fold_adapter(model.unet, "motion", scale)
        weights.append(model.unet.get_parameter("down_blocks.0.attentions.0.temporal.blocks.0.attend1.query.weight"))
    assert torch.allclose(weights[1], (weights[0] + weights[2]) / 2, atol=1e-6)
    assert not torch.equal(weights[0], weights[1])


def test_wrong_use_says_so():
    model = network()
    with pytest.raises(InputError, match="did you mean 'motion'"):
        adapted_layers(model.unet, "motoin")
    with pytest.raises(InputError, match="no motion adapter"):
        fold_adapter(model.unet, "motion")
    with pytest.raises(InputError, match="at least 1, not 0"):
        add_adapter(model.unet, "motion", rank=0)
    add_adapter(model.unet, "motion")
    with pytest.raises(InputError, match="already has a motion adapter"):
        add_adapter(model.unet, "motion")
    from diffusers import UNet2DConditionModel

    plain = UNet2DConditionModel.from_config(network().config)
    with pytest.raises(InputError, match="no attention for a motion adapter"):
        adapted_layers(plain, "motion")


@pytest.mark.parametrize("name", ["modelscope", "videocrafter", "stable_video_diffusion", "lavie", "show1"])
@torch.no_grad()
def test_every_design_with_attention_over_frames_takes_one(name):
    model = perturb(systems()[name].build("tiny")).eval()
    condition = torch.randn(2, 24) if name == "stable_video_diffusion" else None
    channels = model.config["in_channels"]

    def call():
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, 3, channels, 8, 8, generator=generator) * torch.linspace(0.3, 3, 3).view(3, 1, 1, 1)
        text = torch.randn(2, 5, 32, generator=generator)
        return model(x, torch.tensor([7, 900]), text, class_labels=condition)

    keys, before = list(model.state_dict()), call()
    parameters = add_adapter(model.unet, "motion", rank=2)
    assert relative(call(), before) < 1e-5
    train(parameters)
    adapted = call()
    assert relative(adapted, before) > 1e-3
    fold_adapter(model.unet, "motion")
    assert list(model.state_dict()) == keys
    assert relative(call(), adapted) < 1e-5
