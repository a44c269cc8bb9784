"""The one protocol of this library: a denoiser maps noisy data, a time and a condition to an estimate of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from kineograph.diffusion.parameterization import EPSILON, Kind, expand, row
from kineograph.diffusion.process import Process
from kineograph.errors import InputError

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


@dataclass(frozen=True)
class NetworkDenoiser:
    """A denoiser from a network and the kind of its prediction.

    Attributes:
        network: `network(c_in * x, c_noise, condition) -> output`; a kind without c_noise tells it t as it came.
        process: Gives alpha and sigma at t.
        kind: A row of `parameterization.KINDS`, by name or itself.
        dtype: What the network's input is cast to; None leaves it. A float32 network under a float64 state needs it.
    """

    network: Network
    process: Process
    kind: str | Kind
    dtype: torch.dtype | None = None

    def __call__(self, x: Tensor, t: Any, condition: Any = None, /) -> Tensor:
        """Run the network and return the clean data that its output means, in the dtype of x.

        Raises:
            InputError: The network predicts epsilon and alpha is 0.
        """
        kind = row(self.kind)
        alpha, sigma = self.process.alpha_sigma(t)
        if kind is EPSILON and isinstance(alpha, float) and alpha == 0:
            raise InputError(
                f"At t={t} there is no data left in x, so a network that predicts its noise (epsilon) cannot give the "
                "data. Use a network that predicts v or x0, or a schedule without zero terminal SNR."
            )
        told = t if kind.c_noise is None else kind.c_noise(alpha, sigma)
        alpha, sigma = expand(alpha, x), expand(sigma, x)
        scaled = x if kind.c_in is None else kind.c_in(alpha, sigma) * x
        scaled = scaled.to(self.dtype or x.dtype)
        return kind.to_x0(x, self.network(scaled, told, condition).to(x.dtype), alpha, sigma).to(x.dtype)


@dataclass(frozen=True)
class KnownWhenNoisy:
    """A denoiser whose noisiest steps are taken by an estimate that is known beforehand.

    Where there is no data left in x, the best estimate does not depend on x: it is the mean of the data. A
    deterministic sampler then lands at `alpha * known + sigma * noise`, as if it had started there (Meng et al. 2022,
    SDEdit, arXiv:2108.01073).

    Attributes:
        denoiser: Takes the other steps.
        known: Estimate of x0, of a shape that broadcasts to x's.
        above: Time from which the estimate stands, itself included; more time is more noise.
    """

    denoiser: Denoiser
    known: Tensor
    above: float

    def __call__(self, x: Tensor, t: Any, condition: Any = None, /) -> Tensor:
        """Return the known estimate where all are noisy, the denoiser's where none is, or each clip's own."""
        if not isinstance(t, Tensor):
            return self.known.to(x).expand_as(x) if t >= self.above else self.denoiser(x, t, condition)
        noisy = expand(t >= self.above, x)
        if bool(noisy.all()):
            return self.known.to(x).expand_as(x)
        return torch.where(noisy, self.known.to(x), self.denoiser(x, t, condition))
