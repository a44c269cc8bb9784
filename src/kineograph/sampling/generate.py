"""From prompts to clips: load a model, sample latents, decode them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kineograph.checkpoints.load import Loaded, load_checkpoint
from kineograph.devices import best_device
from kineograph.diffusion import samplers, solvers
from kineograph.diffusion.denoiser import Denoiser
from kineograph.diffusion.guidance import Scale, classifier_free, interval_scale
from kineograph.errors import InputError
from kineograph.models.latent_video import Condition, LatentVideoModel, Settings, as_ddim, draw_noise, step_noise
from kineograph.models.picture import PictureVideoModel
from kineograph.sampling import wishes
from kineograph.sampling.known import no_draft
from kineograph.sampling.options import Progress, autocast, check_finite, versions
from kineograph.sampling.places import BUNDLED as BUNDLED
from kineograph.sampling.places import bundled as bundled
from kineograph.sampling.places import find, find_base
from kineograph.sampling.wishes import SCHEDULER, filled
from kineograph.systems import systems
from kineograph.temporal.inflate import strip
from kineograph.video import Video

if TYPE_CHECKING:
    from kineograph.sampling.image_to_video import ImageToVideo
    from kineograph.sampling.picture_and_text import PictureAndText

SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddim": samplers.ddim,
    "ddpm": samplers.ddpm,
    "euler-ancestral": samplers.euler_ancestral,
    "heun": solvers.heun,
    "dpm++": solvers.dpm_solver_pp,
    "sde-dpm++": solvers.dpm_solver_pp,
    "unipc": solvers.unipc,
}
STOCHASTIC = ("ddpm", "euler-ancestral", "sde-dpm++")
SPACINGS = dict.fromkeys(("dpm++", "sde-dpm++", "unipc"), "log_snr")
"""Where timesteps lie for the samplers that want them elsewhere than `"trailing"` (`docs/process/samplers.md`)."""


class Model:
    """A loaded text-to-video model.

    Args:
        parts: Network, autoencoder, text encoder and settings.

    Example:
        `clip = kineograph.load("emoji").generate("a juggling man", seed=0); clip.save("clip.mp4")`
    """

    def __init__(self, parts: LatentVideoModel) -> None:
        self.parts = parts

    @property
    def settings(self):
        """How the model wants to be used: size, frames, steps, guidance."""
        return self.parts.settings

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str = "",
        seed: int | Sequence[int] = 0,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        draft_until: float | None = None,
        sampler: str | None = None,
        fps: float | None = None,
        precision: str = "auto",
        callback: Progress | None = None,
    ) -> Any:
        """Make one clip per prompt.

        Args:
            prompt: A prompt, or several.
            negative_prompt: What to steer away from.
            seed: One number (clip i of several gets `seed + i`), or one per prompt, from 0 to 2**63 - 1. A clip depends
                on its prompt and its own seed only, not on what else is in the batch.
            num_frames: Frames; 1 makes a picture with the image model. None takes the trained number.
            height: Pixels; None takes the trained size.
            width: Pixels.
            num_inference_steps: Steps of the sampler, 1 to 1000.
            guidance_scale: 1 is no guidance; higher follows the prompt more closely. Like a negative prompt and an
                interval it is refused where it would act in no step, as when the model's draft takes them.
            guidance_interval: Shares of the process's time, 0 (the clean clip) to 1 (noise), between which guidance
                acts (Kynkäänniemi et al. 2024, arXiv:2404.07724); steps outside cost half.
            draft_until: Share of the process's time down to which the model's draft, if it has one, takes the steps
                instead of the network; 1: nowhere.
            sampler: A name of `SAMPLERS`, or `"scheduler"` for what the checkpoint's scheduler says.
            fps: Frames per second written into the clip; None takes the trained rate.
            precision: `"auto"`, `"bf16"` or `"fp32"`.
            callback: Called after each step.

        Returns:
            A Video for a single prompt, a list for several. Prompt, seed and settings are in `Video.metadata`.

        Raises:
            InputError: A value is out of range.
            KineographError: The network produced values that are not finite.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        own = self.settings
        options = {
            "num_frames": num_frames,
            "height": height,
            "width": width,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "guidance_interval": guidance_interval,
            "draft_until": draft_until,
            "sampler": sampler,
        }
        given = {**options, "negative_prompt": negative_prompt or None}
        options = {**filled(own, options), "negative_prompt": negative_prompt}
        seeds = _seeds(seed, prompts)
        wishes.check_fps(fps)
        check_options(prompts, options, own, self.parts.schedule.num_timesteps)
        check_own_sampler(own, options)
        check_draft(self.parts, draft_until)
        options = acting(self.parts, options, given)
        with autocast(self.parts.device, precision):
            latents = sample_latents(self.parts, prompts, seeds, options, callback)
            check_finite(latents, "the denoiser")
            frames = [self.parts.autoencoder.decode(clip[None])[0].float() for clip in latents]
        rate = own.fps if fps is None else float(fps)
        made = {"model": own.name, "fps": rate, **options, "versions": versions()}
        return _one_or_all(
            prompt,
            [
                Video(check_finite(f, "the decoder").cpu(), rate, metadata={"prompt": p, "seed": s, **made})
                for f, p, s in zip(frames, prompts, seeds, strict=True)
            ],
        )


def sample_latents(
    parts: LatentVideoModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    options: dict[str, Any],
    callback: Progress | None,
) -> Tensor:
    """Sample the latents of clips, one clip at a time so that a clip is the same in any batch, bit for bit.

    Matrix products round differently for different batch sizes; a loop over clips costs little on a CPU and keeps the
    promise that a seed is a clip.

    Returns:
        (prompts, frames, channels, height, width).
    """
    size = options["height"], options["width"]
    negative = parts.condition([options["negative_prompt"]], *size)
    clips = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        clips.append(_sample_clip(parts, parts.condition([prompt], *size), negative, seed, options, callback))
    return torch.cat(clips)


def _sample_clip(
    parts: LatentVideoModel,
    context: Condition,
    negative: Condition,
    seed: int,
    options: dict[str, Any],
    callback: Progress | None,
) -> Tensor:
    """Sample one clip `(1, frames, channels, height, width)`."""
    shape = parts.latent_shape(options["num_frames"], options["height"], options["width"])
    name, steps = options["sampler"], options["num_inference_steps"]
    scale = scale_over_time(options, parts.schedule.num_timesteps)
    x = draw_noise(parts.settings, shape, [seed]).to(parts.device)
    fresh = step_noise(parts.settings, shape[0], [seed])

    until = options["draft_until"]
    own = _own_sampler(parts.settings.system)
    if own is not None and shape[0] > 1:
        guided = classifier_free(parts.denoiser(), context, negative, scale)
        draft = {"still": parts.draft_of(context, until, (1, *shape[1:])), "above": parts.draft_from(until)}
        levels, schedule = parts.plan.levels(steps), parts.schedule
        return own(guided, x[:, :1], levels, x[:, 1:], **draft, schedule=schedule, callback=callback)

    def drafted(denoiser: Denoiser) -> Denoiser:
        return parts.with_draft(denoiser, context, until, shape)

    if name == SCHEDULER:
        guided = parts.plan.limit(drafted(classifier_free(parts.unlimited(), context, negative, scale)))
        return parts.plan.sample(guided, x, steps, noise=fresh, callback=callback)
    guided = drafted(classifier_free(parts.denoiser(), context, negative, scale))
    levels = parts.schedule.levels(parts.schedule.timesteps(steps, SPACINGS.get(name, "trailing")))
    extra = {"noise": fresh} if name in STOCHASTIC else {}
    return SAMPLERS[name](guided, x, levels, callback=callback, **extra)


def scale_over_time(options: dict[str, Any], num_timesteps: int) -> Scale | Callable[[Any], Scale]:
    """Return the guidance scale, as a function of the timestep where an interval bounds it."""
    scale, (low, high) = options["guidance_scale"], options.get("guidance_interval", (0.0, 1.0))
    if (low, high) == (0, 1):
        return scale
    return interval_scale(scale, low * num_timesteps - 1, high * num_timesteps - 1)  # timesteps count from 0


def acting(parts: LatentVideoModel, options: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the options without guidance that would act in no step, so that a clip's record says what was done.

    Args:
        parts: The model.
        options: Of the clip, all filled in.
        given: What was asked for; None where the model's own is taken.

    Raises:
        InputError: A wish for guidance would change no pixel.
    """
    if is_guided(parts, options):
        return options
    asked = [name for name in ("negative_prompt", "guidance_scale") if given[name] not in (None, 1)]
    if given["guidance_interval"] and not is_guided(
        parts, options | {"guidance_interval": parts.settings.guidance_interval}
    ):
        asked.append("guidance_interval")
    if asked:
        raise InputError(f"--{asked[0].replace('_', '-')} would change no pixel: {_why_unguided(options)}")
    return {name: value for name, value in options.items() if name != "guidance_interval"} | {"guidance_scale": 1.0}


def is_guided(parts: LatentVideoModel, options: dict[str, Any]) -> bool:
    """Say whether guidance acts in any step: not in those of the draft, nor outside its interval."""
    scale, until = options["guidance_scale"], options["draft_until"] if parts.draft is not None else 1.0
    if scale == 1:
        return False
    if tuple(options["guidance_interval"]) == (0, 1) and until >= 1:
        return True
    strength = scale_over_time(options, parts.schedule.num_timesteps)
    left = [t for t in step_times(parts, options) if until >= 1 or t < parts.draft_from(until)]
    return any((strength(t) if callable(strength) else strength) != 1 for t in left)


def step_times(parts: LatentVideoModel, options: dict[str, Any]) -> Sequence[float]:
    """Return the times that the denoiser is told, step by step."""
    name, steps = options["sampler"], options["num_inference_steps"]
    if name == SCHEDULER or (_own_sampler(parts.settings.system) is not None and options["num_frames"] > 1):
        return parts.plan.levels(steps).t
    return parts.schedule.levels(parts.schedule.timesteps(steps, SPACINGS.get(name, "trailing"))).t


def _why_unguided(options: dict[str, Any]) -> str:
    """Say why guidance acts in no step, and what lets it."""
    if options["guidance_scale"] == 1:
        return "guidance is off at --guidance-scale 1. Give a scale above 1, such as 6."
    low, high = options["guidance_interval"]
    if options["draft_until"] >= 1:
        return (
            f"guidance acts between {low:g} and {high:g} of the process's time, where none of the "
            f"{options['num_inference_steps']} steps lies. Give a wider --guidance-interval."
        )
    return (
        f"the model's draft takes the steps above {options['draft_until']:g} of the process's time, and guidance acts "
        f"between {low:g} and {high:g} only. Give --draft-until 1 to sample without the draft, or "
        "--guidance-interval 0 1 to guide the steps after it."
    )


def _own_sampler(system: str) -> Callable[..., Tensor] | None:
    """Return how a system without trained weights makes its clips; None for the others."""
    table = systems()
    return table[system].sampler if system in table else None


def with_system(parts: LatentVideoModel, name: str) -> LatentVideoModel:
    """Give the image network of a model another notion of time, one that needs no training.

    Of a draft only the still picture is taken, and moved as the system moves things: its own motion would take the
    steps in which the other one's begins.

    Args:
        parts: A model; its own temporal layers, if any, are taken out.
        name: A training-free system of the registry, such as `"text2video_zero"`.

    Raises:
        InputError: No such system, or one that needs trained temporal layers.
    """
    chosen = wishes.check_system(name)
    network = chosen.build(image_unet=strip(parts.network.unet))
    own = replace(
        parts.settings,
        name=f"{chosen.name} on {parts.settings.name}",
        system=chosen.name,
        noise="iid",
        sampler="ddim",
        num_frames=chosen.sampling.frames,  # what was learned about longer clips left with the temporal layers
        fps=float(chosen.sampling.fps),
        scheduler=as_ddim(parts.settings.scheduler),
    )
    return LatentVideoModel(network, parts.autoencoder, parts.text, own, parts.draft)


def check_options(prompts: Sequence[str], options: dict[str, Any], own: Settings, num_timesteps: int) -> None:
    """Refuse what cannot be sampled, in the words of the flags.

    Raises:
        InputError: Names the flag, what was given and what is allowed.
    """
    wishes.check_prompts(prompts)
    wishes.check_sampler(options["sampler"])
    wishes.check_steps(options["num_inference_steps"], num_timesteps)
    wishes.check_frames(options["num_frames"], own.num_frames, own.name)
    wishes.check_guidance(options["guidance_scale"], options["guidance_interval"])


def check_draft(parts: LatentVideoModel, until: float | None) -> None:
    """Refuse a wish for a draft that cannot be met, in the words of the flag.

    Raises:
        InputError: It is no share of time, or the model has no draft.
    """
    wishes.check_draft_until(until)
    if until is not None and until < 1 and parts.draft is None:
        raise no_draft(parts.settings.name, until)


def check_own_sampler(own: Settings, options: dict[str, Any]) -> None:
    """Refuse a sampler for a system that brings its own way of sampling.

    Raises:
        InputError: It is not the one that the system was made for.
    """
    if options["num_frames"] > 1 and _own_sampler(own.system) is not None and options["sampler"] != own.sampler:
        raise InputError(
            f"--sampler {options['sampler']} has no place with --system {own.system}, which samples in its own way "
            f"(with {own.sampler} inside). Leave --sampler out."
        )


def _seeds(seed: int | Sequence[int], prompts: Sequence[str]) -> list[int]:
    """Return one seed per prompt."""
    seeds = [seed + i for i in range(len(prompts))] if isinstance(seed, int) else [int(s) for s in seed]
    if len(seeds) != len(prompts):
        raise InputError(f"{len(prompts)} prompts but {len(seeds)} seeds: give one seed, or one per prompt.")
    for value in seeds:
        wishes.check_seed(value)
    return seeds


def _one_or_all(prompt: str | Sequence[str], videos: list[Video]) -> Video | list[Video]:
    return videos[0] if isinstance(prompt, str) else videos


def open_model(name: str | Path, base: str | Path | None = None, lora: Sequence[str] = (), preset: str = "") -> Loaded:
    """Load the parts of a model, in float32 on the CPU. See `load`.

    Raises:
        WeightsError: There is no such model, or its files do not fit.
    """
    return load_checkpoint(find(name), None if base is None else find_base(base), lora, preset)


def load(
    name: str | Path = "emoji",
    *,
    base: str | Path | None = None,
    lora: Sequence[str] = (),
    system: str = "",
    preset: str = "",
    device: str | torch.device | None = None,
) -> Model | PictureAndText | ImageToVideo:
    """Load a model. The licences of its weights are shown on stderr.

    Args:
        name: A bundled name, a local path (a model folder of this library or of diffusers, a motion module, or an
            original checkpoint file), or `owner/name` on the Hugging Face Hub. The page docs/checkpoints.md lists them.
        base: Where `name` holds only temporal layers: the image model to put them on, a folder or a file.
        lora: LoRAs (files, or folders of diffusers or peft) for the image network, the motion modules or the text
            encoders, each perhaps with `:strength`.
        system: A training-free system that gives time to the image network instead of the model's own layers.
        preset: Which of its system's published networks it is, where the file does not say it: `"v1"` to `"v3"` for
            motion modules without position tables, `"published"` (14 frames) or `"xt"` (25) for Stable Video Diffusion.
        device: Where to put it; None takes the accelerator if there is one.

    Returns:
        The model, ready to `generate` from prompts; for Stable Video Diffusion an `ImageToVideo`, from a picture; for
        VideoCrafter's image-to-video model a `PictureAndText`, from both.

    Raises:
        WeightsError: There is no such model, or its files do not fit.
    """
    parts = open_model(name, base, lora, preset)
    if system and not isinstance(parts, LatentVideoModel):
        raise InputError(
            f"'{name}' makes clips from a picture and has a notion of time of its own; leave --system out."
        )
    parts = with_system(parts, system) if isinstance(parts, LatentVideoModel) and system else parts
    if parts.settings.licence:
        sys.stderr.write(f"Licence of the weights of {parts.settings.name}: {parts.settings.licence}.\n")
    parts.to(torch.device(device) if device is not None else best_device())
    if isinstance(parts, LatentVideoModel):
        return Model(parts)
    if isinstance(parts, PictureVideoModel):
        from kineograph.sampling.picture_and_text import PictureAndText

        return PictureAndText(parts.parts, parts.pictures)
    from kineograph.sampling.image_to_video import ImageToVideo

    return ImageToVideo(parts)


def load_text_to_video(
    name: str | Path = "emoji",
    *,
    base: str | Path | None = None,
    lora: Sequence[str] = (),
    system: str = "",
    preset: str = "",
    device: str | torch.device | None = None,
) -> Model:
    """Load a model that makes clips from prompts. See `load`.

    Raises:
        InputError: The model starts from a picture.
    """
    model = load(name, base=base, lora=lora, system=system, preset=preset, device=device)
    if not isinstance(model, Model):
        raise InputError(f"'{name}' makes clips from a picture, not from words: give it one, --image photo.png.")
    return model


def generate(prompt: str | Sequence[str], *, model: str | Path = "emoji", **settings: Any) -> Video | list[Video]:
    """Load a model and make one clip per prompt; settings as in `Model.generate`.

    To make several clips one after another, `load` the model once and call its `generate`.
    """
    return load_text_to_video(model).generate(prompt, **settings)
