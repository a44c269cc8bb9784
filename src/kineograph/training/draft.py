"""The draft of a model: a small network that learns the clip of every caption, frame by frame.

A sample is one caption and one frame; a clip's frames are those around its middle. The loss is the squared error,
whose minimum is the conditional mean: the best denoiser at infinite noise. The sentence embedding is blurred with
noise of random strength, so that the network is smooth where no caption lies (Bishop 1995,
doi:10.1162/neco.1995.7.1.108: training with noise is Tikhonov regularisation): a tone that a name was never seen with
changes its clip as it changes others'.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kineograph.data.balance import EvenDraw
from kineograph.data.latents import LatentStore
from kineograph.diffusion.noise import mix_seed
from kineograph.errors import DataError, InputError
from kineograph.models.draft import DraftNetwork, frame_moments, unit_variance
from kineograph.models.latent_video import LatentVideoModel
from kineograph.training.captions import CaptionTokens
from kineograph.training.diffusion import PREVIEW_PROMPTS, write_clips

VALIDATION_CLIPS = 256


class DraftTask:
    """Trains the draft of a latent model.

    Args:
        model: The parts; only the draft changes.
        store: Latents of the data set.
        captions: Tokens of every clip's captions and how often each is shown.
        held_out: Split to validate on beside training clips.
        balance: Field of the manifest whose values are shown more evenly (see `data.balance`); empty: all clips alike.
        blur: Largest deviation of the noise on the sentence embedding, whose own values have deviation 1.
    """

    name = "draft"

    def __init__(
        self,
        model: LatentVideoModel,
        store: LatentStore,
        captions: CaptionTokens,
        *,
        held_out: str = "",
        balance: str = "",
        blur: float = 0.5,
    ) -> None:
        if model.draft is None:
            raise InputError("The model has no draft to train.")
        self.model, self.store, self.captions, self.blur = model, store, captions, blur
        self.network: DraftNetwork = model.draft
        self.clips = store.frames.clips_of("train")
        self.num_samples = len(self.clips)
        if self.num_samples == 0:
            raise DataError("The data set has no training clip.")
        self.drawn = EvenDraw(self.clips, store.frames.clips, balance)
        self.moments = frame_moments(self.network.frames, self.network.frames)
        self.test_clips = _some(store.frames.clips_of(held_out))

    def start_from_data(self) -> None:
        """Let a fresh network answer all prompts with the mean of the training pictures, and know their captions."""
        mean = torch.stack([self.middle(int(clip)) for clip in self.clips]).mean(dim=0)
        with torch.no_grad():
            self.network.leave.bias.copy_(mean.flatten())
        self.network.known.place(unit_variance(self._first(self.clips)).to(mean.device))

    def frames(self, clip: int) -> Tensor:
        """Return the latents of the frames of a clip that the draft shows, those around its middle, `(n, c, h, w)`."""
        rows = [self._row(clip, frame) for frame in range(self.network.frames)]
        return torch.from_numpy(self.store.latents[rows].astype(np.float32))

    def middle(self, clip: int) -> Tensor:
        """Return the latents of a clip's middle frame, `(c, h, w)`."""
        row = self._row(clip, self.network.frames // 2)
        return torch.from_numpy(self.store.latents[row].astype(np.float32))

    def _row(self, clip: int, frame: int) -> int:
        """Return where a frame that the draft shows stands; a shorter clip rests at its end."""
        count = int(self.store.frames.counts[clip])
        before = max(0, count - self.network.frames) // 2
        return int(self.store.frames.starts[clip]) + min(before + frame, count - 1)

    def load(self, indices: list[int], seeds: list[int]) -> dict[str, Tensor]:
        """Return frames `(n, c, h, w)`, sentences `(n, 1, dim)`, moments `(n,)` and noise on sentences `(n, dim)`."""
        samples = [self._sample(int(self.clips[i]), seed) for i, seed in zip(indices, seeds, strict=True)]
        clips, frames, texts, noise = zip(*samples, strict=True)
        rows = [self._row(clip, frame) for clip, frame in zip(clips, frames, strict=True)]
        return {
            "pictures": torch.from_numpy(self.store.latents[rows].astype(np.float32)),
            "context": self.captions.rows(texts, length=1),
            "moments": self.moments[list(frames)],
            "noise": torch.from_numpy(np.stack(noise)),
        }

    def _sample(self, clip: int, seed: int) -> tuple[int, int, int, np.ndarray]:
        """Choose a clip, one of its frames, a row of its captions, and the noise on that sentence."""
        choose = np.random.default_rng(mix_seed(seed, 7))
        clip = self.drawn(clip, choose)
        frame, text = int(choose.integers(self.network.frames)), self.captions.draw_row(clip, choose)
        noise = choose.standard_normal(self.network.text_dim, np.float32)
        return clip, frame, text, np.float32(self.blur * choose.random()) * noise

    def loss(self, network: Callable[..., Any], batch: dict[str, Tensor], seeds: list[int]) -> Tensor:
        """Return the mean squared error of each sample, its embedding blurred."""
        made = network(batch["context"], batch["moments"], batch["noise"]).float()
        return ((made - batch["pictures"]) ** 2).flatten(1).mean(dim=1)

    def validate(self) -> dict[str, float]:
        """Return the share of the variance that is not explained, of middle frames and of motion around the mean frame.

        Both of training clips and of held-out ones; motion of those that have as many frames as the draft.
        """
        chosen = {"train": _some(self.clips), "held_out": self.test_clips}
        found = {f"{name}_unexplained": self.unexplained(clips) for name, clips in chosen.items() if len(clips) > 1}
        moving = {name: clips[self.store.frames.counts[clips] >= self.network.frames] for name, clips in chosen.items()}
        motion = {name: self.motion_unexplained(clips) for name, clips in moving.items() if len(clips)}
        return found | {f"{name}_motion_unexplained": value for name, value in motion.items()}

    def unexplained(self, clips: np.ndarray) -> float:
        """Return the squared error of clips' first captions over the variance of their middle frames."""
        pictures = torch.stack([self.middle(int(clip)) for clip in clips]).to(self.model.device)
        error = (self.network(self._first(clips), self._middle_moment(len(clips))) - pictures).square().mean()
        return (error / (pictures - pictures.mean(dim=0)).square().mean()).item()

    def motion_unexplained(self, clips: np.ndarray) -> float:
        """Return the squared error of clips' frames less their mean over time, over its size; 1 is no motion."""
        error = size = 0.0
        for clip in clips:
            real = self.frames(int(clip)).to(self.model.device)
            made = self.network.clip(self._first(np.array([clip])), self.network.frames)[0]
            real, made = real - real.mean(dim=0), made - made.mean(dim=0)
            error, size = error + (made - real).square().sum().item(), size + real.square().sum().item()
        return error / size if size else 1.0

    def _first(self, clips: np.ndarray) -> Tensor:
        return self.captions.rows([self.captions.texts[clip][0] for clip in clips], length=1).to(self.model.device)

    def _middle_moment(self, count: int) -> Tensor:
        return self.moments[self.network.frames // 2].expand(count).to(self.model.device)

    def preview(self, directory: Path) -> None:
        """Write a sheet of drafts, decoded."""
        from kineograph.video import Video

        drafts = self.network.clip(self.model.text(PREVIEW_PROMPTS), self.network.frames)
        clips = [self.model.autoencoder.decode(draft[None])[0].float().cpu() for draft in drafts]
        write_clips([Video(clip, self.model.settings.fps) for clip in clips], PREVIEW_PROMPTS, directory)

    def export(self, directory: Path) -> None:
        """Write the whole model, ready to `generate`."""
        self.model.save_pretrained(directory, torch.float32)


def _some(clips: np.ndarray) -> np.ndarray:
    """Return clips evenly spread over some."""
    return clips[:: max(1, len(clips) // VALIDATION_CLIPS)][:VALIDATION_CLIPS]
