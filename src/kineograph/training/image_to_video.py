"""Training Stable Video Diffusion: one loss for its stages, from text, from a picture, between frames.

Blattmann et al. 2023, arXiv:2311.15127, appendix D. The stages are `stable_video_diffusion.STAGES`;
`models.image_to_video.widen_input` leads from one to the next. What the network is told is prepared by the functions
that sampling calls: `ImageCondition.of_text`, `ImageToVideoModel.condition`, `ImageToVideoModel.between`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kineograph.data.latents import LatentStore
from kineograph.diffusion.noise import iid, mix_seed
from kineograph.diffusion.objective import log_normal_sigmas, weighted_mse
from kineograph.diffusion.parameterization import SVD, add_noise, expand, training_target
from kineograph.errors import InputError
from kineograph.models.image_to_video import (
    NUMBERS,
    ConditionedNetwork,
    ImageCondition,
    ImageToVideoModel,
    augmentation_noise,
    training_augmentation,
)
from kineograph.models.image_to_video_folder import save_image_to_video
from kineograph.models.latent_video import LatentVideoModel
from kineograph.models.temporal_autoencoder import TemporalAutoencoder
from kineograph.training.autoencoder import to_pixels
from kineograph.training.batches import generators, rand
from kineograph.training.captions import CaptionTokens
from kineograph.training.diffusion import VALIDATION_CLIPS, losses_by_level
from kineograph.training.opening import PREVIEWS, training_clips, usable
from kineograph.training.previews import STEPS, Steps, draw_prompts, write_clips
from kineograph.training.resume import autoencoder_print
from kineograph.training.task import Progress, Told, tracked

Choose = np.random.Generator | None  # None: nothing is left to chance, for validation
STRIDES = (1, 2, 3)  # every how many frames of a clip are shown, so that the frame rate that is told has a meaning
BUCKETS = 255
REFERENCE_CLIPS = 512  # whose motion the buckets are ranks of
VALIDATION_SIGMAS = (0.3, 1.0, 3.0, 10.0, 30.0)


def stage_sigmas(stage: Any, u: Tensor) -> Tensor:
    """Turn uniform numbers `(batch,)` into the noise levels that a stage is trained at.

    Args:
        stage: Has `sigma_mean` and `sigma_std`, such as an entry of `stable_video_diffusion.STAGES`.
        u: Uniform in [0, 1).
    """
    return log_normal_sigmas(u, stage.sigma_mean, stage.sigma_std)


def edm_v_loss(
    network: Callable[[Tensor, Tensor, ImageCondition], Tensor],
    latents: Tensor,
    condition: ImageCondition,
    noise: Tensor,
    sigma: Tensor,
    dropped: Tensor | None = None,
) -> Tensor:
    """Return the loss of each clip, the squared error of v.

    EDM's weight for data of deviation 1, `(sigma**2 + 1) / sigma**2` on the error of x0, is 1 on that of v.

    Args:
        network: A `ConditionedNetwork`.
        latents: Scaled latents `(batch, frames, c, h, w)`.
        condition: From `ImageToVideoModel.condition` or `between`, or of text.
        noise: Standard normal, of the shape of the latents.
        sigma: Noise levels `(batch,)`.
        dropped: Bool `(batch,)`: clips that are trained without their condition, for guidance.

    Returns:
        float32 `(batch,)`.
    """
    told = condition if dropped is None else condition.dropped(dropped)
    alpha = torch.ones_like(sigma)
    assert SVD.c_in is not None
    assert SVD.c_noise is not None
    x = add_noise(latents, noise, alpha, sigma)
    output = network(expand(SVD.c_in(alpha, sigma), x) * x, SVD.c_noise(alpha, sigma), told)
    return weighted_mse(output, training_target(SVD, latents, noise, alpha, sigma))


# --- How much a clip moves ------------------------------------------------------------------------------------------


def motion_score(latents: np.ndarray) -> float:
    """Return the mean absolute change of latents `(frames, c, h, w)` from frame to frame."""
    return float(np.abs(np.diff(latents.astype(np.float32), axis=0)).mean()) if len(latents) > 1 else 0.0


class MotionBuckets:
    """Amounts of motion as numbers from 0 to 255: the rank of a clip's motion among those of a data set.

    Differs from Stable Video Diffusion, which takes the amount from optical flow and does not say how it is cut.

    Args:
        scores: `motion_score` of clips of the data set.
    """

    def __init__(self, scores: Sequence[float]) -> None:
        self.scores = np.sort(np.asarray(scores, np.float64))

    def __call__(self, latents: np.ndarray) -> float:
        """Return the bucket of a clip's latents `(frames, c, h, w)`."""
        below = np.searchsorted(self.scores, motion_score(latents), side="right")
        return round(BUCKETS * float(below) / len(self.scores))


# --- What a clip is made from ---------------------------------------------------------------------------------------


class Source(Protocol):
    """What the network is given beside noise, in training as in sampling."""

    given: str
    network: ConditionedNetwork

    @property
    def model(self) -> LatentVideoModel | ImageToVideoModel:
        """What the network is a part of."""
        ...

    def load(self, store: LatentStore, clip: int, rows: np.ndarray, choose: Choose) -> dict[str, Tensor]:
        """Return what this stage reads of a clip beside its latents; `rows` are those of its frames."""
        ...

    def condition(self, batch: dict[str, Tensor], seeds: list[int]) -> ImageCondition:
        """Prepare what the network is told, by the function that sampling uses."""
        ...

    def preview(
        self, store: LatentStore, clips: np.ndarray, num_frames: int, directory: Path, progress: Progress | None = None
    ) -> None:
        """Draw clips with fixed seeds."""
        ...

    def export(self, directory: Path) -> None:
        """Write the whole model, ready to `generate`."""
        ...


def first_picture(store: LatentStore, rows: np.ndarray) -> Tensor:
    """Return the first of a clip's frames, `(3, height, width)` in [-1, 1]."""
    return to_pixels(store.frames.frames[rows[0]])


class FromText:
    """Pretraining: captions, as context.

    Args:
        model: Told log(sigma) / 4, frame rate and amount of motion.
        captions: Of every clip.
        caption_dropout: Share of clips trained with the empty caption.
        preview_prompts: Prompts of the previews.
    """

    given = "text"

    def __init__(
        self,
        model: LatentVideoModel,
        captions: CaptionTokens,
        caption_dropout: float = 0.1,
        preview_prompts: Sequence[str] = (),
    ) -> None:
        self.preview_prompts = tuple(preview_prompts)
        width = model.network.config["projection_class_embeddings_input_dim"] // NUMBERS
        self.model, self.captions, self.dropout = model, captions, caption_dropout
        self.network = ConditionedNetwork(model.network, width)
        self.empty = model.text([""])[0]

    def load(self, store: LatentStore, clip: int, rows: np.ndarray, choose: Choose) -> dict[str, Tensor]:
        """Return the tokens of one caption, some clips' of the empty one."""
        if choose is None:
            return {"tokens": self.captions.first(clip)}
        tokens = self.captions.draw(clip, choose)
        return {"tokens": self.empty.to(tokens) if choose.random() < self.dropout else tokens}

    def condition(self, batch: dict[str, Tensor], seeds: list[int]) -> ImageCondition:
        """Tell the network tokens, frame rate and motion."""
        return ImageCondition.of_text(batch["tokens"], batch["fps"].tolist(), batch["motion"].tolist())

    def preview(
        self, store: LatentStore, clips: np.ndarray, num_frames: int, directory: Path, progress: Progress | None = None
    ) -> None:
        """Sample fixed prompts."""
        draw_prompts(self.model, self.preview_prompts, num_frames, directory, progress)

    def export(self, directory: Path) -> None:
        """Write the model in float32."""
        self.model.save_pretrained(directory, torch.float32)


class FromPicture:
    """Finetuning: the first frame, slightly noised.

    Args:
        model: Whose network takes the picture's latent beside the noisy ones.
    """

    given = "picture"

    def __init__(self, model: ImageToVideoModel) -> None:
        self.model, self.network = model, model.conditioned

    def load(self, store: LatentStore, clip: int, rows: np.ndarray, choose: Choose) -> dict[str, Tensor]:
        """Return the first frame."""
        return {"picture": first_picture(store, rows)}

    @torch.no_grad()
    def condition(self, batch: dict[str, Tensor], seeds: list[int]) -> ImageCondition:
        """Encode the noised first frame; how much noise and which follows from the seeds."""
        strength = training_augmentation(rand(generators([mix_seed(seed, 9) for seed in seeds])))
        return self.model.condition(
            batch["picture"],
            batch["latents"].shape[1],
            noise=augmentation_noise(batch["picture"], seeds),
            fps=batch["fps"].cpu(),
            motion_bucket_id=batch["motion"].cpu(),
            noise_aug_strength=strength,
        )

    def preview(
        self, store: LatentStore, clips: np.ndarray, num_frames: int, directory: Path, progress: Progress | None = None
    ) -> None:
        """Let the first frames of clips move."""
        from kineograph.sampling.image_to_video import ImageToVideo

        model, names = ImageToVideo(self.model), [store.frames.clips[int(clip)].caption for clip in clips]
        pictures = [to_pixels(store.frames.frames[store.frames.starts[clip]]) for clip in clips]
        told = Steps(len(pictures), progress)
        options = {"num_frames": num_frames, "num_inference_steps": STEPS, "callback": told}
        write_clips([model.generate(picture, **options) for picture in pictures], names, directory)

    def export(self, directory: Path) -> None:
        """Write the model in diffusers' layout if that can hold it, else in ours."""
        export(self.model, directory)


class BetweenFrames(FromPicture):
    """Finetuning for interpolation: the first and last frame, and a mask.

    Args:
        model: Whose network takes both beside the noisy latents.
    """

    given = "frames"

    @torch.no_grad()
    def condition(self, batch: dict[str, Tensor], seeds: list[int]) -> ImageCondition:
        """Tell the network both ends."""
        numbers = {"fps": batch["fps"].cpu(), "motion_bucket_id": batch["motion"].cpu()}
        return self.model.between(batch["latents"], batch["picture"], **numbers)

    def preview(
        self, store: LatentStore, clips: np.ndarray, num_frames: int, directory: Path, progress: Progress | None = None
    ) -> None:
        """Make the frames between every so many frames of clips."""
        from kineograph.sampling.image_to_video import ImageToVideo
        from kineograph.video import Video

        model, frames, videos = ImageToVideo(self.model), store.frames, []
        for clip in tracked(clips, progress, "previews"):
            rows = frames.starts[clip] + np.arange(0, int(frames.counts[clip]), num_frames - 1)[:3]
            given = Video(to_pixels(frames.frames[rows]), frames.spec.fps / (num_frames - 1))
            videos.append(model.interpolate(given, between=num_frames - 2, num_inference_steps=STEPS))
        write_clips(videos, [f"{frames.clips[int(clip)].caption}" for clip in clips], directory)


def export(model: ImageToVideoModel, directory: Path) -> None:
    """Write a model: one with Stable Video Diffusion's own autoencoder as diffusers lays it out, others as we do."""
    from kineograph.systems.svd_folder import save_stable_video_diffusion

    own = isinstance(model.autoencoder, TemporalAutoencoder)
    (save_stable_video_diffusion if own else save_image_to_video)(model, directory, torch.float32)


# --- The task -------------------------------------------------------------------------------------------------------


class ImageToVideoTask(Told):
    """Trains one stage of Stable Video Diffusion on cached latents.

    Args:
        source: What the network is given, with the network.
        store: Latents of the data set.
        stage: An entry of `stable_video_diffusion.STAGES`; its noise levels are used.
        num_frames: Frames per sample.
        held_out: Split to validate on beside training clips.
        dropout: Share of clips trained without what they are given; captions have their own.
    """

    part = "network"

    def __init__(
        self,
        source: Source,
        store: LatentStore,
        stage: Any,
        *,
        num_frames: int,
        held_out: str = "",
        dropout: float = 0.1,
    ) -> None:
        if not 0 <= dropout < 1:
            raise InputError(f"The share of clips without their condition is from 0 to below 1, not {dropout}.")
        shortest = 3 if source.given == "frames" else 2
        if num_frames < shortest:
            raise InputError(f"--num-frames must be at least {shortest} for this stage, not {num_frames}.")
        self.source, self.store, self.stage = source, store, stage
        self.network, self.num_frames = source.network, num_frames
        self.dropout = dropout if source.given == "picture" else 0.0
        self.name = f"stable-video-diffusion-{source.given}"
        self.held_out = held_out
        self.clips = training_clips(store.frames, num_frames)
        self.test_clips = usable(store.frames, held_out, num_frames)[:VALIDATION_CLIPS]
        self.num_samples = len(self.clips)
        reference = self.clips[:: -(-len(self.clips) // REFERENCE_CLIPS)]
        self.buckets = MotionBuckets([motion_score(self._latents(self._rows(int(clip), 0, 1))) for clip in reference])

    def facts(self) -> dict[str, Any]:
        """Return data, stage and kind of training, by flag."""
        own = {"num-frames": self.num_frames, "stage": self.source.given, "held-out": self.held_out}
        own |= {"caption-dropout": self.dropout, "base": autoencoder_print(self.source.model)}
        return {**self.store.frames.facts(), **own}

    def load(self, indices: list[int], seeds: list[int]) -> dict[str, Tensor]:
        """Return latents `(n, frames, c, h, w)`, frame rates, motion buckets and what the stage is given."""
        return _stacked([self._sample(int(self.clips[i]), seed) for i, seed in zip(indices, seeds, strict=True)])

    def _sample(self, clip: int, seed: int) -> dict[str, Tensor]:
        """Cut one training sample; every choice follows from the seed."""
        choose = np.random.default_rng(mix_seed(seed, 7))
        length = int(self.store.frames.counts[clip])
        fitting = [stride for stride in STRIDES if (self.num_frames - 1) * stride < length]
        stride = int(choose.choice(fitting or [1]))
        last = max(0, length - 1 - (self.num_frames - 1) * stride)
        return self._cut(clip, int(choose.integers(0, last + 1)), stride, choose)

    def _cut(self, clip: int, start: int, stride: int, choose: Choose) -> dict[str, Tensor]:
        rows = self._rows(clip, start, stride)
        latents = self._latents(rows)
        return {
            "latents": torch.from_numpy(latents).float(),
            "fps": torch.tensor(self.store.frames.spec.fps / stride),
            "motion": torch.tensor(float(self.buckets(latents))),
            **self.source.load(self.store, clip, rows, choose),
        }

    def _rows(self, clip: int, start: int, stride: int) -> np.ndarray:
        """Return the rows of a window's frames, the last one repeated past the clip's end."""
        first, length = int(self.store.frames.starts[clip]), int(self.store.frames.counts[clip])
        return first + np.minimum(start + stride * np.arange(self.num_frames), length - 1)

    def _latents(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.store.latents[rows])

    def loss(self, network: Callable[..., Any], batch: dict[str, Tensor], seeds: list[int]) -> Tensor:
        """Return the loss of each clip at a noise level of the stage."""
        u = rand(generators([mix_seed(seed, 8) for seed in seeds]), 2)
        dropped = u[:, 1] < self.dropout
        return self.error(network, batch, stage_sigmas(self.stage, u[:, 0]), seeds, dropped)

    def error(
        self,
        network: Callable[..., Any],
        batch: dict[str, Tensor],
        sigma: Tensor,
        seeds: list[int],
        dropped: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of each clip at given noise levels, with noise from the seeds."""
        latents = batch["latents"]
        _, frames, channels, height, width = latents.shape
        noise = iid((frames, channels, height, width), seeds).to(latents.device)
        condition = self.source.condition(batch, seeds)
        dropped = dropped.to(latents.device) if dropped is not None and bool(dropped.any()) else None
        return edm_v_loss(network, latents, condition, noise, sigma.to(latents.device), dropped)

    def validate(self) -> dict[str, float]:
        """Return the loss at fixed noise levels and seeds, on training and on held-out clips."""
        measure = self.validation_loss
        return losses_by_level(self.clips, self.test_clips, VALIDATION_SIGMAS, measure, "sigma", self.progress)

    def validation_loss(self, clips: np.ndarray, sigma: float) -> float:
        """Return the mean loss of the first frames of clips at one noise level."""
        device, total = self.network.network.device, 0.0
        for clip in clips:
            sample = _stacked([self._cut(int(clip), 0, 1, None)])
            batch = {name: tensor.to(device) for name, tensor in sample.items()}
            total += self.error(self.network, batch, torch.tensor([sigma]), [int(clip)]).item()
        return total / len(clips)

    def preview(self, directory: Path) -> None:
        """Draw clips with fixed seeds, from held-out clips where the stage is given pictures."""
        clips = (self.test_clips if len(self.test_clips) else self.clips)[:PREVIEWS]
        self.source.preview(self.store, clips, self.num_frames, directory, self.progress)

    def export(self, directory: Path) -> None:
        """Write the whole model."""
        self.source.export(directory)


def _stacked(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
