"""Write a model in another layout: this library's, diffusers' or the authors'. Safetensors and JSON only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from kineograph.checkpoints.as_original import WHOLE, clip_weights, foreign_modules, original_modules, original_of
from kineograph.checkpoints.folder_facts import stored_types, unread_parts
from kineograph.checkpoints.image import INDEX
from kineograph.checkpoints.kept import Kept, compare, read_kept, restored, write_kept
from kineograph.checkpoints.load import Loaded, is_adapter, load_base, load_checkpoint, load_single
from kineograph.checkpoints.motion import (
    IMAGE,
    MotionModules,
    file_modules,
    image_of,
    on_meta,
    read_adapter,
    read_motion_folder,
)
from kineograph.checkpoints.networks import to_diffusers
from kineograph.checkpoints.pipelines import SIDECAR
from kineograph.checkpoints.single_files import STEP, SingleFile, read_single
from kineograph.errors import InputError, WeightsError, unknown
from kineograph.models.latent_video import LatentVideoModel
from kineograph.models.picture import PictureVideoModel
from kineograph.models.text_pair import TwoTextEncoders
from kineograph.models.video_unet import VideoUNet, write_temporal
from kineograph.models.weights import WEIGHTS, readable, save_diffusers, write_json, write_safetensors
from kineograph.models.whole_folder import whole_folder
from kineograph.systems.svd_folder import save_stable_video_diffusion
from kineograph.temporal.inflate import temporal_state_dict

TO = ("kineograph", "diffusers", "original")
"""Layouts to write."""
PIPELINES = {
    "modelscope": ("TextToVideoSDPipeline", "UNet3DConditionModel"),
    "zeroscope": ("TextToVideoSDPipeline", "UNet3DConditionModel"),
    "animatediff": ("AnimateDiffPipeline", "UNetMotionModel"),
    "image": ("StableDiffusionPipeline", "UNet2DConditionModel"),
    "animatediff xl": ("AnimateDiffSDXLPipeline", "UNetMotionModel"),
    "image xl": ("StableDiffusionXLPipeline", "UNet2DConditionModel"),
}
"""diffusers' pipeline and network class for a system, with `xl` for its form on Stable Diffusion XL."""
FORMAT = 1


@dataclass(frozen=True)
class Written:
    """What a conversion wrote.

    Attributes:
        path: Folder or file.
        what: In words.
        notes: What changed its meaning or was left out.
    """

    path: Path
    what: str
    notes: tuple[str, ...] = ()


def convert(
    source: str | Path,
    output: str | Path,
    to: str,
    base: str | Path | None = None,
    dtype: torch.dtype | None = None,
    preset: str = "",
) -> Written:
    """Read a model or motion modules in any layout and write them in another; the output appears whole or not at all.

    Args:
        source: A folder or a file, as `load_checkpoint` reads.
        output: Folder to write; for `"original"` a `.safetensors` file.
        to: A layout of `TO`.
        base: The image model, for files that hold a network without autoencoder and text encoder, and for motion
            modules of no published width.
        dtype: Data type of the written weights; None takes the source's, and float32 where it has several.
        preset: Which of a system's published networks the source is, where it does not say it.

    Raises:
        InputError: The layout is unknown, the output exists or has the wrong form.
        WeightsError: The source cannot be read, or the layout cannot hold it.
    """
    target = _target(Path(output), to)
    found = _opened(Path(source), base, preset)
    if to == "original":
        return _write_original(found, target, dtype)
    with whole_folder(target) as folder:
        written = _write_folder(found, folder, to, _one_type(found.types) if dtype is None else dtype)
        if found.kept is not None:
            write_kept(found.kept, folder)
    notes = (*written.notes, *found.notes, found.kept.note if found.kept else "")
    if dtype is None and len(found.types) > 1:
        kinds = " and ".join(sorted(str(kind).removeprefix("torch.") for kind in found.types))
        notes += (f"the source has weights of {kinds}; all are written as float32",)
    return replace(written, path=target, notes=tuple(filter(None, notes)))


@dataclass(frozen=True)
class Opened:
    """What a conversion starts from.

    Attributes:
        modules: Motion modules, with the network that they fit, without weights, and theirs in our names.
        model: A whole model, if it is none of these.
        kept: What its authors' file has beyond what is used, as far as known.
        types: Data types of the source's numbers.
        notes: What of the source is not read.
    """

    modules: tuple[MotionModules, VideoUNet, dict[str, Tensor]] | None
    model: Loaded | None
    kept: Kept | None
    types: frozenset[torch.dtype]
    notes: tuple[str, ...] = ()


def _opened(source: Path, base: str | Path | None, preset: str) -> Opened:
    """Read the source of a conversion.

    Raises:
        WeightsError: It cannot be read.
    """
    with readable(source):
        if source.is_file():
            return _opened_file(read_single(source), base, preset)
        modules = folder_modules(source, preset)
        kept, types = (read_kept(source), stored_types(source)) if source.is_dir() else (None, frozenset())
    if modules is not None:
        return Opened(_fitted(modules, base), None, kept, types)
    return Opened(None, load_checkpoint(source, base, preset=preset), kept, types, unread_parts(source))


def _opened_file(file: SingleFile, base: str | Path | None, preset: str) -> Opened:
    """Take a file that was read, and what must be kept of it."""
    types = frozenset(value.dtype for value in file.tensors.values() if value.is_floating_point())
    if file.kind.name == "motion_module":
        modules = file_modules(file.path, file.tensors, preset)
        fitted = _fitted(modules, base)
        theirs = modules.layout == "original"
        made = original_modules(*fitted[1:]).tensors if theirs else {}
        return Opened(fitted, None, compare(modules.tensors, made, file.metadata) if theirs else None, types)
    with readable(file.path):
        model = load_single(file, base, preset)
    if base is not None and isinstance(model, LatentVideoModel) and model.settings.system in WHOLE:
        # autoencoder and text encoder are the base's, not the file's
        return Opened(None, model, None, types)
    step = {} if file.step is None else {STEP: str(file.step)}
    return Opened(None, model, compare(file.tensors, original_of(model).tensors, {**file.metadata, **step}), types)


def _fitted(modules: MotionModules, base: str | Path | None) -> tuple[MotionModules, VideoUNet, dict[str, Tensor]]:
    """Return motion modules with the network that they fit, without weights, and theirs in our names."""
    image = image_of(modules) if base is None else load_base(base, modules.where).unet.config
    return (modules, *on_meta(modules, image))


def _one_type(types: frozenset[torch.dtype]) -> torch.dtype:
    """Return the only data type among those that are written, or float32."""
    (only,) = types if len(types) == 1 else (torch.float32,)
    return only if only in (torch.float16, torch.bfloat16) else torch.float32


def _write_original(found: Opened, target: Path, dtype: torch.dtype | None) -> Written:
    """Write a single file in the names of the authors' code.

    Raises:
        WeightsError: The authors' layout is unknown or cannot hold a weight.
    """
    if found.modules is not None:
        content = original_modules(*found.modules[1:])
    else:
        assert found.model is not None
        content = original_of(found.model)
    if found.kept is None:
        tensors = _typed(content.tensors, _one_type(found.types) if dtype is None else dtype)
        metadata: Mapping[str, str] = {}
    else:
        tensors, metadata = restored(content.tensors, found.kept, dtype), found.kept.metadata
    write_safetensors(tensors, target, {"format": "pt", **content.metadata, **metadata})
    return Written(target, content.what, (*content.notes, *found.notes))


def _write_folder(found: Opened, folder: Path, to: str, dtype: torch.dtype) -> Written:
    """Write this library's or diffusers' layout into an empty folder."""
    if found.modules is not None:
        modules, network, weights = found.modules
        return _write_temporal(network, weights, dict(modules.noted.get("settings", {})), folder, to, dtype)
    model = found.model
    if isinstance(model, LatentVideoModel):
        return _write_ours(model, folder, dtype) if to == "kineograph" else _write_pipeline(model, folder, dtype)
    if isinstance(model, PictureVideoModel):
        if to == "diffusers":
            return _write_pipeline(model.parts, folder, dtype)
        model.save_pretrained(folder, dtype)
        return Written(folder, f"a {model.settings.system} model with pictures")
    assert model is not None
    save_stable_video_diffusion(model, folder, dtype)
    return Written(folder, "a StableVideoDiffusionPipeline of diffusers")


def _target(output: Path, to: str) -> Path:
    """Check where to write.

    Raises:
        InputError: The layout is unknown, or the output exists or has the wrong form.
    """
    if to not in TO:
        raise unknown("--to", to, TO)
    if to == "original" and output.suffix != ".safetensors":
        raise InputError(f"--to original writes one file: name it .safetensors, not '{output.name}'.")
    if to != "original" and output.suffix in (".safetensors", ".ckpt", ".pt", ".pth", ".bin"):
        raise InputError(f"--to {to} writes a folder, and '{output.name}' is the name of a file.")
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise InputError(f"--output '{output}' already exists; name another one.")
    return output


def _typed(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in tensors.items()}


# --- Motion modules ---------------------------------------------------------------------------------------------------


def folder_modules(source: Path, preset: str = "") -> MotionModules | None:
    """Read motion modules from a folder; None if it is something else."""
    if (source / INDEX).is_file():
        return None
    if (source / "temporal.json").is_file():
        return read_motion_folder(source, preset)
    return read_adapter(source, preset) if is_adapter(source) else None


def _write_temporal(
    network: VideoUNet,
    weights: Mapping[str, Tensor],
    settings: dict[str, Any],
    target: Path,
    to: str,
    dtype: torch.dtype,
) -> Written:
    """Write the temporal weights of a network, in our names, as a motion file of a layout."""
    assert network.plan is not None
    if to == "kineograph":
        write_temporal(network.plan, _typed(weights, dtype), target)
    else:
        tensors = foreign_modules(network, weights, "diffusers")
        write_safetensors(_typed(tensors, dtype), target / f"{WEIGHTS}.safetensors", {"format": "pt"})
        write_json(adapter_config(network), target / "config.json")
    image = {name: network.config[name] for name in IMAGE}
    write_json(
        {"format": FORMAT, "plan": network.plan.to_dict(), "image": image, "settings": settings}, target / SIDECAR
    )
    notes = _differs(network) if to == "diffusers" else ()
    return Written(target, "a motion adapter of diffusers" if to == "diffusers" else "motion modules", notes)


def adapter_config(network: VideoUNet) -> dict[str, Any]:
    """Return the configuration of diffusers' `MotionAdapter` for a network's motion modules."""
    assert network.plan is not None
    placement, image = network.plan.placements[0], network.config
    options = placement.options
    return {
        "_class_name": "MotionAdapter",
        "_diffusers_version": diffusers.__version__,
        "block_out_channels": list(image["block_out_channels"]),
        "conv_in_channels": None,
        "motion_layers_per_block": image["layers_per_block"],
        "motion_max_seq_length": options["max_frames"],
        "motion_mid_block_layers_per_block": 1,
        "motion_norm_num_groups": options["norm_groups"],
        "motion_num_attention_heads": options["num_heads"],
        "motion_transformer_layers_per_block": options["depth"],
        "motion_transformer_layers_per_mid_block": options["depth"],
        "use_motion_mid_block": "mid" in placement.parts,
    }


def _differs(network: VideoUNet) -> tuple[str, ...]:
    """Say where diffusers will compute something else with the same weights."""
    assert network.plan is not None
    notes = []
    if network.plan.placements[0].options["norm_over"] == "frame":
        notes.append("diffusers takes the motion modules' entry norm over the clip, here it is per frame")
    if network.plan.spatial_norm == "clip":
        notes.append("diffusers takes the image network's norms per frame, here they span the clip (version 1)")
    return tuple(notes)


# --- Whole models -----------------------------------------------------------------------------------------------------


def _write_ours(model: LatentVideoModel, target: Path, dtype: torch.dtype) -> Written:
    model.save_pretrained(target, dtype)
    return Written(target, f"a {model.settings.system} model")


def _write_pipeline(model: LatentVideoModel, target: Path, dtype: torch.dtype) -> Written:
    """Write a diffusers pipeline's folder; the index is written last.

    Raises:
        WeightsError: diffusers has no class for the system, or none that computes what a part of it does.
    """
    system, two = model.settings.system, isinstance(model.text, TwoTextEncoders)
    kind = f"{system} xl" if two else system
    if kind not in PIPELINES:
        raise WeightsError(
            f"diffusers has no network for {kind}, only for {', '.join(PIPELINES)}. Keep it in this library's own "
            "layout, --to kineograph."
        )
    _check_plain(model)
    pipeline, network = PIPELINES[kind]
    components: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    if system == "image":
        model.network.save_image(target, dtype)
    elif network == "UNetMotionModel" and not two:
        notes = _write_on_image(model, target, dtype)
        network, components["motion_adapter"] = "UNet2DConditionModel", ["diffusers", "MotionAdapter"]
    else:
        config, tensors = to_diffusers(model.network, network)
        write_safetensors(_typed(tensors, dtype), target / "unet" / f"{WEIGHTS}.safetensors", {"format": "pt"})
        write_json(config, target / "unet" / "config.json")
        if two:  # the modules once more: diffusers wants both, and loses weights where it puts them together itself
            notes = _write_adapter(model.network, target, dtype)
            components["motion_adapter"] = ["diffusers", "MotionAdapter"]
    _write_others(model, target, dtype)
    if two:
        components["force_zeros_for_empty_prompt"] = model.text.zero_empty
    elif system == "image":
        components |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    components |= {
        "unet": ["diffusers", network],
        "vae": ["diffusers", "AutoencoderKL"],
        **model.text.components(),
        "scheduler": ["diffusers", model.settings.scheduler["_class_name"]],
    }
    noted = {name: value for name, value in asdict(model.settings).items() if name != "scheduler"}
    plan = {} if model.network.plan is None else {"plan": model.network.plan.to_dict()}
    write_json({"format": FORMAT, **plan, "settings": noted}, target / SIDECAR)
    write_json({"_class_name": pipeline, "_diffusers_version": diffusers.__version__, **components}, target / INDEX)
    return Written(target, f"a {pipeline} of diffusers", notes)


def _write_on_image(model: LatentVideoModel, target: Path, dtype: torch.dtype) -> tuple[str, ...]:
    """Write image network and motion modules beside each other; the pipeline puts them together."""
    model.network.save_image(target, dtype)
    return _write_adapter(model.network, target, dtype)


def _write_adapter(network: VideoUNet, target: Path, dtype: torch.dtype) -> tuple[str, ...]:
    """Write the motion modules of a pipeline; return where diffusers will compute something else."""
    weights, groups = temporal_state_dict(network.unet), network.config["norm_num_groups"]
    done = _write_temporal(network, weights, {}, target / "motion_adapter", "diffusers", dtype)
    if adapter_config(network)["motion_norm_num_groups"] != groups:
        raise WeightsError(f"diffusers gives motion modules the image network's {groups} groups of norms.")
    return done.notes


CLIP_TOWERS = (("CLIPTextModel",), ("CLIPTextModel", "CLIPTextModelWithProjection"))
"""Text encoders of diffusers' pipelines."""


def _check_plain(model: LatentVideoModel) -> None:
    """Refuse autoencoders and text encoders that a pipeline of diffusers would run in another way.

    Raises:
        WeightsError: Says which.
    """
    own = model.autoencoder
    if own.patch != 1 or own.shortcut:
        raise WeightsError(
            "A pipeline of diffusers has no pixel folding or colour shortcut, which this autoencoder has."
        )
    kinds = tuple(type(tower).__name__ for tower in model.text.towers)
    if model.text.masked or model.text.pooled_first or kinds not in CLIP_TOWERS:
        raise WeightsError(
            "A pipeline of diffusers encodes prompts with CLIP, padding unmasked; this model's text encoder is "
            f"{' and '.join(kinds)}{', masked' if model.text.masked else ''}. Keep it in this library's "
            "own layout, --to kineograph."
        )


def _write_others(model: LatentVideoModel, target: Path, dtype: torch.dtype) -> None:
    """Write autoencoder, text encoder, tokenizer and scheduler of a pipeline."""
    save_diffusers(model.autoencoder.vae, target / "vae", dtype)
    model.text.save_pretrained(target, dtype)
    old_names = {f"text_model.{key}": value for key, value in clip_weights(model.text.towers[0]).items()}
    write_safetensors(_typed(old_names, dtype), target / "text_encoder" / "model.safetensors", {"format": "pt"})
    write_json(model.settings.scheduler, target / "scheduler" / "scheduler_config.json")
