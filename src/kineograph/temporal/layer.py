"""What a temporal layer is, and how it is run on a folded clip."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Literal, TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn

from kineograph.errors import InputError
from kineograph.temporal.frames import current_clip


class TemporalLayer(nn.Module):
    """A layer that relates frames: `(batch * frames, ...)` in and out, the same shape.

    Attributes:
        uses: What it takes beside the frames: nothing, the timestep embedding `"temb"` of shape
            `(batch * frames, channels)`, or the `"context"` of shape `(batch * frames, tokens, channels)`.
        form: What the frames are: a `"map"` `(batch * frames, channels, height, width)`, whose positions no layer
            mixes, or `"tokens"` `(batch * frames, tokens, channels)`.
        skip_single_frame: A clip of one frame passes by unchanged.
        gradient_checkpointing: Recompute the layer during backward; diffusers' `enable_gradient_checkpointing` sets it.
    """

    uses: Literal["", "temb", "context"] = ""
    form: ClassVar[Literal["map", "tokens"]] = "map"
    skip_single_frame: bool = False

    def __init__(self):
        super().__init__()
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Tensor] | None = None


class TemporalChain(TemporalLayer):
    """Several layers at one place, one after the other; a transformer's block takes all that a U-Net's blocks share.

    Args:
        layers: What runs, in order.
    """

    def __init__(self, layers: Iterable[TemporalLayer]):
        super().__init__()
        self.layers = nn.ModuleList(layers)


Module = TypeVar("Module", bound=nn.Module)


def zero(module: Module) -> Module:
    """Set every parameter of a module to zero, in place, so that what it is added to is unchanged at first."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def run_layer(layer: TemporalLayer, x: Tensor, *extra: Tensor) -> Tensor:
    """Run a temporal layer on the frames of the current clip.

    Args:
        layer: The layer.
        x: Folded frames `(batch * frames, ...)`; tokens are given to a layer of maps as maps of one column.
        *extra: Further folded tensors that the layer uses, with the same first axis.

    Returns:
        The same shape. Trailing independent images come back unchanged.

    Raises:
        InputError: The first axis is not a multiple of the clip's frame count.
    """
    if layer.form == "map" and x.ndim == 3:
        maps = rearrange(x, "b n c -> b c n 1").contiguous()  # oneDNN crashes in backward on the transposed strides
        return rearrange(run_layer(layer, maps, *extra), "b c n 1 -> b n c")
    clip = current_clip()
    video_frames = clip.num_frames - clip.num_images
    if not clip.temporal or (video_frames == 1 and layer.skip_single_frame):
        return x
    if len(x) % clip.num_frames:
        raise InputError(
            f"A folded batch of {len(x)} cannot be split into clips of {clip.num_frames} frames. Fold clips as "
            "'(batch frames)' with the same number of frames each, and repeat conditions once per frame."
        )
    if not clip.num_images:
        return _checkpointed(layer, video_frames, x, *extra)
    video, images = _split(x, clip.num_frames, clip.num_images)
    video = _checkpointed(layer, video_frames, video, *(_split(e, clip.num_frames, clip.num_images)[0] for e in extra))
    return _join(video, images, video_frames)


def _checkpointed(layer: TemporalLayer, num_frames: int, x: Tensor, *extra: Tensor) -> Tensor:
    """Run the layer, recomputing it in backward where that is on and no outer checkpoint already does."""
    checkpoint = layer._gradient_checkpointing_func
    wanted = layer.gradient_checkpointing and torch.is_grad_enabled() and not current_clip().checkpointed
    if wanted and checkpoint is not None:
        return checkpoint(layer, x, num_frames, *extra)
    return layer(x, num_frames, *extra)


def _split(x: Tensor, num_frames: int, num_images: int) -> tuple[Tensor, Tensor]:
    """Split the folded frames of each clip into its video and its trailing independent images."""
    clips = x.unflatten(0, (-1, num_frames))
    return clips[:, :-num_images].flatten(0, 1), clips[:, -num_images:]


def _join(video: Tensor, images: Tensor, video_frames: int) -> Tensor:
    """Undo `_split`."""
    return rearrange(torch.cat([video.unflatten(0, (-1, video_frames)), images], 1), "b f ... -> (b f) ...")
