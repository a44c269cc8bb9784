"""From a picture to context tokens: a few learned queries read all tokens of CLIP.

VideoCrafter1 (Chen et al. 2023, arXiv:2310.19512, section 3.2). The network is a Perceiver resampler (Alayrac et al.
2022, arXiv:2204.14198), which diffusers has as IP-Adapter Plus's projection.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kineograph.models.image_encoder import ImageEncoder


class PictureTokens(nn.Module):
    """Pictures to tokens that stand after those of the text.

    Args:
        encoder: CLIP's image encoder; frozen.
        resampler: From all its tokens to a few.
    """

    def __init__(self, encoder: ImageEncoder, resampler: nn.Module) -> None:
        super().__init__()
        self.encoder, self.resampler = encoder, resampler

    def forward(self, images: Tensor) -> Tensor:
        """Encode pictures `(n, 3, height, width)` in [-1, 1] to `(n, tokens, channels)`.

        Grey pictures (zeros) are the unconditional ones (`scripts/evaluation/funcs.py`).
        """
        return self.resampler(self.encoder.tokens(images))

    def beside(self, text: Tensor, images: Tensor) -> Tensor:
        """Return the context: text tokens `(n, length, channels)`, then those of the pictures."""
        return torch.cat([text, self(images).to(text)], dim=1)


def build_resampler(
    *,
    in_channels: int = 1280,
    out_channels: int = 1024,
    width: int = 1024,
    depth: int = 4,
    num_heads: int = 12,
    head_dim: int = 64,
    tokens: int = 16,
) -> Any:
    """Build a resampler; the defaults are VideoCrafter1's (`LatentVisualDiffusion.init_projector`).

    Args:
        in_channels: Width of CLIP's tokens (ViT-H: 1280).
        out_channels: Width of the context.
        width: Width inside.
        depth: Blocks.
        num_heads: Heads of each attention.
        head_dim: Width of a head.
        tokens: Queries, and so tokens of a picture.
    """
    from diffusers.models.embeddings import IPAdapterPlusImageProjection

    return IPAdapterPlusImageProjection(
        embed_dims=in_channels,
        output_dims=out_channels,
        hidden_dims=width,
        depth=depth,
        dim_head=head_dim,
        heads=num_heads,
        num_queries=tokens,
    )
