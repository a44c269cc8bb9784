"""Which part of a video network a weight belongs to: `spatial`, `temporal` or `adapter`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, get_args

from torch import nn

from kineograph.errors import unknown
from kineograph.temporal.inflate import MARK

Tag = Literal["spatial", "temporal", "adapter"]


def tag_of(key: str) -> Tag:
    """Return the tag of a parameter name: LoRA weights are adapters wherever they sit."""
    if ".lora_" in key:
        return "adapter"
    return "temporal" if MARK in key else "spatial"


def tagged_parameters(network: nn.Module, tags: Iterable[Tag]) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the named parameters that carry one of the tags.

    Raises:
        InputError: A tag is not known.
    """
    wanted = set(tags)
    for tag in wanted - set(get_args(Tag)):
        raise unknown("parameter tag", tag, get_args(Tag))
    for key, parameter in network.named_parameters():
        if tag_of(key) in wanted:
            yield key, parameter


def train_only(network: nn.Module, tags: Iterable[Tag]) -> list[nn.Parameter]:
    """Freeze every parameter but the tagged ones, in place; returns those that train."""
    network.requires_grad_(False)
    chosen = [parameter for _, parameter in tagged_parameters(network, tags)]
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen


def describe_parameters(network: nn.Module) -> str:
    """Return, for example, `"trainable 417.1 M of 1312.7 M (temporal)"`."""
    trained = [(key, p.numel()) for key, p in network.named_parameters() if p.requires_grad]
    tags = ", ".join(sorted({tag_of(key) for key, _ in trained})) or "none"
    total = sum(parameter.numel() for parameter in network.parameters())
    return f"trainable {_millions(sum(n for _, n in trained))} of {_millions(total)} ({tags})"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"
