"""Self-attention of an image network that looks at other frames instead of its own, without new weights.

Text2Video-Zero looks at the first frame (Khachatryan et al. 2023, arXiv:2303.13439, section 3.3), Tune-A-Video at the
first and the previous one (Wu et al. 2022, arXiv:2212.11565, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from einops import rearrange
from torch import Tensor

from kineograph.errors import unknown
from kineograph.temporal.frames import current_clip
from kineograph.temporal.plan import Source


def source_frames(source: Source, num_frames: int, device: torch.device | None = None) -> Tensor:
    """Return for each frame the index `(num_frames,)` of the frame it looks at.

    Raises:
        InputError: The source is not known.
    """
    if source not in get_args(Source):
        raise unknown("source frame", source, get_args(Source))
    own = torch.arange(num_frames, device=device)
    moved = {"own": own, "first": own * 0, "previous": own - 1, "next": own + 1}[source]
    return moved.clamp(0, num_frames - 1)


def gather_frames(x: Tensor, num_frames: int, sources: Sequence[Source]) -> Tensor:
    """Return for each folded frame the tokens of its sources, one after the other.

    Args:
        x: Tokens `(batch * frames, tokens, channels)`.
        num_frames: Frames per clip.
        sources: What each frame looks at.

    Returns:
        `(batch * frames, len(sources) * tokens, channels)`.
    """
    clips = rearrange(x, "(b f) n c -> b f n c", f=num_frames)
    looked_at = [clips[:, source_frames(source, num_frames, x.device)] for source in sources]
    return rearrange(torch.cat(looked_at, 2), "b f n c -> (b f) n c")


class CrossFrameProcessor:
    """A diffusers attention processor whose self-attention takes keys and values from other frames.

    Cross-attention is left as it is, as is everything with time off or one frame. Independent images of a clip look at
    themselves.

    Args:
        sources: What each frame looks at.
        inner: The processor that attends; None: diffusers' scaled dot product attention.
    """

    def __init__(self, sources: Sequence[Source], inner: Any = None):
        for source in sources:
            source_frames(source, 1)
        self.sources = tuple(sources)
        self.inner = inner or AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend; the arguments are those of every diffusers processor."""
        clip = current_clip()
        if encoder_hidden_states is not None or not clip.temporal or clip.num_frames == 1:
            return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if not clip.num_images:
            looked_at = gather_frames(hidden_states, clip.num_frames, self.sources)
            return self.inner(attn, hidden_states, looked_at, attention_mask, temb)
        frames = clip.num_frames - clip.num_images
        video, images = hidden_states.unflatten(0, (-1, clip.num_frames)).tensor_split([frames], 1)
        looked_at = gather_frames(video.flatten(0, 1), frames, self.sources)
        seen = self.inner(attn, video.flatten(0, 1), looked_at, attention_mask, temb)
        alone = self.inner(attn, images.flatten(0, 1), None, attention_mask, temb)
        parts = [part.unflatten(0, (len(video), -1)) for part in (seen, alone)]
        return torch.cat(parts, 1).flatten(0, 1)
