"""Temporal convolutions: kernels of size (3, 1, 1) over (frames, height, width)."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from kineograph.temporal.layer import TemporalLayer, zero
from kineograph.temporal.norm import divisor


class FrameConv(nn.Conv3d):
    """A convolution over frames alone, weights of shape `(out, in, kernel, 1, 1)` as in `Conv3d(k, 1, 1)`.

    It runs as a 2D convolution over (frames, positions), which oneDNN does faster than the 3D one. On one AVX512-bf16
    core the block of four below takes 0.80 to 0.99 of diffusers' time with backward in bfloat16, 0.69 to 0.78 in
    float32 (`benchmarks/temporal_layers.py --clock cpu`).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3):
        super().__init__(in_channels, out_channels, (kernel_size, 1, 1), padding=(kernel_size // 2, 0, 0))

    def forward(self, input: Tensor) -> Tensor:
        """Convolve `(batch, channels, frames, positions)` along the frames, zero-padded."""
        return F.conv2d(input, self.weight.squeeze(-1), self.bias, padding=(self.kernel_size[0] // 2, 0))


class ConvStage(nn.Module):
    """GroupNorm over the clip, SiLU, dropout, convolution over the frames."""

    def __init__(self, channels: int, norm_groups: int, dropout: float):
        super().__init__()
        self.norm = nn.GroupNorm(divisor(channels, norm_groups), channels)
        self.dropout = dropout
        self.conv = FrameConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, channels, frames, positions)` to the same shape."""
        return self.conv(F.dropout(F.silu(self.norm(x)), self.dropout, self.training))


class TemporalConvolution(TemporalLayer):
    """ModelScopeT2V's temporal convolution block (Wang et al. 2023, arXiv:2308.06571, section 3.3).

    Four stages of GroupNorm over the clip, SiLU and a (3, 1, 1) convolution, added to the input. The last convolution
    starts at zero, so a fresh layer is the identity.

    Args:
        channels: Channels of the feature map.
        norm_groups: Groups of the norms.
        dropout: Dropped share before every convolution but the first (0.1 in the authors' code).
        depth: Number of stages.
    """

    def __init__(self, channels: int, norm_groups: int = 32, dropout: float = 0.1, depth: int = 4):
        super().__init__()
        drops = [0.0] + [dropout] * (depth - 1)
        stages = [ConvStage(channels, norm_groups, drop) for drop in drops]
        zero(stages[-1].conv)
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """Map folded frames `(batch * frames, channels, height, width)` to the same shape."""
        clip = rearrange(x, "(b f) c h w -> b c f (h w)", f=num_frames)
        for stage in self.stages:
            clip = stage(clip)
        return x + rearrange(clip, "b c f (h w) -> (b f) c h w", h=x.shape[2])


class TemporalOutput(TemporalLayer):
    """A (3, 1, 1) convolution that takes the place of what the image network puts out (SVD's decoder, `AE3DConv`).

    Differs from the authors' code: there it starts at random; here as the identity.

    Args:
        channels: Channels of the output.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = FrameConv(channels, channels)
        nn.init.dirac_(self.conv.weight)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """Map folded frames `(batch * frames, channels, height, width)` to the same shape."""
        clip = rearrange(x, "(b f) c h w -> b c f (h w)", f=num_frames)
        return rearrange(self.conv(clip), "b c f (h w) -> (b f) c h w", h=x.shape[2])
