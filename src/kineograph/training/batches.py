"""Which samples a step sees and which random numbers they get: pure functions of the seed and the step.

Because nothing is stateful, a resumed run needs only its step number, and any number of processes draws the same noise
for the same sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kineograph.diffusion.noise import mix_seed
from kineograph.errors import DataError


@dataclass(frozen=True)
class Share:
    """The part of a global batch that one process works on.

    Attributes:
        indices: Indices into the data set.
        seeds: One seed per sample; all randomness of the sample comes from it.
        weights: 1 for a real sample, 0 for a filler (a process without work in an uneven batch).
        global_count: Real samples of the step over all processes.
    """

    indices: list[int]
    seeds: list[int]
    weights: list[float]
    global_count: int

    def micro(self, size: int | None) -> list[Share]:
        """Cut into shares of at most `size` samples."""
        size = size or len(self.indices)
        cuts = range(0, len(self.indices), size)
        return [
            Share(self.indices[a : a + size], self.seeds[a : a + size], self.weights[a : a + size], self.global_count)
            for a in cuts
        ]


def batch_indices(step: int, num_samples: int, batch_size: int, seed: int) -> list[int]:
    """Return the samples of a step: every epoch is a fresh permutation and its last batch may be smaller.

    Args:
        step: Optimizer step, from 0.
        num_samples: Size of the data set.
        batch_size: Samples per step over all processes.
        seed: Seed of the run.

    Raises:
        DataError: The data set is empty.
    """
    if num_samples < 1:
        raise DataError("There is nothing to train on: the data set has no sample that fits the request.")
    per_epoch = -(-num_samples // batch_size)
    epoch, within = divmod(step, per_epoch)
    generator = torch.Generator().manual_seed(mix_seed(seed, epoch + 1))
    order = torch.randperm(num_samples, generator=generator)
    return order[within * batch_size : (within + 1) * batch_size].tolist()


def share(step: int, num_samples: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> Share:
    """Return one process's part of a step's batch; the parts of all processes make up the same global batch."""
    indices = batch_indices(step, num_samples, batch_size, seed)
    seeds = [mix_seed(mix_seed(seed, step + 1), position + 1) for position in range(len(indices))]
    mine, my_seeds = indices[rank::world], seeds[rank::world]
    if not mine:
        return Share(indices[:1], seeds[:1], [0.0], len(indices))
    return Share(mine, my_seeds, [1.0] * len(mine), len(indices))


def generators(seeds: list[int]) -> list[torch.Generator]:
    """Return one CPU generator per sample."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def randn(generators: list[torch.Generator], *shape: int) -> Tensor:
    """Return standard normal noise (samples, *shape), each sample from its own generator."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def rand(generators: list[torch.Generator], *shape: int) -> Tensor:
    """Return uniform numbers in [0, 1), shape (samples, *shape), each sample from its own generator."""
    return torch.stack([torch.rand(shape, generator=generator) for generator in generators])


def prefetch(steps: range, load: Callable[[int], Any], ahead: int = 2) -> Iterator[Any]:
    """Yield `load(step)` in order while a thread loads the next ones."""
    with ThreadPoolExecutor(1, thread_name_prefix="kineograph-data") as pool:
        waiting = []
        for step in steps:
            waiting.append(pool.submit(load, step))
            if len(waiting) > ahead:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()
