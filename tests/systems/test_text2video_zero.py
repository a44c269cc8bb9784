"""Text2Video-Zero on top of a ControlNet: the frames follow their maps, and move together without training."""

import pytest
import torch
from diffusers import ControlNetModel

from kineograph.diffusion.denoiser import NetworkDenoiser
from kineograph.diffusion.schedule import Schedule
from kineograph.errors import InputError
from kineograph.models.controlled import Controlled
from kineograph.systems import systems
from kineograph.systems.text2video_zero import sample
from kineograph.temporal.inflate import inflate
from kineograph.temporal.plan import Plan

FRAMES = 3


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return systems()["text2video_zero"].build("tiny").eval()


@pytest.fixture(scope="module")
def control(network):
    """A random ControlNet for that network, whose outputs are not zero."""
    torch.manual_seed(1)
    control = ControlNetModel.from_unet(network.unet, conditioning_channels=1).eval()
    with torch.no_grad():
        for block in (*control.controlnet_down_blocks, control.controlnet_mid_block):
            block.weight.normal_(std=0.3)
        control.controlnet_cond_embedding.conv_out.weight.normal_()
    return inflate(control, Plan((), self_attention=("first",)))


@torch.no_grad()
def clip(network, control, maps):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, FRAMES, 4, 8, 8, generator=generator)
    context = torch.randn(1, 5, 32, generator=generator)
    schedule = Schedule.named("scaled_linear", beta_start=0.00085, beta_end=0.012)
    steered = Controlled(network, control, maps)
    denoiser = NetworkDenoiser(lambda x, told, _: steered(x, told, context), schedule, "epsilon")
    levels = schedule.levels(schedule.timesteps(10))
    return sample(denoiser, x[:, :1], levels, x[:, 1:])


def test_each_frame_follows_its_own_map(network, control):
    maps = torch.rand(1, FRAMES, 1, 64, 64, generator=torch.Generator().manual_seed(4))
    whole = clip(network, control, maps)
    assert whole.shape == (1, FRAMES, 4, 8, 8)
    assert whole.isfinite().all()
    assert torch.equal(clip(network, control, maps), whole)
    last = maps.clone()
    last[:, -1] = 1 - last[:, -1]
    other = clip(network, control, last)
    torch.testing.assert_close(other[:, :2], whole[:, :2])  # frames look at the first, which is as it was
    assert (other[:, 2] - whole[:, 2]).abs().max() > 1e-3
    first = maps.clone()
    first[:, 0] = 1 - first[:, 0]
    assert (clip(network, control, first)[:, 2] - whole[:, 2]).abs().max() > 1e-3
    with pytest.raises(InputError, match="follows 3 maps; given 2"):
        clip(network, control, maps[:, :2])


@torch.no_grad()
def test_without_strength_the_control_changes_nothing(network, control):
    x, context = torch.randn(1, FRAMES, 4, 8, 8), torch.randn(1, 5, 32)
    maps = torch.rand(1, FRAMES, 1, 64, 64)
    expected = network(x, 500, context)
    torch.testing.assert_close(Controlled(network, control, maps, strength=0.0)(x, 500, context), expected)
    assert (Controlled(network, control, maps)(x, 500, context) - expected).abs().max() > 1e-3
