"""Group norms of the image network over the clip (AnimateDiff v1, LaVie)."""

import torch
from einops import rearrange
from tiny import FAMILIES, inputs, perturb, relative

from kineograph.models.video_unet import VideoUNet
from kineograph.temporal.frames import Clip, clip_of
from kineograph.temporal.inflate import strip
from kineograph.temporal.norm import SpatialClipNorm, span_clips
from kineograph.temporal.plan import Plan


def test_statistics_span_the_clip_but_not_its_independent_images():
    norm = torch.nn.GroupNorm(2, 4)
    perturb(norm, 0.5)
    x = torch.randn(2 * 5, 4, 3, 3) * torch.linspace(0.3, 3, 10).view(10, 1, 1, 1)
    plain = norm(x)
    clips = rearrange(x, "(b f) c h w -> b c f h w", f=5)
    expected = torch.cat([norm(clips[:, :, :3]), rearrange(plain, "(b f) c h w -> b c f h w", f=5)[:, :, 3:]], 2)
    span_clips(norm)
    assert torch.equal(norm(x), plain)
    with clip_of(Clip(5, num_images=2)):
        assert relative(rearrange(norm(x), "(b f) c h w -> b c f h w", f=5), expected) < 1e-6
    with clip_of(Clip(5, temporal=False)):
        assert torch.equal(norm(x), plain)


@torch.no_grad()
def test_only_resnets_and_the_output_change_and_strip_restores():
    family = FAMILIES["sd2"]
    unet, call = perturb(family.build()), inputs(family)
    keys, expected = list(unet.state_dict()), VideoUNet(unet)(**call)
    model = VideoUNet(unet, Plan((), spatial_norm="clip"))
    changed = [name for name, module in unet.named_modules() if isinstance(module, SpatialClipNorm)]
    resnets = sum(name.endswith(("norm1", "norm2")) and "resnets" in name for name, _ in unet.named_modules())
    assert len(changed) == resnets + 1
    assert "conv_norm_out" in changed
    assert list(unet.state_dict()) == keys
    assert relative(model(**call), expected) > 1e-2
    with model.temporal_off():
        assert relative(model(**call), expected) < 1e-5
    assert torch.equal(VideoUNet(strip(unet))(**call), expected)
