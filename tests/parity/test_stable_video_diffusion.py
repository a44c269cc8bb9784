"""Stable Video Diffusion against diffusers' UNetSpatioTemporalConditionModel: same weights, outputs and gradients."""

import pytest
import torch
from diffusers import UNet2DConditionModel, UNetSpatioTemporalConditionModel
from tiny import perturb, relative, unequal_clip

from kineograph.systems import systems
from kineograph.systems.stable_video_diffusion import SVDConfig
from kineograph.temporal.inflate import spatial_state_dict, temporal_state_dict
from kineograph.temporal.position import scalar_waves

SYSTEM = systems()["stable_video_diffusion"]
CONFIGS = {
    "two-levels": (("CrossAttn", ""), (32, 64), 1, (4, 4)),
    "two-layers": (("CrossAttn", "CrossAttn"), (32, 32), 2, (2, 4)),
    "three-levels": (("CrossAttn", "CrossAttn", ""), (32, 32, 64), 1, (2, 2, 4)),
}


def both(name):
    """Return the reference and our network with its weights and its epsilons."""
    kinds, channels, layers, heads = CONFIGS[name]
    common = {
        "sample_size": 8,
        "in_channels": 8,
        "out_channels": 4,
        "block_out_channels": channels,
        "layers_per_block": layers,
        "cross_attention_dim": 24,
        "projection_class_embeddings_input_dim": 24,
    }
    reference = perturb(
        UNetSpatioTemporalConditionModel(
            **common,
            num_attention_heads=heads,
            addition_time_embed_dim=8,
            down_block_types=tuple(f"{kind}DownBlockSpatioTemporal" for kind in kinds),
            up_block_types=tuple(f"{kind}UpBlockSpatioTemporal" for kind in reversed(kinds)),
        )
    )
    image = UNet2DConditionModel(
        **common,
        attention_head_dim=heads,
        use_linear_projection=True,
        class_embed_type="projection",
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
    )
    ours = SYSTEM.build(SVDConfig(), image)
    set_heads(ours, heads, channels)
    keys = SYSTEM.key_maps["diffusers"](ours.config)
    ours.unet.load_state_dict(keys.to_ours(reference.state_dict()), strict=True)
    take_epsilons(ours.unet, reference, keys)
    return reference, ours, keys


def set_heads(ours, heads, channels):
    """Temporal heads are as many as spatial ones in the reference; ours follow from a head width."""
    for attention in (m for m in ours.modules() if hasattr(m, "transformer_blocks")):
        block = attention.transformer_blocks[0]
        block.temporal.attend1.num_heads = block.temporal.attend2.num_heads = block.attn1.heads


def take_epsilons(ours, reference, keys):
    """diffusers gives some norms of ResNet blocks 1e-6; copy what the reference has."""
    epsilons = {f"{name}.weight": m for name, m in reference.named_modules() if isinstance(m, torch.nn.GroupNorm)}
    for name, module in keys.to_ours(epsilons).items():
        ours.get_submodule(name.removesuffix(".weight")).eps = module.eps


def inputs(frames=4):
    ids = torch.tensor([[6.0, 127.0, 0.02], [24.0, 20.0, 0.3]])
    return unequal_clip(frames, 2, 8), torch.tensor([0.3, -1.2]), torch.randn(2, 3, 24), ids


def run(reference, x, t, context, ids):
    return reference(x, t, context, added_time_ids=ids).sample


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_and_gradients_equal_unet_spatio_temporal(name, checkpointing):
    reference, ours, keys = both(name)
    x, t, context, ids = inputs()
    theirs_x, ours_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    if checkpointing:
        ours.enable_gradient_checkpointing()
    theirs_out = run(reference.train(), theirs_x, t, context, ids)
    ours_out = ours.train()(ours_x, t, context, class_labels=scalar_waves(ids, 8))
    assert relative(ours_out.detach(), theirs_out.detach()) < 1e-5
    theirs_out.square().mean().backward()
    ours_out.square().mean().backward()
    assert relative(ours_x.grad, theirs_x.grad) < 1e-5
    theirs = keys.to_ours({key: p.grad for key, p in reference.named_parameters()})
    largest = max(grad.abs().max() for grad in theirs.values())
    for key, parameter in ours.unet.named_parameters():
        assert (parameter.grad - theirs[key]).abs().max() < 1e-5 * largest, key


def test_key_map_is_a_bijection():
    reference, ours, keys = both("three-levels")
    back = keys.to_theirs(ours.unet.state_dict())
    assert sorted(back) == sorted(reference.state_dict())
    assert all(torch.equal(back[key], value) for key, value in reference.state_dict().items())


def test_published_size_on_the_meta_device():
    with torch.device("meta"):
        model = SYSTEM.build()
    temporal = sum(value.numel() for value in temporal_state_dict(model.unet).values())
    spatial = sum(value.numel() for value in spatial_state_dict(model.unet).values())
    assert round(temporal / 1e6, 1) == 656.1
    assert round((temporal + spatial) / 1e6, 1) == 1524.6
