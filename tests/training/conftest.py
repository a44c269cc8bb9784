"""A tiny data set in memory, a tiny text encoder, and tiny tasks."""

import numpy as np
import pytest
import torch

from kineograph.data.frames import FrameSpec, FrameStore
from kineograph.data.latents import LatentStore
from kineograph.data.manifest import Clip
from kineograph.training.captions import encode_captions


def make_store(clips: int = 11, frames: int = 4, size: int = 16) -> FrameStore:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (clips * frames, size, size, 3), dtype=np.uint8)
    names = [f"thing {i}" for i in range(clips)]
    entries = [
        Clip(
            path=n,
            caption=n,
            fps=8,
            frames=frames,
            width=size,
            height=size,
            split="test" if i > clips - 3 else "train",
            extra={"kind": "first" if i == 0 else "other"},
        )
        for i, n in enumerate(names)
    ]
    starts = np.arange(clips) * frames
    return FrameStore(pixels, starts, np.full(clips, frames), entries, "tiny", FrameSpec(size=size))


class TinyText(torch.nn.Module):
    """Stands for a text encoder: fixed random tokens per prompt, same interface as TextEncoder."""

    dim, max_tokens, pooled_first, masked, zero_empty = 16, 4, False, True, False

    def forward(self, prompts):
        rows = [torch.randn(4, 16, generator=torch.Generator().manual_seed(sum(map(ord, p)))) for p in prompts]
        return torch.stack(rows)


@pytest.fixture
def store():
    return make_store()


def tiny_diffusion_task(
    num_frames: int = 1,
    image_share: float = 0.0,
    system: str | None = None,
    balance: str = "",
    timestep_shift: float = 1.0,
):
    from kineograph.models.autoencoder import build_autoencoder
    from kineograph.models.image_unet import build_image_unet
    from kineograph.models.latent_video import LatentVideoModel, Settings
    from kineograph.models.video_unet import VideoUNet
    from kineograph.systems.modelscope import PRESETS, build
    from kineograph.temporal.tags import train_only
    from kineograph.training.diffusion import DiffusionTask
    from kineograph.training.recipes import overridden

    torch.manual_seed(1)
    frames = make_store()
    unet = build_image_unet(latent_channels=4, size=8, text_dim=16, channels=(32, 32), head_dim=16)
    for parameter in unet.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    if system:
        changes = ("conv_dropout=0.0", "single_frame=skip")
        network = build(overridden(PRESETS["tiny"], changes), image_unet=unet)
        train_only(network, ("temporal",))
    else:
        network = VideoUNet(unet)
    autoencoder = build_autoencoder(patch=1, channels=(32, 32), latent_channels=4)
    model = LatentVideoModel(network, autoencoder, TinyText(), Settings(height=16, width=16, num_frames=num_frames))
    latents = np.random.default_rng(1).standard_normal((44, 4, 8, 8)).astype(np.float16)
    captions = encode_captions(model.text, frames.clips)
    return DiffusionTask(
        model,
        LatentStore(latents, frames),
        captions,
        num_frames=num_frames,
        held_out="test",
        image_share=image_share,
        timestep_shift=timestep_shift,
        balance=balance,
        preview_prompts=("thing 1",),
    )
