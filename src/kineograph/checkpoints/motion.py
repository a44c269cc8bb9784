"""Motion modules: AnimateDiff's temporal layers on their own, put on an image model that is given beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kineograph._notices import notice
from kineograph.checkpoints.image import ImageModel, both_licences
from kineograph.checkpoints.motion_versions import (
    AS_DIFFUSERS,
    FRAMES,
    adapter_version,
    as_authors,
    file_version,
    refuse_preset,
)
from kineograph.checkpoints.networks import key_map, parameters_of, same
from kineograph.checkpoints.pipelines import noted_settings, read_sidecar, settings_for
from kineograph.checkpoints.shapes import blocks_of
from kineograph.errors import WeightsError
from kineograph.models.config_fields import check_fields
from kineograph.models.latent_video import LatentVideoModel, Settings
from kineograph.models.text_pair import TwoTextEncoders
from kineograph.models.video_unet import VideoUNet, read_plan
from kineograph.models.weights import read_folder, read_json, read_safetensors
from kineograph.systems import systems
from kineograph.systems.animatediff import AnimateDiffConfig
from kineograph.systems.key_loading import check_mapped
from kineograph.systems.keys import KeyMap
from kineograph.temporal.inflate import load_temporal_state_dict, temporal_state_dict
from kineograph.temporal.plan import Plan

SYSTEM = "animatediff"
XL = "Stable Diffusion XL"
FAMILIES = {
    (320, 640, 1280, 1280): ("Stable Diffusion 1 or 2", (True, True, True, False)),
    (320, 640, 1280): (XL, (False, True, True)),
}
"""Kinds of image networks by the widths of their levels: the name, and which levels attend."""
IMAGE = ("block_out_channels", "layers_per_block", "down_block_types", "up_block_types")
"""What decides where motion modules sit and how wide they are."""


@dataclass(frozen=True)
class MotionModules:
    """Motion modules in the names of some layout.

    Attributes:
        where: File or folder.
        tensors: The weights.
        layout: `"original"`, `"diffusers"` or `"kineograph"`.
        options: Sizes, for foreign layouts, and how their norms are computed.
        version: Preset of AnimateDiff that they are, as far as they or the user say it.
        plan: Where they go, where that was noted.
        noted: What stands in `kineograph.json` beside them.
    """

    where: Path
    tensors: Mapping[str, Tensor]
    layout: str
    options: AnimateDiffConfig | None = None
    version: str = ""
    plan: Plan | None = None
    noted: Mapping[str, Any] = field(default_factory=dict)


def read_adapter(directory: str | Path, preset: str = "") -> MotionModules:
    """Read a folder of diffusers' `MotionAdapter`.

    Its norms are those of diffusers, unless the folder was written here from modules whose are not, or a version's are
    asked for.

    Args:
        directory: The folder.
        preset: `"diffusers"`, or the version of AnimateDiff whose norms its authors compute in their own way; empty
            where the folder says enough.

    Raises:
        WeightsError: A file is damaged, the folder holds more than motion modules, or it does not say their version.
    """
    from diffusers import MotionAdapter

    folder = Path(directory)
    given, noted = read_json(folder / "config.json"), read_sidecar(folder)
    check_fields(given, "MotionAdapter", folder)
    config = parameters_of(MotionAdapter) | given
    if config.get("conv_in_channels"):
        raise WeightsError(f"'{folder}' also replaces the first convolution (PIA), which is not supported.")
    options = AnimateDiffConfig(
        max_frames=config["motion_max_seq_length"],
        num_heads=same(config, "motion_num_attention_heads", 8),
        depth=same(config, "motion_transformer_layers_per_block", 1),
        norm_groups=config["motion_norm_num_groups"],
        middle=config["use_motion_mid_block"],
        motion_norm="clip",
    )
    if "plan" in noted:
        refuse_preset(folder, "" if preset == AS_DIFFUSERS else preset)
        plan = Plan.from_dict(noted["plan"])
        return MotionModules(folder, read_folder(folder), "diffusers", options, plan=plan, noted=noted)
    version = adapter_version(folder, options, preset)
    options = as_authors(options, version) if version else options
    return MotionModules(folder, read_folder(folder), "diffusers", options, version, noted=noted)


def read_motion_folder(directory: str | Path, preset: str = "") -> MotionModules:
    """Read a folder with `temporal.json`, `temporal.safetensors` and `kineograph.json`.

    Raises:
        WeightsError: A file is missing or damaged, or a version is given, which the folder knows itself.
    """
    folder = Path(directory)
    refuse_preset(folder, preset)
    tensors = read_safetensors(folder / "temporal.safetensors")
    plan = read_plan(folder / "temporal.json")
    return MotionModules(folder, tensors, "kineograph", plan=plan, noted=read_sidecar(folder))


def file_modules(where: Path, tensors: Mapping[str, Tensor], preset: str = "", xl: bool = False) -> MotionModules:
    """Return the motion modules of a single file, whose names are the authors' or diffusers'.

    A file of AnimateDiff's training script holds the whole network; of that the motion modules are taken, as the
    authors' code does (`animatediff/utils/util.py`, `load_weights`).

    Args:
        where: The file.
        tensors: Its weights.
        preset: The version of AnimateDiff; empty where the file says it.
        xl: Whether they go on an image model of Stable Diffusion XL's kind, for which there is one version only.

    Raises:
        WeightsError: The file does not say its version, or says another one.
    """
    if any(".resnets." in key for key in tensors):
        modules = {key: value for key, value in tensors.items() if "motion_modules." in key}
        _check_first_convolution(where, tensors)
        notice(
            f"'{where}' holds a whole network: its motion modules are taken, {len(modules)} of {len(tensors)} weights. "
            "The image layers are those of the base."
        )
        tensors = modules
    theirs = any("temporal_transformer." in key for key in tensors)
    frames, middle = position_frames(tensors), any(key.startswith("mid_block.motion_modules.") for key in tensors)
    blocks = [int(found[1]) for key in tensors if (found := re.search(r"transformer_blocks\.(\d+)\.", key))]
    only = not preset and (xl or FAMILIES.get(module_widths(tensors), ("",))[0] == XL)
    version = "sdxl" if only else file_version(where, frames, middle, preset)
    options = AnimateDiffConfig(max_frames=frames or FRAMES[version], depth=max(blocks, default=0) + 1, middle=middle)
    return MotionModules(where, tensors, "original" if theirs else "diffusers", as_authors(options, version), version)


def _check_first_convolution(where: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a network that sees more than noisy latents, whose first convolution no base has.

    Raises:
        WeightsError: It is one.
    """
    first, last = tensors.get("conv_in.weight"), tensors.get("conv_out.weight")
    if first is not None and last is not None and first.shape[1] != last.shape[0]:
        raise WeightsError(
            f"'{where}' also has a first convolution of its own, with {first.shape[1]} channels in (PIA), which is not "
            "supported."
        )


def position_frames(tensors: Mapping[str, Tensor]) -> int | None:
    """Return the frames that the position tables of a file tell apart; None where it keeps no tables."""
    return min((value.shape[1] for key, value in tensors.items() if key.endswith(".pe")), default=None)


def put_on(modules: MotionModules, image: ImageModel) -> LatentVideoModel:
    """Put motion modules on an image model.

    Raises:
        WeightsError: They are for an image model of another shape.
    """
    check_shape(modules, image.unet.config, f"the base '{image.name}'")
    check_kind(modules, image)
    network = inflated(modules, image.unet)
    load_modules(modules, network)
    settings = noted_settings(settings_on(modules, image), modules.noted, str(modules.where))
    return LatentVideoModel(network.eval(), image.autoencoder, image.text, settings)


def settings_on(modules: MotionModules, image: ImageModel) -> Settings:
    """Return how motion modules want to be used on an image model.

    A published image model is used as the motion modules' authors say; AnimateDiff's also bring their process and
    their sampler, whatever the image model's are, but not what its network predicts. One that was trained by this
    library keeps its own process and settings: motion modules that fit it were trained on it.
    """
    name, where = modules.noted.get("settings", {}).get("system", SYSTEM), modules.where.stem
    if image.settings is not None:
        return replace(image.settings, name=where, system=name)
    preset, scheduler = "sdxl" if name == SYSTEM and is_two(image) else "", image.scheduler
    if name == SYSTEM:
        predicted = image.scheduler.get("prediction_type", "epsilon")
        scheduler = {**systems()[name].scheduler(preset), "prediction_type": predicted}
    settings = settings_for(name, where, scheduler, image.unet.config, image.autoencoder.factor, preset)
    return replace(settings, licence=both_licences(settings.licence, image.licence))


def is_two(image: ImageModel) -> bool:
    """Say whether an image model is of Stable Diffusion XL's kind, with two text encoders."""
    return isinstance(image.text, TwoTextEncoders)


def inflated(modules: MotionModules, unet: Any) -> VideoUNet:
    """Give an image network the layers that motion modules are the weights of."""
    if modules.plan is not None:
        return VideoUNet(unet, modules.plan)
    return systems()[SYSTEM].build(modules.options, unet)


def in_our_names(modules: MotionModules, network: VideoUNet) -> dict[str, Tensor]:
    """Return the weights of motion modules in our names.

    Raises:
        WeightsError: A position table in the file is not the sinusoidal one that is computed here.
    """
    if modules.layout == "kineograph":
        return dict(modules.tensors)
    keys = key_map(systems()[SYSTEM], network, modules.layout)
    for name, table in (item for kind in keys.tables for item in kind.of(modules.tensors).items()):
        given = modules.tensors.get(name)
        if given is not None and (given.shape != table.shape or (given.float() - table.float()).abs().max() > 2e-2):
            raise WeightsError(f"'{modules.where}' has a position table '{name}' of its own; only sinusoids are known.")
    return keys.to_ours(modules.tensors)


def fitting_weights(modules: MotionModules, network: VideoUNet) -> dict[str, Tensor]:
    """Return the weights of motion modules in our names, all that the network wants and no others.

    Raises:
        WeightsError: They do not fit, said in the file's names.
    """
    weights = in_our_names(modules, network)
    own = modules.layout == "kineograph"
    keys = KeyMap(pairs=()) if own else key_map(systems()[SYSTEM], network, modules.layout)
    check_mapped(weights, temporal_state_dict(network.unet), keys, str(modules.where))
    return weights


def load_modules(modules: MotionModules, network: VideoUNet) -> None:
    """Load motion modules into a network. See `fitting_weights`."""
    load_temporal_state_dict(network.unet, fitting_weights(modules, network))


def on_meta(modules: MotionModules, image: Mapping[str, Any]) -> tuple[VideoUNet, dict[str, Tensor]]:
    """Return the network of motion modules without weights, and theirs in our names, checked.

    Args:
        modules: The modules.
        image: The entries `IMAGE` of the image network's configuration.

    Raises:
        WeightsError: The weights do not fit.
    """
    from diffusers import UNet2DConditionModel

    check_shape(modules, image, "the image network")
    with torch.device("meta"):
        network = inflated(modules, UNet2DConditionModel(**{name: image[name] for name in IMAGE}))
    return network, fitting_weights(modules, network)


def image_of(modules: MotionModules) -> dict[str, Any]:
    """Return what of an image network decides where motion modules sit, from what was noted or their widths.

    Raises:
        WeightsError: The widths are those of no published image network.
    """
    if "image" in modules.noted:
        return dict(modules.noted["image"])
    widths = module_widths(modules.tensors)
    if widths not in FAMILIES:
        raise WeightsError(
            f"'{modules.where}' is for {family(widths)}, which is no published one. Give the image model as --base."
        )
    return {"block_out_channels": widths, "layers_per_block": 2, **blocks_of(list(FAMILIES[widths][1]))}


def module_widths(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the channels of each level that motion modules were made for."""
    found: dict[int, int] = {}
    for key, value in tensors.items():
        if match := re.match(r"down_blocks\.(\d+)\..*\.(?:proj_in|temporal\.enter)\.weight", key):
            found[int(match[1])] = value.shape[0]
    return tuple(found[level] for level in sorted(found))


def check_kind(modules: MotionModules, image: ImageModel) -> None:
    """Refuse a version of AnimateDiff that was made for another kind of image model.

    Raises:
        WeightsError: Names both.
    """
    if modules.version and (modules.version == "sdxl") != is_two(image):
        kind = f"of {XL}'s kind" if is_two(image) else f"not of {XL}'s kind"
        raise WeightsError(
            f"'{modules.where}' was given or recognised as AnimateDiff's version {modules.version}, and the base "
            f"'{image.name}' is {kind}: --preset sdxl and {XL} belong together, the others and Stable Diffusion 1."
        )


def check_shape(modules: MotionModules, image: Mapping[str, Any], whose: str) -> None:
    """Refuse motion modules for an image model of another shape, in words rather than keys.

    Raises:
        WeightsError: Names both shapes.
    """
    made, given = module_widths(modules.tensors), tuple(image["block_out_channels"])
    if made and made != given:
        raise WeightsError(
            f"The motion module '{modules.where}' is made for {family(made)}, and {whose} is {family(given)}. "
            "A motion module fits the image model it was trained on and what was finetuned from that."
        )


def family(widths: tuple[int, ...]) -> str:
    """Name a kind of image network by its widths."""
    words = f"an image network of {len(widths)} levels ({', '.join(map(str, widths))} channels)"
    return f"{FAMILIES[widths][0]}, {words}" if widths in FAMILIES else words
