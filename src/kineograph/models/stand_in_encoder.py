"""A small stand-in for CLIP's image encoder, where its weights cannot be had.

Random features of a picture, made uncorrelated on the frames of a data set: they tell pictures apart, but know nothing
of what is in them. What they mean to the network is learnt with it, because its cross-attentions are trained.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kineograph.models.image_encoder import ImageEncoder

NAME = "random features (no CLIP)"
FLOOR = 1e-3  # share of the largest variance below which a direction is not blown up


@torch.no_grad()
def build_stand_in(images: Tensor, channels: int, deviation: float = 1.0, seed: int = 0) -> ImageEncoder:
    """Build the encoder.

    Args:
        images: Frames of the data set `(n, 3, height, width)` in [-1, 1], a few hundred; features are made uncorrelated
            on them.
        channels: Width of the token, that of the network's context.
        deviation: Deviation of the token's values, that of the tokens which the network knows.
        seed: Of the random weights.
    """
    model = _random_vision(channels, seed)
    encoder = ImageEncoder(model)
    pooled = torch.cat([model.vision_model(encoder.prepared(part)).pooler_output for part in images.split(32)])
    mean, whiten = pooled.mean(0), whitening(pooled)
    model.vision_model.post_layernorm.bias -= mean
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(channels, len(whiten), generator=generator) / len(whiten) ** 0.5
    model.visual_projection.weight.copy_(deviation * mix @ whiten)
    return encoder


def whitening(features: Tensor) -> Tensor:
    """Return the symmetric matrix that makes features `(n, width)` uncorrelated, of deviation 1."""
    centred = (features - features.mean(0)).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred / max(1, len(features) - 1))
    scale = values.clamp(min=float(values.max()) * FLOOR) ** -0.5
    return (vectors @ torch.diag(scale) @ vectors.T).to(features.dtype)


def _random_vision(channels: int, seed: int) -> Any:
    """Build a random vision transformer of CLIP's class, so that it is written and read as CLIP is."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=64,
        patch_size=8,
        projection_dim=channels,
        initializer_factor=3.0,  # wide enough that attention is not a mere mean
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPVisionModelWithProjection(config).eval()
