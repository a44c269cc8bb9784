"""AnimateDiff's adapters in files: MotionLoRA and the domain adapter, named as the authors and as diffusers do.

Guo et al. 2023, arXiv:2307.04725. Reading them, together with all other LoRAs, is
`kineograph.checkpoints.lora.add_lora`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from kineograph.errors import unknown
from kineograph.systems.animatediff import diffusers_keys, original_keys
from kineograph.systems.keys import KeyMap

if TYPE_CHECKING:
    from torch import Tensor

    from kineograph.temporal.adapters import Part

Layout = Literal["diffusers", "original"]
MOTION_KEYS: Mapping[str, Callable[[Any], KeyMap]] = {"diffusers": diffusers_keys, "original": original_keys}


def adapter_tensors(network: Any, part: Part, layout: Layout = "diffusers") -> dict[str, Tensor]:
    """Return an adapter of a network under the names of a file; scales are multiplied into the factors.

    Args:
        network: The inflated image network, `VideoUNet.unet`.
        part: `"motion"` or `"domain"`.
        layout: `"diffusers"`: `unet.....to_q.lora_A.weight`, for `load_lora_weights`; `"original"`:
            `....processor.to_q_lora.down.weight`, for the authors' code and ComfyUI's nodes.

    Raises:
        InputError: The network has no such adapter, or the layout is not known.
    """
    from kineograph.temporal.adapters import adapter_factors

    if layout not in get_args(Layout):
        raise unknown("adapter layout", layout, get_args(Layout))
    factors = {name: (down, up) for name, down, up in adapter_factors(network, part)}
    names = {name: name for name in factors}
    if part == "motion":
        keys = MOTION_KEYS[layout](network.config)
        renamed = KeyMap(keys.pairs, rest="error", what=keys.what).to_theirs(
            {f"{name}.weight": down for name, (down, _) in factors.items()}
        )
        theirs = {id(value): key.removesuffix(".weight") for key, value in renamed.items()}
        names = {name: theirs[id(down)] for name, (down, _) in factors.items()}
    spell = _diffusers_name if layout == "diffusers" else _original_name
    return {
        spell(names[name], end): value.contiguous()
        for name, pair in factors.items()
        for end, value in zip(("down", "up"), pair, strict=True)
    }


def _diffusers_name(name: str, end: str) -> str:
    return f"unet.{name}.lora_{'A' if end == 'down' else 'B'}.weight"


def _original_name(name: str, end: str) -> str:
    attention, _, projection = name.removesuffix(".0").rpartition(".")
    return f"{attention}.processor.{projection}_lora.{end}.weight"


def save_adapter(network: Any, part: Part, file: str | Path, layout: Layout = "diffusers") -> None:
    """Write an adapter as a safetensors file. See `adapter_tensors`."""
    from kineograph.models.weights import write_safetensors

    write_safetensors(adapter_tensors(network, part, layout), file, {"format": "pt"})
