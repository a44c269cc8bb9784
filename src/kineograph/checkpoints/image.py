"""The image model under a video model: network, autoencoder and text encoder, from a folder or a single file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kineograph.errors import WeightsError
from kineograph.models.autoencoder import FrameAutoencoder, load_autoencoder
from kineograph.models.latent_video import read_settings
from kineograph.models.text import TextEncoder, load_text_encoder
from kineograph.models.video_unet import VideoUNet
from kineograph.models.weights import read_json

INDEX = "model_index.json"
RAIL = "CreativeML Open RAIL-M, with its limits of use"
"""Licence of Stable Diffusion's weights and of what was trained from them, unless their author says otherwise."""


@dataclass
class ImageModel:
    """A latent image model in parts.

    Attributes:
        unet: diffusers' `UNet2DConditionModel`.
        autoencoder: Between pixels and latents.
        text: From prompts to tokens.
        scheduler: The process, as a diffusers scheduler configuration.
        name: What it is called.
        licence: Of its weights.
    """

    unet: Any
    autoencoder: FrameAutoencoder
    text: TextEncoder
    scheduler: dict[str, Any]
    name: str
    licence: str


def load_image_folder(directory: str | Path) -> ImageModel:
    """Load an image model from a diffusers pipeline's folder, or from one of ours.

    Raises:
        WeightsError: A part is missing, is not one that is known here, or its weights do not fit.
    """
    folder = Path(directory)
    index = read_index(folder)
    if "kineograph" in index:
        settings = read_settings(folder)
        network = VideoUNet.from_pretrained(folder)
        if network.plan is not None:
            raise WeightsError(f"'{folder}' is a video model ({settings.system}); --base wants an image model.")
        text = load_text_encoder(folder, settings.max_tokens, settings.pooled_first, settings.masked_text)
        licence, scheduler = settings.licence, settings.scheduler
    else:
        network = VideoUNet.from_pretrained(folder)
        text, licence, scheduler = pipeline_text(folder, index), RAIL, read_scheduler(folder)
    return ImageModel(network.unet, load_autoencoder(folder / "vae"), text, scheduler, folder.name, licence)


def read_index(folder: Path) -> dict[str, Any]:
    """Read a model folder's index.

    Raises:
        WeightsError: There is none; the message says what the folder seems to be instead.
    """
    if not (folder / INDEX).is_file():
        inside = sorted(path.name for path in folder.iterdir())[:6]
        raise WeightsError(
            f"'{folder}' is no model folder: it holds neither {INDEX} (a pipeline) nor temporal.json (motion modules) "
            f"nor a config.json of a MotionAdapter, but {', '.join(inside) or 'nothing'}."
        )
    return read_json(folder / INDEX)


def read_scheduler(folder: Path) -> dict[str, Any]:
    """Read the scheduler's configuration of a pipeline's folder."""
    return read_json(folder / "scheduler" / "scheduler_config.json")


def pipeline_text(folder: Path, index: Mapping[str, Any]) -> TextEncoder:
    """Load the text encoder of a diffusers pipeline, which pads without a mask.

    Raises:
        WeightsError: There is none, or there are two.
    """
    if (index.get("text_encoder_2") or [None])[0]:
        raise WeightsError(
            f"'{folder}' has two text encoders, as Stable Diffusion XL has; models with one are read so far."
        )
    masked = bool(read_json(folder / "text_encoder" / "config.json").get("use_attention_mask", False))
    return load_text_encoder(folder, None, pooled_first=False, masked=masked)
