"""LoRAs: low-rank changes to the weights of an image network, of motion modules and of a text encoder.

Hu et al. 2021, arXiv:2106.09685: `W + scale * alpha / rank * up @ down`. The change is added to the weights. Read are
the names of kohya's trainers, of diffusers and peft in their three generations, and AnimateDiff's motion LoRAs.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kineograph.checkpoints.ldm import unet_keys
from kineograph.checkpoints.networks import key_map
from kineograph.checkpoints.single_files import unwrapped
from kineograph.errors import InputError, WeightsError
from kineograph.models.latent_video import LatentVideoModel
from kineograph.models.picture import PictureVideoModel
from kineograph.models.weights import check_finite, read_weights
from kineograph.systems import systems

if TYPE_CHECKING:
    from kineograph.models.image_to_video import ImageToVideoModel

ROLES = (
    (re.compile(r"^(.*)\.lora_down\.weight$"), "down"),
    (re.compile(r"^(.*)\.lora_up\.weight$"), "up"),
    (re.compile(r"^(.*)\.lora_A\.(?:default\.)?weight$"), "down"),
    (re.compile(r"^(.*)\.lora_B\.(?:default\.)?weight$"), "up"),
    (re.compile(r"^(.*)\.lora(?:_linear_layer)?\.down\.weight$"), "down"),
    (re.compile(r"^(.*)\.lora(?:_linear_layer)?\.up\.weight$"), "up"),
    (re.compile(r"^(.*)_lora\.down\.weight$"), "down"),
    (re.compile(r"^(.*)_lora\.up\.weight$"), "up"),
    (re.compile(r"^(.*)\.alpha$"), "alpha"),
)
"""How files name the two factors of a change and the number it is scaled by."""


TEXT_STEMS = (("text_encoder", "lora_te", "lora_te1"), ("text_encoder_2", "lora_te2"))
"""What diffusers and then kohya's trainers call the first and the second text encoder."""


@dataclass
class Change:
    """One weight's change.

    Attributes:
        name: The weight's name in the file, without what marks it as a LoRA's.
        down: `(rank, in, ...)`.
        up: `(out, rank, ...)`.
        alpha: Number that the change is multiplied by, over the rank; None: the rank.
    """

    name: str
    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None

    def delta(self) -> Tensor:
        """Return what is added to the weight at scale 1, float32."""
        assert self.down is not None
        assert self.up is not None
        down, up = self.down.float(), self.up.float()
        product = (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])
        return product * (1.0 if self.alpha is None else self.alpha / down.shape[0])


def add_lora(model: LatentVideoModel | PictureVideoModel | ImageToVideoModel, given: str | Path) -> int:
    """Add a LoRA to a model's weights, in place.

    Args:
        model: The model.
        given: A file, perhaps with `:scale` after it, such as `style.safetensors:0.8`.

    Returns:
        The number of weights that changed.

    Raises:
        InputError: The scale is not finite.
        WeightsError: The file is no LoRA, or one of its keys or shapes does not fit the model.
    """
    path, scale = split_scale(given)
    changes = read_lora(path)
    places = _places(model)
    unknown = [change.name for change in changes if _find(change.name, places) is None]
    if unknown:
        raise WeightsError(
            f"The LoRA '{path}' changes {len(unknown)} of {len(changes)} weights that this model does not have, such "
            f"as {', '.join(unknown[:3])}. It was made for another kind of model."
        )
    deltas = [(_find(change.name, places), change) for change in changes]
    for weight, change in deltas:
        assert weight is not None
        _check_shape(path, change, weight)
    with torch.no_grad():
        for weight, change in deltas:
            assert weight is not None
            delta = change.delta()
            weight.add_((scale * delta.reshape(weight.shape)).to(weight))
    return len(deltas)


def split_scale(given: str | Path) -> tuple[Path, float]:
    """Take a file and its scale apart.

    Raises:
        InputError: The scale is not finite.
        WeightsError: There is no such file.
    """
    path, scale, text = Path(given), 1.0, str(given)
    if not path.is_file() and ":" in text:
        stem, _, number = text.rpartition(":")
        with contextlib.suppress(ValueError):
            path, scale = Path(stem), float(number)
    if not path.is_file():
        raise WeightsError(f"--lora: there is no file '{path}'. It is written PATH or PATH:scale.")
    if not abs(scale) < 1e3:
        raise InputError(f"--lora {given}: the scale must be a number between -1000 and 1000, not {scale}.")
    return path, scale


def read_lora(path: Path) -> list[Change]:
    """Read a LoRA file.

    Raises:
        WeightsError: It cannot be read, holds weights of another kind, or a factor without its partner.
    """
    tensors = unwrapped(read_weights(path))
    check_finite(tensors, str(path))
    changes: dict[str, Change] = {}
    strange: list[str] = []
    for key, value in tensors.items():
        found = next(((m[1], role) for pattern, role in ROLES if (m := pattern.match(key))), None)
        if found is None:
            strange.append(key)
            continue
        change = changes.setdefault(found[0], Change(_plain(found[0])))
        setattr(change, found[1], float(value) if found[1] == "alpha" else value)
    if strange:
        raise WeightsError(
            f"'{path}' has {len(strange)} of {len(tensors)} weights that are no LoRA's, such as "
            f"{', '.join(strange[:3])}. Read are the layouts of kohya, diffusers and peft, and AnimateDiff's motion "
            "LoRAs; LoHa, LoKr and DoRA are not."
        )
    broken = [change.name for change in changes.values() if change.down is None or change.up is None]
    if broken:
        raise WeightsError(f"'{path}' has {len(broken)} changes with one factor only, such as {', '.join(broken[:3])}.")
    return list(changes.values())


def _plain(stem: str) -> str:
    """Return a weight's name without `processor`, which diffusers once put between an attention and its parts."""
    plain = stem.replace(".processor.", ".")
    return f"{plain}.0" if plain.endswith("to_out") and stem != plain else plain


def _check_shape(path: Path, change: Change, weight: Tensor) -> None:
    """Refuse a change of another shape than the weight's.

    Raises:
        WeightsError: Names both.
    """
    assert change.down is not None
    assert change.up is not None
    given = (change.up.shape[0], *change.down.shape[1:])
    if change.up.flatten(1).shape[1] != change.down.shape[0] or _squeezed(given) != _squeezed(weight.shape):
        raise WeightsError(
            f"The LoRA '{path}' does not fit this model: it changes '{change.name}' as a weight of "
            f"{list(given)}, which here is {list(weight.shape)}. It was made for a model of other widths, such as "
            "Stable Diffusion 2 (text of 1024 channels) against 1 (768)."
        )


def _squeezed(shape: Iterable[int]) -> tuple[int, ...]:
    """Return a shape without the kernel of a convolution of one place, which is linear in some versions."""
    sizes = tuple(shape)
    return sizes[:2] if sizes[2:] == (1, 1) else sizes


# --- Where the weights are --------------------------------------------------------------------------------------------


def _find(name: str, places: Mapping[str, Tensor]) -> Tensor | None:
    """Return the weight that a name in a file means, or None."""
    return places.get(name, places.get(flat(name)))


def flat(name: str) -> str:
    """Return a name as kohya's trainers flatten it."""
    return name.replace(".", "_")


def _places(model: Any) -> dict[str, Tensor]:
    """Return every weight under all names that files have for it."""
    unet = model.network.unet
    own = weights_of(unet)
    named = {name: name for name in own}
    named |= _foreign(model.network)
    found = {spelt: own[name] for theirs, name in named.items() for spelt in _unet_spellings(theirs)}
    text = getattr(model, "text", None)
    for tower, stems in zip(text.towers if text else (), TEXT_STEMS, strict=False):
        for name, weight in weights_of(tower).items():
            bare = name if name == "text_projection" else f"text_model.{name.removeprefix('text_model.')}"
            found |= {f"{dotted}.{bare}": weight for dotted in stems[:1]}
            found |= {f"{stem}_{flat(bare)}": weight for stem in stems[1:]}
    return found


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights, not biases, of a network by the names of their modules."""
    return {n.removesuffix(".weight"): p for n, p in module.named_parameters() if n.endswith(".weight") and p.ndim > 1}


def _unet_spellings(name: str) -> tuple[str, ...]:
    return name, f"unet.{name}", f"base_model.model.{name}", f"lora_unet_{flat(name)}"


def _foreign(network: Any) -> dict[str, str]:
    """Return other names of a network's weights: those of its system's layouts and of the latent diffusion code."""
    from kineograph.temporal.inflate import spatial_state_dict, temporal_state_dict

    names: dict[str, str] = {}
    spatial, temporal = spatial_state_dict(network.unet), temporal_state_dict(network.unet)
    if "layers_per_block" in network.config and isinstance(network.config["layers_per_block"], int):
        kept = {key: value for key, value in spatial.items() if not key.startswith(("class_emb", "add_emb"))}
        names |= _renamed(unet_keys(network.config).to_theirs(kept), kept)
    system = systems()["animatediff"]
    if any(p.at == "pair" for p in (network.plan.placements if network.plan else ())):
        for layout in ("diffusers", "original"):
            names |= _renamed(key_map(system, network, layout).to_theirs(temporal), temporal)
    return names


def _renamed(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, str]:
    """Pair the names of two state dicts that hold the same tensors."""
    own = {value.data_ptr(): name for name, value in ours.items()}
    return {
        name.removesuffix(".weight"): own[value.data_ptr()].removesuffix(".weight")
        for name, value in theirs.items()
        if name.endswith(".weight") and value.ndim > 1 and value.data_ptr() in own
    }
