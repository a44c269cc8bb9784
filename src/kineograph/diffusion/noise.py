"""Noise for clips: one generator per clip, so that a seed is a clip whatever the batch size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FrameShape = tuple[int, int, int, int]
MASK64 = (1 << 64) - 1


def mix_seed(seed: int, stream: int) -> int:
    """Return the seed of an independent stream of the same clip; stream 0 is the seed itself.

    Source: the finaliser of splitmix64 (Steele et al. 2014, doi:10.1145/2660193.2660195).
    """
    if stream == 0:
        return seed
    z = (seed + stream * 0x9E3779B97F4A7C15) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


class ClipGenerators:
    """One random generator per clip, drawing on the CPU so that every device gives the same clip.

    Samplers take an instance as their source of fresh noise. Its stream differs from that of the first noise, or the
    noise of the first step would repeat it.

    Args:
        seeds: One seed per clip of the batch.
        stream: Which of a clip's independent streams to draw: 0 is the first noise, 1 that of the steps.
    """

    def __init__(self, seeds: Sequence[int], stream: int = 1) -> None:
        self.generators = [torch.Generator("cpu").manual_seed(mix_seed(seed, stream)) for seed in seeds]

    def randn(
        self,
        shape: Sequence[int],
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Return standard normal noise (batch, *shape), continuing each clip's stream."""
        draws = [torch.randn(tuple(shape), generator=generator, dtype=dtype) for generator in self.generators]
        return torch.stack(draws).to(device, non_blocking=True)

    def __call__(self, like: Tensor) -> Tensor:
        """Return fresh noise of the shape, device and dtype of a batch of clips."""
        assert len(like) == len(self.generators), f"{len(like)} clips but {len(self.generators)} generators"
        return self.randn(like.shape[1:], like.device, like.dtype)


def iid(
    shape: FrameShape,
    seeds: Sequence[int],
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return noise that is independent in every frame.

    Args:
        shape: (frames, channels, height, width) of one clip.
        seeds: One seed per clip.
        device: Where the noise goes; it is always drawn on the CPU.
        dtype: Of the draw and of the result.

    Returns:
        Standard normal noise (batch, frames, channels, height, width).
    """
    return ClipGenerators(seeds, stream=0).randn(shape, device, dtype)
