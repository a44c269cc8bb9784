"""SparseCtrl against diffusers' SparseControlNetModel: the same random weights, outputs and gradients."""

import pytest
import torch
from diffusers import SparseControlNetModel
from tiny import perturb, relative

from kineograph.models.sparse_control import place_frames
from kineograph.systems.sparsectrl import diffusers_keys, load_sparsectrl, original_keys
from kineograph.temporal.inflate import spatial_state_dict, temporal_state_dict

COMMON = {
    "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
    "block_out_channels": (32, 64),
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "motion_num_attention_heads": 4,
}
KINDS = {
    "rgb": {"conditioning_channels": 4, "use_simplified_condition_embedding": True},
    "scribble": {
        "conditioning_channels": 3,
        "use_simplified_condition_embedding": False,
        "conditioning_embedding_out_channels": (8, 16),
    },
}


def both(kind, folder):
    reference = perturb(SparseControlNetModel(**COMMON, **KINDS[kind]))
    reference.save_pretrained(folder)
    return reference, load_sparsectrl(folder, motion_norm="clip")


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_residuals_and_gradients_equal_diffusers(kind, checkpointing, tmp_path):
    reference, ours = both(kind, tmp_path)
    if checkpointing:
        ours.control.enable_gradient_checkpointing()
    edge, channels = 8 * ours.factor, KINDS[kind]["conditioning_channels"]
    given = torch.randn(2, 2, channels, edge, edge) * torch.tensor([0.5, 3]).view(2, 1, 1, 1)
    condition, mask = place_frames(given, [0, -2], 5)
    x, t, context = torch.randn(2, 5, 4, 8, 8), torch.tensor([7, 900]), torch.randn(2, 6, 24)
    theirs = reference.train()(
        x.transpose(1, 2),
        t,
        context.repeat_interleave(5, 0),
        condition.transpose(1, 2),
        conditioning_mask=mask[:, None, :, None, None].float().expand(-1, 1, -1, edge, edge),
        conditioning_scale=0.7,
        return_dict=False,
    )
    found = ours.train()(x, t, context, condition, mask, scale=0.7)
    pairs = [(a.unflatten(0, (2, 5)), b) for a, b in zip([*theirs[0], theirs[1]], [*found[0], found[1]], strict=True)]
    assert len(pairs) == 7
    for expected, value in pairs:
        assert relative(value.detach(), expected.detach()) < 1e-5
    sum(a.square().mean() for a, _ in pairs).backward()
    sum(b.square().mean() for _, b in pairs).backward()
    keys = diffusers_keys(ours.control.config)
    gradients = keys.to_ours({key: p.grad for key, p in reference.named_parameters() if p.grad is not None})
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for key, parameter in ours.control.named_parameters():
        if parameter.grad is not None:  # no noisy latents enter the first convolution
            assert (parameter.grad - gradients[key]).abs().max() < 1e-5 * largest, key


def test_keys_go_both_ways(tmp_path):
    reference, ours = both("rgb", tmp_path)
    spatial, temporal = spatial_state_dict(ours.control), temporal_state_dict(ours.control)
    back = diffusers_keys(ours.control.config).to_theirs(temporal) | spatial
    assert sorted(back) == sorted(reference.state_dict())
    assert all(torch.equal(back[key], value) for key, value in reference.state_dict().items())
    original = original_keys(ours.control.config)
    theirs = original.to_theirs(temporal)
    stem = "down_blocks.0.motion_modules.1.temporal_transformer."
    for end in ("transformer_blocks.0.attention_blocks.0.pos_encoder.pe", "transformer_blocks.0.ff_norm.bias"):
        assert stem + end in theirs
    assert sorted(original.to_ours(theirs)) == sorted(temporal)
