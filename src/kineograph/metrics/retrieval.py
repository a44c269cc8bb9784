"""Retrieval: is the right real clip among the nearest to a generated one?

For a model of named things this says more than a distance of distributions: generate from a name, embed, rank all real
clips by cosine. `R@k` is the share of queries with a right clip among the first k (R-precision of Xu et al. 2018,
AttnGAN, arXiv:1711.10485, sec. 4, turned round: the picture asks, the gallery holds pictures).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kineograph.errors import InputError
from kineograph.metrics.arrays import ArrayLike, as_features
from kineograph.metrics.features.clip import unit


def best_ranks(queries: ArrayLike, gallery: ArrayLike, right: Tensor) -> Tensor:
    """Return the rank of the nearest right item for each query.

    Args:
        queries: Features, shape (queries, dimensions).
        gallery: Features, shape (items, dimensions).
        right: Which items are right, boolean of shape (queries, items); at least one per query.

    Returns:
        Number of items nearer than the nearest right one, shape (queries,), int64; 0 is a hit at the first place.

    Raises:
        InputError: Shapes do not fit, or a query has no right item.
    """
    x, y = as_features(queries, "queries", 1), as_features(gallery, "gallery", 1)
    if right.shape != (len(x), len(y)):
        raise InputError(f"right has shape {tuple(right.shape)}; expected ({len(x)}, {len(y)}).")
    if not bool(right.any(1).all()):
        raise InputError(f"Query {int((~right.any(1)).nonzero()[0])} has no right item in the gallery.")
    cosine = unit(x) @ unit(y).T
    best = cosine.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return ((cosine > best) & ~right).sum(1)


def recall_at(ranks: Tensor, k: int) -> float:
    """Return the share of queries whose right item is among the first k."""
    return float((ranks < k).double().mean())


def nearest(queries: ArrayLike, gallery: ArrayLike) -> tuple[Tensor, Tensor]:
    """Return the nearest item of each query and its cosine distance, both of shape (queries,).

    Generated clips much nearer to training clips than unseen real clips are have been memorised.
    """
    x, y = as_features(queries, "queries", 1), as_features(gallery, "gallery", 1)
    value, place = (unit(x) @ unit(y).T).max(1)
    return place, 1 - value
