"""A second cross-attention, to the tokens of a picture, beside the image network's own to the text.

VideoCrafter1's image-to-video model (Chen et al. 2023, arXiv:2310.19512, section 3.2), as in IP-Adapter (Ye et al.
2023, arXiv:2308.06721, eq. 5): the queries are shared, keys and values are new, both results are added before the
output projection.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from kineograph.errors import InputError
from kineograph.temporal.frames import current_clip
from kineograph.temporal.layer import TemporalLayer, zero


class PictureAttention(TemporalLayer):
    """Keys and values of a picture's tokens, the last ones of the context. The values start at zero.

    Args:
        channels: Width of the attention it stands beside.
        context_channels: Width of the tokens.
        tokens: How many of the context's last tokens are the picture's (VideoCrafter1: 16).
    """

    def __init__(self, channels: int, context_channels: int, tokens: int = 16):
        super().__init__()
        self.tokens = tokens
        self.key = nn.Linear(context_channels, channels, bias=False)
        self.value = zero(nn.Linear(context_channels, channels, bias=False))

    def forward(self, query: Tensor, picture: Tensor, num_heads: int) -> Tensor:
        """Attend to a picture.

        Args:
            query: `(batch * frames, positions, channels)`.
            picture: `(batch * frames, tokens, context channels)`.
            num_heads: Heads of the attention it stands beside.

        Returns:
            The shape of the query.
        """
        q, k, v = (
            rearrange(x, "b n (h d) -> b h n d", h=num_heads) for x in (query, self.key(picture), self.value(picture))
        )
        return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")


class PictureProcessor:
    """A diffusers processor of a cross-attention whose `temporal` child is a `PictureAttention`.

    With time off only the text is attended to.

    Args:
        inner: The processor that attends to the text.
    """

    def __init__(self, inner: Any):
        self.inner = inner

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend to text and picture; the arguments are those of every diffusers processor.

        Raises:
            InputError: The context has no more tokens than a picture alone.
        """
        tokens = attn.temporal.tokens
        length = encoder_hidden_states.shape[1] - tokens
        if length < 1:
            raise InputError(
                f"The context has {encoder_hidden_states.shape[1]} tokens; this network takes those of the text and "
                f"after them {tokens} of a picture."
            )
        text, picture = encoder_hidden_states.tensor_split([length], 1)
        mask = None if attention_mask is None else attention_mask[..., :length]
        out = self.inner(attn, hidden_states, text, mask, temb)
        if not current_clip().temporal:
            return out
        project = attn.to_out[0]
        seen = project(attn.temporal(attn.to_q(hidden_states), picture, attn.heads))
        return out + (seen if project.bias is None else seen - project.bias)
