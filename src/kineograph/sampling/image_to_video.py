"""From a picture to a clip: Stable Video Diffusion's sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kineograph._stills import may_show_through, pixels_of
from kineograph.devices import best_device
from kineograph.diffusion.guidance import classifier_free, linear_frame_scale
from kineograph.diffusion.noise import iid
from kineograph.errors import InputError
from kineograph.models.image_to_video import ImageCondition, ImageToVideoModel, augmentation_noise, interpolate
from kineograph.sampling.options import Progress, autocast, check_finite, versions
from kineograph.sampling.wishes import Limits, check_fps, check_limits, filled
from kineograph.video import Video

Picture = Any  # a path, a PIL image, a Video (its first frame), or a tensor (3, height, width) in [-1, 1]


class ImageToVideo:
    """A loaded image-to-video model.

    Args:
        parts: Network, autoencoder, image encoder and settings.

    Example:
        `load_image_to_video("svd-xt").generate("rocket.png", seed=0).save("rocket.mp4")`
    """

    def __init__(self, parts: ImageToVideoModel) -> None:
        self.parts = parts

    @property
    def settings(self):
        """How the model wants to be used: size, frames, steps, guidance."""
        return self.parts.settings

    def generate(
        self,
        image: Picture,
        *,
        seed: int = 0,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        min_guidance_scale: float | None = None,
        max_guidance_scale: float | None = None,
        fps: float | None = None,
        motion_bucket_id: int | None = None,
        noise_aug_strength: float | None = None,
        decode_chunk_size: int | None = None,
        precision: str = "auto",
        callback: Progress | None = None,
    ) -> Video:
        """Make a clip that starts at a picture.

        Args:
            image: A file, a PIL image, a Video (its first frame is taken) or a tensor `(3, height, width)` in [-1, 1].
                It is cut at the centre to the clip's proportions; diffusers stretches it.
            seed: From 0 to 2**63 - 1.
            num_frames: Frames; None takes the trained number.
            height: Pixels; None takes the trained size.
            width: Pixels.
            num_inference_steps: Steps of the sampler, 1 to 1000.
            min_guidance_scale: Guidance at the first frame; grows linearly to `max_guidance_scale` at the last.
            max_guidance_scale: 1 is no guidance.
            fps: Frames per second, told to the network and written into the clip.
            motion_bucket_id: Amount of motion, 0 to 255.
            noise_aug_strength: Deviation of the noise added to the picture; more leaves the network more freedom.
            decode_chunk_size: Frames decoded at once.
            precision: `"auto"`, `"bf16"` or `"fp32"`.
            callback: Called after each step.

        Returns:
            The clip; seed and settings are in `Video.metadata`.

        Raises:
            InputError: There is no picture, or a value is out of range.
            KineographError: The network produced values that are not finite.
        """
        own = self.settings
        if own.given != "picture":
            raise InputError(f"'{own.name}' makes the frames between given ones: kineograph generate --between CLIP.")
        given = {
            "num_frames": num_frames,
            "height": height,
            "width": width,
            "num_inference_steps": num_inference_steps,
            "min_guidance_scale": min_guidance_scale,
            "max_guidance_scale": max_guidance_scale,
            "fps": fps,
            "motion_bucket_id": motion_bucket_id,
            "noise_aug_strength": noise_aug_strength,
        }
        options = filled(own, given)
        check_options(options, seed, own.num_frames)
        chunk = own.decode_chunk_size if decode_chunk_size is None else decode_chunk_size
        with autocast(self.parts.device, precision):
            latents = sample_latents(self.parts, image, seed, options, callback)
            check_finite(latents, "the denoiser")
            frames = check_finite(self.parts.autoencoder.decode(latents, chunk)[0].float(), "the decoder")
        made = {"model": own.name, "seed": seed, **options, "versions": versions()}
        return Video(frames.cpu(), float(options["fps"]), metadata=made)

    def interpolate(
        self,
        clip: Video,
        *,
        between: int | None = None,
        seed: int = 0,
        num_inference_steps: int | None = None,
        motion_bucket_id: int | None = None,
        precision: str = "auto",
        callback: Progress | None = None,
    ) -> Video:
        """Make the frames between those of a clip, with a model that was trained for it.

        Args:
            clip: Two frames or more; each is cut at its centre to the proportions of the model.
            between: Frames to make inside each pair; None takes the trained number.
            seed: From 0 to 2**63 - 1; all pairs start from the same noise, so that they move alike.
            num_inference_steps: Steps of the sampler for each pair, 1 to 1000.
            motion_bucket_id: Amount of motion, 0 to 255.
            precision: `"auto"`, `"bf16"` or `"fp32"`.
            callback: Called after each step of each pair.

        Returns:
            A clip of `between + 1` times the frame rate; the given frames are those that the autoencoder makes of them.

        Raises:
            InputError: The model is no interpolation model, or a value is out of range.
            KineographError: The network produced values that are not finite.
        """
        own = self.settings
        if own.given != "frames":
            raise InputError(f"'{own.name}' makes clips from a picture, not the frames between given ones.")
        between = own.num_frames - 2 if between is None else between
        given = {"num_inference_steps": num_inference_steps, "motion_bucket_id": motion_bucket_id}
        options = {"between": between, **filled(own, given), "fps": clip.fps * (between + 1)}
        check_limits(options, seed, (("between", 1, 4 * own.num_frames), ("num_inference_steps", 1, 1000)))
        with autocast(self.parts.device, precision):
            latents = check_finite(sample_between(self.parts, clip, seed, options, callback), "the denoiser")
            frames = self.parts.autoencoder.decode(latents, own.decode_chunk_size)[0].float()
        made = {"model": own.name, "seed": seed, **options, "versions": versions()}
        return Video(check_finite(frames, "the decoder").cpu(), options["fps"], metadata=made)


@torch.no_grad()
def sample_between(
    parts: ImageToVideoModel, clip: Video, seed: int, options: dict[str, Any], callback: Progress | None = None
) -> Tensor:
    """Sample the latents `(1, frames, channels, height, width)` of a clip with frames made between its own."""
    own, between = parts.settings, options["between"]
    prepared = [prepare_picture(frame, own.height, own.width)[0] for frame in clip.frames]
    pictures = torch.cat(prepared).to(parts.device)
    given = parts.autoencoder.encode(pictures[None]).float()
    numbers = {"fps": [options["fps"]], "motion_bucket_id": [options["motion_bucket_id"]]}

    def sample(noise: Tensor, gap: Tensor, left: int) -> Tensor:
        condition = parts.between(gap, pictures[left : left + 1], **numbers)
        return parts.plan.sample(parts.denoiser(), noise, options["num_inference_steps"], condition, callback=callback)

    shape = parts.latent_shape(between + 2, own.height, own.width)
    return interpolate(sample, given, iid(shape, [seed]).to(parts.device), between)


def sample_latents(
    parts: ImageToVideoModel, image: Picture, seed: int, options: dict[str, Any], callback: Progress | None = None
) -> Tensor:
    """Sample the latents `(1, frames, channels, height, width)` of one clip."""
    shape = parts.latent_shape(options["num_frames"], options["height"], options["width"])
    condition = picture_condition(parts, image, seed, options)
    noise = iid(shape, [seed]).to(parts.device)
    return sample_from(parts, condition, noise, options, callback)


def sample_from(
    parts: ImageToVideoModel,
    condition: ImageCondition,
    noise: Tensor,
    options: dict[str, Any],
    callback: Progress | None = None,
) -> Tensor:
    """Sample latents from given standard normal noise `(batch, frames, channels, height, width)`.

    Guidance grows from frame to frame (Blattmann et al. 2023, arXiv:2311.15127, appendix D).
    """
    low, high = options["min_guidance_scale"], options["max_guidance_scale"]
    scale = linear_frame_scale(noise.shape[1], low, high).to(noise.device) if high != 1 or low != 1 else 1.0
    guided = classifier_free(parts.denoiser(), condition, condition.unconditional(), scale)
    return parts.plan.sample(guided, noise, options["num_inference_steps"], callback=callback)


def picture_condition(parts: ImageToVideoModel, image: Picture, seed: int, options: dict[str, Any]) -> ImageCondition:
    """Encode a picture for the network, with the noise that its clip's seed adds to it."""
    first, original = prepare_picture(image, options["height"], options["width"])
    first, original = first.to(parts.device), original.to(parts.device)
    return parts.condition(
        first,
        options["num_frames"],
        noise=augmentation_noise(first, [seed]),
        fps=[options["fps"]],
        motion_bucket_id=[options["motion_bucket_id"]],
        noise_aug_strength=[options["noise_aug_strength"]],
        pictures=original,
    )


def prepare_picture(image: Picture, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return a picture in the size of the clip, and its uncut pixels of the same proportions for the image encoder.

    Args:
        image: See `ImageToVideo.generate`.
        height: Of the clip, pixels.
        width: Of the clip, pixels.

    Returns:
        `(1, 3, height, width)` and `(1, 3, any, any)`, both in [-1, 1].

    Raises:
        InputError: It is no picture.
        MediaError: The file cannot be read.
    """
    from PIL.Image import Resampling

    picture = _as_pil(image)
    cut = picture.crop(centre_box(picture.width, picture.height, width, height))
    small = cut if cut.size == (width, height) else cut.resize((width, height), Resampling.LANCZOS)
    return _as_tensor(small), _as_tensor(cut)


def centre_box(width: int, height: int, to_width: int, to_height: int) -> tuple[int, int, int, int]:
    """Return the largest centred box (left, top, right, bottom) of the wanted proportions."""
    box_width = min(width, max(1, round(height * to_width / to_height)))
    box_height = min(height, max(1, round(width * to_height / to_width)))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def _as_pil(image: Picture) -> Any:
    from PIL.Image import Image, alpha_composite, fromarray, new

    if image is None:
        raise InputError("An image-to-video model starts from a picture: give one, such as image='photo.png'.")
    if isinstance(image, str | Path):
        image = Video.read(image, num_frames=1)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise InputError(f"A picture is (3, height, width) in [-1, 1]; got {tuple(image.shape)}.")
        image = Video(image[None].float().cpu(), 1.0)
    if isinstance(image, Video):
        image = fromarray(image.to_uint8()[0])
    if not isinstance(image, Image):
        raise InputError(f"A picture is a path, a PIL image, a Video or a tensor, not a {type(image).__name__}.")
    alpha = may_show_through(image)
    image = fromarray(pixels_of(image, alpha, getattr(image, "filename", None) or "the picture"))
    if not alpha:
        return image
    backdrop = new("RGBA", image.size, "white")  # transparent pictures stand before white, as `Video.over` does
    return alpha_composite(backdrop, image).convert("RGB")


def _as_tensor(picture: Any) -> Tensor:
    import numpy as np

    pixels = torch.from_numpy(np.array(picture, dtype=np.float32))
    return pixels.permute(2, 0, 1)[None] / 255 * 2 - 1


def check_options(options: dict[str, Any], seed: int, trained_frames: int) -> None:
    """Refuse what cannot be sampled, in the words of the flags.

    Raises:
        InputError: Names the flag, what was given and what is allowed.
    """
    limits: Limits = (
        ("num_inference_steps", 1, 1000),
        ("num_frames", 1, 4 * trained_frames),
        ("min_guidance_scale", 0, 100),
        ("max_guidance_scale", 0, 100),
        ("height", 1, 8192),
        ("width", 1, 8192),
    )
    check_limits(options, seed, limits)
    check_fps(options["fps"])


def load_image_to_video(
    directory: str | Path, *, device: str | torch.device | None = None, norms: Any = "original"
) -> ImageToVideo:
    """Load a Stable Video Diffusion folder of diffusers or of ours.

    Args:
        directory: Folder with `model_index.json`.
        device: Where to put it; None takes the accelerator if there is one.
        norms: See `load_stable_video_diffusion`.

    Raises:
        WeightsError: A file is missing, or a configuration or weights do not fit.
    """
    from kineograph.systems.svd_folder import load_stable_video_diffusion

    parts = load_stable_video_diffusion(directory, norms=norms)
    return ImageToVideo(parts.to(torch.device(device) if device is not None else best_device()))
