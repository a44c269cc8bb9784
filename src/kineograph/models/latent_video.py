"""A text-to-video model in one piece: network, autoencoder, text encoder, process, and how it likes to be sampled.

On disk it is a diffusers-type folder; what diffusers has no place for stands under the key `kineograph` of
`model_index.json`:

    model_index.json  unet/  temporal.json  temporal.safetensors  vae/  text_encoder/  tokenizer/  scheduler/  draft/
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kineograph.diffusion import noise as noises
from kineograph.diffusion.denoiser import Denoiser, KnownWhenNoisy, NetworkDenoiser
from kineograph.diffusion.samplers import NoiseSource
from kineograph.diffusion.schedule import Schedule
from kineograph.diffusion.scheduler_config import read
from kineograph.diffusion.scheduler_fields import FIELDS
from kineograph.errors import InputError, WeightsError, unknown
from kineograph.models.autoencoder import FrameAutoencoder, load_autoencoder, save_autoencoder
from kineograph.models.draft import DraftNetwork, load_draft, resized, save_draft
from kineograph.models.image_to_video import NUMBERS, ConditionedNetwork, ImageCondition, clip_shape
from kineograph.models.text import TextEncoder, load_text_encoder
from kineograph.models.text_pair import TwoTextEncoders, load_two_text_encoders
from kineograph.models.video_unet import VideoUNet
from kineograph.models.weights import read_json, write_json
from kineograph.models.whole_folder import whole_folder

FORMAT = 1
COSINE_V = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",  # Nichol & Dhariwal 2021; ends without data, so plain backgrounds are exact
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model wants to be used; all of it travels in `model_index.json`."""

    name: str = "model"
    """What the model is called in messages and in the metadata of its clips."""
    system: str = "image"
    """Registry name of the temporal design, or `"image"`."""
    max_tokens: int = 32
    """Prompt length in tokens."""
    pooled_first: bool = True
    """Whether the mean token state stands first."""
    masked_text: bool = True
    """Whether padding of the prompt is hidden; False as in Stable Diffusion."""
    zero_empty: bool = False
    """Whether an empty prompt is all zeros instead of encoded, as in Stable Diffusion XL."""
    height: int = 128
    """Height it was trained at, in pixels."""
    width: int = 128
    """Width it was trained at, in pixels."""
    num_frames: int = 16
    """Frames it was trained at."""
    fps: float = 8.0
    """Frames per second it was trained at."""
    num_inference_steps: int = 30
    """Default steps."""
    guidance_scale: float = 4.0
    """Default classifier-free guidance scale."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Shares of the process's time between which guidance acts; outside, a step is one call instead of two."""
    sampler: str = "ddim"
    """Default sampler."""
    eta: float = 0.0
    """Share of fresh noise in each step of the scheduler, if that is DDIM."""
    draft_until: float = 1.0
    """Share of the process's time down to which the draft stands for the network, if there is one; 1: nowhere."""
    data_scale: tuple[float, int] | None = None
    """How the process makes the data weaker (`Schedule.scale_data`): the least factor, and over how many timesteps."""
    noise: str = "iid"
    """Noise prior across frames: iid, mixed or progressive."""
    noise_alpha: float = 1.0
    """Strength of the noise that frames share (PYoCo)."""
    motion_bucket_id: int = 127
    """Amount of motion, 0 to 255, for networks that are told it."""
    licence: str = ""
    """Licence of the weights, shown when they are loaded."""
    scheduler: dict[str, Any] = field(default_factory=lambda: dict(COSINE_V))
    """The process, as a diffusers scheduler configuration."""


PRIORS = ("iid", "mixed", "progressive")


def draw_noise(settings: Settings, shape: tuple[int, int, int, int], seeds: Sequence[int]) -> Tensor:
    """Return the start of the process for clips, the same in training and sampling.

    Args:
        settings: Names the noise prior.
        shape: (frames, channels, height, width).
        seeds: One per clip.

    Returns:
        (clips, frames, channels, height, width), each value standard normal.
    """
    if settings.noise not in PRIORS:
        raise unknown("noise prior", settings.noise, PRIORS)
    if settings.noise == "iid" or shape[0] == 1:
        return noises.iid(shape, seeds)
    return getattr(noises, settings.noise)(shape, seeds, alpha=settings.noise_alpha)


def step_noise(settings: Settings, num_frames: int, seeds: Sequence[int]) -> NoiseSource:
    """Return the source of fresh noise for samplers that draw it, related across frames as the first noise is."""
    source = noises.ClipGenerators(seeds)
    if settings.noise == "iid" or num_frames == 1:
        return source
    covariance = getattr(noises, f"{settings.noise}_covariance")(num_frames, settings.noise_alpha)
    return noises.correlated(source, covariance)


PROCESS_FIELDS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)
"""Fields of a scheduler that say how the network was trained; the others say how to sample."""


def over_timesteps(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Return a scheduler's configuration for samplers that tell the network whole timesteps: its process as DDIM's."""
    if scheduler.get("_class_name") in ("DDIMScheduler", "DDPMScheduler"):
        return dict(scheduler)
    process = {name: scheduler[name] for name in PROCESS_FIELDS if name in scheduler}
    return {"_class_name": "DDIMScheduler", "clip_sample": False, **process}


def as_ddim(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Return a scheduler's configuration as one of DDIM with the same process, timesteps and end.

    As diffusers' `DDIMScheduler.from_config`, but estimates are clipped only where the configuration says so: its
    default is for pixels.
    """
    shared = {name: value for name, value in scheduler.items() if name in FIELDS["DDIMScheduler"]}
    return {"clip_sample": False, **shared, "_class_name": "DDIMScheduler"}


@dataclass(frozen=True)
class TextAndSize:
    """What networks of Stable Diffusion XL's kind are told (Podell et al. 2023, arXiv:2307.01952, sections 2.1, 2.2).

    Attributes:
        tokens: `(clips, tokens, channels)`.
        pooled: The text in one vector, `(clips, channels)`.
        sizes: `(clips, 6)`: height and width of the original picture, top and left of the part that is shown, height
            and width of what is made, in pixels.
    """

    tokens: Tensor
    pooled: Tensor
    sizes: Tensor


Condition = Tensor | TextAndSize
"""What a network is told of a prompt: tokens `(clips, tokens, channels)`, or these and more."""


class LatentVideoModel:
    """The parts of a latent text-to-video model.

    Args:
        network: Predicts on latents `(batch, frames, channels, height, width)`.
        autoencoder: Between pixels and latents.
        text: From prompts to tokens.
        settings: How it wants to be used.
        draft: From prompts to clips, which take the place of the noisiest steps (`Settings.draft_until`).
    """

    def __init__(
        self,
        network: VideoUNet,
        autoencoder: FrameAutoencoder,
        text: TextEncoder | TwoTextEncoders,
        settings: Settings,
        draft: DraftNetwork | None = None,
    ) -> None:
        self.network, self.autoencoder, self.text, self.draft = network, autoencoder, text, draft
        self.settings = replace(
            settings,
            max_tokens=text.max_tokens,
            pooled_first=text.pooled_first,
            masked_text=text.masked,
            zero_empty=text.zero_empty,
            draft_until=1.0 if draft is None else settings.draft_until,
        )
        scale = None if settings.data_scale is None else (settings.data_scale[0], settings.data_scale[1])
        self.plan = read(settings.scheduler, scale, settings.eta)
        if self.plan.schedule is None:
            raise InputError(f"A latent video model needs a discrete schedule, not {self.plan.name}.")
        self.schedule: Schedule = self.plan.schedule
        self._over_timesteps = read(over_timesteps(settings.scheduler), scale)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.device

    def to(self, device: torch.device | str) -> LatentVideoModel:
        """Move all parts."""
        for part in (self.network, self.autoencoder, self.text, self.draft):
            if part is not None:
                part.to(device)
        return self

    def denoiser(self) -> Denoiser:
        """Return the network for samplers that walk over timesteps, with the limits that the scheduler sets.

        Raises:
            InputError: The network is not told timesteps.
        """
        if self.settings.scheduler.get("timestep_type") == "continuous":
            raise InputError(
                f"'{self.settings.name}' is told continuous noise levels, not timesteps: leave --sampler out, or take "
                "--sampler scheduler."
            )
        return self._over_timesteps.denoiser(self._predict)

    def unlimited(self) -> Denoiser:
        """Return the network as its own scheduler calls it, without the limits, which that sets after guidance."""
        return NetworkDenoiser(self._predict, self.plan.process, self.plan.kind)

    def condition(self, prompts: Sequence[str], height: int, width: int) -> Condition:
        """Return what the network is told of prompts.

        Args:
            prompts: One per clip.
            height: Of the clip, in pixels; the network is told that the whole of a picture of this size is shown.
            width: Likewise.
        """
        if not isinstance(self.text, TwoTextEncoders):
            return self.text(prompts)
        tokens, pooled = self.text.encode(prompts)
        sizes = tokens.new_tensor([height, width, 0, 0, height, width]).expand(len(prompts), -1)
        return TextAndSize(tokens, pooled, sizes)

    def with_draft(
        self, denoiser: Denoiser, condition: Condition, until: float, shape: tuple[int, int, int, int]
    ) -> Denoiser:
        """Let the draft of a prompt take the noisiest steps of a denoiser, if the model has a draft.

        Args:
            denoiser: Of this prompt, guided.
            condition: What `condition` returned for the prompt.
            until: Share of the process's time down to which the draft stands; 1: nowhere.
            shape: (frames, channels, height, width) of the latents.
        """
        clip = self.draft_of(condition, until, shape)
        return denoiser if clip is None else KnownWhenNoisy(denoiser, clip, self.draft_from(until))

    def draft_of(self, condition: Condition, until: float, shape: tuple[int, int, int, int]) -> Tensor | None:
        """Return the draft of a prompt, latents `(clips, *shape)`, or None where there is none; see `with_draft`."""
        if self.draft is None or until >= 1 or not isinstance(condition, Tensor):
            return None
        return resized(self.draft.clip(condition, shape[0]), *shape[-2:])

    def draft_from(self, until: float) -> float:
        """Return the timestep from which a draft that stands down to a share of time takes the steps."""
        return until * self.schedule.num_timesteps - 1  # timesteps count from 0

    def _predict(self, x: Tensor, told: Any, condition: Condition) -> Tensor:
        """Run the network; one that is conditioned on the frame rate is told the trained one."""
        if self.network.config.get("class_embed_type") == "projection" and isinstance(condition, Tensor):
            return self._predict_numbered(x, told, condition)
        more: dict[str, Any] = {}
        if isinstance(condition, TextAndSize):
            more["added_conditions"] = {"text_embeds": condition.pooled, "time_ids": condition.sizes}
        if self.network.config.get("class_embed_type") == "timestep":
            more["class_labels"] = torch.full((len(x),), self.settings.fps, device=x.device)
        tokens = condition.tokens if isinstance(condition, TextAndSize) else condition
        return self.network(x, told, tokens, **more)

    def _predict_numbered(self, x: Tensor, told: Any, tokens: Tensor) -> Tensor:
        """Run a network that is told frame rate and amount of motion (Stable Video Diffusion, from text)."""
        own, batch = self.settings, len(x)
        condition = ImageCondition.of_text(tokens, [own.fps] * batch, [own.motion_bucket_id] * batch)
        width = self.network.config["projection_class_embeddings_input_dim"] // NUMBERS
        return ConditionedNetwork(self.network, width)(x, told, condition)

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return (frames, channels, height, width) of the latents of a clip.

        Raises:
            InputError: The size does not fit the latent grid, or the number of frames is below 1.
        """
        return clip_shape(self.autoencoder, num_frames, height, width)

    def save_pretrained(self, directory: str | Path, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write the model's folder, which appears whole or not at all."""
        with whole_folder(directory) as folder:
            self._write(folder, dtype)

    def _write(self, folder: Path, dtype: torch.dtype) -> None:
        """Write the parts into an empty folder."""
        network = copy.deepcopy(self.network).to(dtype)
        network.save_pretrained(folder)
        save_autoencoder(self.autoencoder, folder / "vae", dtype)
        self.text.save_pretrained(folder, dtype)
        if self.draft is not None:
            save_draft(self.draft, folder, dtype)
        write_json(self.settings.scheduler, folder / "scheduler" / "scheduler_config.json")
        ours = {key: value for key, value in asdict(self.settings).items() if key != "scheduler"}
        index = {
            "_class_name": "KineographModel",
            "unet": ["diffusers", type(self.network.unet).__name__],
            "vae": ["diffusers", type(self.autoencoder.vae).__name__],
            **self.text.components(),
            "scheduler": ["diffusers", self.settings.scheduler["_class_name"]],
            "kineograph": {"format": FORMAT, **ours},
        }
        write_json(index, folder / "model_index.json")


def read_settings(directory: str | Path) -> Settings:
    """Read how a saved model wants to be used.

    Raises:
        WeightsError: The folder is no model folder of ours, or a setting is unknown.
    """
    folder = Path(directory)
    files = folder / "model_index.json", folder / "scheduler" / "scheduler_config.json"
    for file in files:
        if not file.is_file():
            raise WeightsError(f"'{folder}' is no model folder: '{file}' is missing.")
    index, scheduler = (read_json(file) for file in files)
    try:
        ours = dict(index["kineograph"])
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"'{folder}/model_index.json' does not describe a Kineograph model ({error}).") from error
    if ours.pop("format", None) != FORMAT:
        raise WeightsError(f"'{folder}' was written in another format than {FORMAT}; update kineograph.")
    return replace(Settings(), **checked_settings(ours, folder / "model_index.json"), scheduler=scheduler)


def checked_settings(values: Any, file: Path) -> dict[str, Any]:
    """Return settings as a file has them, ready for `Settings`.

    Args:
        values: Names and values, as JSON gives them.
        file: Where they stand.

    Raises:
        WeightsError: They are no table, one is unknown, of another kind than its default, or a negative number.
    """
    if not isinstance(values, Mapping):
        raise WeightsError(f"'{file}' has settings {str(values)[:80]!r}; expected a table of names and values.")
    allowed = {f.name for f in fields(Settings)}
    for name, value in values.items():
        if name not in allowed:
            raise unknown(f"setting in {file}", name, allowed, WeightsError)
        _check_kind(name, value, file)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _check_kind(name: str, value: Any, file: Path) -> None:
    """Refuse a setting of another kind than its default, or a negative number.

    Raises:
        WeightsError: Names it.
    """
    default = getattr(Settings(), name)
    if name == "scheduler":
        fits = isinstance(value, dict)
    elif name == "data_scale":
        fits = value is None or (isinstance(value, list) and [type(item) for item in value] == [float, int])
    elif name == "guidance_interval":
        fits = isinstance(value, list) and len(value) == 2 and {type(item) for item in value} <= {int, float}
        fits = fits and 0 <= value[0] <= value[1] <= 1
    elif name == "draft_until":
        fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    elif isinstance(default, bool | str):
        fits = isinstance(value, type(default))
    else:
        fits = isinstance(value, int if isinstance(default, int) else int | float) and not isinstance(value, bool)
        fits = fits and 0 <= value < float("inf")
    if not fits:
        raise WeightsError(f"'{file}' sets {name}={value!r}, which is no value of that setting.")


def load_latent_video(directory: str | Path) -> LatentVideoModel:
    """Load what `save_pretrained` wrote, in float32 and evaluation mode.

    Raises:
        WeightsError: A file is missing, a key or shape does not fit, or a weight is not finite.
    """
    settings = read_settings(directory)
    folder = Path(directory)
    network = VideoUNet.from_pretrained(folder)
    autoencoder = load_autoencoder(folder / "vae")
    return LatentVideoModel(network, autoencoder, load_text(folder, settings), settings, load_draft(folder))


def load_text(folder: Path, settings: Settings) -> TextEncoder | TwoTextEncoders:
    """Load the text encoder, or the two, of a model folder."""
    if (folder / "text_encoder_2").is_dir():
        return load_two_text_encoders(folder, settings.zero_empty)
    return load_text_encoder(folder, settings.max_tokens, settings.pooled_first, settings.masked_text)
