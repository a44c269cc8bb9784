"""Do clips fit their prompts? An offline stand-in for CLIPSIM, fitted on the reference clips and their captions.

No image-text network can be had without a download. This one needs none: ridge regression, on the reference set, from
image features to sentence embeddings of the captions (MiniLM, Wang et al. 2020, arXiv:2002.10957; Reimers and Gurevych
2019, arXiv:1908.10084), then the cosine of the predicted with the prompt's embedding, both less the mean caption. It
knows only what the reference shows, and is never called CLIPSIM.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from kineograph.errors import InputError

PENALTY = 1.0
"""Ridge penalty in units of the mean squared length of a standardised feature vector."""
FEWEST = 20
"""Captioned reference clips below which nothing is fitted."""


@functools.cache
def _encoder():
    from kineograph.models.text import load_text_encoder, minilm_folder

    folder = minilm_folder()
    return load_text_encoder(folder, max_tokens=64)


def sentences(texts: Sequence[str]) -> Tensor:
    """Sentence embeddings by MiniLM, float64, shape (texts, 384).

    Raises:
        MissingExtraError: The package that holds MiniLM is not installed.
    """
    return torch.cat([_encoder()(list(texts[i : i + 64]))[:, 0].cpu() for i in range(0, len(texts), 64)]).double()


def text_match(features: Tensor, prompts: Tensor, reference: Tensor, captions: Tensor) -> Tensor:
    """Cosine between predicted and true sentence embedding of every clip.

    Args:
        features: Of the generated clips, shape (n, d).
        prompts: Their prompts' embeddings, shape (n, e).
        reference: Features of the reference clips, shape (m, d).
        captions: Their captions' embeddings, shape (m, e).

    Returns:
        Shape (n,), each in [-1, 1]; about 0 for clips that do not fit.

    Raises:
        InputError: Too few reference clips.
    """
    if len(reference) < FEWEST:
        raise InputError(
            f"Fitting text to {len(reference)} reference clips means nothing: at least {FEWEST}, captioned."
        )
    mean, scale = reference.mean(0), reference.std(0).clamp_min(1e-6)
    x, z = ((v.double() - mean) / scale for v in (reference, features))
    target, centre = captions - captions.mean(0), captions.mean(0)
    kernel = x @ x.T
    dual = torch.linalg.solve(kernel + PENALTY * kernel.diagonal().mean() * torch.eye(len(x), dtype=x.dtype), target)
    return functional.cosine_similarity(z @ x.T @ dual, prompts - centre, dim=1)
