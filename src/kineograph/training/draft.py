"""The draft of an image model: a small network that learns one picture of every caption.

The target is a clip's typical frame, the one nearest to the mean over its frames; the mean itself smears what moves.
The loss is the squared error, whose minimum is the conditional mean over clips: the best denoiser of typical frames at
infinite noise. The sentence embedding is blurred with noise of random strength, so that the network is smooth where no
caption lies (Bishop 1995, doi:10.1162/neco.1995.7.1.108: training with noise is Tikhonov regularisation), and a prompt
that is no caption gets the picture of its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kineograph.data.balance import even_shares
from kineograph.data.latents import LatentStore
from kineograph.diffusion.noise import mix_seed
from kineograph.errors import DataError, InputError
from kineograph.models.draft import DraftNetwork
from kineograph.models.latent_video import LatentVideoModel
from kineograph.training.batches import generators, rand, randn
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
        blur: float = 1.2,
    ) -> None:
        if model.draft is None:
            raise InputError("The model has no draft to train.")
        self.model, self.store, self.captions, self.blur = model, store, captions, blur
        self.network: DraftNetwork = model.draft
        self.clips = store.frames.clips_of("train")
        self.num_samples = len(self.clips)
        if self.num_samples == 0:
            raise DataError("The data set has no training clip.")
        chosen = [store.frames.clips[i] for i in self.clips]
        self.shares = even_shares(chosen, balance) if balance else None
        self._typical: dict[int, int] = {}
        self.test_clips = _some(store.frames.clips_of(held_out))

    def start_at_the_mean(self) -> None:
        """Let a fresh network answer every prompt with the mean of the training pictures."""
        mean = torch.stack([self.target(int(clip)) for clip in self.clips]).mean(dim=0)
        with torch.no_grad():
            self.network.leave.bias.copy_(mean.flatten())

    def target(self, clip: int) -> Tensor:
        """Return the latents of a clip's frame that is nearest to their mean, float32 `(channels, height, width)`."""
        if clip not in self._typical:
            frames = self.store.window(clip, 0, int(self.store.frames.counts[clip])).astype(np.float32)
            self._typical[clip] = int(((frames - frames.mean(axis=0)) ** 2).sum(axis=(1, 2, 3)).argmin())
        return torch.from_numpy(self.store.window(clip, self._typical[clip], 1)[0].astype(np.float32))

    def load(self, indices: list[int], seeds: list[int]) -> dict[str, Tensor]:
        """Return typical frames `(n, c, h, w)` and tokens `(n, tokens, dim)`."""
        pairs = [self._sample(int(self.clips[i]), seed) for i, seed in zip(indices, seeds, strict=True)]
        pictures, context = zip(*pairs, strict=True)
        return {"pictures": torch.stack(pictures), "context": torch.stack(context)}

    def _sample(self, clip: int, seed: int) -> tuple[Tensor, Tensor]:
        choose = np.random.default_rng(mix_seed(seed, 7))
        if self.shares is not None:
            clip = int(choose.choice(self.clips, p=self.shares))
        return self.target(clip), self.captions.draw(clip, choose)

    def loss(self, network: Callable[..., Any], batch: dict[str, Tensor], seeds: list[int]) -> Tensor:
        """Return the mean squared error of each sample, its embedding blurred."""
        context, draws = batch["context"], generators([mix_seed(seed, 8) for seed in seeds])
        strength = self.blur * rand(draws, 1)
        noise = (strength * randn(draws, context.shape[-1])).to(context.device)
        return ((network(context, noise).float() - batch["pictures"]) ** 2).flatten(1).mean(dim=1)

    def validate(self) -> dict[str, float]:
        """Return the share of the variance that is not explained, of training and of held-out clips."""
        chosen = {"train": _some(self.clips), "held_out": self.test_clips}
        return {f"{name}_unexplained": self.unexplained(clips) for name, clips in chosen.items() if len(clips) > 1}

    def unexplained(self, clips: np.ndarray) -> float:
        """Return the squared error of clips' first captions over the variance of their pictures."""
        pictures = torch.stack([self.target(int(clip)) for clip in clips]).to(self.model.device)
        context = torch.stack([self.captions.first(int(clip)) for clip in clips]).to(self.model.device)
        error = (self.network(context) - pictures).square().mean()
        return (error / (pictures - pictures.mean(dim=0)).square().mean()).item()

    def preview(self, directory: Path) -> None:
        """Write a sheet of drafts, decoded."""
        from kineograph.video import Video

        drafts = self.network(self.model.text(PREVIEW_PROMPTS))
        frames = [self.model.autoencoder.decode(draft[None, None])[0].float().cpu() for draft in drafts]
        write_clips([Video(frame, self.model.settings.fps) for frame in frames], PREVIEW_PROMPTS, directory)

    def export(self, directory: Path) -> None:
        """Write the whole model, ready to `generate`."""
        self.model.save_pretrained(directory, torch.float32)


def _some(clips: np.ndarray) -> np.ndarray:
    """Return clips evenly spread over some."""
    return clips[:: max(1, len(clips) // VALIDATION_CLIPS)][:VALIDATION_CLIPS]
