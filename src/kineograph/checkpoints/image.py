"""The image model under a video model: network, autoencoder and text encoder, from a folder or a single file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kineograph.errors import WeightsError
from kineograph.models.autoencoder import FrameAutoencoder, load_autoencoder
from kineograph.models.latent_video import Settings, load_text, read_settings
from kineograph.models.text import TextEncoder, load_text_encoder
from kineograph.models.text_pair import TwoTextEncoders, load_two_text_encoders
from kineograph.models.video_unet import VideoUNet
from kineograph.models.weights import read_json
from kineograph.systems.image_networks import of_published_size
from kineograph.temporal.inflate import strip

INDEX = "model_index.json"
RAIL = "CreativeML Open RAIL-M, with its limits of use"
"""Licence of Stable Diffusion's weights and of what was trained from them, unless their author says otherwise."""
XL_LICENCE = "CreativeML Open RAIL++-M, with its limits of use"
"""Likewise of Stable Diffusion XL's."""


@dataclass
class ImageModel:
    """A latent image model in parts.

    Attributes:
        unet: diffusers' `UNet2DConditionModel`.
        autoencoder: Between pixels and latents.
        text: From prompts to tokens; Stable Diffusion XL has two encoders in one.
        scheduler: The process, as a diffusers scheduler configuration.
        name: What it is called.
        licence: Of its weights.
        settings: How it wants to be used, if it was trained by this library.
    """

    unet: Any
    autoencoder: FrameAutoencoder
    text: TextEncoder | TwoTextEncoders
    scheduler: dict[str, Any]
    name: str
    licence: str
    settings: Settings | None = None


def load_image_folder(directory: str | Path) -> ImageModel:
    """Load an image model from a diffusers pipeline's folder, or from one of ours, without its temporal layers.

    Raises:
        WeightsError: A part is missing, is not one that is known here, or its weights do not fit.
    """
    folder = Path(directory)
    index = read_index(folder)
    check_components(folder, index)
    if "kineograph" in index:
        settings = read_settings(folder)
        unet = strip(VideoUNet.from_pretrained(folder).unet)
        text = load_text(folder, settings)
        licence, scheduler = settings.licence, settings.scheduler
    else:
        settings, unet = None, VideoUNet.from_pretrained(folder).unet
        text, scheduler = pipeline_text(folder, index), read_scheduler(folder)
        licence = licence_of(unet.config, isinstance(text, TwoTextEncoders))
    return ImageModel(unet, load_autoencoder(folder / "vae"), text, scheduler, folder.name, licence, settings)


def licence_of(image: Any, two_encoders: bool) -> str:
    """Return the licence of an image network's weights; of a size that nobody published, nothing is known of it."""
    published = XL_LICENCE if two_encoders else RAIL
    return published if of_published_size(image) else ""


def both_licences(own: str, base: str) -> str:
    """Return the licences of temporal layers and of the image model under them, as far as they are known."""
    return "; ".join(part for part in (own, f"base: {base}" if base else "") if part)


def read_index(folder: Path) -> dict[str, Any]:
    """Read a model folder's index.

    Raises:
        WeightsError: There is none; the message says what the folder seems to be instead.
    """
    if not (folder / INDEX).is_file():
        _refuse_part(folder)
        inside = sorted(path.name for path in folder.iterdir())[:6]
        raise WeightsError(
            f"'{folder}' is no model folder: it holds neither {INDEX} (a pipeline) nor temporal.json (motion modules) "
            f"nor a config.json of a MotionAdapter, but {', '.join(inside) or 'nothing'}."
        )
    return read_json(folder / INDEX)


def _refuse_part(folder: Path) -> None:
    """Refuse the folder of one part of a pipeline, such as `unet/`, and say which folder is wanted.

    Raises:
        WeightsError: It is one.
    """
    if not (folder / "config.json").is_file():
        return
    config = read_json(folder / "config.json")
    kind = config.get("_class_name") or next(iter(config.get("architectures") or ()), config.get("model_type"))
    if kind is None:
        return
    parent = folder.resolve().parent
    whole = f"the whole model's folder, with {INDEX} and such parts as unet/, vae/ and text_encoder/ in it"
    given = f"the folder that it lies in: {parent}" if (parent / INDEX).is_file() else whole
    raise WeightsError(f"'{folder}' holds one part of a model ({kind}), not the parts beside it. Give {given}.")


LIBRARIES = ("diffusers", "transformers", "stable_diffusion", None)
"""Where the classes come from that pipelines of diffusers name; the third is the old name of a safety checker's."""


def check_components(folder: Path, index: Mapping[str, Any]) -> None:
    """Refuse a folder whose index names code of its own: none is ever imported, so it would be ignored.

    Raises:
        WeightsError: Names the first such part.
    """
    kind = index.get("_class_name", "")
    if not isinstance(kind, str) or not kind.isidentifier():
        raise WeightsError(f"'{folder / INDEX}' names {kind!r} as its class, which is no name of a pipeline.")
    for name, value in index.items():
        if isinstance(value, list) and len(value) == 2 and value[0] not in LIBRARIES:
            raise WeightsError(
                f"'{folder / INDEX}' takes its {name} from {value[0]!r} ({value[1]!r}): code of others is never "
                "imported, only classes of diffusers and transformers are known."
            )


def read_scheduler(folder: Path) -> dict[str, Any]:
    """Read the scheduler's configuration of a pipeline's folder."""
    return read_json(folder / "scheduler" / "scheduler_config.json")


def pipeline_text(folder: Path, index: Mapping[str, Any]) -> TextEncoder | TwoTextEncoders:
    """Load the text encoder of a diffusers pipeline, or its two, which pad without a mask.

    Raises:
        WeightsError: There is none, or the first of two is missing.
    """
    if (index.get("text_encoder_2") or [None])[0]:
        if not (index.get("text_encoder") or [None])[0]:
            raise WeightsError(
                f"'{folder}' has the second text encoder of Stable Diffusion XL without the first, as its refiner has; "
                "give its base model."
            )
        return load_two_text_encoders(folder, bool(index.get("force_zeros_for_empty_prompt", True)))
    masked = bool(read_json(folder / "text_encoder" / "config.json").get("use_attention_mask", False))
    return load_text_encoder(folder, None, pooled_first=False, masked=masked)
