"""Low-rank adapters on one part of a video network: on its motion modules, or on the image network below them.

Hu et al. 2021, arXiv:2106.09685. AnimateDiff (Guo et al. 2023, arXiv:2307.04725, sections 4.1 and 4.3) trains one on
the image network first, so that motion modules need not learn what training clips look like (the domain adapter), and
one on trained motion modules for a kind of motion (MotionLoRA). Any design with attention over frames can
have it, Stable Video Diffusion for camera motions (arXiv:2311.15127, section 4.3). The layers are peft's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kineograph.errors import InputError, unknown
from kineograph.temporal.attention import FrameAttention
from kineograph.temporal.inflate import MARK
from kineograph.temporal.rotary import TemporalRotaryAttention

Part = Literal["motion", "domain"]
FRAME_PROJECTIONS = ("query", "key", "value", "output")
IMAGE_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


def adapted_layers(network: nn.Module, part: Part) -> list[str]:
    """Return the names of the projections that an adapter changes: those of every attention of its part.

    Args:
        network: The inflated image network, `VideoUNet.unet`.
        part: `"motion"`: attentions over frames; `"domain"`: attentions of the image network.

    Raises:
        InputError: The part is not known, or the network has no such attention.
    """
    if part not in get_args(Part):
        raise unknown("adapter part", part, get_args(Part))
    names = [name for name, module in network.named_modules() if _adapted(name, module, part)]
    ends = FRAME_PROJECTIONS if part == "motion" else IMAGE_PROJECTIONS
    found = [f"{name}.{end}" for name in names for end in ends]
    if not found:
        raise InputError(f"This network has no attention for a {part} adapter.")
    return found


def _adapted(name: str, module: nn.Module, part: Part) -> bool:
    if part == "motion":
        return isinstance(module, FrameAttention | TemporalRotaryAttention)
    return hasattr(module, "to_q") and hasattr(module, "get_processor") and MARK not in f"{name}."


def add_adapter(network: Any, part: Part, rank: int = 4, alpha: float | None = None) -> list[nn.Parameter]:
    """Attach a fresh adapter, in place; it changes nothing until it is trained.

    Args:
        network: The inflated image network.
        part: See `adapted_layers`; the adapter bears this name.
        rank: Rank of the change.
        alpha: The change is multiplied by `alpha / rank`; None: by 1.

    Returns:
        The adapter's parameters, the only ones that train afterwards.

    Raises:
        InputError: The rank is below 1, or the network already has this adapter.
    """
    from peft import LoraConfig

    layers = adapted_layers(network, part)
    if rank < 1:
        raise InputError(f"The rank of an adapter must be at least 1, not {rank}.")
    if part in getattr(network, "peft_config", {}):
        raise InputError(f"This network already has a {part} adapter.")
    config = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=layers)  # pyright: ignore[reportArgumentType]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # two adapters side by side are meant
        network.add_adapter(config, adapter_name=part)
    network.set_adapters(list(network.peft_config))
    network.requires_grad_(False)
    parameters = [parameter for name, parameter in network.named_parameters() if f".{part}." in name]
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def adapter_factors(network: nn.Module, part: Part) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield for each changed projection its name and both factors, whose product `up @ down` is the whole change.

    Raises:
        InputError: The network has no such adapter.
    """
    empty = True
    for name, found in network.named_modules():
        module: Any = found
        downs = getattr(module, "lora_A", None)
        if isinstance(downs, nn.ModuleDict) and part in downs:
            empty = False
            scale = math.sqrt(module.scaling[part])
            factors = [module.get_parameter(f"lora_{which}.{part}.weight") for which in "AB"]
            yield name, scale * factors[0].detach(), scale * factors[1].detach()
    if empty:
        raise InputError(f"This network has no {part} adapter.")


def fold_adapter(network: Any, part: Part, scale: float = 1.0) -> None:
    """Add an adapter's change to the weights and remove it, in place; keys are then those from before it.

    Args:
        network: The inflated image network.
        part: Which adapter.
        scale: Strength of the change.

    Raises:
        InputError: The network has no such adapter.
    """
    changes = {name: up @ down for name, down, up in adapter_factors(network, part)}
    remove_adapter(network, part)
    with torch.no_grad():
        for name, change in changes.items():
            weight = _base_weight(network.get_submodule(name))
            weight.add_(scale * change.reshape(weight.shape))


def remove_adapter(network: Any, part: Part) -> None:
    """Take an adapter off, in place.

    Raises:
        InputError: The network has no such adapter.
    """
    if part not in getattr(network, "peft_config", {}):
        raise InputError(f"This network has no {part} adapter.")
    if set(network.peft_config) == {part}:
        network.unload_lora()
        network._hf_peft_config_loaded = False
        if hasattr(network, "peft_config"):
            del network.peft_config
    else:
        network.delete_adapters(part)


def _base_weight(module: Any) -> nn.Parameter:
    return getattr(module, "base_layer", module).weight
