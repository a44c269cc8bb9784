"""Temporal layers against independent formulas."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from tiny import perturb, relative, unequal_clip

from kineograph.temporal import attend as attend_module
from kineograph.temporal.attend import attend
from kineograph.temporal.attention import FrameAttention, TemporalTransformer, head_split
from kineograph.temporal.blend import TemporalResBlock, TemporalVideoBlock
from kineograph.temporal.convolution import FrameConv, TemporalConvolution
from kineograph.temporal.norm import FrameGroupNorm, divisor


def softmax_attention(q, k, v, heads, bias=None):
    q, k, v = (rearrange(x, "s n (h d) -> s h n d", h=heads) for x in (q, k, v))
    logits = torch.einsum("shnd,shmd->shnm", q, k) / q.shape[-1] ** 0.5
    weights = (logits if bias is None else logits + bias).softmax(-1)
    return rearrange(torch.einsum("shnm,shmd->shnd", weights, v), "s h n d -> s n (h d)")


@pytest.mark.parametrize(
    ("sequences", "frames", "keys"), [(12, 8, 8), (7, 16, 16), (6, 24, 24), (6, 5, 3), (4, 40, 40)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attend_equals_softmax_attention(sequences, frames, keys, dtype):
    q, k, v = (torch.randn(sequences, n, 32, dtype=dtype) for n in (frames, keys, keys))
    expected = softmax_attention(q.double(), k.double(), v.double(), 4)
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    assert relative(attend(q, k, v, 4).double(), expected) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attend_with_bias_forbids_pairs(dtype):
    q, k, v = (torch.randn(6, 8, 32, dtype=dtype) for _ in range(3))
    causal = torch.full((8, 8), -torch.inf).triu(1)
    out = attend(q, k, v, 4, causal)
    assert relative(out.double(), softmax_attention(q.double(), k.double(), v.double(), 4, causal)) < 2e-2
    assert relative(out[:, :1], v[:, :1]) < 1e-2


def test_grouped_matrix_products_are_exact_in_float32():
    q, k, v = (torch.randn(12, 8, 32, requires_grad=True) for _ in range(3))
    grouped, fused = (f(q, k, v, 4, None) for f in (attend_module._attend_grouped, attend_module._attend_fused))
    assert relative(grouped, fused) < 1e-5
    target = torch.randn_like(fused)
    ours, theirs = (torch.autograd.grad((x * target).sum(), (q, k, v)) for x in (grouped, fused))
    assert all(relative(a, b) < 1e-5 for a, b in zip(ours, theirs, strict=True))


def test_long_batches_are_split_where_kernels_have_a_limit(monkeypatch):
    monkeypatch.setattr(attend_module, "MAX_SEQUENCES", 20)
    q, k, v = (torch.randn(12, 8, 32, device="meta") for _ in range(3))
    sizes = []
    fused = attend_module._attend_fused
    monkeypatch.setattr(attend_module, "_attend_fused", lambda *a: sizes.append(len(a[0])) or fused(*a))
    assert attend(q, k, v, 4).shape == (12, 8, 32)
    assert attend(q, k, v, 4, torch.zeros(12, 1, 8, 8, device="meta")).shape == (12, 8, 32)
    assert sizes == [5, 5, 2] * 2


def test_frame_conv_equals_conv3d():
    conv = FrameConv(6, 10)
    x = torch.randn(2, 6, 5, 12)
    plain = F.conv3d(x.unflatten(3, (3, 4)), conv.weight, conv.bias, padding=(1, 0, 0)).flatten(3)
    assert conv.weight.shape == (10, 6, 3, 1, 1)
    assert relative(conv(x), plain) < 1e-6


@pytest.mark.parametrize("over", ["frame", "clip"])
def test_norm_statistics_span_what_they_should(over):
    norm = FrameGroupNorm(8, 2, over=over).requires_grad_(False)
    x = unequal_clip(4, 2, 8).flatten(0, 1).flatten(2)
    out = rearrange(norm(x, 4), "b (g c) f n -> b g f (c n)", g=2)
    frame_variances = out.var(-1, unbiased=False)
    whole = out.flatten(2).var(-1, unbiased=False)
    assert torch.allclose(whole, torch.ones_like(whole), atol=1e-3)
    if over == "frame":
        assert torch.allclose(frame_variances, torch.ones_like(frame_variances), atol=1e-3)
    else:
        assert frame_variances.max() / frame_variances.min() > 20


def test_a_norm_per_frame_lets_no_frame_see_another_and_a_norm_per_clip_does():
    for over, separate in (("frame", True), ("clip", False)):
        norm = FrameGroupNorm(8, 2, over=over)
        x = torch.randn(4, 8, 9)
        changed = x.clone()
        changed[3] *= 5
        assert torch.equal(norm(x, 4)[:, :, :3], norm(changed, 4)[:, :, :3]) is separate


@pytest.mark.parametrize("layer", [TemporalTransformer(16, norm_groups=4, head_dim=8), TemporalConvolution(16, 4, 0.0)])
def test_layers_start_as_identity_and_relate_frames_afterwards(layer):
    x = torch.randn(6, 16, 4, 4)
    assert torch.equal(layer(x, 3), x)
    perturb(layer, 0.2)
    changed = x.clone()
    changed[2, :, 0, 0] += 1
    moved = (layer(changed, 3) - layer(x, 3)).abs().amax((1, 2, 3))
    assert (moved[:3] > 0).all()
    assert (moved[3:] == 0).all()


def test_dropout_acts_only_in_training():
    layer = perturb(TemporalConvolution(16, 4, dropout=0.5), 0.2)
    x = torch.randn(4, 16, 4, 4)
    assert not torch.equal(layer(x, 4), layer(x, 4))
    layer.eval()
    assert torch.equal(layer(x, 4), layer(x, 4))


def test_sizes_that_do_not_divide_are_lowered():
    assert divisor(320, 32) == 32
    assert divisor(12, 8) == 6
    assert head_split(160, None, 64) == (4, 40)
    assert head_split(320, None, 64) == (5, 64)
    assert head_split(320, 8, 64) == (8, 64)
    assert head_split(320, 8, None) == (8, 40)
    assert TemporalTransformer(32, width=0.5, head_dim=8).enter.out_features == 16


@torch.no_grad()
def test_bfloat16_autocast_stays_near_float32():
    for layer in (TemporalTransformer(32, head_dim=8), TemporalConvolution(32, 8, 0.0)):
        perturb(layer, 0.1)
        x = torch.randn(8, 32, 4, 4)
        expected = layer(x, 8) - x
        with torch.autocast("cpu", torch.bfloat16):
            assert relative(layer(x, 8).float() - x, expected) < 3e-2


def test_video_block_starts_as_identity_and_keeps_its_window():
    layer = TemporalVideoBlock(16, 12, head_dim=8, window=2)
    x, context = torch.randn(2 * 6, 5, 16), torch.randn(2 * 6, 3, 12)
    assert torch.allclose(layer(x, 6, context), x, atol=1e-6)
    perturb(layer, 0.2)
    changed = x.clone()
    changed[0, :, 0] += 1
    moved = (layer(changed, 6, context) - layer(x, 6, context)).abs().amax((1, 2))
    assert (moved[:3] > 1e-4).all()
    assert (moved[3:] == 0).all()


def test_video_block_sees_the_context_of_the_first_frame_only():
    layer = perturb(TemporalVideoBlock(16, 12, head_dim=8), 0.2)
    x, context = torch.randn(2 * 3, 5, 16), torch.randn(2 * 3, 3, 12)
    later, first = context.clone(), context.clone()
    later[1:3] += 1
    first[0] += 1
    assert torch.equal(layer(x, 3, later), layer(x, 3, context))
    moved = (layer(x, 3, first) - layer(x, 3, context)).abs().amax((1, 2))
    assert (moved[:3] > 1e-5).all()
    assert (moved[3:] == 0).all()


def test_res_block_blends_by_its_scalar():
    layer = perturb(TemporalResBlock(32, 8), 0.1)
    x, temb = torch.randn(6, 32, 4, 4), torch.randn(6, 8)
    with torch.no_grad():
        layer.blend.mix_factor.fill_(30.0)
        assert torch.allclose(layer(x, 3, temb), x, atol=1e-5)
        layer.blend.mix_factor.fill_(-30.0)
        temporal = layer(x, 3, temb) - x
        layer.blend.mix_factor.fill_(0.0)
        assert relative(layer(x, 3, temb) - x, temporal / 2) < 1e-5
        assert relative(layer(x, 3, temb * 2), layer(x, 3, temb)) > 1e-3


def test_distance_codes_enter_keys_and_values():
    """Shaw et al. 2018, eq. 3 and 4, written out pair by pair."""
    attention = FrameAttention(12, 2, 6, relative=2).double()
    x = torch.randn(3, 5, 12, dtype=torch.float64)
    q, k, v = (f(x).unflatten(-1, (2, 6)) for f in (attention.query, attention.key, attention.value))
    codes = attention.relative
    out = torch.zeros_like(q)
    for i in range(5):
        near = [min(max(j - i, -2), 2) + 2 for j in range(5)]
        logits = torch.stack([(q[:, i] * (k[:, j] + codes.keys[near[j]])).sum(-1) / 6**0.5 for j in range(5)], -1)
        weights = logits.softmax(-1)
        out[:, i] = sum(weights[..., j, None] * (v[:, j] + codes.values[near[j]]) for j in range(5))
    assert relative(attention(x), attention.output(out.flatten(2))) < 1e-12
