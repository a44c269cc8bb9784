"""A model that makes clips from a picture, on disk, whatever image network and autoencoder it was built from.

    model_index.json  unet/  temporal.json  temporal.safetensors  vae/  image_encoder/  feature_extractor/  scheduler/

Diffusers' layout of Stable Video Diffusion (`systems.svd_folder`) holds networks of Stable Diffusion 2's kind only.
"""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from kineograph.errors import WeightsError, unknown
from kineograph.models.autoencoder import load_autoencoder, save_autoencoder
from kineograph.models.image_encoder import load_image_encoder, save_image_encoder
from kineograph.models.image_to_video import ImageToVideoModel, ImageToVideoSettings
from kineograph.models.video_unet import VideoUNet
from kineograph.models.weights import read_json, write_json
from kineograph.models.whole_folder import whole_folder

CLASS = "KineographImageToVideo"
INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"


def save_image_to_video(model: ImageToVideoModel, directory: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a model's folder, which appears whole or not at all.

    Args:
        model: What to write.
        directory: Folder, made where it is missing.
        dtype: Type of the stored weights of autoencoder and image encoder; None keeps theirs.
    """
    with whole_folder(directory) as folder:
        _write(model, folder, dtype)


def _write(model: ImageToVideoModel, folder: Path, dtype: torch.dtype | None) -> None:
    """Write the parts into an empty folder."""
    model.network.save_pretrained(folder)
    save_autoencoder(model.autoencoder, folder / "vae", dtype)
    save_image_encoder(model.image_encoder, folder / "image_encoder", folder / "feature_extractor", dtype)
    write_json(model.settings.scheduler, folder / SCHEDULER, sort_keys=True)
    settings = {name: value for name, value in asdict(model.settings).items() if name != "scheduler"}
    write_json({"_class_name": CLASS, "settings": settings}, folder / INDEX, sort_keys=True)


def holds_image_to_video(directory: str | Path) -> bool:
    """Say whether a folder is one that `save_image_to_video` wrote."""
    index = Path(directory) / INDEX
    return index.is_file() and read_json(index).get("_class_name") == CLASS


def load_image_to_video_folder(directory: str | Path) -> ImageToVideoModel:
    """Load what `save_image_to_video` wrote, in evaluation mode.

    Raises:
        WeightsError: A file is missing or damaged, a setting is unknown, or weights do not fit.
    """
    folder = Path(directory)
    if not holds_image_to_video(folder):
        raise WeightsError(f"'{folder}' is no folder of a {CLASS}.")
    settings = _settings(read_json(folder / INDEX).get("settings", {}), read_json(folder / SCHEDULER))
    encoder = load_image_encoder(folder / "image_encoder", folder / "feature_extractor")
    return ImageToVideoModel(VideoUNet.from_pretrained(folder), load_autoencoder(folder / "vae"), encoder, settings)


def _settings(given: dict[str, Any], scheduler: dict[str, Any]) -> ImageToVideoSettings:
    allowed = {f.name for f in fields(ImageToVideoSettings)}
    for name in given:
        if name not in allowed:
            raise unknown("setting in model_index.json", name, allowed, WeightsError)
    return replace(ImageToVideoSettings(), **given, scheduler=scheduler)
