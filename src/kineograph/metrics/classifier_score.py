r"""Inception score: exp of the mean divergence of each prediction from the mean prediction.

Salimans et al. 2016, arXiv:1606.03498, section 4: IS = exp(E_x KL(p(y|x) || p(y))).
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from kineograph.errors import InputError
from kineograph.metrics.arrays import ArrayLike, as_features


def inception_score(p: ArrayLike, splits: int = 1) -> float:
    """Inception score, the mean over splits, in float64.

    Args:
        p: Class probabilities of shape (samples, classes), rows summing to 1. For logits use `log_softmax` first and
            `inception_score_splits(..., log=True)`.
        splits: Number of consecutive parts; the score is computed in each. More splits give lower scores: it is capped
            by the number of samples in a part. Shuffle first when neighbours are alike, as frames of one video are.

    Returns:
        A number from 1 to the number of classes.

    Raises:
        InputError: Rows that are no probabilities, or fewer samples than splits.
    """
    return float(inception_score_splits(p, splits).mean())


def inception_score_splits(p: ArrayLike, splits: int = 1, *, log: bool = False) -> Tensor:
    """Inception score of each split.

    Args:
        p: Probabilities, or with `log` log-probabilities, of shape (samples, classes).
        splits: Number of consecutive parts `[i n / splits, (i + 1) n / splits)`, as in torch-fidelity.
        log: Whether `p` holds log-probabilities.

    Returns:
        float64 tensor of shape (splits,). Published spreads are its standard deviation with ddof 0 (torch-fidelity)
        or 1 (torchmetrics).

    Raises:
        InputError: As `inception_score`.
    """
    logs = log_probabilities(p, log)
    if not 1 <= splits <= len(logs):
        raise InputError(f"splits={splits} is not possible for {len(logs)} samples; allowed: 1 to {len(logs)}.")
    edges = [i * len(logs) // splits for i in range(splits + 1)]
    parts = [logs[a:b] for a, b in itertools.pairwise(edges)]
    return torch.stack([divergences(part).mean().exp() for part in parts])


def log_probabilities(p: ArrayLike, log: bool = False) -> Tensor:
    """Check probabilities and return their logarithms, float64, of shape (samples, classes)."""
    values = as_features(p.exp() if log and isinstance(p, Tensor) else p, "p", minimum=1)
    if bool((values < 0).any()) or bool(((values.sum(1) - 1).abs() > 1e-3).any()):
        raise InputError(
            f"Rows of p must be probabilities: not negative and summing to 1; given sums from "
            f"{values.sum(1).min():.4g} to {values.sum(1).max():.4g}. Pass logits through softmax(-1) first."
        )
    return as_features(p, "p", minimum=1) if log else values.log()


def divergences(logs: Tensor) -> Tensor:
    """KL divergence of each row from the mean row, shape (samples,); an underflown probability counts as zero."""
    mean = torch.logsumexp(logs, 0) - torch.log(torch.tensor(float(len(logs)), dtype=logs.dtype))
    terms = logs.exp() * (logs - mean)
    return torch.where(logs.isneginf(), torch.zeros_like(terms), terms).sum(1)
