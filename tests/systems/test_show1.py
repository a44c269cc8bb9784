"""What is particular to Show-1; equality with the authors' code: docs/systems/parity.md."""

import pytest
import torch
from diffusers import UNet3DConditionModel
from tiny import FAMILIES, perturb, relative, unequal_clip

from kineograph.systems import systems
from kineograph.systems.show1 import Show1Config, deepfloyd, latent

SYSTEM = systems()["show1"]


def test_heads_of_pixel_networks_are_as_many_as_the_image_networks_are_wide():
    with torch.device("meta"):
        model = SYSTEM.build("base")
    transformer = model.unet.get_submodule("down_blocks.1.attentions.0.temporal")
    image = model.unet.get_submodule("down_blocks.1.attentions.0")
    assert transformer.blocks[0].attend1.num_heads == 64
    assert image.heads == 10
    assert not hasattr(model.unet.down_blocks[0].downsamplers[0], "temporal")
    assert not hasattr(model.unet.conv_in, "temporal")


def test_parameters_of_the_image_network_are_those_of_deepfloyd_if():
    from diffusers import UNet2DConditionModel

    def count(base):
        widths = tuple(base * n for n in (1, 2, 3, 4))
        with torch.device("meta"):
            unet = UNet2DConditionModel(**deepfloyd(block_out_channels=widths, cross_attention_dim=4 * base))
        return sum(p.numel() for p in unet.parameters()) / 1e9

    assert count(320) == pytest.approx(0.9, abs=0.05)  # the names of the releases: IF-I-L 0.9 B, IF-I-XL 4.3 B
    assert count(704) == pytest.approx(4.3, abs=0.01)


@torch.no_grad()
def test_latent_network_is_diffusers_unet3d():
    common = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "cross_attention_dim": 24,
        "norm_num_groups": 32,
    }
    reference = perturb(
        UNet3DConditionModel(
            **common,
            attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        )
    ).eval()
    image = latent(
        **common,
        attention_head_dim=(4, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    ours = SYSTEM.build(Show1Config(image=image, num_heads=None, head_dim=8, input_heads=8)).eval()
    keys = SYSTEM.key_maps["diffusers"](ours.config)
    ours.unet.load_state_dict(keys.to_ours(reference.state_dict()), strict=True)
    x, context = unequal_clip(4, 2, 4, 8), torch.randn(2, 5, 24)
    theirs = reference(x.transpose(1, 2), torch.tensor([7, 900]), context).sample.transpose(1, 2)
    assert relative(ours(x, torch.tensor([7, 900]), context), theirs) < 1e-5


def test_any_deepfloyd_network_becomes_one():
    image = FAMILIES["deepfloyd-if"].build()
    model = SYSTEM.build("tiny", image)
    assert model.unet is image
