"""Time in image transformers: several layers behind one block, tokens as maps, what cannot be placed."""

import pytest
import torch
from tiny import FAMILIES, inputs, perturb, relative

from kineograph.errors import InputError
from kineograph.models.video_unet import VideoUNet
from kineograph.temporal.convolution import TemporalConvolution
from kineograph.temporal.frames import Clip, clip_of
from kineograph.temporal.inflate import inflate, strip
from kineograph.temporal.layer import run_layer
from kineograph.temporal.plan import Placement, Plan

CONV = Placement("resnet", "temporal_convolution", {"norm_groups": 4})
TRANSFORMER = Placement("attention", "temporal_transformer", {"norm_groups": 4, "head_dim": 8})


@pytest.mark.parametrize("family", ["pixart", "dit"])
@torch.no_grad()
def test_layers_of_one_block_run_in_the_plans_order(family):
    image = perturb(FAMILIES[family].build())
    call = inputs(FAMILIES[family], frames=3)
    model = perturb(VideoUNet(image, Plan((CONV, TRANSFORMER)))).eval()
    chain = image.transformer_blocks[0].temporal.layers
    assert [type(layer).__name__ for layer in chain] == ["TemporalConvolution", "TemporalTransformer"]
    out = model(**call)
    for layers in (block.temporal.layers for block in image.transformer_blocks):
        layers._modules["0"], layers._modules["1"] = layers._modules["1"], layers._modules["0"]
    assert relative(model(**call), out) > 1e-5
    assert not [key for key in strip(image).state_dict() if "temporal" in key]


@torch.no_grad()
def test_a_layer_of_maps_sees_tokens_as_positions():
    layer = perturb(TemporalConvolution(16, norm_groups=4)).eval()
    maps = torch.randn(6, 16, 4, 5)
    with clip_of(Clip(3)):
        expected = run_layer(layer, maps).flatten(2).transpose(1, 2)
        assert relative(run_layer(layer, maps.flatten(2).transpose(1, 2)), expected) < 1e-5


@torch.no_grad()
def test_before_the_feed_forward_the_stream_of_pixart_is_the_attentions_own_input():
    image = perturb(FAMILIES["pixart"].build())
    plan = Plan((Placement("before_feed_forward", "temporal_rotary_attention", {"num_heads": 2}),))
    model = perturb(VideoUNet(image, plan)).eval()
    call, seen = inputs(FAMILIES["pixart"], frames=3), {}
    block = image.transformer_blocks[1]
    block.attn2.register_forward_pre_hook(lambda m, args: seen.update(stream=args[0]))
    block.norm2.register_forward_pre_hook(lambda m, args: seen.update(changed=args[0]))
    model(**call)
    with clip_of(Clip(3, temporal=False)):
        text = image.caption_projection(call["context"].repeat_interleave(3, 0))
        attended = seen["stream"] + block.attn2(seen["stream"], encoder_hidden_states=text)
    with clip_of(Clip(3)):
        assert relative(seen["changed"], run_layer(block.attn2.temporal, attended)) < 1e-5


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan((TRANSFORMER,), spatial_norm="clip"), "no group norms"),
        (Plan((Placement("before_feed_forward", "temporal_rotary_attention"),)), "has no 'before_feed_forward'"),
        (Plan((Placement("conv_out", "temporal_output"),)), "has no 'conv_out'"),
    ],
)
def test_what_a_dit_has_no_place_for_is_refused(plan, words):
    with pytest.raises(InputError, match=words):
        inflate(FAMILIES["dit"].build(), plan)


def test_conditions_that_a_network_does_not_take_are_refused():
    model, call = VideoUNet(FAMILIES["dit"].build()), inputs(FAMILIES["dit"])
    with pytest.raises(InputError, match="DiTTransformer2DModel takes no text"):
        model(**{**call, "context": torch.randn(2, 5, 32)})
    model, call = VideoUNet(FAMILIES["pixart"].build()), inputs(FAMILIES["pixart"])
    with pytest.raises(InputError, match="PixArtTransformer2DModel takes no class labels"):
        model(**call, class_labels=torch.tensor([1, 2]))


@pytest.mark.parametrize("family", ["pixart", "dit"])
@torch.no_grad()
def test_self_attention_of_a_transformer_looks_at_the_first_frame(family):
    model = VideoUNet(perturb(FAMILIES[family].build()), Plan((), self_attention=("first",))).eval()
    call = inputs(FAMILIES[family], frames=3)
    before = model(**call)
    call["x"][0, 0] += 1
    moved = (model(**call) - before).abs().amax((2, 3, 4))
    assert (moved[0] > 0).all()
    assert (moved[1] == 0).all()
