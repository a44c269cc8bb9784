"""From a data set and a base model to a task: what `kineograph train` builds for each stage."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kineograph.devices import on_cpu
from kineograph.errors import InputError, unknown
from kineograph.models.autoencoder import build_autoencoder, load_autoencoder
from kineograph.models.draft import BLOCKS, COMPONENTS, PROTOTYPES, WIDTH, DraftNetwork
from kineograph.models.image_unet import build_image_unet, prefer_matmul_attention
from kineograph.models.latent_video import LatentVideoModel, Settings
from kineograph.models.text import TextEncoder, load_text_encoder, minilm_folder
from kineograph.models.video_unet import VideoUNet
from kineograph.sampling.generate import BUNDLED, open_model
from kineograph.temporal.inflate import strip
from kineograph.temporal.tags import train_only
from kineograph.training.autoencoder import AutoencoderTask
from kineograph.training.captions import CaptionTokens
from kineograph.training.data import DataConfig, encoded
from kineograph.training.decoder import PERCEPTUAL_WEIGHT, DecoderTask
from kineograph.training.diffusion import DiffusionTask
from kineograph.training.draft import CONTRAST, DraftTask
from kineograph.training.opening import about_data
from kineograph.training.task import Progress

if TYPE_CHECKING:
    from kineograph.systems.card import System
    from kineograph.training.image_to_video import ImageToVideoTask

IMAGE_STAGES = ("autoencoder", "latent-image", "draft", "decoder")
NUM_FRAMES = 16
DRAFT_SIZES = ("frames", "width", "blocks", "prototypes", "components")


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Size of a fresh autoencoder."""

    patch: int = 2
    """Edge of the pixel blocks folded into channels."""
    channels: tuple[int, ...] = (32, 64, 128)
    """Width of each level; every further level halves the resolution."""
    latent_channels: int = 8
    """Channels of the latents."""


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """Size of a fresh latent image network."""

    channels: tuple[int, ...] = (128, 256, 256)
    """Width of each level."""
    layers: int = 1
    """Residual blocks per level."""
    caption_dropout: float = 0.1
    """Share of samples trained without their caption, for classifier-free guidance."""
    timestep_shift: float = 1.0
    """Moves the timesteps that are trained towards noise (above 1) or data (below)."""


@dataclass(frozen=True, kw_only=True)
class DraftConfig:
    """Size of a fresh draft and how it is trained and used."""

    frames: int = NUM_FRAMES
    """Frames of its clips."""
    width: int = WIDTH
    """Width of its layers."""
    blocks: int = BLOCKS
    """Residual blocks."""
    prototypes: int = PROTOTYPES
    """Names that it knows; no more than training clips."""
    components: int = COMPONENTS
    """Pictures that its frames are sums of; no more than values of a latent."""
    blur: float = 0.0
    """Largest deviation of the noise on the sentence embedding."""
    kind: str = ""
    """Field of the manifest that is the same for clips of one thing in several looks, such as `base` of the emoji."""
    contrast: float = CONTRAST
    """Weight of the squared error towards another look of the same thing, beside 1 for all directions."""
    until: float = 0.4
    """Share of the process's time down to which it takes the steps."""

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            InputError: Names the value and what is allowed.
        """
        whole = [getattr(self, name) for name in DRAFT_SIZES]
        if not all(isinstance(size, int) and size > 0 for size in whole):
            raise InputError(f"--set {', '.join(DRAFT_SIZES)} of a draft must be whole numbers above 0, not {whole}.")
        for name in ("blur", "contrast"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise InputError(f"--set {name} of a draft must be a number from 0 up, not {value!r}.")
        if not isinstance(self.until, int | float) or not 0 <= self.until <= 1:
            raise InputError(f"--set until of a draft must be a share of time, from 0 to 1, not {self.until!r}.")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What a model's decoder is trained on."""

    perceptual: float = PERCEPTUAL_WEIGHT
    """Weight of the perceptual distance beside the error of pixels; 0 leaves it out."""
    drafts: float = 0.0
    """Share of the samples that are the model's drafts of a frame instead of its latents."""
    kind: str = ""
    """Field of the manifest that is the same for clips of one thing in several looks, such as `base` of the emoji."""

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            InputError: Names the value and what is allowed.
        """
        if not isinstance(self.perceptual, int | float) or not 0 <= self.perceptual < float("inf"):
            raise InputError(f"--set perceptual of a decoder must be a number from 0 up, not {self.perceptual!r}.")
        if not isinstance(self.drafts, int | float) or not 0 <= self.drafts <= 1:
            raise InputError(f"--set drafts of a decoder must be a share of the samples, 0 to 1, not {self.drafts!r}.")


@dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """How time is trained."""

    num_frames: int | None = None
    """Frames per training clip (default: 16; for a stage of Stable Video Diffusion as published, 14, 25 or 5)."""
    train_all: bool = False
    """Train the image network as well (default: only the temporal layers; Stable Video Diffusion trains all)."""
    image_share: float = 0.0
    """Share of samples that are independent pictures instead of a clip (joint image-video training)."""
    noise: str = "iid"
    """Noise prior across frames: iid, mixed or progressive (PYoCo)."""
    noise_alpha: float = 1.0
    """Strength of the noise that frames share."""
    keep_temporal: bool = False
    """Train the temporal layers of the base further, if they are of the same system, instead of fresh ones."""
    preset: str = ""
    """Preset of the system whose temporal layers are taken (default: its first)."""
    set: tuple[str, ...] = ()
    """Fields of the system's configuration to change, as name=value."""
    caption_dropout: float = 0.1
    """Share of samples trained without their caption."""
    timestep_shift: float = 1.0
    """Moves the timesteps that are trained towards noise (above 1) or data (below)."""


def autoencoder_task(
    data: DataConfig, config: AutoencoderConfig, progress: Progress | None = None, base: Path | None = None
) -> AutoencoderTask:
    """Build stage one: an autoencoder on single frames.

    Args:
        data: The data.
        config: Size of a fresh network.
        progress: Called while frames are decoded.
        base: A trained autoencoder (`RUN/model/vae`) whose decoder is trained further; its encoder stays.
    """
    data.refuse_balance("autoencoder")
    data.refuse_prompts("autoencoder")
    fresh = {"patch": config.patch, "channels": config.channels, "latent_channels": config.latent_channels}
    network = load_autoencoder(base).train() if base is not None else build_autoencoder(**fresh)
    data.check_size(network)
    frames = data.store(progress)
    task = AutoencoderTask(network, frames, data.validated(frames), decoder_only=base is not None)
    task.notes = about_data(task.store, task.held_out)
    task.made = {name.replace("_", "-"): value for name, value in fresh.items()} if base is None else {}
    return task


def latent_image_task(
    data: DataConfig, config: ImageConfig, autoencoder: Path, progress: Progress | None = None
) -> DiffusionTask:
    """Build stage two: a fresh text-to-image network on the latents of a trained autoencoder.

    Args:
        data: The data.
        config: Size of the network.
        autoencoder: Folder of the trained autoencoder (`RUN/model/vae`).
        progress: Called while caches are made.
    """
    vae = load_autoencoder(autoencoder)
    data.check_size(vae)
    text = load_text_encoder(minilm_folder())
    unet = build_image_unet(
        latent_channels=vae.latent_channels,
        size=data.size // vae.factor,
        text_dim=text.dim,
        channels=config.channels,
        layers=config.layers,
    )
    settings = Settings(name="latent-image", height=data.size, width=data.size, fps=data.sample_fps, num_frames=1)
    model = LatentVideoModel(VideoUNet(tuned(unet)), vae, text, settings)
    task = _diffusion_task(
        model,
        data,
        progress,
        num_frames=1,
        caption_dropout=config.caption_dropout,
        timestep_shift=config.timestep_shift,
    )
    task.made = {"channels": config.channels}
    return task


def draft_task(data: DataConfig, config: DraftConfig, base: Path, progress: Progress | None = None) -> DraftTask:
    """Build the stage that gives a text-to-image or text-to-video model a draft, or trains its draft further.

    Args:
        data: The data.
        config: Size of a fresh draft, and how its input is blurred.
        base: The model: `RUN/model`, a folder or a bundled name.
        progress: Called while caches are made.

    Raises:
        InputError: The base does not make pictures from prompts through one text encoder, or a setting is out of range
            or would change the size of a trained draft.
    """
    config.check()
    model = image_or_video(base)
    if not isinstance(model.text, TextEncoder):
        raise InputError(f"'{base}' has two text encoders; a draft is for models with one.")
    data.check_size(model.autoencoder)
    store = encoded(model.autoencoder, data.store(progress), data.cache, progress)
    captions = data.captions(model.text, store.frames, progress)
    model.settings = replace(model.settings, draft_until=config.until)
    options: dict[str, Any] = {"held_out": data.validated(store.frames), "balance": data.balance}
    options["preview_prompts"] = data.previewed(store.frames)
    options |= {name: getattr(config, name) for name in ("blur", "kind", "contrast")}
    if model.draft is not None:
        kept = {name: model.draft.config[name] for name in DRAFT_SIZES}
        wanted = {name: getattr(config, name) for name in kept}
        if wanted not in (kept, {name: getattr(DraftConfig(), name) for name in kept}):
            raise InputError(f"'{base}' has a draft, which keeps its size: leave {', '.join(kept)} out of --set.")
        return _with_notes(DraftTask(model, store, captions, **options), data)
    model.draft = DraftNetwork(
        model.text.dim,
        store.shape,
        config.frames,
        width=config.width,
        blocks=config.blocks,
        prototypes=min(config.prototypes, len(store.frames.clips_of("train"))),
        components=min(config.components, math.prod(store.shape)),
    ).to(model.device)
    task = DraftTask(model, store, captions, **options)
    task.start_from_data()
    return _with_notes(task, data)


def _with_notes(task: DraftTask, data: DataConfig) -> DraftTask:
    """Let a task say what its data are, and which clips rest on their last frame."""
    frames = task.store.frames
    short = int((frames.counts[task.clips] < task.network.frames).sum())
    rest = (
        f"frames: {short} of {len(task.clips)} clips have fewer than {task.network.frames}; they rest on the last one"
    )
    task.notes = [*about_data(frames, task.held_out, captions=True), *([rest] if short else [])]
    return task


def decoder_task(
    data: DataConfig,
    config: DecoderConfig,
    base: Path,
    distance: Callable[[Tensor, Tensor], Tensor] | None = None,
    progress: Progress | None = None,
) -> DecoderTask:
    """Build the stage that trains the decoder of a text-to-image or text-to-video model further.

    Args:
        data: The data.
        config: What it is trained on.
        base: The model: `RUN/model`, a folder or a bundled name.
        distance: Perceptual distance (see `DecoderTask`); None: none, whatever its weight.
        progress: Called while caches are made.

    Raises:
        InputError: The base does not make pictures from prompts, or a setting is out of range.
    """
    config.check()
    data.refuse_balance("decoder")
    data.refuse_prompts("decoder")
    model = image_or_video(base)
    data.check_size(model.autoencoder)
    store = encoded(model.autoencoder, data.store(progress), data.cache, progress)
    captions = data.captions(model.text, store.frames, progress) if config.drafts else None
    task = DecoderTask(
        model,
        store,
        captions,
        held_out=data.validated(store.frames),
        distance=distance,
        perceptual=config.perceptual,
        drafts=config.drafts,
        kind=config.kind,
    )
    task.notes = about_data(store.frames, task.held_out, captions=captions is not None)
    return task


def latent_video_task(
    system: str,
    data: DataConfig,
    config: VideoConfig,
    base: Path,
    progress: Progress | None = None,
    captions: CaptionTokens | None = None,
) -> DiffusionTask | ImageToVideoTask:
    """Build stage three: the temporal layers of a published system in a trained image model.

    Args:
        system: Name of the registry.
        data: The data.
        config: How time is trained.
        base: The image model, or a video model of the same system to train further: `RUN/model`, a folder of diffusers
            or a single file. Of a video model of another system the image network is taken.
        progress: Called while caches are made.
        captions: Those of the data set, encoded by the base's text encoder, where that is done already.

    Raises:
        InputError: The base or a setting does not fit the system.
    """
    from kineograph.systems import systems

    chosen = systems().find(system)
    if chosen.sampler is not None:
        raise InputError(f"{chosen.name} needs no training: kineograph generate --system {chosen.name}.")
    if chosen.process.prediction == "svd":
        from kineograph.training.stages import stage_task

        return stage_task(chosen, data, config, base, progress, captions)
    model = image_or_video(base)
    num_frames = _frames(chosen, config)
    if num_frames < 2:
        raise InputError(f"--num-frames must be at least 2 for a system, whose layers learn motion, not {num_frames}.")
    data.check_size(model.autoencoder)
    settings = replace(
        model.settings,
        name=f"{chosen.name}",
        system=chosen.name,
        height=data.size,
        width=data.size,
        fps=data.sample_fps,
        num_frames=num_frames,
        noise=config.noise,
        noise_alpha=config.noise_alpha,
    )
    network = with_time(chosen, model, config)
    tuned(network.unet)
    train_only(network, ("spatial", "temporal") if config.train_all else ("temporal",))
    draft = model.draft if network is model.network else None  # new layers learn motion from the noisiest steps on
    about = about_base(chosen, model, config, base)
    model = LatentVideoModel(network, model.autoencoder, model.text, settings, draft)
    task = _diffusion_task(
        model,
        data,
        progress,
        captions,
        num_frames=num_frames,
        caption_dropout=config.caption_dropout,
        image_share=config.image_share,
        timestep_shift=config.timestep_shift,
    )
    task.notes, task.made = [*task.notes, about], made_of(chosen, config)
    return task


def made_of(system: System, config: VideoConfig) -> dict[str, Any]:
    """Return the flags that say which layers a system's task has and which of them train."""
    preset = "" if config.keep_temporal else config.preset or next(iter(system.presets))
    own = {"preset": preset, "set": sorted(config.set), "keep-temporal": config.keep_temporal}
    return {**own, "train-all": config.train_all}


def resolved_video(system: str, config: VideoConfig) -> VideoConfig:
    """Return the configuration of a system's training with its preset and its frames filled in."""
    from kineograph.systems import systems

    chosen = systems().find(system)
    config = replace(config, preset=config.preset or ("" if config.keep_temporal else next(iter(chosen.presets))))
    return replace(config, num_frames=_frames(chosen, config))


def _frames(system: System, config: VideoConfig) -> int:
    """Return the frames of a sample: those asked for, or as published."""
    if config.num_frames is not None:
        return config.num_frames
    if system.process.prediction != "svd":
        return NUM_FRAMES
    from kineograph.systems.stable_video_diffusion import STAGE_OF, STAGES

    return STAGES[STAGE_OF[config.preset]].frames


def image_or_video(base: Path) -> LatentVideoModel:
    """Load what training builds on.

    Raises:
        InputError: It is no model that makes pictures or clips from prompts.
    """
    model = open_model(base)
    if not isinstance(model, LatentVideoModel):
        raise InputError(f"'{base}' makes clips from a picture; give a text-to-image model as --base.")
    return model


def with_time(system: System, model: LatentVideoModel, config: VideoConfig) -> VideoUNet:
    """Return a model's image network with fresh temporal layers of a system, or with its own if they are to be kept.

    Raises:
        InputError: Layers are to be kept and there are none of the system, or they are to be kept and changed.
    """
    if config.keep_temporal:
        if not has_time_of(system, model):
            raise InputError(
                f"--keep-temporal trains the temporal layers of the base further, but '{model.settings.name}' has "
                f"{'those of ' + model.settings.system if model.network.plan is not None else 'none'}, not those of "
                f"'{system.name}'. Leave it out for fresh ones."
            )
        if config.set or config.preset:
            raise InputError(
                f"--keep-temporal keeps the layers of '{system.name}' as they are built: leave out "
                f"--{'set' if config.set else 'preset'}, or --keep-temporal for fresh layers."
            )
        return model.network
    preset = system.preset(config.preset or next(iter(system.presets)))
    return system.build(overridden(preset, config.set), image_unet=image_network(model))


def has_time_of(system: System, model: LatentVideoModel) -> bool:
    """Say whether a model has the temporal layers of a system."""
    return model.network.plan is not None and model.settings.system == system.name


def called(base: Path) -> str:
    """Return what people call a model: a bundled one by its name, another one by its path."""
    return base.name if base.parent == BUNDLED else str(base)


def about_base(system: System, model: LatentVideoModel, config: VideoConfig, base: Path) -> str:
    """Say whether the temporal layers are fresh or those of the base, and what becomes of its own."""
    name = called(base)
    if config.keep_temporal:
        return f"temporal layers: those of '{name}' are trained further (--keep-temporal)"
    fresh = f"temporal layers: fresh ones of {system.name} in the image network of '{name}'"
    if model.network.plan is None:
        return fresh
    own = f"{fresh}, whose own, of {model.settings.system}, are left out"
    return own + ("; --keep-temporal trains them further" if has_time_of(system, model) else "")


def image_network(model: LatentVideoModel) -> Any:
    """Return a model's image network; temporal layers, if it has some, are taken out."""
    return strip(model.network.unet)


def overridden(config: Any, changes: Sequence[str]) -> Any:
    """Return a configuration with some fields changed.

    Args:
        config: A frozen dataclass.
        changes: `name=value`; values are Python literals or plain words.

    Raises:
        InputError: A change has no `=`, or the field does not exist.
    """
    values = {}
    for change in changes:
        name, equals, text = change.partition("=")
        allowed = [f.name for f in fields(config)]
        if not equals or name not in allowed:
            raise unknown("--set field", name, allowed)
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    return replace(config, **values)


def tuned(unet: Any) -> Any:
    """Choose the attention that is fastest on this machine."""
    return prefer_matmul_attention(unet) if on_cpu() and hasattr(unet, "set_attn_processor") else unet


def _diffusion_task(
    model: LatentVideoModel,
    data: DataConfig,
    progress: Progress | None,
    captions: CaptionTokens | None = None,
    **options: Any,
) -> DiffusionTask:
    """Encode what is not cached and build the task."""
    frames = options["num_frames"]
    store = encoded(model.autoencoder, data.store(progress, frames), data.cache, progress)
    captions = captions or data.captions(model.text, store.frames, progress)
    options |= {"held_out": data.validated(store.frames), "balance": data.balance}
    options["preview_prompts"] = data.previewed(store.frames)
    task = DiffusionTask(model, store, captions, **options)
    task.notes = about_data(store.frames, task.held_out, num_frames=frames, captions=True)
    return task


def checkpoint_gradients(network: Any) -> None:
    """Recompute activations in the backward pass, in whatever part of the network can."""
    switch = getattr(network, "enable_gradient_checkpointing", None) or network.vae.enable_gradient_checkpointing
    switch()
