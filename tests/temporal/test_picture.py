"""The second cross-attention, to a picture's tokens; equality with the authors' code: docs/systems/parity.md."""

import pytest
import torch
from tiny import FAMILIES, perturb, relative, unequal_clip

from kineograph.errors import InputError
from kineograph.models.video_unet import VideoUNet
from kineograph.temporal.inflate import strip
from kineograph.temporal.plan import Placement, Plan

PLAN = Plan((Placement("cross_attention", "picture_attention", {"context_channels": 32, "tokens": 3}),))


def network():
    return VideoUNet(perturb(FAMILIES["sd2"].build()), PLAN).eval()


def call(model, context):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 4, 8, 8, generator=generator) * torch.linspace(0.3, 3, 3).view(3, 1, 1, 1)
    return model(x, torch.tensor([7, 900]), context)


@torch.no_grad()
def test_fresh_it_reads_the_text_alone_and_then_the_picture_as_well():
    model, text = network(), torch.randn(2, 5, 32)
    picture = torch.randn(2, 3, 32)
    plain = VideoUNet(perturb(FAMILIES["sd2"].build())).eval()
    plain.unet.load_state_dict({k: v for k, v in model.unet.state_dict().items() if ".temporal." not in k})
    expected = call(plain, text)
    assert relative(call(model, torch.cat([text, picture], 1)), expected) < 1e-5
    perturb(model)
    seen = call(model, torch.cat([text, picture], 1))
    other = call(model, torch.cat([text, picture + 1], 1))
    assert relative(other, seen) > 1e-4
    with model.temporal_off():
        off = call(model, torch.cat([text, picture], 1))
        assert torch.equal(call(model, torch.cat([text, picture + 1], 1)), off)


@torch.no_grad()
def test_it_adds_its_values_before_the_output_projection():
    model = perturb(network())
    attention = model.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    hidden, text, picture = torch.randn(2, 6, 16), torch.randn(2, 5, 32), torch.randn(2, 3, 32)
    values = []
    for key, value, tokens in (
        (attention.to_k, attention.to_v, text),
        (attention.temporal.key, attention.temporal.value, picture),
    ):
        q, k, v = (
            x.unflatten(2, (attention.heads, -1)).transpose(1, 2)
            for x in (attention.to_q(hidden), key(tokens), value(tokens))
        )
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        values.append((weights @ v).transpose(1, 2).flatten(2))
    expected = attention.to_out[0](values[0] + values[1])
    assert relative(attention(hidden, torch.cat([text, picture], 1)), expected) < 1e-5


def test_gradients_masks_files_and_removal(tmp_path):
    model, context = perturb(network()), torch.randn(2, 8, 32)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[:, 4] = False
    x = unequal_clip(3)
    masked = model(x, 7, context, mask)
    moved = context.clone()
    moved[:, 4] += 1
    assert torch.allclose(model(x, 7, moved, mask), masked, atol=1e-5)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        call(model, context).square().mean().backward()
        gradients.append(
            model.unet.mid_block.attentions[0].transformer_blocks[0].attn2.temporal.key.weight.grad.clone()
        )
    assert torch.allclose(*gradients, rtol=1e-4)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(call(VideoUNet.from_pretrained(tmp_path), context), call(model, context))
    with pytest.raises(InputError, match="after them 3 of a picture"):
        call(model, context[:, :3])
    names = set(FAMILIES["sd2"].build().state_dict())
    assert set(strip(model.unet).state_dict()) == names
    assert "Picture" not in str({type(p).__name__ for p in model.unet.attn_processors.values()})
