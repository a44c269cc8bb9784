"""Captions as tokens, encoded once before training; a clip with several captions shows one of them per sample."""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kineograph.data.cache import kept as make
from kineograph.data.cache import sample
from kineograph.data.captions import weighted_captions
from kineograph.data.manifest import Clip

VERSION = 2  # 1 had no sample at its end
DIGEST = 32  # bytes of SHA-256


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
        return self.rows([self.texts[clip][0]])[0]

    def draw(self, clip: int, choose: np.random.Generator) -> Tensor:
        """Draw one of a clip's captions by weight, float32 `(tokens, dim)`; one alone takes no random number."""
        return self.rows([self.draw_row(clip, choose)])[0]

    def draw_row(self, clip: int, choose: np.random.Generator) -> int:
        """Draw the row of one of a clip's captions, as `draw` does."""
        rows = self.texts[clip]
        if len(rows) == 1:
            return rows[0]
        upto = list(accumulate(self.weights[clip]))
        return rows[min(bisect_right(upto, choose.random() * upto[-1]), len(rows) - 1)]

    def rows(self, texts: Sequence[int], length: int | None = None) -> Tensor:
        """Return rows of tokens, float32 `(texts, tokens, dim)`; of `length`, if given, the first tokens only."""
        return torch.from_numpy(self.tokens[:, :length][list(texts)].astype(np.float32))


def encode_captions(
    encode: Callable[[Sequence[str]], Tensor],
    clips: Sequence[Clip],
    batch: int = 64,
    kept: Path | None = None,
    fingerprint: str = "",
    progress: Callable[[int, int | None, str], None] | None = None,
) -> CaptionTokens:
    """Encode every distinct caption of the clips, or open what an earlier run has encoded.

    Args:
        encode: Text encoder: strings to `(strings, tokens, dim)`.
        clips: Of the data set.
        batch: Texts per call.
        kept: Folder where tokens are kept from run to run; None: nowhere.
        fingerprint: Hash of all that determines `encode`; needed to keep them.
        progress: Called with `(done, total, what)`.

    Raises:
        DataError: A clip's `captions` are malformed.
    """
    pairs = [weighted_captions(clip) for clip in clips]
    distinct = dict.fromkeys(text for clip in pairs for text, _ in clip)
    texts = sorted(distinct, key=lambda text: len(text))  # batches of like lengths waste less
    row_of = {text: row for row, text in enumerate(texts)}
    parts = _encoded(encode, texts, batch, progress)
    if kept is None:
        tokens = np.concatenate(list(parts))
    else:
        tokens = _kept(parts, kept / _key(texts, fingerprint), len(texts), progress)
    return CaptionTokens(
        tokens,
        [[row_of[text] for text, _ in clip] for clip in pairs],
        [[weight for _, weight in clip] for clip in pairs],
    )


def _encoded(
    encode: Callable[[Sequence[str]], Tensor],
    texts: Sequence[str],
    batch: int,
    progress: Callable[[int, int | None, str], None] | None,
) -> Iterator[np.ndarray]:
    """Encode texts when they are asked for, float16 `(batch, tokens, dim)` at a time."""
    for start in range(0, len(texts), batch):
        yield encode(texts[start : start + batch]).half().cpu().numpy()
        if progress:
            progress(min(start + batch, len(texts)), len(texts), "captions")


def _key(texts: Sequence[str], fingerprint: str) -> str:
    """Return the name of the file of these texts' tokens."""
    return hashlib.sha256(json.dumps([VERSION, fingerprint, texts]).encode()).hexdigest()[:20] + ".npy"


def _kept(
    parts: Iterator[np.ndarray], file: Path, count: int, progress: Callable[[int, int | None, str], None] | None
) -> np.ndarray:
    """Open the file of the tokens, written first if it is not there or not whole."""
    make(file, lambda place: _whole(place, count), lambda part: _write(parts, part, count), progress)
    return np.asarray(np.load(file, mmap_mode="r"))  # a plain view: numpy's own class for it is slow to index


def _write(parts: Iterator[np.ndarray], file: Path, count: int) -> None:
    """Write tokens as they come, in numpy's format, and after them a sample of all to know the file by."""
    with file.open("wb") as out:
        for number, rows in enumerate(parts):
            if number == 0:
                header = {"descr": rows.dtype.str, "fortran_order": False, "shape": (count, *rows.shape[1:])}
                np.lib.format.write_array_header_1_0(out, header)
            out.write(rows.tobytes())
        out.flush()
        out.write(bytes.fromhex(sample(file)))
        out.flush()
        os.fsync(out.fileno())


def _whole(file: Path, count: int) -> bool:
    """Say whether a file of tokens is as it was written."""
    try:
        end = file.stat().st_size - DIGEST
        with file.open("rb") as stream:
            stream.seek(max(0, end))
            return stream.read() == bytes.fromhex(sample(file, end)) and len(np.load(file, mmap_mode="r")) == count
    except (OSError, ValueError):
        return False
