"""Stages two and three: the latent image model, then time.

With `num_frames=1` the samples are single frames and the whole network is trained (Rombach et al. 2022,
arXiv:2112.10752, sec. 3.3). With more, the samples are clips and the parameters that are trainable are the caller's
choice: the temporal layers only (Blattmann et al. 2023, arXiv:2304.08818, sec. 3.1), or all with still pictures mixed
in (Ho et al. 2022, arXiv:2204.03458, sec. 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from kineograph.data.balance import EvenDraw
from kineograph.data.latents import LatentStore
from kineograph.diffusion.noise import mix_seed
from kineograph.diffusion.objective import timesteps_of
from kineograph.diffusion.parameterization import add_noise, training_target
from kineograph.diffusion.process import shift_time
from kineograph.errors import InputError
from kineograph.models.latent_video import LatentVideoModel, draw_noise
from kineograph.models.video_unet import VideoUNet
from kineograph.training.batches import generators, rand
from kineograph.training.captions import CaptionTokens
from kineograph.training.opening import preview_prompts as choose_prompts
from kineograph.training.opening import training_clips, usable
from kineograph.training.previews import draw_prompts
from kineograph.training.resume import autoencoder_print
from kineograph.training.task import Progress, Told, tracked

VALIDATION_TIMESTEPS = (100, 300, 500, 700, 900)
VALIDATION_CLIPS = 16


class DiffusionTask(Told):
    """Trains the network of a latent video model on cached latents.

    Args:
        model: The parts; only the network's trainable parameters change.
        store: Latents of the data set.
        captions: Tokens of every clip's captions and how often each is shown.
        num_frames: Frames per sample; 1 trains on pictures.
        held_out: Split to validate on beside training clips.
        caption_dropout: Share of samples whose caption is replaced by the empty one (0.1 in Ho & Salimans 2022,
            arXiv:2207.12598).
        image_share: With `num_frames > 1`, the share of samples that are independent pictures: the frames of such a
            sample come from clips of their own and temporal layers pass them by.
        balance: Field of the manifest whose values are shown more evenly (see `data.balance`); empty: all clips alike.
        timestep_shift: Moves the timesteps that are drawn towards noise: 3 puts half of them into the noisiest quarter
            (Esser et al. 2024, arXiv:2403.03206, sec. 3.1 weights levels by how often they are drawn as well); 1 draws
            all alike, as Ho et al. 2020 do.
        preview_prompts: Prompts of the previews; none: captions of the data set.
    """

    part = "network"

    def __init__(
        self,
        model: LatentVideoModel,
        store: LatentStore,
        captions: CaptionTokens,
        *,
        num_frames: int = 1,
        held_out: str = "",
        caption_dropout: float = 0.1,
        image_share: float = 0.0,
        balance: str = "",
        timestep_shift: float = 1.0,
        preview_prompts: Sequence[str] = (),
    ) -> None:
        if not 0 <= caption_dropout < 1 or not 0 <= image_share < 1:
            raise InputError(
                f"Shares are from 0 to below 1, not caption dropout {caption_dropout}, image share {image_share}."
            )
        if not timestep_shift > 0:
            raise InputError(f"A timestep shift is above 0 (1: none; 3: more noise), not {timestep_shift}.")
        self.model, self.store, self.captions = model, store, captions
        self.timestep_shift = timestep_shift
        self.network: VideoUNet = model.network
        self.num_frames, self.dropout, self.image_share = num_frames, caption_dropout, image_share
        self.preview_prompts = tuple(preview_prompts) or choose_prompts(store.frames, held_out)
        self.held_out, self.balance = held_out, balance
        self.name = "latent-image" if num_frames == 1 else "latent-video"
        self.clips = training_clips(store.frames, num_frames)
        self.pictures = store.frames.clips_of("train")
        self.test_clips = usable(store.frames, held_out, num_frames)[:VALIDATION_CLIPS]
        self.num_samples = len(self.clips)
        self.drawn = EvenDraw(self.clips, store.frames.clips, balance)
        self.empty = model.text([""])[0]

    def facts(self) -> dict[str, Any]:
        """Return data, system and kind of training, by flag."""
        own, settings = {"num-frames": self.num_frames, "balance": self.balance}, self.model.settings
        own |= {"stage": settings.system, "noise": settings.noise, "noise-alpha": settings.noise_alpha}
        own |= {"caption-dropout": self.dropout, "image-share": self.image_share}
        own |= {"timestep-shift": self.timestep_shift, "held-out": self.held_out}
        return {**self.store.frames.facts(), **own, "base": autoencoder_print(self.model)}

    # Samples ------------------------------------------------------------------------------------------------------

    def load(self, indices: list[int], seeds: list[int]) -> dict[str, Tensor]:
        """Return latents `(n, frames, c, h, w)`, tokens `(n, frames, tokens, dim)`, and which samples are pictures."""
        samples = [self._sample(int(self.clips[i]), seed) for i, seed in zip(indices, seeds, strict=True)]
        return {
            "latents": torch.stack([latents for latents, _, _ in samples]),
            "context": torch.stack([context for _, context, _ in samples]),
            "pictures": torch.tensor([pictures for _, _, pictures in samples]),
        }

    def _sample(self, clip: int, seed: int) -> tuple[Tensor, Tensor, bool]:
        """Cut one training sample; every choice follows from the seed."""
        choose = np.random.default_rng(mix_seed(seed, 7))
        clip = self.drawn(clip, choose)
        as_pictures = self.num_frames > 1 and choose.random() < self.image_share
        if as_pictures:
            picks = choose.choice(self.pictures, self.num_frames)
            latents = np.concatenate([self._window(int(pick), 1, choose) for pick in picks])
        else:
            picks = np.array([clip])
            latents = self._window(clip, self.num_frames, choose)
        context = self._context(picks, choose)
        return torch.from_numpy(latents).float(), context.expand(self.num_frames, -1, -1), as_pictures

    def _window(self, clip: int, count: int, choose: np.random.Generator) -> np.ndarray:
        """Cut `count` frames at a random place of a clip."""
        last = max(0, int(self.store.frames.counts[clip]) - count)
        return self.store.window(clip, int(choose.integers(0, last + 1)), count)

    def _context(self, picks: np.ndarray, choose: np.random.Generator) -> Tensor:
        """Return the tokens of clips `(picks, tokens, dim)`, some replaced by the empty caption's."""
        tokens = torch.stack([self.captions.draw(int(pick), choose) for pick in picks])
        dropped = torch.from_numpy(choose.random(len(picks)) < self.dropout)
        return torch.where(dropped[:, None, None], self.empty.to(tokens), tokens)

    # Loss ---------------------------------------------------------------------------------------------------------

    def loss(self, network: Callable[..., Any], batch: dict[str, Tensor], seeds: list[int]) -> Tensor:
        """Return the mean squared error of each sample at a random timestep."""
        u = shift_time(rand(generators([mix_seed(seed, 8) for seed in seeds])), self.timestep_shift)
        timesteps = timesteps_of(u, self.model.schedule.num_timesteps)
        return self.error(network, batch, timesteps, seeds)

    def error(
        self, network: Callable[..., Any], batch: dict[str, Tensor], timesteps: Tensor, seeds: list[int]
    ) -> Tensor:
        """Return the mean squared error of each sample at given timesteps, with noise from the seeds."""
        latents, context, pictures = batch["latents"], batch["context"], batch["pictures"]
        kind = self.model.plan.kind
        timesteps = timesteps.to(latents.device)
        alpha, sigma = self.model.schedule.alpha_sigma(timesteps)
        _, frames, channels, height, width = latents.shape
        noise = draw_noise(self.model.settings, (frames, channels, height, width), seeds).to(latents.device)
        noisy = add_noise(latents, noise, alpha, sigma)
        target = training_target(kind, latents, noise, alpha, sigma)
        output = self._predict(network, noisy, timesteps, context, pictures)
        return ((output.float() - target) ** 2).flatten(1).mean(dim=1)

    def _predict(
        self, network: Callable[..., Any], noisy: Tensor, timesteps: Tensor, context: Tensor, pictures: Tensor
    ) -> Tensor:
        """Run the network; a sample of pictures runs as that many clips of one frame."""
        if not bool(pictures.any()):
            return network(noisy, timesteps, context)
        frames, clips, singles = noisy.shape[1], ~pictures, pictures
        alone = network(
            rearrange(noisy[singles], "b f c h w -> (b f) 1 c h w"),
            timesteps[singles].repeat_interleave(frames),
            rearrange(context[singles], "b f n d -> (b f) 1 n d"),
        )
        alone = rearrange(alone, "(b f) 1 c h w -> b f c h w", f=frames)
        if not bool(clips.any()):
            return alone
        output = torch.empty(noisy.shape, dtype=alone.dtype, device=noisy.device)
        output[singles], output[clips] = alone, network(noisy[clips], timesteps[clips], context[clips]).to(alone.dtype)
        return output

    # Looking ------------------------------------------------------------------------------------------------------

    def validate(self) -> dict[str, float]:
        """Return the loss at fixed noise levels and seeds, on training and on held-out clips."""
        measure = self.validation_loss
        return losses_by_level(self.clips, self.test_clips, VALIDATION_TIMESTEPS, measure, "t", self.progress)

    def validation_loss(self, clips: np.ndarray, timestep: int) -> float:
        """Return the mean loss of the first frames of clips at one timestep."""
        total = 0.0
        for clip in clips:
            latents = torch.from_numpy(self.store.window(int(clip), 0, self.num_frames)).float()[None]
            context = self.captions.first(int(clip)).expand(self.num_frames, -1, -1)[None]
            batch = {"latents": latents, "context": context, "pictures": torch.zeros(1, dtype=torch.bool)}
            batch = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
            total += self.error(self.network, batch, torch.tensor([timestep]), [int(clip)]).item()
        return total / len(clips)

    def preview(self, directory: Path) -> None:
        """Sample the preview prompts with fixed seeds: a contact sheet, and clips if there is motion."""
        draw_prompts(self.model, self.preview_prompts, self.num_frames, directory, self.progress)

    def export(self, directory: Path) -> None:
        """Write the whole model, ready to `generate`; in float32, so that the next stage finds its latents cached."""
        self.model.save_pretrained(directory, torch.float32)


def losses_by_level(
    train: np.ndarray,
    held_out: np.ndarray,
    levels: Sequence[float],
    measure: Callable[[np.ndarray, Any], float],
    unit: str,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Measure the loss at fixed noise levels, on a few clips of each split.

    Args:
        train: Clips that are trained on; some, evenly spread, are taken.
        held_out: Clips that are not; may be none.
        levels: Noise levels.
        measure: `measure(clips, level)`, the mean loss.
        unit: What levels are called in the names, such as `"t"`.
        progress: Called with `(done, total, what)`.

    Returns:
        `train_t300` and so on for each level, and `train_mean`; likewise `held_out_...`.
    """
    spread = train[:: max(1, len(train) // VALIDATION_CLIPS)][:VALIDATION_CLIPS]
    chosen = {"train": spread, "held_out": held_out[:VALIDATION_CLIPS]}
    asked = [(name, level) for name, clips in chosen.items() if len(clips) for level in levels]
    values: dict[str, float] = {}
    for name, level in tracked(asked, progress, "validation"):
        values[f"{name}_{unit}{level:g}"] = measure(chosen[name], level)
        if level == levels[-1]:
            values[f"{name}_mean"] = sum(values[f"{name}_{unit}{level:g}"] for level in levels) / len(levels)
    return values
