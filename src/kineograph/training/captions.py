"""Captions as tokens, encoded once before training; a clip with several captions shows one of them per sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kineograph.data.captions import weighted_captions
from kineograph.data.manifest import Clip


@dataclass(frozen=True)
class CaptionTokens:
    """Tokens of the captions of a data set.

    Attributes:
        tokens: Of every distinct text, float16 `(texts, tokens, dim)`.
        texts: For each clip, the rows of its captions in `tokens`; its own caption comes first.
        weights: For each clip, the shares of its captions, summing to 1.
    """

    tokens: np.ndarray
    texts: Sequence[Sequence[int]]
    weights: Sequence[Sequence[float]]

    def first(self, clip: int) -> Tensor:
        """Return a clip's first caption, float32 `(tokens, dim)`."""
        return torch.from_numpy(self.tokens[self.texts[clip][0]]).float()

    def draw(self, clip: int, choose: np.random.Generator) -> Tensor:
        """Draw one of a clip's captions by weight, float32 `(tokens, dim)`; one alone takes no random number."""
        rows = self.texts[clip]
        row = rows[0] if len(rows) == 1 else choose.choice(rows, p=self.weights[clip])
        return torch.from_numpy(self.tokens[row]).float()


def encode_captions(encode: Callable[[Sequence[str]], Tensor], clips: Sequence[Clip], batch: int = 64) -> CaptionTokens:
    """Encode every distinct caption of the clips.

    Args:
        encode: Text encoder: strings to `(strings, tokens, dim)`.
        clips: Of the data set.
        batch: Texts per call.

    Raises:
        DataError: A clip's `captions` are malformed.
    """
    pairs = [weighted_captions(clip) for clip in clips]
    row_of: dict[str, int] = {}
    for text, _ in (pair for clip in pairs for pair in clip):
        row_of.setdefault(text, len(row_of))
    texts = sorted(row_of, key=lambda text: len(text))  # batches of like lengths waste less
    row_of = {text: row for row, text in enumerate(texts)}
    parts = [encode(texts[i : i + batch]).half().cpu().numpy() for i in range(0, len(texts), batch)]
    return CaptionTokens(
        np.concatenate(parts),
        [[row_of[text] for text, _ in clip] for clip in pairs],
        [[weight for _, weight in clip] for clip in pairs],
    )
