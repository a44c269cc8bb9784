"""Recognise what a path holds and load it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from kineograph.checkpoints.bare_network import bare_refusal, load_bare_network
from kineograph.checkpoints.image import INDEX, ImageModel, check_components, load_image_folder, read_index
from kineograph.checkpoints.ldm import load_image_file
from kineograph.checkpoints.lora import add_lora
from kineograph.checkpoints.motion import put_on, read_adapter, read_motion_folder
from kineograph.checkpoints.motion_versions import AS_DIFFUSERS, refuse_preset
from kineograph.checkpoints.original import is_picture_file, load_original, load_picture_file, needs_base
from kineograph.checkpoints.pipelines import image_only, load_pipeline, read_sidecar
from kineograph.checkpoints.run import is_run_checkpoint, load_run_checkpoint, newest_of_run
from kineograph.checkpoints.sdxl import is_xl, load_xl_file
from kineograph.checkpoints.single_files import VAE, SingleFile, read_single
from kineograph.checkpoints.sparsectrl import CLASSES, control_refusal
from kineograph.checkpoints.svd import load_svd_file
from kineograph.errors import WeightsError
from kineograph.models.image_to_video_folder import holds_image_to_video, load_image_to_video_folder
from kineograph.models.latent_video import LatentVideoModel, load_latent_video
from kineograph.models.picture import RESAMPLER, PictureVideoModel, load_picture_video
from kineograph.models.video_unet import UNETS
from kineograph.models.weights import read_json, readable
from kineograph.systems.svd_folder import PIPELINE, load_stable_video_diffusion

if TYPE_CHECKING:
    from kineograph.models.image_to_video import ImageToVideoModel

Loaded = Union[LatentVideoModel, PictureVideoModel, "ImageToVideoModel"]
"""What a path holds: a model of prompts, of a prompt and a picture, or of a picture."""
PIXEL_PIPELINES = (
    "TextToVideoIFPipeline",
    "TextToVideoIFInterpPipeline",
    "TextToVideoIFSuperResolutionPipeline",
    "TextToVideoIFSuperResolutionPipeline_Cond",
)
"""Show-1's classes (showone/pipelines) for its first stages."""
ADAPTER = "motion_adapter"
"""Where a pipeline's folder keeps motion modules."""


def load_checkpoint(
    path: str | Path, base: str | Path | None = None, lora: Sequence[str] = (), preset: str = ""
) -> Loaded:
    """Load a model in any layout that is known.

    Args:
        path: A folder (ours, or of a diffusers pipeline or motion adapter) or a file (safetensors or PyTorch).
        base: The image model for files that hold only time: a folder or a file.
        lora: LoRA files or folders, each perhaps followed by `:strength`.
        preset: Which of a system's published networks it is, where a file does not say it; refused elsewhere.

    Returns:
        The model, in float32 and evaluation mode.

    Raises:
        WeightsError: The path holds nothing that is known, or a file is damaged or does not fit.
    """
    root = Path(path)
    with readable(root):
        if holds_image_to_video(root):
            refuse_preset(root, preset)
            return load_image_to_video(root, base, lora)
        model = load_folder(root, base, preset) if root.is_dir() else load_file(root, base, preset)
    for given in lora:
        with readable(given):
            add_lora(model, given)
    return model


def load_image_to_video(folder: Path, base: str | Path | None, lora: Sequence[str]) -> ImageToVideoModel:
    """Load a folder of our own image-to-video model, which is whole.

    Raises:
        WeightsError: A file is damaged, or something is put on it.
    """
    if base is not None or lora:
        given = "--base" if base is not None else "--lora"
        raise WeightsError(f"'{folder}' is a whole model that starts from pictures; {given} has no place on it.")
    return load_image_to_video_folder(folder)


def load_folder(folder: Path, base: str | Path | None, preset: str = "") -> Loaded:
    """Load a model folder, a training run's checkpoint, or a folder of motion modules on its base."""
    run = folder if is_run_checkpoint(folder) else newest_of_run(folder)
    if run is not None:
        no_base(folder, base)
        refuse_preset(folder, preset)
        return load_run_checkpoint(run, load_checkpoint)
    if (folder / INDEX).is_file():
        no_base(folder, base)
        refuse_preset(folder, preset)
        index = read_index(folder)
        if "kineograph" in index:
            return load_picture_video(folder) if (folder / RESAMPLER).is_dir() else load_latent_video(folder)
        refuse_pixel_stage(folder, index)
        check_components(folder, index)
        if index.get("_class_name") == PIPELINE:
            return load_stable_video_diffusion(folder)
        if (folder / ADAPTER / "config.json").is_file() and is_image(folder):
            return load_animated(folder)
        return load_pipeline(folder)
    if (folder / "temporal.json").is_file():
        return put_on(read_motion_folder(folder, preset), load_base(base, folder))
    if is_adapter(folder):
        return put_on(read_adapter(folder, preset), load_base(base, folder))
    if (title := CLASSES.get(class_of(folder))) is not None:
        raise control_refusal(folder, title)
    read_index(folder)
    raise AssertionError(folder)


def refuse_pixel_stage(folder: Path, index: Mapping[str, Any]) -> None:
    """Refuse the stages of Show-1 that work on pixels.

    Raises:
        WeightsError: It is one.
    """
    if str(index.get("_class_name")) in PIXEL_PIPELINES:
        raise WeightsError(
            f"'{folder}' is a stage of Show-1 that works on pixels ({index['_class_name']}): it takes T5's text, and "
            "the stages after it take what it makes. This library has its network (kineograph.systems.show1), not yet "
            "the cascade. Show-1's last stage, show-1-sr2, is a latent model and loads."
        )


def load_animated(folder: Path) -> LatentVideoModel:
    """Load a pipeline's folder that holds an image network and motion modules beside each other."""
    modules, image = read_adapter(folder / ADAPTER, AS_DIFFUSERS), load_image_folder(folder)
    own = {"scheduler": image.scheduler, **read_sidecar(folder).get("settings", {})}
    return put_on(replace(modules, where=folder, noted={**modules.noted, "settings": own}), image)


def is_adapter(folder: Path) -> bool:
    """Say whether a folder holds diffusers' `MotionAdapter`."""
    return class_of(folder) == "MotionAdapter"


def class_of(folder: Path) -> str:
    """Return the class that a network's folder names, or an empty string."""
    file = folder / "config.json"
    return str(read_json(file).get("_class_name", "")) if file.is_file() else ""


def is_image(folder: Path) -> bool:
    """Say whether the network in a pipeline's folder is an image network."""
    return read_json(folder / "unet" / "config.json").get("_class_name") in UNETS


def load_file(path: Path, base: str | Path | None, preset: str = "") -> Loaded:
    """Load a single file, on its base where it holds only a part.

    Raises:
        WeightsError: It is not a model, or its base is missing or superfluous.
    """
    return load_single(read_single(path), base, preset)


def load_single(file: SingleFile, base: str | Path | None, preset: str = "") -> Loaded:
    """Load what was read from a single file. See `load_file`."""
    path = file.path
    if file.kind.name in ("lora", "motion_lora"):
        raise WeightsError(f"'{path}' is {file.kind.title}, which changes a model and is none. Give it as --lora PATH.")
    if file.kind.name in ("sparsectrl", "controlnet"):
        raise control_refusal(path, file.kind.title)
    if file.kind.name == "unet":
        if base is None:
            raise bare_refusal(file, "--model")
        refuse_preset(path, preset)
        return image_only(load_bare_network(file, load_base(base, path)))
    if file.kind.name in ("video_unet", "vae"):
        raise WeightsError(f"'{path}' is {file.kind.title}, a part of a model. Give the folder with all of its parts.")
    if file.kind.name == "image":
        if base is not None:
            raise WeightsError(
                f"'{path}' is {file.kind.title} and holds no motion modules. Give it as --base, and the motion module "
                "as --model."
            )
        refuse_preset(path, preset)
        return image_only(load_image(file))
    if file.kind.name == "svd":
        no_base(path, base)
        return load_svd_file(file, preset)
    if needs_base(file):
        return load_original(file, load_base(base, path, what_is_missing(file)), preset)
    no_base(path, base)
    refuse_preset(path, preset)
    return load_picture_file(file) if is_picture_file(file) else load_original(file, None)


def no_base(path: Path, base: str | Path | None) -> None:
    """Refuse a base beside a checkpoint that holds its own image model.

    Raises:
        WeightsError: There is one.
    """
    if base is not None:
        raise WeightsError(f"'{path}' is a whole model with its own image network; leave --base out.")


def what_is_missing(file: SingleFile) -> str:
    """Say what a file of a network or of motion modules holds, and what a base must bring."""
    if file.kind.name == "motion_module":
        return MODULES_ALONE
    middle = re.compile(r"mid(dle)?_block\.(1|attentions\.0)\.transformer_blocks\.0\.attn2\.to_k\.weight$")
    widths = [value.shape[-1] for key, value in file.tensors.items() if middle.search(key)]
    channels = widths[0] if widths else 0
    made = {768: " (Stable Diffusion 1)", 1024: " (Stable Diffusion 2)"}.get(channels, "")
    return (
        f"holds {file.kind.title} without autoencoder (no weight begins with '{VAE}') and text encoder "
        f"('cond_stage_model.'). Give a model that has both, with {channels} channels of text{made}"
    )


MODULES_ALONE = "holds motion modules without an image network. Give the image model to put them on"


def load_base(base: str | Path | None, path: Path, missing: str = MODULES_ALONE) -> ImageModel:
    """Load the image model beside a checkpoint that is not whole.

    Args:
        base: The folder or file.
        path: The checkpoint.
        missing: What it holds, and what is missing there.

    Raises:
        WeightsError: None is given, or it does not exist.
    """
    if base is None:
        raise WeightsError(
            f"'{path}' {missing}: --base PATH, a folder of diffusers or a single file of Stable Diffusion."
        )
    root = Path(base)
    if not root.exists():
        raise WeightsError(f"--base: there is no file or folder '{root}'.")
    if root.is_dir():
        return load_image_folder(root)
    file = read_single(root)
    if file.kind.name == "unet":
        raise bare_refusal(file, "--base")
    if file.kind.name != "image":
        raise WeightsError(f"--base '{root}' is {file.kind.title}; it must be an image model.")
    return load_image(file)


def load_image(file: SingleFile) -> ImageModel:
    """Load an image model's single file, of Stable Diffusion 1, 2 or XL."""
    return load_xl_file(file) if is_xl(file) else load_image_file(file)
