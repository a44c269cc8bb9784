"""Ranks of right items."""

import pytest
import torch

from kineograph.errors import InputError
from kineograph.metrics.retrieval import best_ranks, nearest, recall_at

GALLERY = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.0, 2.0]])


def test_rank_counts_wrong_items_that_are_nearer():
    queries = torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    right = torch.tensor([[0, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 1]]).bool()
    ranks = best_ranks(queries, GALLERY, right)
    assert ranks.tolist() == [2, 1, 0]
    assert [recall_at(ranks, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])


def test_a_random_guess_has_the_recall_of_chance():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(400, 16, generator=generator) for _ in range(2))
    ranks = best_ranks(x, y, torch.eye(400, dtype=torch.bool))
    assert recall_at(ranks, 40) == pytest.approx(0.1, abs=0.05)


def test_nearest_by_direction():
    place, distance = nearest(torch.tensor([[0.0, 0.1], [2.0, 2.0]]), GALLERY)
    assert place.tolist() == [3, 2]
    assert distance.tolist() == pytest.approx([0, 0], abs=1e-12)


def test_queries_without_a_right_item_are_refused():
    with pytest.raises(InputError, match="Query 1 has no right item"):
        best_ranks(GALLERY[:2], GALLERY, torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]]).bool())
    with pytest.raises(InputError, match="expected"):
        best_ranks(GALLERY[:2], GALLERY, torch.ones(3, 4, dtype=torch.bool))
