"""Averaged weights, their memory stated as a half-life in samples so that it does not depend on the batch size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

RAMP = 0.05  # the half-life grows with the run, up to its setting: Karras et al. 2024 (EDM), `ema_rampup_ratio`


class EMA:
    """Exponential moving average of named parameters, in float32.

    Args:
        parameters: What is averaged.
        halflife_samples: After this many samples an old weight counts half.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], halflife_samples: float) -> None:
        self.parameters = dict(parameters)
        self.halflife = halflife_samples
        self.shadow = {name: p.detach().float().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, batch: int, samples_seen: int) -> None:
        """Move the averages towards the weights after a step of `batch` samples, `samples_seen` in all."""
        halflife = max(min(self.halflife, samples_seen * RAMP), 1e-8)
        weight = 1 - 0.5 ** (batch / halflife)
        torch._foreach_lerp_(list(self.shadow.values()), [p.float() for p in self.parameters.values()], weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Swap the averages into the network for the length of the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            mine = self.shadow[name].clone()
            self.shadow[name].copy_(parameter)
            parameter.copy_(mine)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over saved averages."""
        for name, tensor in self.shadow.items():
            tensor.copy_(tensors[name])
