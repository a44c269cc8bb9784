"""Any image model, any notion of time: every system that fits on tiny networks of every family.

Each quick run takes a quarter of the table, in which every system and every family is; `make test-slow` takes all.
"""

import functools

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from tiny import FAMILIES, inputs, perturb, relative

from kineograph.errors import InputError
from kineograph.models.video_unet import VideoUNet
from kineograph.systems import systems
from kineograph.temporal.tags import train_only

TRAINED = [name for name, system in systems().items() if name not in ("zeroscope", "text2video_zero")]
NEEDS_BLOCKS = {"stable_video_diffusion", "align_your_latents", "lavie", "text2video_zero"}
WITHOUT_BLOCKS = {"deepfloyd-if", "latent-upscaler", "unconditional"}
PAIRS = [(name, family) for name in TRAINED for family in FAMILIES]


def build(name, image):
    config = systems()[name].preset("tiny")
    if name == "lavie":
        from dataclasses import replace

        config = replace(config, spatial_norm="frame")  # over the clip it would not start as the image network
    return systems()[name].build(config, image)


def fits(name, family):
    return not (name in NEEDS_BLOCKS and family in WITHOUT_BLOCKS) and (name, family) != ("lavie", "dit")


@pytest.mark.parametrize(("name", "family"), [pair for pair in PAIRS if not fits(*pair)])
def test_networks_without_transformer_blocks_are_refused_and_left_whole(name, family):
    image = FAMILIES[family].build()
    keys = list(image.state_dict())
    with pytest.raises(InputError, match="has no"):
        systems()[name].build("tiny", image)
    assert list(image.state_dict()) == keys


def table(names):
    """Return the pairs that fit; those of another quarter than the quick one are slow."""
    return [
        pytest.param(name, family, marks=[] if (n + f) % 4 == 0 else pytest.mark.slow)
        for f, family in enumerate(FAMILIES)
        for n, name in enumerate(name for name in names if fits(name, family))
    ]


def test_the_quick_quarter_has_every_system_and_every_family():
    quick = [parameter.values for parameter in table(TRAINED) if not parameter.marks]
    assert {name for name, _ in quick} == set(TRAINED)
    assert {family for _, family in quick} == set(FAMILIES)


def gradients(model, call):
    """Return the gradients of a loss that looks at every frame."""
    model.zero_grad()
    model(**call).square().mean().backward()
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("name", "family"), table(TRAINED))
def test_starts_as_the_image_network_trains_and_comes_back(name, family, tmp_path):
    model, call = build(name, perturb(FAMILIES[family].build())), inputs(FAMILIES[family], frames=3)
    with torch.no_grad(), model.temporal_off():
        image = model(**call)
    with torch.no_grad():
        assert relative(model(**call), image) < 1e-5
    optimizer = torch.optim.SGD(train_only(model, ["temporal"]), lr=1.0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = gradients(model, call)
    model.enable_gradient_checkpointing()
    recomputed = gradients(model, call)
    largest = max(gradient.abs().max() for gradient in expected.values())
    assert all((recomputed[key] - expected[key]).abs().max() < 1e-5 * largest for key in expected)
    optimizer.step()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved
    assert all(".temporal." in key for key in moved)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(**call)
        again = VideoUNet.from_pretrained(tmp_path)
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())
        assert relative(again(**call), expected) < 1e-5  # some processors round by where in memory the weights lie
    assert relative(expected, image) > 1e-6


LORA = LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"])


@functools.cache
def adapted(family):
    """Return an image network with a LoRA, and the LoRA."""
    image = perturb(FAMILIES[family].build())
    inject_adapter_in_model(LORA, image)
    lora = get_peft_model_state_dict(perturb(image, seed=2))
    return image, lora


@pytest.mark.parametrize(("name", "family"), table([*TRAINED, "text2video_zero"]))
def test_lora_of_the_image_model_loads_under_every_design(name, family):
    image, lora = adapted(family)
    fresh = FAMILIES[family].build()
    inject_adapter_in_model(LORA, fresh)
    fresh.load_state_dict(image.state_dict())
    model = build(name, FAMILIES[family].build())
    inject_adapter_in_model(LORA, model.unet)
    assert sorted(get_peft_model_state_dict(model.unet)) == sorted(lora)
    assert not set_peft_model_state_dict(model.unet, lora).unexpected_keys
    base = {key: value for key, value in image.state_dict().items() if ".lora_" not in key}
    assert not model.unet.load_state_dict(base, strict=False).unexpected_keys
    call = inputs(FAMILIES[family], frames=1)
    with torch.no_grad(), model.eval().temporal_off():
        assert relative(model(**call), VideoUNet(fresh.eval())(**call)) < 1e-5
