"""LaVie's temporal attention: rotary positions and a learned bias per distance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from kineograph.errors import InputError
from kineograph.temporal.attend import attend
from kineograph.temporal.attention import head_split
from kineograph.temporal.frames import frame_bias, plus
from kineograph.temporal.layer import TemporalLayer, zero


def rotary_rates(width: int, like: Tensor) -> Tensor:
    """Return the angle per frame of each pair of channels, `(width / 2,)` (arXiv:2104.09864, eq. 15).

    In the order of operations of rotary_embedding_torch 0.3.0, so that they are the same to the last bit.
    """
    return 1.0 / (10000.0 ** (torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width))


def rotate(x: Tensor, num_heads: int, rates: Tensor) -> Tensor:
    """Rotate neighbouring pairs of channels by an angle that grows with the frame (arXiv:2104.09864, eq. 34).

    Args:
        x: Queries or keys `(sequences, frames, heads * head_dim)`.
        num_heads: Number of heads.
        rates: Angle per frame of each pair; as many pairs of each head, from the first, are rotated.
    """
    heads, width = x.unflatten(-1, (num_heads, -1)), 2 * len(rates)
    angles = torch.outer(torch.arange(x.shape[1], device=x.device, dtype=torch.float32), rates)
    cosine, sine = (f(angles)[:, None].to(x.dtype) for f in (torch.cos, torch.sin))
    even, odd = heads[..., 0:width:2], heads[..., 1:width:2]
    turned = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], -1).flatten(-2)
    return torch.cat([turned, heads[..., width:]], -1).flatten(-2)


class DistanceBias(nn.Module):
    """A learned number per head and distance between frames, far ones in growing buckets (T5, arXiv:1910.10683, 2.1).

    Args:
        num_heads: Number of heads.
        buckets: Number of distances told apart, half of them for frames that come later.
        longest: Distance from which on all share the last bucket.
    """

    def __init__(self, num_heads: int, buckets: int = 32, longest: int = 32):
        super().__init__()
        self.longest = longest
        self.table = nn.Embedding(buckets, num_heads)

    def forward(self, num_frames: int) -> Tensor:
        """Return the bias `(heads, frames, frames)`, added to the logits of frame i looking at frame j."""
        frame = torch.arange(num_frames, device=self.table.weight.device)
        return rearrange(self.table(self.bucket(frame[None, :] - frame[:, None])), "i j h -> h i j")

    def bucket(self, distance: Tensor) -> Tensor:
        """Return the bucket of `j - i`: exact for near frames, logarithmic for far ones."""
        half = self.table.num_embeddings // 2
        exact = half // 2
        away = distance.abs()
        growth = torch.log(away.clamp(min=1).float() / exact) / math.log(self.longest / exact)
        far = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
        return torch.where(away < exact, away, far) + (distance > 0) * half


class TemporalRotaryAttention(TemporalLayer):
    """LaVie's temporal attention (Wang et al. 2023, arXiv:2309.15103, section 3.1): LayerNorm, attention, residual.

    The output starts at zero, so a fresh layer is the identity.

    Differs from the authors' code: there only the output's weight starts at zero and its bias at random, so that a
    fresh layer adds a constant.

    Args:
        channels: Width of the tokens.
        num_heads: Number of heads; None: as many as fit.
        head_dim: Width of a head; None: as wide as fits.
        rotary: Channels of each head that are rotated, at most the head's width.
        rates: Angle per frame of each rotated pair, for weights that bring their own; None: those of the paper.
    """

    form: ClassVar[Literal["map", "tokens"]] = "tokens"

    def __init__(
        self,
        channels: int,
        num_heads: int | None = 8,
        head_dim: int | None = None,
        rotary: int = 32,
        rates: Sequence[float] | None = None,
    ):
        super().__init__()
        self.num_heads, width = head_split(channels, num_heads, head_dim)
        self.rotary, self.rates = min(rotary, width), rates
        if rates is not None and 2 * len(rates) > width:
            raise InputError(f"{len(rates)} rates rotate {2 * len(rates)} channels, and a head has {width}.")
        inner = self.num_heads * width
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, inner, bias=False)
        self.key = nn.Linear(channels, inner, bias=False)
        self.value = nn.Linear(channels, inner, bias=False)
        self.output = zero(nn.Linear(inner, channels))
        self.distance = DistanceBias(self.num_heads)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """Map folded tokens `(batch * frames, tokens, channels)` to the same shape."""
        tokens = self.norm(rearrange(x, "(b f) n c -> (b n) f c", f=num_frames))
        rates = (
            rotary_rates(self.rotary, x) if self.rates is None else tokens.new_tensor(self.rates, dtype=torch.float32)
        )
        query, key = (rotate(part(tokens), self.num_heads, rates) for part in (self.query, self.key))
        bias = plus(self.distance(num_frames), frame_bias(len(tokens), tokens))
        attended = attend(query, key, self.value(tokens), self.num_heads, bias)
        return x + rearrange(self.output(attended), "(b n) f c -> (b f) n c", n=x.shape[1])
