"""Agreement of the frames of one clip in a feature space; the published variants differ in which pairs they average.

Wu et al. 2023 (Tune-A-Video), arXiv:2212.11565, section 4.1: all pairs; Esser et al. 2023 (Gen-1), arXiv:2302.03011:
neighbours; Liu et al. 2024 (EvalCrafter), arXiv:2310.11440: neighbours (CLIP-Temp) and the first frame (face); Huang et
al. 2024 (VBench), arXiv:2311.17982: neighbours and first frame, clipped at zero.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from kineograph.errors import InputError
from kineograph.metrics.features.clip import unit


def all_pairs(features: Tensor) -> float:
    """Mean cosine over all pairs of frames, from the length of the sum: no loop over pairs.

    Args:
        features: Shape (frames, dimensions), at least two frames.

    Raises:
        InputError: One frame, or a zero feature.
    """
    x = _rows(features)
    n = len(x)
    return float((x.sum(0).square().sum() - n) / (n * (n - 1)))


def adjacent(features: Tensor) -> float:
    """Mean cosine of neighbouring frames; arguments as `all_pairs`."""
    x = _rows(features)
    return float((x[1:] * x[:-1]).sum(1).mean())


def first(features: Tensor) -> float:
    """Mean cosine of every later frame with the first; arguments as `all_pairs`."""
    x = _rows(features)
    return float((x[1:] @ x[0]).mean())


def vbench(features: Tensor) -> float:
    """Mean over later frames of half the clipped cosine with the previous and half that with the first frame."""
    x = _rows(features)
    previous, start = (x[1:] * x[:-1]).sum(1).clamp_min(0), (x[1:] @ x[0]).clamp_min(0)
    return float(((previous + start) / 2).mean())


RULES: dict[str, Callable[[Tensor], float]] = {
    "all_pairs": all_pairs,
    "adjacent": adjacent,
    "first": first,
    "vbench": vbench,
}


def _rows(features: Tensor) -> Tensor:
    if features.ndim != 2 or len(features) < 2:
        raise InputError(f"Consistency needs at least two frames of shape (frames, d), given {tuple(features.shape)}.")
    return unit(features)
