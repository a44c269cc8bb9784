"""Sharing an evaluation over the ranks of torch.distributed: every rank ends with the numbers of a single process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import distributed

from kineograph.metrics.moments import Moments

T = TypeVar("T")


def ranks() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) without a process group."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def share(items: Sequence[T]) -> Sequence[T]:
    """The items of this rank: every world-size-th one. Shares may be uneven."""
    rank, world = ranks()
    return items[rank::world]


def gather(part: T) -> list[T]:
    """The parts of all ranks in the order of ranks; the own part is the very object given."""
    rank, world = ranks()
    if world == 1:
        return [part]
    parts: list[Any] = [None] * world
    distributed.all_gather_object(parts, part)
    parts[rank] = part
    return parts


def merge_moments(own: Moments) -> Moments:
    """Moments over all ranks, merged in the order of ranks so that every rank gets the same bits."""
    total = Moments.empty(len(own.mean))
    for part in gather(own):
        total.merge(part)
    return total
