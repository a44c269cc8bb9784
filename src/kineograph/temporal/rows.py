"""Feed-forward networks a thousand tokens at a time, where no gradient is needed.

A widened clip (eight times the channels of every token of every frame) is the largest thing in a forward pass. Whole,
it is written to memory and read again three times; in pieces it stays in the processor's cache. The arithmetic of a
token is the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from kineograph.devices import computes_in_bf16

ROWS = 1024
"""Tokens at a time. Of 256 to 4096, on one AVX512 core, 512 to 2048 were equally fast: 1.24 times the whole for 16384
tokens of 320 channels, 1.17 for 4096 of 640; for 1024 of 1280 there is nothing to cut."""


def by_rows(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of single tokens to `(..., channels)`, in pieces where that is faster.

    That is on a processor, without gradients, and not in bfloat16 hardware: its products are fast and every one first
    reorders the weights, so that more and smaller ones lose. On two AVX512-bf16 cores the feed-forward
    networks of ModelScopeT2V at its published size were reported to take 3.2 s a step in pieces and 2.1 s whole.
    """
    if not _in_pieces(x):
        return function(x)
    return torch.cat([function(piece) for piece in x.flatten(0, -2).split(ROWS)]).view_as(x)


def _in_pieces(x: Tensor) -> bool:
    large = x.numel() > ROWS * x.shape[-1]
    return large and x.device.type == "cpu" and not torch.is_grad_enabled() and not computes_in_bf16(x)


class FeedForwardByRows(FeedForward):
    """The image network's feed-forward network, in pieces.

    A module of diffusers becomes one by a change of class, so its weights keep their place.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map `(..., channels)` to the same shape."""
        return by_rows(super().forward, hidden_states)


def work_by_rows(network: nn.Module) -> None:
    """Let the feed-forward networks of an image network work in pieces, in place."""
    for module in network.modules():
        if type(module) is FeedForward:
            module.__class__ = FeedForwardByRows
