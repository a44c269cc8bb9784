"""Temporal transformers: attention along the frames at every position of the picture.

The classes are our own instead of diffusers' `Attention`, and no parameter is called `to_q`, `proj_in` or the like:
image tools look for those names (LoRA by suffix, attention processors by method) and must not find temporal layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from kineograph.temporal.attend import attend, attend_relative
from kineograph.temporal.frames import frame_bias, plus
from kineograph.temporal.layer import TemporalLayer, zero
from kineograph.temporal.norm import FrameGroupNorm, NormOver, divisor
from kineograph.temporal.position import check_length, sinusoidal_positions
from kineograph.temporal.rows import by_rows


class FrameAttention(nn.Module):
    """Multi-head attention over the frames of one position.

    Args:
        channels: Width of the tokens.
        num_heads: Number of heads.
        head_dim: Width of a head.
        context_channels: Width of the tokens attended to; None attends to the frames themselves.
        relative: Distances between frames up to this have learned codes; None: frames are not told apart.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        head_dim: int,
        context_channels: int | None = None,
        relative: int | None = None,
    ):
        super().__init__()
        self.num_heads = num_heads
        inner = num_heads * head_dim
        self.query = nn.Linear(channels, inner, bias=False)
        self.key = nn.Linear(context_channels or channels, inner, bias=False)
        self.value = nn.Linear(context_channels or channels, inner, bias=False)
        self.output = nn.Linear(inner, channels)
        self.relative = RelativeCodes(head_dim, relative) if relative else None

    def forward(self, x: Tensor, context: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Attend from `x (positions, frames, channels)` to itself or to `context (positions, tokens, channels)`.

        Args:
            x: What asks.
            context: What is asked; None: `x` itself.
            bias: Added to the logits, see `attend`; so is the clip's mask where frames ask each other.
        """
        source = x if context is None else context
        bias = plus(bias, frame_bias(len(x), x)) if context is None else bias
        if self.relative is not None:
            q, k, v = self.query(x), self.key(source), self.value(source)
            return self.output(attend_relative(q, k, v, self.num_heads, *self.relative(x.shape[1]), bias=bias))
        return self.output(attend(self.query(x), self.key(source), self.value(source), self.num_heads, bias))


class RelativeCodes(nn.Module):
    """Learned codes of the distance between two frames, shared by all heads (Shaw et al. 2018, arXiv:1803.02155).

    Args:
        head_dim: Width of a head.
        longest: Longest distance with a code of its own.
    """

    def __init__(self, head_dim: int, longest: int):
        super().__init__()
        self.longest = longest
        self.keys = nn.Parameter(nn.init.xavier_uniform_(torch.empty(2 * longest + 1, head_dim)))
        self.values = nn.Parameter(nn.init.xavier_uniform_(torch.empty(2 * longest + 1, head_dim)))

    def forward(self, num_frames: int) -> tuple[Tensor, Tensor]:
        """Return the codes for keys and for values of each pair of frames, `(frames, frames, head_dim)`."""
        frame = torch.arange(num_frames, device=self.keys.device)
        distance = (frame[None, :] - frame[:, None]).clamp(-self.longest, self.longest) + self.longest
        return self.keys[distance], self.values[distance]


class FeedForward(nn.Module):
    """GEGLU feed-forward network (Shazeer 2020, arXiv:2002.05202): widen fourfold, gate, narrow."""

    def __init__(self, channels: int):
        super().__init__()
        self.widen = nn.Linear(channels, 8 * channels)
        self.narrow = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(..., channels)` to the same shape."""
        return by_rows(self._gated, x)

    def _gated(self, x: Tensor) -> Tensor:
        value, gate = self.widen(x).chunk(2, -1)
        return self.narrow(value * F.gelu(gate))


class FrameTransformerBlock(nn.Module):
    """Self-attentions over the frames and a feed-forward network, each after a LayerNorm and added back.

    Args:
        channels: Width of the tokens.
        num_heads: Number of heads.
        head_dim: Width of a head.
        positions: Add the sinusoidal code of the frames to the normalised input of each attention.
        attentions: One or two self-attentions.
        relative: Distances between frames up to this have learned codes.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        head_dim: int,
        positions: bool = False,
        attentions: int = 2,
        relative: int | None = None,
    ):
        super().__init__()
        self.positions = positions
        self.norm1 = nn.LayerNorm(channels)
        self.attend1 = FrameAttention(channels, num_heads, head_dim, relative=relative)
        self.norm2 = nn.LayerNorm(channels) if attentions > 1 else None
        self.attend2 = FrameAttention(channels, num_heads, head_dim, relative=relative) if attentions > 1 else None
        self.norm3 = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(positions, frames, channels)` to the same shape."""
        code = sinusoidal_positions(x.shape[1], x.shape[2], x) if self.positions else 0
        x = x + self.attend1(self.norm1(x) + code)
        if self.norm2 is not None and self.attend2 is not None:
            x = x + self.attend2(self.norm2(x) + code)
        return x + self.feed_forward(self.norm3(x))


def head_split(channels: int, num_heads: int | None, head_dim: int | None) -> tuple[int, int]:
    """Return `(num_heads, head_dim)`; a missing one follows from the channels, a misfit is lowered to a divisor."""
    if num_heads and head_dim:
        return num_heads, head_dim
    if num_heads:
        heads = divisor(channels, num_heads)
        return heads, channels // heads
    width = divisor(channels, head_dim or 64)
    return channels // width, width


class TemporalTransformer(TemporalLayer):
    """GroupNorm, linear projection in, blocks of frame self-attention, linear projection out, residual.

    With its defaults the temporal transformer of ModelScopeT2V (Wang et al. 2023, arXiv:2308.06571, section 3.3); with
    `max_frames` the motion module of AnimateDiff (Guo et al. 2023, arXiv:2307.04725, section 4.2). The output
    projection starts at zero, so a fresh layer is the identity.

    Args:
        channels: Channels of the feature map.
        num_heads: Number of heads; None: as many as fit.
        head_dim: Width of a head; None: as wide as fits. Where both are given, the layer is so wide inside.
        width: Width inside the layer as a share of `channels`; without effect where both of the above are given.
        depth: Number of blocks.
        norm_groups: Groups of the entry norm.
        norm_over: Statistics of the entry norm: each frame, or the clip as in ModelScopeT2V.
        max_frames: Frames told apart by a sinusoidal code, and the longest clip; None: no code and any length.
        attentions: Self-attentions of a block, 1 or 2.
        relative: Distances between frames up to this have learned codes (VideoCrafter1); longer ones count as this.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int | None = None,
        head_dim: int | None = 64,
        width: float = 1.0,
        depth: int = 1,
        norm_groups: int = 32,
        norm_over: NormOver = "clip",
        max_frames: int | None = None,
        attentions: int = 2,
        relative: int | None = None,
    ):
        super().__init__()
        heads, head_width = head_split(round(channels * width), num_heads, head_dim)
        inner = heads * head_width
        self.norm = FrameGroupNorm(channels, norm_groups, eps=1e-6, over=norm_over)
        self.enter = nn.Linear(channels, inner)
        self.max_frames = max_frames
        self.blocks = nn.ModuleList(
            FrameTransformerBlock(inner, heads, head_width, max_frames is not None, attentions, relative)
            for _ in range(depth)
        )
        self.leave = zero(nn.Linear(inner, channels))

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """Map folded frames `(batch * frames, channels, height, width)` to the same shape."""
        check_length(num_frames, self.max_frames)
        tokens = rearrange(self.norm(x.flatten(2), num_frames), "b c f n -> (b n) f c")
        tokens = self.enter(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        back = rearrange(self.leave(tokens), "(b n) f c -> (b f) c n", n=x.shape[2] * x.shape[3])
        return x + back.unflatten(2, x.shape[2:])
