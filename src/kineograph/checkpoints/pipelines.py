"""Folders of diffusers' text-to-video pipelines: ModelScopeT2V, ZeroScope, AnimateDiff, and plain image pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kineograph.checkpoints.image import ImageModel, load_image_folder, pipeline_text, read_index, read_scheduler
from kineograph.checkpoints.networks import LAYOUTS, from_diffusers, layout_of
from kineograph.errors import WeightsError, unknown
from kineograph.models.autoencoder import load_autoencoder
from kineograph.models.latent_video import LatentVideoModel, Settings, checked_settings
from kineograph.models.video_unet import UNETS, VideoUNet
from kineograph.models.weights import read_folder, read_json
from kineograph.systems import systems
from kineograph.systems.image_networks import of_published_size
from kineograph.temporal.plan import Plan

SIDECAR = "kineograph.json"
"""What diffusers' files have no place for: the plan and the settings, so that a folder written here comes back as it
was."""


def load_pipeline(directory: str | Path) -> LatentVideoModel:
    """Load the folder of a diffusers pipeline, in float32 and evaluation mode.

    Raises:
        WeightsError: A part is missing or unknown, or its weights do not fit.
    """
    folder = Path(directory)
    index = read_index(folder)
    config = read_json(folder / "unet" / "config.json")
    if config.get("_class_name") in UNETS:
        return image_only(load_image_folder(folder))
    if config.get("_class_name") not in LAYOUTS:
        raise unknown("network class in unet/config.json", config.get("_class_name"), [*LAYOUTS, *UNETS], WeightsError)
    noted = read_sidecar(folder)
    plan = Plan.from_dict(noted["plan"]) if "plan" in noted else None
    network = from_diffusers(config, read_folder(folder / "unet"), plan, str(folder / "unet"))
    autoencoder, text = load_autoencoder(folder / "vae"), pipeline_text(folder, index)
    system = zeroscope_or(layout_of(config).system, config)
    settings = settings_for(system, folder.name, read_scheduler(folder), network.config, autoencoder.factor)
    return LatentVideoModel(network, autoencoder, text, noted_settings(settings, noted, str(folder)))


def image_only(image: ImageModel) -> LatentVideoModel:
    """Return an image model as a model of one frame."""
    network = VideoUNet(image.unet).eval()
    settings = settings_for("text2video_zero", image.name, image.scheduler, network.config, image.autoencoder.factor)
    settings = replace(settings, system="image", num_frames=1, licence=image.licence)
    return LatentVideoModel(network, image.autoencoder, image.text, settings)


def settings_for(
    system: str, name: str, scheduler: dict[str, Any], image: Any, factor: int, preset: str = ""
) -> Settings:
    """Return how a published model wants to be used: its authors' settings, its own size, scheduler and licence.

    Args:
        system: Name in the registry.
        name: What the model is called.
        scheduler: Its scheduler's configuration.
        image: Configuration of its image network, whose `sample_size` is the size it was trained at.
        factor: Pixels per latent position along an edge.
        preset: Which of the system's networks it is, where their authors sample them differently.
    """
    published = systems()[system]
    (_, sampling), size = published.settled(preset), image.get("sample_size")
    height, width = (sampling.height, sampling.width) if size is None else _pixels(size, factor)
    return Settings(
        name=name,
        system=system,
        pooled_first=False,
        masked_text=False,
        height=height,
        width=width,
        num_frames=sampling.frames,
        fps=float(sampling.fps),
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance,
        sampler="scheduler",
        licence=published.card.weights_license if of_published_size(image) else "",
        scheduler=dict(scheduler),
    )


def _pixels(size: Any, factor: int) -> tuple[int, int]:
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return height * factor, width * factor


def zeroscope_or(system: str, config: Any) -> str:
    """Tell ZeroScope from ModelScopeT2V, which share a class, by the size they were trained at."""
    size = config.get("sample_size")
    wide = isinstance(size, list | tuple) and size[0] != size[1]
    return "zeroscope" if system == "modelscope" and wide else system


def read_sidecar(folder: Path) -> dict[str, Any]:
    """Read what was noted beside a folder in a foreign layout; nothing where nothing was.

    Raises:
        WeightsError: The settings there are no table of known names and fitting values.
    """
    noted = read_json(folder / SIDECAR) if (folder / SIDECAR).is_file() else {}
    checked_settings(noted.get("settings", {}), folder / SIDECAR)
    return noted


def noted_settings(settings: Settings, noted: Mapping[str, Any], where: str) -> Settings:
    """Return the settings with those that were noted in their place.

    Raises:
        WeightsError: A noted setting is unknown, or of the wrong kind.
    """
    return replace(settings, **checked_settings(noted.get("settings", {}), Path(where) / SIDECAR))
