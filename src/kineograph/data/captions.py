"""Clips with more than one caption: which texts, and how often training shows each.

A manifest line may carry `"captions": [{"text": ..., "weight": ...}, ...]` beside its `caption`. Training then draws
one of the texts per sample with these weights, as Stable Video Diffusion does with its three captioners at
0.5 / 0.25 / 0.25 (Blattmann et al. 2023, arXiv:2311.15127, App. C).
"""

from __future__ import annotations

import math
from typing import Any

from kineograph.data.manifest import Clip
from kineograph.errors import DataError


def weighted_captions(clip: Clip) -> list[tuple[str, float]]:
    """Return the texts of a clip and their shares, which sum to 1; the first is `clip.caption` if there is one alone.

    Raises:
        DataError: `captions` is not a list of objects with a text and a weight of at least 0, not all 0.
    """
    rows = clip.extra.get("captions") or [{"text": clip.caption, "weight": 1.0}]
    if not isinstance(rows, list):
        raise _malformed(clip, rows)
    pairs = [_pair(clip, row) for row in rows]
    total = sum(weight for _, weight in pairs)
    if not total > 0:
        raise _malformed(clip, rows)
    return [(text, weight / total) for text, weight in pairs]


def _pair(clip: Clip, row: Any) -> tuple[str, float]:
    """Check one entry."""
    text, weight = (row.get("text"), row.get("weight", 1.0)) if isinstance(row, dict) else (None, None)
    good = isinstance(text, str) and isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0
    if not good or isinstance(weight, bool):
        raise _malformed(clip, row)
    return str(text), float(weight)  # pyright: ignore[reportArgumentType]


def _malformed(clip: Clip, value: object) -> DataError:
    return DataError(
        f"'{clip.path}': captions has {str(value)[:80]!r}; expected a list of "
        '{"text": "...", "weight": 0.5} with weights of at least 0, not all 0.'
    )
