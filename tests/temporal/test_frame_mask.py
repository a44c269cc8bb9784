"""Masks over frames: every attention over frames obeys them, causal, each to itself, or different for each clip."""

import pytest
import torch

from kineograph.errors import InputError
from kineograph.systems import systems
from kineograph.temporal.attention import FrameAttention, TemporalTransformer
from kineograph.temporal.blend import TemporalVideoBlock
from kineograph.temporal.frames import Clip, additive_mask, clip_of
from kineograph.temporal.rotary import TemporalRotaryAttention

FRAMES = 5
CAUSAL = torch.ones(FRAMES, FRAMES).tril().bool()
ALONE = torch.eye(FRAMES).bool()

LAYERS = {
    "transformer": lambda: TemporalTransformer(16, 2, 8, norm_groups=4, norm_over="frame", max_frames=8),
    "relative": lambda: TemporalTransformer(16, 2, 8, norm_groups=4, norm_over="frame", relative=2),
    "rotary": lambda: TemporalRotaryAttention(16, 2),
    "video block": lambda: TemporalVideoBlock(16, None, 2, 8),
    "windowed": lambda: TemporalVideoBlock(16, None, 2, 8, window=2),
}


def layer_and_input(name, clips=2):
    layer = LAYERS[name]().eval()
    for parameter in layer.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    shape = (16, 3, 1) if layer.form == "map" else (3, 16)
    return layer, torch.randn(clips * FRAMES, *shape)


def run(layer, x, mask=None):
    mask = None if mask is None else additive_mask(mask, x.dtype)
    with torch.no_grad(), clip_of(Clip(FRAMES, mask=mask)):
        return layer(x, FRAMES).unflatten(0, (-1, FRAMES))


@pytest.mark.parametrize("name", LAYERS)
def test_frames_do_not_see_what_the_mask_hides(name):
    layer, x = layer_and_input(name)
    changed = x.clone()
    changed[FRAMES - 1 :: FRAMES] = torch.randn_like(x[::FRAMES])  # the last frame of each clip
    assert not torch.allclose(run(layer, x)[:, 2:4], run(layer, changed)[:, 2:4])
    causal, other = run(layer, x, CAUSAL), run(layer, changed, CAUSAL)
    torch.testing.assert_close(causal[:, :-1], other[:, :-1])
    assert not torch.allclose(causal[:, -1], other[:, -1])
    assert torch.equal(run(layer, x, torch.ones_like(CAUSAL)), run(layer, x)) or name == "relative"


@pytest.mark.parametrize("name", LAYERS)
def test_each_clip_may_have_a_mask_of_its_own(name):
    layer, x = layer_and_input(name)
    both = run(layer, x, torch.stack([CAUSAL, ALONE]))
    torch.testing.assert_close(both[:1], run(layer, x[:FRAMES], CAUSAL))
    torch.testing.assert_close(both[1:], run(layer, x[FRAMES:], ALONE))


def test_each_frame_to_itself_leaves_the_projection_of_its_value():
    attention, x = FrameAttention(16, 2, 8), torch.randn(6, FRAMES, 16)
    with torch.no_grad(), clip_of(Clip(FRAMES, mask=additive_mask(ALONE, x.dtype))):
        torch.testing.assert_close(attention(x), attention.output(attention.value(x)))


def test_the_mask_holds_in_half_precision():
    attention, x = FrameAttention(16, 2, 8).bfloat16(), torch.randn(6, FRAMES, 16).bfloat16()
    with torch.no_grad(), clip_of(Clip(FRAMES, mask=additive_mask(ALONE, x.dtype))):
        torch.testing.assert_close(attention(x), attention.output(attention.value(x)), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["animatediff", "lavie", "align_your_latents"])
def test_a_network_takes_a_mask_beside_images_and_under_checkpoints(name):
    network = systems()[name].build("tiny")
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    network.eval()
    x, text = torch.randn(1, FRAMES + 1, 4, 8, 8), torch.randn(1, 5, 32)
    call = lambda **more: network(x, 500, text, num_images=1, **more)
    with torch.no_grad():
        assert not torch.allclose(call(frame_mask=ALONE), call(), atol=1e-5)
        assert torch.allclose(call(frame_mask=torch.ones_like(ALONE)), call(), atol=1e-5)
    gradients = []
    for wanted in (False, True):
        (network.enable_gradient_checkpointing if wanted else network.disable_gradient_checkpointing)()
        network.zero_grad()
        network.train()
        call(frame_mask=CAUSAL).square().mean().backward()
        gradients.append(next(p.grad.clone() for n, p in network.named_parameters() if ".temporal." in n))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shape", [(4, 4), (FRAMES,), (2, 2, FRAMES, FRAMES)])
def test_a_mask_of_another_size_is_refused(shape):
    with pytest.raises(InputError, match=r"A mask over 5 frames is \(5, 5\)"):
        Clip(FRAMES, mask=torch.zeros(shape))


def test_a_frame_that_may_look_at_nothing_is_refused():
    mask = CAUSAL.clone()
    mask[2] = False
    with pytest.raises(InputError, match="may look at no frame"):
        additive_mask(mask, torch.float32)
