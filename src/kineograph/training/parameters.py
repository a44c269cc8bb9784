"""What of a network trains, what is stored beside it, and how saved values are taken over."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kineograph.errors import WeightsError


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that want gradients, by name."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def constants(network: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that are stored with the weights, by name: what the data say and no step changes."""
    known = dict(network.named_parameters())
    return {name: value for name, value in network.state_dict().items() if name not in known}


def load_weights(parameters: Mapping[str, Tensor], tensors: dict[str, Tensor], where: str) -> None:
    """Copy saved weights into parameters of the same names.

    Raises:
        WeightsError: Names or shapes differ, or a value is not finite.
    """
    from kineograph.models.weights import check_finite, check_keys

    check_keys(parameters.keys(), tensors.keys(), where)
    check_finite(tensors, where)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != tensors[name].shape:
                given, wanted = tuple(tensors[name].shape), tuple(parameter.shape)
                raise WeightsError(
                    f"'{name}' in '{where}' has shape {given}; the network to be trained wants {wanted}."
                )
            parameter.copy_(tensors[name])
