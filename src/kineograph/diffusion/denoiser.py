"""The one protocol of this library: a denoiser maps noisy data, a time and a condition to an estimate of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from kineograph.diffusion.parameterization import to_x0

Network = Callable[[Tensor, Any, Any], Tensor]


class Denoiser(Protocol):
    """Estimates clean data; whatever its network predicts, samplers see only this."""

    def __call__(self, x: Tensor, t: Any, condition: Any = None, /) -> Tensor:
        """Return the estimate of x0.

        Args:
            x: Noisy data (batch, ...), `alpha(t) * x0 + sigma(t) * noise`.
            t: Time in the process's own unit, a float for all or (batch,): the timestep of a discrete schedule, sigma
                for EDM, t in [0, 1] for a flow.
            condition: Whatever the network understands: text features, a dictionary, None.

        Returns:
            Estimate of x0, of the shape of x.
        """
        ...


class Process(Protocol):
    """Anything that knows its noise levels, such as `Schedule`."""

    def alpha_sigma(self, timesteps: Any) -> tuple[Any, Any]:
        """Return alpha and sigma at these times, tensors for a tensor and floats for a number."""
        ...


@dataclass(frozen=True)
class NetworkDenoiser:
    """A denoiser from a network and the kind of its prediction.

    Attributes:
        network: `network(x, t, condition) -> output`; t is handed on as it came.
        process: Gives alpha and sigma at t.
        kind: A row of `parameterization.KINDS`.
    """

    network: Network
    process: Process
    kind: str

    def __call__(self, x: Tensor, t: Any, condition: Any = None, /) -> Tensor:
        """Run the network and return the clean data that its output means, in the dtype of x."""
        alpha, sigma = self.process.alpha_sigma(t)
        return to_x0(self.kind, x, self.network(x, t, condition).to(x.dtype), alpha, sigma)
