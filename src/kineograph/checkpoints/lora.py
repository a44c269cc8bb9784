"""LoRAs: low-rank changes to the weights of an image network, of motion modules and of text encoders.

Hu et al. 2021, arXiv:2106.09685: `W + strength * scale * up @ down`, where the scale is alpha over the rank. The change
is added to the weights. What files look like is in `lora_files`, where they note their scale in `lora_scale`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kineograph._notices import notice
from kineograph.checkpoints.ldm import unet_keys
from kineograph.checkpoints.lora_files import Change, LoraPart, read_parts
from kineograph.checkpoints.lora_path import split_scale
from kineograph.checkpoints.lora_scale import AdapterConfig
from kineograph.errors import WeightsError
from kineograph.models.latent_video import LatentVideoModel
from kineograph.models.picture import PictureVideoModel
from kineograph.systems import systems
from kineograph.systems.keys import KeyMap

if TYPE_CHECKING:
    from kineograph.models.image_to_video import ImageToVideoModel

PAIRS, IMAGE_TO_VIDEO = "animatediff", "stable_video_diffusion"
"""Whose names files use for temporal layers after each pair of blocks, and for networks that note no system."""
NETWORK, TEXTS = "unet", ("text_encoder", "text_encoder_2")
"""What the networks of a model are called here and by diffusers."""
PREFIXES: Mapping[str, str | None] = {
    **dict.fromkeys(("base_model.model.", "_orig_mod.", "module."), None),
    **dict.fromkeys(("unet.", "transformer.", "diffusion_model.", "model.diffusion_model."), NETWORK),
    **dict.fromkeys(("lora_unet_", "lora_transformer_", "lycoris_"), NETWORK),
    **dict.fromkeys(("text_encoder.", "lora_te_", "lora_te1_"), TEXTS[0]),
    **dict.fromkeys((f"text_encoders.clip_{size}.transformer." for size in "lh"), TEXTS[0]),
    **dict.fromkeys(("text_encoder_2.", "lora_te2_", "text_encoders.clip_g.transformer."), TEXTS[1]),
}
"""What stands before the names of weights in files, and which network it means.

Wrappers of peft and of training mean none; diffusers and ComfyUI write dots, kohya's trainers and LyCORIS underscores.
"""


@dataclass(frozen=True)
class Place:
    """Where a change goes.

    Attributes:
        component: The network, as diffusers calls it.
        name: The weight's module in that network.
        weight: The weight.
    """

    component: str
    name: str
    weight: Tensor


def add_lora(model: LatentVideoModel | PictureVideoModel | ImageToVideoModel, given: str | Path) -> int:
    """Add a LoRA to a model's weights, in place.

    Args:
        model: The model.
        given: A file, or a folder as diffusers or peft save it, perhaps with `:strength` after it, such as
            `style.safetensors:0.8`.

    Returns:
        The number of weights that changed.

    Raises:
        InputError: The strength is not finite.
        WeightsError: The file is no LoRA, contradicts itself, or one of its keys or shapes does not fit the model.
    """
    path, strength = split_scale(given)
    places = Places.of(model)
    scaled = [(place, change, scale) for part in read_parts(path) for place, change, scale in _placed(part, places)]
    with torch.no_grad():
        for place, change, scale in scaled:
            delta = strength * scale * change.delta()
            place.weight.add_(delta.reshape(place.weight.shape).to(place.weight))
    return len(scaled)


def _placed(part: LoraPart, places: Places) -> list[tuple[Place, Change, float]]:
    """Return where each change of a file goes and what it is multiplied by.

    Raises:
        WeightsError: One goes nowhere, two to the same place, or a shape or a scale does not fit.
    """
    found = [(places.find(change, part.component), change) for change in part.changes]
    unknown = [change.stem for place, change in found if place is None]
    if unknown:
        raise WeightsError(
            f"The LoRA '{part.path}' changes {len(unknown)} of {len(found)} weights that this model does not have, "
            f"such as {', '.join(unknown[:3])}. It was made for another kind of model."
        )
    taken: dict[int, str] = {}
    placed = []
    for place, change in found:
        assert place is not None
        _check_shape(part.path, change, place.weight)
        if (other := taken.setdefault(id(place.weight), change.stem)) != change.stem:
            raise WeightsError(f"The LoRA '{part.path}' changes one weight twice, as '{other}' and as '{change.stem}'.")
        placed.append((place, change, _scale(part, change, place)))
    _tell_if_unsaid(part)
    return placed


def _scale(part: LoraPart, change: Change, place: Place) -> float:
    """Return alpha over the rank: of the tensors, of what is noted, or 1 where neither says it.

    An alpha of zero in the tensors means the rank, as in kohya's trainers, which write it so.

    Raises:
        WeightsError: Tensors and notes contradict each other.
    """
    config = _config(part, place.component)
    tensors = None if change.alpha is None else (change.alpha or change.rank) / change.rank
    bare = split_prefix(change.name)[1]
    noted = config.scale((bare, place.name, f"text_model.{place.name}"), change.rank) if config else None
    if tensors is not None and noted is not None and abs(tensors - noted) > 1e-3 * max(abs(tensors), abs(noted)):
        assert config
        raise WeightsError(
            f"The LoRA '{part.path}' contradicts itself: the alpha of '{change.stem}' makes its scale {tensors:g}, and "
            f"{config.where[:1].lower()}{config.where[1:]} says {noted:g}."
        )
    return next((scale for scale in (tensors, noted) if scale is not None), 1.0)


def _config(part: LoraPart, component: str) -> AdapterConfig | None:
    """Return what is noted for a network: under its name, or for the only one."""
    names = (component, "transformer") if component == NETWORK else (component,)
    named = [name for name in part.configs if name]
    return next((part.configs[name] for name in names if name in part.configs), None if named else part.configs.get(""))


def _tell_if_unsaid(part: LoraPart) -> None:
    """Say that a file of peft's lacks the configuration that holds its alpha."""
    lonely = any(change.stem.startswith("base_model.") and change.alpha is None for change in part.changes)
    if lonely and not part.configs:
        notice(
            f"'{part.path}' does not say its alpha: it is taken to be the rank. peft keeps it in adapter_config.json, "
            "which is not beside it."
        )


def _check_shape(path: Path, change: Change, weight: Tensor) -> None:
    """Refuse a change of another shape than the weight's.

    Raises:
        WeightsError: Names both.
    """
    assert change.down is not None
    assert change.up is not None
    if not change.shape:
        factors = [list(factor.shape) for factor in (change.up, change.mid, change.down) if factor is not None]
        raise WeightsError(f"The factors of '{change.stem}' in the LoRA '{path}' do not fit each other: {factors}.")
    if _squeezed(change.shape) != _squeezed(weight.shape):
        raise WeightsError(
            f"The LoRA '{path}' does not fit this model: it changes '{change.stem}' as a weight of "
            f"{list(change.shape)}, which here is {list(weight.shape)}. It was made for a model of other widths, such "
            "as Stable Diffusion 2 (text of 1024 channels) against 1 (768)."
        )


def _squeezed(shape: Iterable[int]) -> tuple[int, ...]:
    """Return a shape without the kernel of a convolution of one place, which is linear in some versions."""
    sizes = tuple(shape)
    return sizes[:2] if all(size == 1 for size in sizes[2:]) else sizes


# --- Where the weights are --------------------------------------------------------------------------------------------


def split_prefix(name: str) -> tuple[str | None, str]:
    """Return which network a name in a file means, None where it does not say, and the name without what says so."""
    component = None
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
        name, component = name.removeprefix(prefix), PREFIXES[prefix] or component
    return component, name


@dataclass(frozen=True)
class Places:
    """Every weight of a model that LoRAs change, by the names that files have for it.

    Attributes:
        network: Those of the image network and its motion modules.
        towers: Those of each text encoder, without the `text_model.` that some versions of transformers put first.
    """

    network: Mapping[str, Place]
    towers: tuple[Mapping[str, Place], ...] = field(default=())

    @classmethod
    def of(cls, model: Any) -> Places:
        """Find the weights of a model."""
        own = weights_of(model.network.unet)
        named = {**{name: name for name in own}, **_foreign(model, own)}
        network = {theirs: Place(NETWORK, name, own[name]) for theirs, name in named.items()}
        text = getattr(model, "text", None)
        towers = [
            {_bare(name): Place(component, _bare(name), weight) for name, weight in weights_of(tower).items()}
            for tower, component in zip(text.towers if text else (), TEXTS, strict=False)
        ]
        return cls(_with_flat(network), tuple(_with_flat(tower) for tower in towers))

    def find(self, change: Change, component: str | None = None) -> Place | None:
        """Return where a change goes, or None.

        Args:
            change: The change.
            component: The network that it is for where its name does not say so.
        """
        told, name = split_prefix(change.name)
        told = told or component
        if told in TEXTS:
            number = TEXTS.index(told)
            return self.towers[number].get(_bare(name)) if number < len(self.towers) else None
        if told is not None or name in self.network:
            return self.network.get(name)
        fitting = [tower[_bare(name)] for tower in self.towers if _bare(name) in tower]
        exact = (place for place in fitting if _squeezed(place.weight.shape) == _squeezed(change.shape))
        return next(exact, fitting[0] if fitting else None)


def _with_flat(places: Mapping[str, Place]) -> dict[str, Place]:
    """Return places under their names with dots and as kohya's trainers flatten them."""
    return {**{flat(name): place for name, place in places.items()}, **places}


def _bare(name: str) -> str:
    """Return a name in a text encoder without what comes first in some versions, and as transformers ends it.

    diffusers once called the parts of attention `to_q` there, too.
    """
    name = re.sub(r"\bself_attn\.to_(q|k|v|out)(\.0)?$", r"self_attn.\1_proj", name)
    return name.removeprefix("text_model.").removeprefix("text_model_")


def flat(name: str) -> str:
    """Return a name as kohya's trainers flatten it."""
    return name.replace(".", "_")


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights, not biases, of a network by the names of their modules."""
    return {n.removesuffix(".weight"): p for n, p in module.named_parameters() if n.endswith(".weight") and p.ndim > 1}


def _foreign(model: Any, own: Iterable[str]) -> dict[str, str]:
    """Return other names of a network's weights: those of the latent diffusion code and of its system's layouts."""
    return {keys.their_name(f"{name}.weight").removesuffix(".weight"): name for keys in _layouts(model) for name in own}


def _layouts(model: Any) -> list[KeyMap]:
    """Return the renamings between a network's weights and files' names for them."""
    network, known = model.network, systems()
    plain = isinstance(network.config.get("layers_per_block"), int)
    maps = [unet_keys(network.config)] if plain else []
    names = [getattr(model.settings, "system", IMAGE_TO_VIDEO)]
    if any(p.at == "pair" for p in (network.plan.placements if network.plan else ())):
        names.append(PAIRS)
    return [*maps, *(make(network.config) for name in names if name in known for make in known[name].key_maps.values())]
