"""LaVie's attention: rotary positions, distance buckets, and its place inside transformer blocks."""

import copy

import pytest
import torch
from tiny import FAMILIES, inputs, perturb, relative
from transformers.models.t5.modeling_t5 import T5Attention

from kineograph.errors import InputError
from kineograph.models.video_unet import VideoUNet
from kineograph.temporal.plan import Placement, Plan
from kineograph.temporal.rotary import DistanceBias, TemporalRotaryAttention, rotary_rates, rotate

PLAN = Plan((Placement("before_feed_forward", "temporal_rotary_attention", {"num_heads": 2}),))


def test_rotation_keeps_lengths_and_sees_only_distances():
    torch.manual_seed(0)
    token = torch.randn(2, 1, 24, dtype=torch.float64).expand(2, 6, 24)
    rates = rotary_rates(8, token)
    assert torch.equal(rates, 1.0 / (10000.0 ** (torch.arange(0, 8, 2).float() / 8)))  # rotary_embedding_torch 0.3.0
    q, k = rotate(token, 2, rates), rotate(token.flip(-1), 2, rates)
    assert torch.allclose(q.norm(dim=-1), token.norm(dim=-1), atol=1e-5)
    assert torch.equal(q[:, 0], token[:, 0])
    assert torch.equal(q[..., 8:12], token[..., 8:12])
    products = torch.einsum("sic,sjc->sij", q, k)
    assert torch.allclose(products[:, 1:, 1:], products[:, :-1, :-1], atol=1e-5)
    assert (products[:, 0, 0] - products[:, 0, 1]).abs().min() > 1e-3


def test_distance_buckets_are_those_of_t5():
    bias = DistanceBias(2)
    distance = torch.arange(-70, 71)
    expected = T5Attention._relative_position_bucket(distance, True, num_buckets=32, max_distance=32)
    assert torch.equal(bias.bucket(distance), expected)
    table = bias(5)
    assert table.shape == (2, 5, 5)
    assert torch.equal(table[:, 0, 3], bias.table.weight[bias.bucket(torch.tensor(3))])


def test_attention_starts_as_identity_and_relates_frames_of_one_clip_and_place():
    layer = TemporalRotaryAttention(16, num_heads=2)
    x = torch.randn(2 * 3, 5, 16)
    assert torch.equal(layer(x, 3), x)
    perturb(layer, 0.3)
    changed = x.clone()
    changed[1, 2, 0] += 1
    moved = (layer(changed, 3) - layer(x, 3)).abs().amax(-1)
    assert (moved[:3, 2] > 1e-5).all()
    moved[:3, 2] = 0
    assert (moved == 0).all()


@torch.no_grad()
def test_inside_every_transformer_block_it_sees_what_the_feed_forward_would():
    """Replace the temporal layer by its definition, written out in the block's own order."""
    family = FAMILIES["sd2"]
    model = VideoUNet(perturb(family.build()), PLAN)
    block = model.unet.down_blocks[0].attentions[0].transformer_blocks[0]
    layer = perturb(block.attn2.temporal, 0.3)
    seen = []
    block.norm3.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    stream = []
    block.norm2.register_forward_pre_hook(lambda _, args: stream.append(args[0]))
    call = inputs(family)
    model(**call)
    context = call["context"].repeat_interleave(4, 0)
    hidden = stream[0] + block.attn2.processor(block.attn2, block.norm2(stream[0]), context)
    assert relative(seen[0], layer(hidden, 4)) < 1e-5
    assert relative(seen[0], hidden) > 1e-3


@torch.no_grad()
def test_copies_and_images_keep_apart():
    family = FAMILIES["sd2"]
    model = VideoUNet(perturb(family.build()), PLAN)
    perturb(model, 0.1)
    twin, call = copy.deepcopy(model), inputs(family)
    before = model(**call)
    for parameter in twin.parameters():
        parameter.zero_()
    twin(**call)
    assert torch.equal(model(**call), before)
    mixed = model(**call, num_images=1)
    with model.temporal_off():
        assert relative(mixed[:, -1:], model(**call)[:, -1:]) < 1e-6


def test_rates_of_its_own_turn_frames_by_them():
    torch.manual_seed(0)
    rates = (0.5, 0.25, 0.125, 0.1)
    own = TemporalRotaryAttention(16, 1, rates=rates)
    usual = TemporalRotaryAttention(16, 1, rotary=8)
    usual.load_state_dict(own.state_dict())
    for layer in (own, usual):
        torch.nn.init.normal_(layer.output.weight, generator=torch.Generator().manual_seed(1))
    x = torch.randn(5, 3, 16)
    assert relative(own(x, 5), usual(x, 5)) > 1e-3
    named = TemporalRotaryAttention(16, 1, rates=rotary_rates(8, x).tolist())
    named.load_state_dict(usual.state_dict())
    assert torch.equal(named(x, 5), usual(x, 5))
    with pytest.raises(InputError, match="rotate 8 channels, and a head has 4"):
        TemporalRotaryAttention(4, 1, rates=rates)
