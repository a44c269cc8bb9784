"""Layers that blend what an image layer gives with what a temporal layer makes of it.

Stable Video Diffusion's (Blattmann et al. 2023, arXiv:2311.15127) and, by their parameter counts, Align-your-Latents'
(Blattmann et al. 2023, arXiv:2304.08818). Read beside `sgm/modules/diffusionmodules/video_model.py` and
`sgm/modules/video_attention.py` of Stability-AI/generative-models at commit 0ad7de9a.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from einops import rearrange
from torch import Tensor, nn

from kineograph.temporal.attention import FeedForward, FrameAttention, head_split
from kineograph.temporal.convolution import FrameConv
from kineograph.temporal.layer import TemporalLayer, zero
from kineograph.temporal.norm import divisor


class Blend(nn.Module):
    """A learned mixture `alpha * spatial + (1 - alpha) * temporal` with `alpha = sigmoid(mix_factor)`, one scalar.

    Args:
        initial: First value of `mix_factor` (0.5 in the authors' code); a large value leaves the image network alone.
        weighs: What alpha is the share of; in SVD's decoder `"temporal"` (`temporal_ae.py`).
    """

    def __init__(self, initial: float = 0.5, weighs: Literal["spatial", "temporal"] = "spatial"):
        super().__init__()
        self.mix_factor = nn.Parameter(torch.full((1,), float(initial)))
        self.weighs = weighs

    def forward(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        """Mix two tensors of one shape."""
        alpha = torch.sigmoid(self.mix_factor).to(spatial.dtype)
        return torch.lerp(temporal, spatial, alpha if self.weighs == "spatial" else 1 - alpha)


class TemporalResBlock(TemporalLayer):
    """A ResNet block with (3, 1, 1) convolutions, normalised over the clip and told the noise level, blended in.

    The last convolution starts at zero, so a fresh layer is the identity.

    Args:
        channels: Channels of the feature map.
        temb_channels: Width of the timestep embedding; None: the network has none, as an autoencoder.
        norm_groups: Groups of the norms.
        eps: Added to the variances (1e-5 in the authors' code; diffusers has 1e-6 in some blocks).
        mix: First value of the mix factor.
        weighs: Which side the mix factor weighs, see `Blend`.
    """

    def __init__(
        self,
        channels: int,
        temb_channels: int | None,
        norm_groups: int = 32,
        eps: float = 1e-5,
        mix: float = 0.5,
        weighs: Literal["spatial", "temporal"] = "spatial",
    ):
        super().__init__()
        groups = divisor(channels, norm_groups)
        self.norm1 = nn.GroupNorm(groups, channels, eps)
        self.enter = FrameConv(channels, channels)
        self.uses = "temb" if temb_channels else ""
        self.level = nn.Linear(temb_channels, channels) if temb_channels else None
        self.norm2 = nn.GroupNorm(groups, channels, eps)
        self.leave = zero(FrameConv(channels, channels))
        self.blend = Blend(mix, weighs)

    def forward(self, x: Tensor, num_frames: int, temb: Tensor | None = None) -> Tensor:
        """Map folded frames `(batch * frames, channels, height, width)` to the same shape.

        Args:
            x: Folded frames.
            num_frames: Frames per clip.
            temb: Timestep embedding `(batch * frames, temb_channels)`, where the layer takes one.
        """
        clip = rearrange(x, "(b f) c h w -> b c f (h w)", f=num_frames)
        hidden = self.enter(F.silu(self.norm1(clip)))
        if self.level is not None and temb is not None:
            hidden = hidden + rearrange(self.level(F.silu(temb)), "(b f) c -> b c f 1", f=num_frames)
        hidden = clip + self.leave(F.silu(self.norm2(hidden)))
        return self.blend(x, rearrange(hidden, "b c f (h w) -> (b f) c h w", h=x.shape[2]))


class TemporalVideoBlock(TemporalLayer):
    """A transformer block over the frames of each token, blended in after a spatial transformer block.

    Each frame's index enters through a small network; a feed-forward network, attention over the frames, attention to
    the context of the first frame and a second feed-forward network follow, each added back. All four outputs and the
    index network's start at zero, so a fresh layer is the identity for any mix factor.

    Differs from the authors' code: there only the initial values differ; the first three outputs start at random.

    Args:
        channels: Width of the tokens.
        context_channels: Width of the context; None omits the attention to it.
        num_heads: Number of heads; None: as many as fit.
        head_dim: Width of a head.
        window: Frames attend only to frames at most so far away; None: to all.
        mix: First value of the mix factor.
    """

    form: ClassVar[Literal["map", "tokens"]] = "tokens"

    def __init__(
        self,
        channels: int,
        context_channels: int | None,
        num_heads: int | None = None,
        head_dim: int | None = 64,
        window: int | None = None,
        mix: float = 0.5,
    ):
        super().__init__()
        heads, width = head_split(channels, num_heads, head_dim)
        self.window = window
        self.uses = "context" if context_channels else ""
        self.index = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.SiLU(), zero(nn.Linear(4 * channels, channels))
        )
        self.norm_in = nn.LayerNorm(channels)
        self.feed_in = FeedForward(channels)
        self.norm1 = nn.LayerNorm(channels)
        self.attend1 = FrameAttention(channels, heads, width)
        self.norm2 = nn.LayerNorm(channels) if context_channels else None
        self.attend2 = FrameAttention(channels, heads, width, context_channels) if context_channels else None
        self.norm3 = nn.LayerNorm(channels)
        self.feed_out = FeedForward(channels)
        self.blend = Blend(mix)
        outputs = [self.feed_in.narrow, self.attend1.output, self.feed_out.narrow]
        for output in [*outputs, *([self.attend2.output] if self.attend2 is not None else [])]:
            zero(output)

    def forward(self, x: Tensor, num_frames: int, context: Tensor | None = None) -> Tensor:
        """Map folded tokens `(batch * frames, tokens, channels)` to the same shape.

        Args:
            x: Folded tokens.
            num_frames: Frames per clip.
            context: `(batch * frames, context tokens, context channels)`; that of each clip's first frame is used,
                where the layer attends to one.
        """
        tokens = rearrange(x, "(b f) n c -> (b n) f c", f=num_frames) + self._index_code(num_frames, x)
        tokens = tokens + self.feed_in(self.norm_in(tokens))
        tokens = tokens + self.attend1(self.norm1(tokens), bias=self._window_bias(num_frames, x))
        if self.norm2 is not None and context is not None:
            tokens = tokens + self._to_context(self.norm2(tokens), context[::num_frames])
        tokens = tokens + self.feed_out(self.norm3(tokens))
        return self.blend(x, rearrange(tokens, "(b n) f c -> (b f) n c", n=x.shape[1]))

    def _index_code(self, num_frames: int, like: Tensor) -> Tensor:
        """Return the code `(frames, channels)` of the frame numbers."""
        numbers = torch.arange(num_frames, device=like.device)
        waves = get_timestep_embedding(numbers, like.shape[-1], flip_sin_to_cos=True, downscale_freq_shift=0)
        return self.index(waves.to(like.dtype))

    def _to_context(self, tokens: Tensor, context: Tensor) -> Tensor:
        """Attend from all frames and places of a clip to its context, whose keys are then computed once."""
        assert self.attend2 is not None
        clips = rearrange(tokens, "(b n) f c -> b (n f) c", b=len(context))
        return self.attend2(clips, context).reshape(tokens.shape)

    def _window_bias(self, num_frames: int, like: Tensor) -> Tensor | None:
        """Return the bias that forbids frames further away than the window."""
        if self.window is None or num_frames <= self.window + 1:
            return None
        frame = torch.arange(num_frames, device=like.device)
        far = (frame[:, None] - frame[None, :]).abs() > self.window
        return torch.zeros(far.shape, dtype=like.dtype, device=like.device).masked_fill(far, -torch.inf)
