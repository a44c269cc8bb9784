"""The stages of Stable Video Diffusion, each from the one before: from text, from a picture, between frames.

Blattmann et al. 2023, arXiv:2311.15127, section 4 and appendix D. A stage may also start from an image model right
away, which then is told noise levels in EDM's way (`models.edm_conversion`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kineograph.data.latents import LatentStore
from kineograph.diffusion.scheduler_fields import EDM_V
from kineograph.errors import InputError
from kineograph.models.edm_conversion import take_numbers, tell_quarter_log
from kineograph.models.image_encoder import ImageEncoder
from kineograph.models.image_to_video import (
    NUMBERS,
    Given,
    ImageToVideoModel,
    ImageToVideoSettings,
    input_channels,
    widen_input,
)
from kineograph.models.latent_video import LatentVideoModel
from kineograph.models.stand_in_encoder import build_stand_in
from kineograph.models.video_unet import VideoUNet
from kineograph.sampling.generate import SCHEDULER, open_model
from kineograph.systems.stable_video_diffusion import STAGE_OF, STAGES, Stage
from kineograph.training.autoencoder import to_pixels
from kineograph.training.captions import CaptionTokens
from kineograph.training.data import DataConfig, encoded
from kineograph.training.image_to_video import BetweenFrames, FromPicture, FromText, ImageToVideoTask, Source
from kineograph.training.opening import about_data
from kineograph.training.recipes import VideoConfig, called, image_network, made_of, overridden, tuned
from kineograph.training.task import Progress

if TYPE_CHECKING:
    from kineograph.systems.card import System

WAVES = 256  # channels of the code of each number (sgm, `svd.yaml`: `outdim: 256`)
STAND_IN_FRAMES = 256

Model = LatentVideoModel | ImageToVideoModel
_SOURCES: dict[Given, Callable[[ImageToVideoModel], Source]] = {"picture": FromPicture, "frames": BetweenFrames}


def stage_task(
    system: System,
    data: DataConfig,
    config: VideoConfig,
    base: Path,
    progress: Progress | None = None,
    captions: CaptionTokens | None = None,
) -> ImageToVideoTask:
    """Build a stage of Stable Video Diffusion; all weights train, as in the paper.

    Args:
        system: The system; `config.preset` says which stage: text, published, xt or interpolation.
        data: The data.
        config: How time is trained.
        base: A text-to-image model, or the model of an earlier stage.
        progress: Called while caches are made.
        captions: Those of the data set, encoded, where that is done already.

    Raises:
        InputError: The base is of a later stage, or a setting has no meaning here.
    """
    _check(config)
    data.refuse_balance(system.name)
    preset = config.preset or next(iter(system.presets))
    system.preset(preset)
    stage = STAGES[STAGE_OF[preset]]
    parts = _opened(base)
    _check_order(parts, stage, base)
    data.check_size(parts.autoencoder)
    frames = stage.frames if config.num_frames is None else config.num_frames
    if stage.given != "text":
        data.refuse_prompts(f"{system.name}, {preset}")
    store = encoded(parts.autoencoder, data.store(progress, frames), data.cache, progress)
    network = widened(svd_network(system, parts, config), parts, stage.given)
    if stage.given == "text" and isinstance(parts, LatentVideoModel):
        captions = captions or data.captions(parts.text, store.frames, progress)
        model, prompts = _text_model(network, parts, frames, data), data.previewed(store.frames)
        source: Source = FromText(model, captions, config.caption_dropout, prompts)
    else:
        source = _from_pictures(network, parts, stage, frames, store, data)
    source.network.requires_grad_(True)
    task = ImageToVideoTask(
        source,
        store,
        stage,
        num_frames=frames,
        held_out=data.validated(store.frames),
        dropout=config.caption_dropout,
    )
    captioned = stage.given == "text"
    about = about_data(store.frames, task.held_out, num_frames=frames, captions=captioned)
    task.notes, task.made = [*about, _about_base(parts, base)], made_of(system, config)
    return task


def _about_base(parts: Model, base: Path) -> str:
    """Say whether the temporal layers are fresh or those of the stage before."""
    before = given_to(parts)
    if before is None:
        return f"temporal layers: fresh, in the image network of '{called(base)}'"
    return f"temporal layers: those of '{called(base)}', a model of the stage '{before}', are trained further"


def _check(config: VideoConfig) -> None:
    if config.timestep_shift != 1:
        raise InputError("--timestep-shift has no meaning for Stable Video Diffusion, which draws noise levels itself.")
    if config.image_share or config.noise != "iid":
        name = "--image-share" if config.image_share else "--noise"
        raise InputError(f"{name} has no meaning for Stable Video Diffusion: clips alone, and independent noise.")


def _opened(base: Path) -> Model:
    """Load what a stage builds on."""
    parts = open_model(base)
    if not isinstance(parts, LatentVideoModel | ImageToVideoModel):
        raise InputError(f"'{base}' takes a prompt and a picture; give a text-to-image model as --base.")
    return parts


def given_to(model: Model) -> Given | None:
    """Return what a model of a stage is given; None: it is of no stage yet."""
    if isinstance(model, ImageToVideoModel):
        return model.settings.given
    numbered = model.network.config.get("class_embed_type") == "projection"
    return "text" if numbered and model.network.plan is not None else None


def _check_order(model: Model, stage: Stage, base: Path) -> None:
    """Refuse a base whose network knows more than the stage gives it."""
    order: tuple[Given | None, ...] = (None, "text", "picture", "frames")
    before = given_to(model)
    if order.index(before) > order.index(stage.given):
        raise InputError(
            f"'{base}' makes clips from {'a picture' if before == 'picture' else before}; it cannot go back to the "
            f"stage '{stage.given}'. Take a text-to-image model, or the model of an earlier stage, as --base."
        )


def svd_network(system: System, model: Model, config: VideoConfig) -> VideoUNet:
    """Return the network of a model of a stage, or one built on an image model, told noise levels in EDM's way.

    Raises:
        InputError: The image model predicts something else than v, or settings of a trained network are changed.
    """
    if given_to(model) is not None:
        if config.set:
            raise InputError("--set changes the layers of a fresh network; the base already has its own.")
        return copy.deepcopy(model.network)
    assert isinstance(model, LatentVideoModel)
    unet = image_network(model)
    tell_quarter_log(unet, model.plan)
    take_numbers(unet, NUMBERS * WAVES)
    preset = system.preset(config.preset or next(iter(system.presets)))
    return system.build(overridden(preset, config.set), image_unet=unet)


def widened(network: VideoUNet, model: Model, given: Given) -> VideoUNet:
    """Give the network the input channels of a stage, in place, and the attention that is fastest here."""
    wanted = input_channels(given, model.autoencoder.latent_channels)
    tuned(network.unet)
    return widen_input(network, wanted) if network.config["in_channels"] < wanted else network


def _text_model(network: VideoUNet, parts: LatentVideoModel, num_frames: int, data: DataConfig) -> LatentVideoModel:
    """Put the network of pretraining into a text-to-video model."""
    settings = replace(
        parts.settings,
        name="stable_video_diffusion",
        system="stable_video_diffusion",
        height=data.size,
        width=data.size,
        num_frames=num_frames,
        fps=data.sample_fps,
        noise="iid",
        sampler=SCHEDULER,
        scheduler=dict(EDM_V),
    )
    return LatentVideoModel(network, parts.autoencoder, parts.text, settings)


def _from_pictures(
    network: VideoUNet, parts: Model, stage: Stage, num_frames: int, store: LatentStore, data: DataConfig
) -> Source:
    """Put the network of finetuning into a model that is given pictures."""
    encoder = parts.image_encoder if isinstance(parts, ImageToVideoModel) else _encoder(parts, store)
    settings = _picture_settings(parts, stage, num_frames, data)
    return _SOURCES[stage.given](ImageToVideoModel(network, parts.autoencoder, encoder, settings))


def _picture_settings(parts: Model, stage: Stage, num_frames: int, data: DataConfig) -> ImageToVideoSettings:
    if isinstance(parts, ImageToVideoModel):
        own = replace(parts.settings, num_frames=num_frames, given=stage.given)
        return replace(own, height=data.size, width=data.size, fps=round(data.sample_fps))
    return ImageToVideoSettings(
        name="stable_video_diffusion",
        height=data.size,
        width=data.size,
        num_frames=num_frames,
        fps=round(data.sample_fps),
        wave_channels=WAVES,
        given=stage.given,
        licence=parts.settings.licence,
    )


def _encoder(model: LatentVideoModel, store: LatentStore) -> ImageEncoder:
    """Build the stand-in for CLIP's image encoder, its token as wide and as large as those of the text."""
    rows = store.frames.rows_of("train")
    rows = rows[:: -(-len(rows) // STAND_IN_FRAMES)]
    tokens = model.text([clip.caption for clip in store.frames.clips[:16]])
    deviation = float(tokens[tokens.abs().sum(-1) > 0].std())
    pictures = to_pixels(store.frames.frames[rows])
    return build_stand_in(pictures, model.network.config["cross_attention_dim"], torch.tensor(deviation).item())
