"""Write a model in another layout: this library's, diffusers' or the authors'. Safetensors and JSON only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from kineograph.checkpoints.image import INDEX
from kineograph.checkpoints.ldm import unet_keys, vae_keys_for
from kineograph.checkpoints.load import is_adapter, load_base, load_checkpoint
from kineograph.checkpoints.motion import (
    IMAGE,
    SYSTEM,
    MotionModules,
    file_modules,
    image_of,
    on_meta,
    read_adapter,
    read_motion_folder,
)
from kineograph.checkpoints.networks import key_map, to_diffusers
from kineograph.checkpoints.open_clip import text_to_theirs
from kineograph.checkpoints.original import SCALES, picture_tensors
from kineograph.checkpoints.pipelines import SIDECAR
from kineograph.checkpoints.sdxl import xl_text_tensors
from kineograph.checkpoints.single_files import OPEN_TEXT, TEXT, UNET, VAE, read_single
from kineograph.checkpoints.svd import svd_tensors
from kineograph.errors import InputError, WeightsError, unknown
from kineograph.models.image_to_video import ImageToVideoModel
from kineograph.models.latent_video import LatentVideoModel
from kineograph.models.picture import PictureVideoModel
from kineograph.models.text_pair import TwoTextEncoders
from kineograph.models.video_unet import VideoUNet, write_temporal
from kineograph.models.weights import WEIGHTS, readable, save_diffusers, write_json, write_safetensors
from kineograph.systems import systems
from kineograph.systems.svd_folder import save_stable_video_diffusion
from kineograph.systems.videocrafter import scale_table
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
WHOLE = ("image", "videocrafter")
"""Systems whose original files hold autoencoder and text encoder too."""
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
    dtype: torch.dtype = torch.float32,
) -> Written:
    """Read a model or motion modules in any layout and write them in another.

    Args:
        source: A folder or a file, as `load_checkpoint` reads.
        output: Folder to write; for `"original"` a `.safetensors` file.
        to: A layout of `TO`.
        base: The image model, for files that hold a network without autoencoder and text encoder, and for motion
            modules of no published width.
        dtype: Data type of the written weights.

    Raises:
        InputError: The layout is unknown, the output exists or has the wrong form.
        WeightsError: The source cannot be read, or the layout cannot hold it.
    """
    target = _target(Path(output), to)
    source = Path(source)
    with readable(source):
        modules = motion_modules(source)
    if modules is not None:
        return _write_modules(modules, target, to, base, dtype)
    model = load_checkpoint(source, base)
    if isinstance(model, PictureVideoModel):
        return _write_picture_model(model, target, to, dtype)
    if not isinstance(model, LatentVideoModel):
        return _write_image_to_video(model, target, to, dtype)
    writers: dict[str, Callable[..., Written]] = {
        "kineograph": _write_ours,
        "diffusers": _write_pipeline,
        "original": _write_original,
    }
    return writers[to](model, target, dtype)


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


def motion_modules(source: Path) -> MotionModules | None:
    """Read motion modules from a folder or a file; None if the source is something else."""
    if source.is_file():
        file = read_single(source)
        return file_modules(source, file.tensors) if file.kind.name == "motion_module" else None
    if (source / INDEX).is_file():
        return None
    if (source / "temporal.json").is_file():
        return read_motion_folder(source)
    return read_adapter(source) if is_adapter(source) else None


def _write_modules(
    modules: MotionModules, target: Path, to: str, base: str | Path | None, dtype: torch.dtype
) -> Written:
    """Write motion modules in a layout."""
    image = image_of(modules) if base is None else load_base(base, modules.where).unet.config
    network, weights = on_meta(modules, image)
    return _write_temporal(network, weights, dict(modules.noted.get("settings", {})), target, to, dtype)


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
    if to == "original":
        write_safetensors(_typed(_foreign(network, weights, "original"), dtype), target, {"format": "pt"})
        return Written(target, "motion modules in AnimateDiff's own layout", _left_out(network))
    if to == "kineograph":
        write_temporal(network.plan, _typed(weights, dtype), target)
    else:
        tensors = _foreign(network, weights, "diffusers")
        write_safetensors(_typed(tensors, dtype), target / f"{WEIGHTS}.safetensors", {"format": "pt"})
        write_json(adapter_config(network), target / "config.json")
    image = {name: network.config[name] for name in IMAGE}
    write_json(
        {"format": FORMAT, "plan": network.plan.to_dict(), "image": image, "settings": settings}, target / SIDECAR
    )
    notes = _differs(network) if to == "diffusers" else ()
    return Written(target, "a motion adapter of diffusers" if to == "diffusers" else "motion modules", notes)


def _foreign(network: VideoUNet, weights: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Return motion modules in a foreign layout.

    Raises:
        WeightsError: The temporal layers are not motion modules.
    """
    assert network.plan is not None
    if [(p.at, p.layer) for p in network.plan.placements] != [("pair", "temporal_transformer")]:
        raise WeightsError(
            "These temporal layers are no motion modules, so neither AnimateDiff's nor diffusers' files can hold them "
            "alone. Keep them in this library's own layout, --to kineograph."
        )
    return key_map(systems()[SYSTEM], network, layout).to_theirs(weights)


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


def _left_out(network: VideoUNet) -> tuple[str, ...]:
    """Say what of a plan the authors' files have no place for."""
    assert network.plan is not None
    over = network.plan.placements[0].options["norm_over"]
    return (
        () if over == "frame" else ("norms over the clip are not noted in this layout; it stands for norms per frame",)
    )


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


def clip_weights(tower: Any) -> dict[str, Tensor]:
    """Return a CLIP text encoder's weights without `text_model.`, which versions of transformers differ in."""
    return {key.removeprefix("text_model."): value for key, value in tower.state_dict().items()}


def _write_original(model: LatentVideoModel, target: Path, dtype: torch.dtype) -> Written:
    """Write a single file in the names of the authors' code.

    Raises:
        WeightsError: The authors' layout is unknown or cannot hold a weight.
    """
    name, network = model.settings.system, model.network
    if name == SYSTEM:
        return _write_temporal(network, temporal_state_dict(network.unet), {}, target, "original", dtype)
    if name != "image" and "original" not in systems()[name].key_maps:
        raise WeightsError(f"The authors of {name} published no layout that is known here.")
    if name in WHOLE:
        return _written(_whole_tensors(model), target, dtype, "a checkpoint in the latent diffusion layout")
    tensors = key_map(systems()[name], network, "original").to_theirs(network.unet.state_dict())
    return _written(tensors, target, dtype, f"the network of {name}", "autoencoder and text encoder are not part of it")


def _write_picture_model(model: PictureVideoModel, target: Path, to: str, dtype: torch.dtype) -> Written:
    """Write VideoCrafter1's image-to-video model."""
    if to == "kineograph":
        model.save_pretrained(target, dtype)
        return Written(target, f"a {model.settings.system} model with pictures")
    if to == "diffusers":
        return _write_pipeline(model.parts, target, dtype)
    tensors = _whole_tensors(model.parts) | picture_tensors(model)
    return _written(tensors, target, dtype, "VideoCrafter's image-to-video checkpoint in its authors' layout")


def _write_image_to_video(model: ImageToVideoModel, target: Path, to: str, dtype: torch.dtype) -> Written:
    """Write Stable Video Diffusion; this library keeps it in diffusers' layout, with its settings beside."""
    if to == "original":
        return _written(svd_tensors(model), target, dtype, "Stable Video Diffusion in its authors' layout")
    save_stable_video_diffusion(model, target, dtype)
    return Written(target, "a StableVideoDiffusionPipeline of diffusers")


def _whole_tensors(model: LatentVideoModel) -> dict[str, Tensor]:
    """Return network, autoencoder and text encoder in the latent diffusion layout."""
    name, network, scale = model.settings.system, model.network, model.settings.data_scale
    keys = unet_keys(network.config) if name == "image" else key_map(systems()[name], network, "original")
    tensors = _under(UNET, keys.to_theirs(network.unet.state_dict())) | _under(VAE, _ldm_vae(model)) | _ldm_text(model)
    if scale is None:
        return tensors
    assert network.plan is not None
    convolutions = any(p.layer == "temporal_convolution" for p in network.plan.placements)
    return tensors | {SCALES: scale_table(scale, convolutions)}


def _written(tensors: Mapping[str, Tensor], target: Path, dtype: torch.dtype, what: str, *notes: str) -> Written:
    write_safetensors(_typed(tensors, dtype), target, {"format": "pt"})
    return Written(target, what, notes)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in tensors.items()}


def _ldm_vae(model: LatentVideoModel) -> dict[str, Tensor]:
    return vae_keys_for(model.autoencoder.vae.config).to_theirs(model.autoencoder.vae.state_dict())


def _ldm_text(model: LatentVideoModel) -> dict[str, Tensor]:
    """Return the text encoder as files of Stable Diffusion 1 (OpenAI's CLIP), 2 (OpenCLIP) or XL (both) hold it."""
    if isinstance(model.text, TwoTextEncoders):
        return xl_text_tensors(model.text)
    weights = clip_weights(model.text.towers[0])
    if model.text.towers[0].config.hidden_act == "quick_gelu":
        return _under(f"{TEXT}text_model.", weights)
    return _under(OPEN_TEXT, text_to_theirs(weights))
