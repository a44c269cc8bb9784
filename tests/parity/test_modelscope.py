"""ModelScopeT2V against diffusers' UNet3DConditionModel: the same random weights, outputs and gradients."""

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet3DConditionModel
from tiny import perturb, relative, unequal_clip

from kineograph.models.video_unet import VideoUNet
from kineograph.systems import systems
from kineograph.systems.modelscope import ModelScopeConfig
from kineograph.temporal.inflate import spatial_state_dict, temporal_state_dict

TWO = {
    "down_block_types": ("CrossAttnDownBlock{d}D", "DownBlock{d}D"),
    "up_block_types": ("UpBlock{d}D", "CrossAttnUpBlock{d}D"),
}
THREE = {
    "down_block_types": ("CrossAttnDownBlock{d}D", "CrossAttnDownBlock{d}D", "DownBlock{d}D"),
    "up_block_types": ("UpBlock{d}D", "CrossAttnUpBlock{d}D", "CrossAttnUpBlock{d}D"),
}
CONFIGS = {
    "two-levels": dict(TWO, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=32, head_dim=8),
    "two-layers": dict(TWO, block_out_channels=(32, 32), layers_per_block=2, norm_num_groups=8, head_dim=16),
    "three-levels": dict(THREE, block_out_channels=(16, 32, 32), layers_per_block=1, norm_num_groups=4, head_dim=4),
}


def both(name, **model):
    """Return the reference and our network with its weights."""
    config = dict(CONFIGS[name])
    head_dim = config.pop("head_dim")
    kinds = {key: config.pop(key) for key in ("down_block_types", "up_block_types")}
    common = dict(config, in_channels=4, out_channels=4, cross_attention_dim=24, sample_size=8)
    reference = UNet3DConditionModel(
        **common, attention_head_dim=head_dim, **{k: tuple(t.format(d=3) for t in v) for k, v in kinds.items()}
    )
    perturb(reference)
    for module in reference.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    image = UNet2DConditionModel(
        **common,
        attention_head_dim=tuple(c // head_dim for c in config["block_out_channels"]),
        use_linear_projection=True,
        **{k: tuple(t.format(d=2) for t in v) for k, v in kinds.items()},
    )
    ours_config = ModelScopeConfig(head_dim=head_dim, conv_dropout=0.0, **model)
    system = systems()["modelscope"]
    ours = system.build(ours_config, image)
    weights = system.key_maps["diffusers"](ours.config).to_ours(reference.state_dict())
    ours.unet.load_state_dict(weights, strict=True)
    return reference, ours


def inputs(frames=5):
    """Return two clips whose frames differ in scale, so that norms over the clip show up."""
    return unequal_clip(frames), torch.tensor([7, 900]), torch.randn(2, 6, 24)


def run(reference, x, t, context):
    return reference(x.transpose(1, 2), t, context).sample.transpose(1, 2)


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize("name", CONFIGS)
def test_output_equals_unet3d(name, frames):
    reference, ours = both(name)
    x, t, context = inputs(frames)
    with torch.no_grad():
        assert relative(ours.eval()(x, t, context), run(reference.eval(), x, t, context)) < 1e-5


@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_rounds_no_more_than_unet3d(name):
    """Where the two differ in bfloat16, it is by rounding: ours is as near to float32 as theirs."""
    torch.manual_seed(0)
    reference, ours = both(name)
    x, t, context = inputs()
    with torch.no_grad():
        exact = ours.eval()(x, t, context)
        x, context = x.bfloat16(), context.bfloat16()
        found = ours.bfloat16()(x, t, context).float()
        theirs = run(reference.eval().bfloat16(), x, t, context).float()
    away = [(side - exact).square().mean().sqrt().item() for side in (found, theirs)]
    assert away[0] < 1.25 * away[1]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_equal_unet3d_in_training(name, checkpointing):
    reference, ours = both(name)
    reference.train()
    ours.train()
    if checkpointing:
        ours.enable_gradient_checkpointing()
    x, t, context = inputs()
    theirs_x, ours_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    target = torch.randn_like(x)
    theirs_out, ours_out = run(reference, theirs_x, t, context), ours(ours_x, t, context)
    assert relative(ours_out.detach(), theirs_out.detach()) < 1e-5
    (theirs_out - target).square().mean().backward()
    (ours_out - target).square().mean().backward()
    assert relative(ours_x.grad, theirs_x.grad) < 1e-5
    keys = systems()["modelscope"].key_maps["diffusers"](ours.config)
    theirs = keys.to_ours({key: p.grad for key, p in reference.named_parameters()})
    largest = max(grad.abs().max() for grad in theirs.values())
    for key, parameter in ours.unet.named_parameters():
        assert (parameter.grad - theirs[key]).abs().max() < 1e-5 * largest, key


def test_key_map_is_a_bijection():
    reference, ours = both("three-levels")
    keys = systems()["modelscope"].key_maps["diffusers"](ours.config)
    back = keys.to_theirs(ours.unet.state_dict())
    assert sorted(back) == sorted(reference.state_dict())
    assert all(torch.equal(back[key], value) for key, value in reference.state_dict().items())


def test_published_size_on_the_meta_device():
    with torch.device("meta"):
        model = systems()["modelscope"].build()
        reference = UNet3DConditionModel()
    temporal = sum(value.numel() for value in temporal_state_dict(model.unet).values())
    spatial = sum(value.numel() for value in spatial_state_dict(model.unet).values())
    assert round(spatial / 1e6, 1) == 865.9
    assert round(temporal / 1e6, 1) == 545.3
    assert spatial + temporal == sum(p.numel() for p in reference.parameters())
    assert isinstance(model, VideoUNet)
