"""From a prompt and a picture to a clip: VideoCrafter1's image-to-video model.

Chen et al. 2023, arXiv:2310.19512, section 3.2. The picture's tokens stand after the prompt's; the clip shows what the
picture shows, but does not start with it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kineograph.diffusion import samplers
from kineograph.diffusion.guidance import classifier_free
from kineograph.diffusion.levels import Levels
from kineograph.errors import InputError
from kineograph.models.latent_video import LatentVideoModel, Settings, draw_noise, step_noise
from kineograph.models.picture import PictureTokens
from kineograph.sampling.image_to_video import Picture, prepare_picture
from kineograph.sampling.options import Progress, autocast, check_finite, versions
from kineograph.sampling.wishes import SCHEDULER, check_fps, check_limits, filled
from kineograph.video import Video

ETA = 1.0  # scripts/run_image2video.sh


class PictureAndText:
    """A model that takes a prompt and a picture.

    Args:
        parts: A text-to-video model whose network also attends to pictures, such as VideoCrafter's `i2v` preset.
        pictures: From pictures to the last tokens of the context.

    Raises:
        InputError: The network does not attend to pictures.
    """

    def __init__(self, parts: LatentVideoModel, pictures: PictureTokens) -> None:
        plan = parts.network.plan
        if plan is None or not any(placement.layer == "picture_attention" for placement in plan.placements):
            raise InputError(
                "This network does not attend to pictures; build one with picture_tokens, or leave it out."
            )
        self.parts, self.pictures = parts, pictures

    @property
    def settings(self) -> Settings:
        """How the model wants to be used: size, frames, steps, guidance."""
        return self.parts.settings

    def generate(
        self,
        prompt: str,
        image: Picture,
        *,
        negative_prompt: str = "",
        seed: int = 0,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        eta: float = ETA,
        fps: float | None = None,
        precision: str = "auto",
        callback: Progress | None = None,
    ) -> Video:
        """Make one clip.

        Args:
            prompt: What happens; may be empty.
            image: A file, a PIL image, a Video (its first frame is taken) or a tensor `(3, height, width)` in [-1, 1].
                It is cut at its centre to the clip's proportions; the authors' script stretches it.
            negative_prompt: What to steer away from. The picture's counterpart is a grey one.
            seed: From 0 to 2**63 - 1.
            num_frames: Frames; None takes the trained number.
            height: Pixels; None takes the trained size.
            width: Pixels.
            num_inference_steps: Steps of DDIM, from 1 to the number of timesteps.
            guidance_scale: 1 is no guidance.
            eta: Share of fresh noise in each step, 0 to 1.
            fps: Frames per second written into the clip; None takes the trained rate.
            precision: `"auto"`, `"bf16"` or `"fp32"`.
            callback: Called after each step.

        Returns:
            The clip; prompt, seed and settings are in `Video.metadata`.

        Raises:
            InputError: There is no picture, or a value is out of range.
            KineographError: The network produced values that are not finite.
        """
        own = self.parts.settings
        given = {
            "num_frames": num_frames,
            "height": height,
            "width": width,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
        }
        options = {**filled(own, given), "eta": eta, "negative_prompt": negative_prompt}
        check_options(options, seed, own.num_frames, self.parts.schedule.num_timesteps)
        check_fps(fps)
        with autocast(self.parts.device, precision):
            latents = self._sample(prompt, image, seed, options, callback)
            frames = self.parts.autoencoder.decode(check_finite(latents, "the denoiser"))[0].float()
        made = {"model": own.name, "prompt": prompt, "seed": seed, **options, "versions": versions()}
        return Video(check_finite(frames, "the decoder").cpu(), own.fps if fps is None else float(fps), metadata=made)

    def context(self, prompt: str, picture: Tensor) -> Tensor:
        """Return the tokens `(1, text + picture, channels)` of a prompt and a picture `(1, 3, height, width)`."""
        return self.pictures.beside(self.parts.text([prompt]), picture)

    def _levels(self, steps: int) -> Levels:
        """Return the noise levels: the authors' for a checkpoint that brings its scheduler."""
        parts = self.parts
        if parts.settings.sampler == SCHEDULER:
            return parts.plan.levels(steps)
        return parts.schedule.levels(parts.schedule.timesteps(steps))

    @torch.no_grad()
    def _sample(
        self, prompt: str, image: Picture, seed: int, options: dict[str, Any], callback: Progress | None
    ) -> Tensor:
        parts = self.parts
        shape = parts.latent_shape(options["num_frames"], options["height"], options["width"])
        picture = prepare_picture(image, options["height"], options["width"])[1].to(parts.device)
        given = self.context(prompt, picture)
        grey = self.context(options["negative_prompt"], torch.zeros_like(picture))
        guided = classifier_free(parts.denoiser(), given, grey, options["guidance_scale"])
        levels = self._levels(options["num_inference_steps"])
        x = draw_noise(parts.settings, shape, [seed]).to(parts.device)
        noise = step_noise(parts.settings, shape[0], [seed])
        return samplers.ddim(guided, x, levels, eta=options["eta"], noise=noise, callback=callback)


def check_options(options: dict[str, Any], seed: int, trained_frames: int, num_timesteps: int) -> None:
    """Refuse what cannot be sampled, in the words of the flags.

    Raises:
        InputError: Names the flag, what was given and what is allowed.
    """
    limits = (
        ("num_inference_steps", 1, num_timesteps),
        ("num_frames", 1, 4 * trained_frames),
        ("guidance_scale", 0, 100),
        ("eta", 0, 1),
    )
    check_limits(options, seed, limits)
    if options["negative_prompt"] and options["guidance_scale"] == 1:
        raise InputError(
            "--negative-prompt would change no pixel: guidance is off at --guidance-scale 1. Give a scale above 1."
        )
