"""Which frames belong together, while a folded clip passes through an image network.

An image network sees `(batch * frames, ...)` and cannot know where one clip ends. The frame count therefore travels
beside it: a thread-local value, set for the length of one forward pass. Two threads never see each other's value, and a
gradient checkpoint carries its own copy into the recomputation (`CarryClip`), so the count also holds during backward,
whichever thread runs it and whatever was computed in between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from einops import repeat
from torch import Tensor, nn

from kineograph.errors import InputError


@dataclass(frozen=True)
class Clip:
    """How a folded batch splits into clips.

    Attributes:
        num_frames: Frames per clip, including the trailing images.
        num_images: The last so many frames of each clip are independent images; temporal layers pass them by
            (joint image-video training, Ho et al. 2022, arXiv:2204.03458, section 3.1).
        temporal: False runs the image network alone.
        mask: Added to the logits of every attention over frames, row looks at column: `(frames, frames)` or
            `(batch, frames, frames)` over the frames that are no independent images; None: all see all.
        checkpointed: True inside a gradient checkpoint, so that temporal layers do not nest a second one.
        scratch: Tensors that one hook leaves for the next within a single forward pass; a reader takes them away.
    """

    num_frames: int = 1
    num_images: int = 0
    temporal: bool = True
    checkpointed: bool = False
    mask: Tensor | None = field(default=None, compare=False, repr=False)
    scratch: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self):
        if self.num_frames < 1 or not 0 <= self.num_images < self.num_frames:
            raise InputError(
                f"A clip of {self.num_frames} frames with {self.num_images} independent images is not possible: "
                "num_frames is at least 1, and at least one frame must not be an image."
            )
        frames = self.num_frames - self.num_images
        if self.mask is not None and (self.mask.ndim not in (2, 3) or self.mask.shape[-2:] != (frames, frames)):
            raise InputError(
                f"A mask over {frames} frames is ({frames}, {frames}), or (batch, {frames}, {frames}); "
                f"got {tuple(self.mask.shape)}."
            )


class _Ambient(threading.local):
    def __init__(self):
        self.clip = Clip()


_ambient = _Ambient()


def current_clip() -> Clip:
    """Return the clip of the running forward pass; outside one, every sample is its own one-frame clip."""
    return _ambient.clip


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a mask over frames into what is added to logits.

    Args:
        mask: Bool, True where the row's frame may look at the column's; or already what is added.
        dtype: Type of the result.

    Raises:
        InputError: A frame may look at none, not even itself.
    """
    if mask.dtype is not torch.bool:
        return mask.to(dtype)
    if not bool(mask.any(-1).all()):
        raise InputError(
            "A mask over frames leaves a frame that may look at no frame. Let each look at least at itself."
        )
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -torch.inf)


def frame_bias(sequences: int, like: Tensor) -> Tensor | None:
    """Return the current clip's mask for attention along the frames of `sequences` positions; None: there is none.

    Args:
        sequences: Positions of all clips, those of a clip next to each other.
        like: Gives type and device.

    Returns:
        `(frames, frames)`, or `(sequences, 1, frames, frames)` where clips differ.
    """
    mask = current_clip().mask
    if mask is None or mask.ndim == 2:
        return None if mask is None else mask.to(like)
    return repeat(mask.to(like), "b i j -> (b n) 1 i j", n=sequences // len(mask))


def plus(bias: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Add two biases of logits, each of which may be none."""
    if bias is None or other is None:
        return other if bias is None else bias
    return bias + other


@contextmanager
def clip_of(clip: Clip) -> Iterator[None]:
    """Let the networks called inside see `clip`."""
    before = _ambient.clip
    _ambient.clip = clip
    try:
        yield
    finally:
        _ambient.clip = before


class Recall:
    """A module call that sees the clip of the moment it was built, for `torch.utils.checkpoint`."""

    def __init__(self, module: Callable[..., Any]):
        self.module = module
        self.clip = replace(current_clip(), checkpointed=True, scratch={})

    def __call__(self, *args: Any) -> Any:
        """Call the module on `args` under the remembered clip."""
        with clip_of(self.clip):
            return self.module(*args)


class CarryClip:
    """A gradient-checkpointing function that carries the clip into the recomputation."""

    def __init__(self, checkpoint: Callable[..., Any]):
        self.checkpoint = checkpoint

    def __call__(self, module: Callable[..., Any], *args: Any) -> Any:
        """Checkpoint `module(*args)`."""
        return self.checkpoint(Recall(module), *args)


def carry_clip_through_checkpoints(network: nn.Module) -> None:
    """Make every gradient-checkpointing function inside `network` carry the clip; safe to repeat."""
    for module in network.modules():
        function = module.__dict__.get("_gradient_checkpointing_func")
        if function is not None and not isinstance(function, CarryClip):
            module.__dict__["_gradient_checkpointing_func"] = CarryClip(function)
