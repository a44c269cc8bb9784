"""Any image model, any notion of time: every system that fits on tiny networks of every family."""

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from tiny import FAMILIES, inputs, perturb, relative

from kineograph.errors import InputError
from kineograph.models.video_unet import VideoUNet
from kineograph.systems import systems
from kineograph.temporal.tags import train_only

TRAINED = [name for name, system in systems().items() if name not in ("zeroscope", "text2video_zero")]
NEEDS_BLOCKS = {"stable_video_diffusion", "align_your_latents", "lavie"}
WITHOUT_BLOCKS = {"deepfloyd-if", "latent-upscaler", "unconditional"}
PAIRS = [(name, family) for name in TRAINED for family in FAMILIES]


def build(name, family):
    config = systems()[name].preset("tiny")
    if name == "lavie":
        from dataclasses import replace

        config = replace(config, spatial_norm="frame")  # over the clip it would not start as the image network
    return systems()[name].build(config, perturb(FAMILIES[family].build()))


def fits(name, family):
    return not (name in NEEDS_BLOCKS and family in WITHOUT_BLOCKS)


@pytest.mark.parametrize(("name", "family"), [pair for pair in PAIRS if not fits(*pair)])
def test_networks_without_transformer_blocks_are_refused_and_left_whole(name, family):
    image = FAMILIES[family].build()
    keys = list(image.state_dict())
    with pytest.raises(InputError, match="has no"):
        systems()[name].build("tiny", image)
    assert list(image.state_dict()) == keys


@pytest.mark.parametrize(("name", "family"), [pair for pair in PAIRS if fits(*pair)])
def test_starts_as_the_image_network_trains_and_comes_back(name, family, tmp_path):
    model, call = build(name, family), inputs(FAMILIES[family], frames=3)
    with torch.no_grad(), model.temporal_off():
        image = model(**call)
    with torch.no_grad():
        assert relative(model(**call), image) < 1e-5
    model.enable_gradient_checkpointing()
    optimizer = torch.optim.SGD(train_only(model, ["temporal"]), lr=1.0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(**call).square().mean().backward()
    optimizer.step()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved
    assert all(".temporal." in key for key in moved)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(**call)
        assert torch.equal(VideoUNet.from_pretrained(tmp_path)(**call), expected)
    assert relative(expected, image) > 1e-6


@pytest.mark.parametrize("name", [*TRAINED, "text2video_zero"])
def test_lora_of_the_image_model_loads_under_every_design(name):
    config = LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    plain = FAMILIES["sd2"].build()
    plain.add_adapter(config)
    lora = get_peft_model_state_dict(perturb(plain))
    model = systems()[name].build("tiny", FAMILIES["sd2"].build())
    model.unet.add_adapter(config)
    assert not set_peft_model_state_dict(model.unet, lora).unexpected_keys
    assert sorted(get_peft_model_state_dict(model.unet)) == sorted(lora)
    with torch.no_grad():
        assert model.eval()(**inputs(FAMILIES["sd2"])).isfinite().all()
