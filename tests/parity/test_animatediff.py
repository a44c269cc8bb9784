"""AnimateDiff against diffusers' UNetMotionModel: the same random weights, outputs and gradients."""

import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel
from motion_pair import SD, SYSTEM, motion_pair
from tiny import relative, unequal_clip

from kineograph.errors import InputError
from kineograph.systems.animatediff import AnimateDiffConfig, diffusers_keys, original_keys
from kineograph.temporal.inflate import temporal_state_dict

SDXL = SD | {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 12,
}
VERSIONS = {
    "v1": (SD, AnimateDiffConfig(max_frames=24, motion_norm="clip", num_heads=4, norm_groups=8)),
    "v2": (
        SD | {"layers_per_block": 2},
        AnimateDiffConfig(middle=True, motion_norm="clip", num_heads=2, norm_groups=8),
    ),
    "v3": (SD | {"norm_num_groups": 16}, AnimateDiffConfig(motion_norm="clip", num_heads=8, norm_groups=16)),
    "sdxl": (SDXL, AnimateDiffConfig(motion_norm="clip", num_heads=4, norm_groups=8)),
}


def both(name):
    """Return the reference, our network with its weights, and the map between their names."""
    arguments, config = VERSIONS[name]
    return motion_pair(config, arguments)


def inputs(name, frames=5):
    conditions = {"timestep": torch.tensor([7, 900]), "context": torch.randn(2, 6, 24)}
    if name == "sdxl":
        conditions["added_conditions"] = {"text_embeds": torch.randn(2, 12), "time_ids": torch.rand(2, 6)}
    return unequal_clip(frames), conditions


def run(reference, x, timestep, context, added_conditions=None):
    out = reference(
        x.transpose(1, 2),
        timestep,
        context.repeat_interleave(x.shape[1], 0),  # diffusers' pipelines repeat the text themselves
        added_cond_kwargs=added_conditions,
    )
    return out.sample.transpose(1, 2)


@pytest.mark.parametrize("name", VERSIONS)
def test_outputs_and_gradients_equal_unet_motion_model(name):
    reference, ours, keys = both(name)
    x, conditions = inputs(name)
    theirs_x, ours_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours.train().enable_gradient_checkpointing()
    theirs_out, ours_out = run(reference.train(), theirs_x, **conditions), ours(ours_x, **conditions)
    assert relative(ours_out.detach(), theirs_out.detach()) < 1e-5
    theirs_out.square().mean().backward()
    ours_out.square().mean().backward()
    assert relative(ours_x.grad, theirs_x.grad) < 1e-5
    theirs = keys.to_ours({key: p.grad for key, p in reference.named_parameters()})
    largest = max(grad.abs().max() for grad in theirs.values())
    for key, parameter in ours.unet.named_parameters():
        assert (parameter.grad - theirs[key]).abs().max() < 1e-5 * largest, key


def test_norm_per_frame_differs_from_diffusers():
    """The authors normalise the motion module's input per frame; on unequal frames that shows."""
    reference, ours, _ = both("v2")
    authors = SYSTEM.build(
        AnimateDiffConfig(middle=True, num_heads=2, norm_groups=8), UNet2DConditionModel(**VERSIONS["v2"][0])
    )
    authors.unet.load_state_dict(ours.unet.state_dict())
    x, conditions = inputs("v2")
    with torch.no_grad():
        assert relative(authors(x, **conditions), run(reference, x, **conditions)) > 1e-2


@pytest.mark.parametrize("name", ["v1", "v2", "sdxl"])
def test_motion_file_written_here_loads_in_diffusers(name):
    reference, ours, _ = both(name)
    config = VERSIONS[name][1]
    keys = diffusers_keys(ours.config, config.max_frames)
    motion = keys.to_theirs(temporal_state_dict(ours.unet))
    expected = {key: value for key, value in reference.state_dict().items() if "motion_modules" in key}
    assert sorted(motion) == sorted(expected)
    assert all(torch.allclose(motion[key], value, atol=1e-6) for key, value in expected.items())


def test_original_layout_round_trips():
    _, ours, _ = both("v2")
    keys, weights = original_keys(ours.config), temporal_state_dict(ours.unet)
    theirs = keys.to_theirs(weights)
    stem = "down_blocks.0.motion_modules.1.temporal_transformer."
    block = stem + "transformer_blocks.0."
    for name in ("norm.weight", "proj_in.bias", "proj_out.weight"):
        assert stem + name in theirs
    for name in ("attention_blocks.1.to_out.0.bias", "norms.0.weight", "ff.net.0.proj.weight", "ff_norm.bias"):
        assert block + name in theirs
    assert theirs[block + "attention_blocks.0.pos_encoder.pe"].shape == (1, 32, 32)
    assert not any("transformer_blocks.0.norm1" in key or "attn" in key for key in theirs)
    for written in (theirs, {f"module.{key}": value for key, value in theirs.items()}):
        back = keys.to_ours(written)
        assert sorted(back) == sorted(weights)
        assert all(torch.equal(back[key], value) for key, value in weights.items())


def test_clips_longer_than_the_position_code_are_refused():
    _, ours, _ = both("v1")
    x, conditions = inputs("v1", frames=25)
    with pytest.raises(InputError, match="24 frame positions, the clip has 25"):
        ours(x, **conditions)


@pytest.mark.parametrize(("preset", "millions"), [("v1", 417.1), ("v3", 417.1), ("v2", 453.2), ("sdxl", 236.8)])
def test_published_sizes_on_the_meta_device(preset, millions):
    with torch.device("meta"):
        model = SYSTEM.build(preset)
        config = model.config
        adapter = MotionAdapter(
            block_out_channels=config["block_out_channels"], use_motion_mid_block=SYSTEM.preset(preset).middle
        )
    temporal = sum(value.numel() for value in temporal_state_dict(model.unet).values())
    assert temporal == sum(p.numel() for p in adapter.parameters())
    assert round(temporal / 1e6, 1) == millions
