"""The decoder of a model, trained on what it will decode: latents of pictures, and the model's drafts of them.

The encoder stays, so latents and every network trained on them stay valid. A draft is a conditional mean and therefore
smoother than a picture; a decoder that has only seen encoded pictures passes that on.
Source: Rombach et al. 2022, arXiv:2112.10752, sec. 3.1 (perceptual term); squared error as for the last decoder of
Stable Diffusion (hf.co/stabilityai/sd-vae-ft-mse).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kineograph.data.balance import kinds_of
from kineograph.data.latents import LatentStore
from kineograph.diffusion.noise import mix_seed
from kineograph.errors import InputError
from kineograph.models.autoencoder import Decoder
from kineograph.models.draft import frame_moments
from kineograph.models.latent_video import LatentVideoModel
from kineograph.training.autoencoder import SQUARE_WEIGHT, VALIDATION_FRAMES, gradient_l1, to_pixels
from kineograph.training.captions import CaptionTokens
from kineograph.training.draft import HIDDEN, numbers
from kineograph.training.opening import training_clips
from kineograph.training.task import Told, tracked

PERCEPTUAL_WEIGHT = 0.1  # Ours: the term is then about as large as the error of pixels and edges


class DecoderTask(Told):
    """Trains the decoder of a latent model; all else stays.

    Args:
        model: The parts.
        store: Latents of the data set.
        captions: Tokens of the clips' captions; needed for drafts.
        held_out: Split to validate on.
        distance: Perceptual distance of pictures `(n, 3, height, width)` in [-1, 1] to real ones, `(n,)`, such as
            `metrics.features.perceptual.PerceptualDistance()`; None: none.
        perceptual: Its weight beside the error of pixels and edges.
        drafts: Share of the samples that are the model's draft of a frame instead of the frame's own latents.
        kind: Field of the manifest that is the same for clips of one thing in several looks; most of their drafts are
            made without their own name, as those of looks that the draft never saw.

    Raises:
        InputError: Drafts are asked for and the model has none.
        DataError: There is no training clip.
    """

    name, part = "decoder", "autoencoder"

    def __init__(
        self,
        model: LatentVideoModel,
        store: LatentStore,
        captions: CaptionTokens | None = None,
        *,
        held_out: str = "",
        distance: Callable[[Tensor, Tensor], Tensor] | None = None,
        perceptual: float = PERCEPTUAL_WEIGHT,
        drafts: float = 0.0,
        kind: str = "",
    ) -> None:
        if drafts and (model.draft is None or captions is None):
            raise InputError("--set drafts above 0 is for a model with a draft: kineograph train draft gives it one.")
        self.model, self.store, self.captions = model, store, captions
        self.distance, self.perceptual, self.drafts = distance, perceptual, drafts
        model.autoencoder.freeze_encoder()
        self.network = Decoder(model.autoencoder)
        self.held_out, self.kind = held_out, kind
        self.clips = training_clips(store.frames, 1)
        self.num_samples = len(self.clips)
        kinds = kinds_of(self.clips, store.frames.clips, kind)
        self.several = dict(zip(self.clips.tolist(), np.bincount(kinds)[kinds] > 1, strict=True))
        test = store.frames.rows_of(held_out)
        picks = test if len(test) else store.frames.rows_of("train")
        self.test_rows = picks[:: max(1, len(picks) // VALIDATION_FRAMES)][:VALIDATION_FRAMES]

    def facts(self) -> dict[str, Any]:
        """Return data, model and kind of training, by flag."""
        set_ = f"perceptual={self.perceptual} drafts={self.drafts} kind={self.kind}"
        return {**self.store.frames.facts(), "held-out": self.held_out, "set": set_}

    def load(self, indices: list[int], seeds: list[int]) -> dict[str, Tensor]:
        """Return random frames `(n, 3, size, size)` in [-1, 1] and their latents `(n, c, h, w)`, or drafts of them."""
        clips = self.clips[indices]
        chosen = [np.random.default_rng(mix_seed(seed, 11)) for seed in seeds]
        frames = [int(choose.integers(self._shown(clip))) for clip, choose in zip(clips, chosen, strict=True)]
        rows = [self._row(clip, frame) for clip, frame in zip(clips, frames, strict=True)]
        latents = torch.from_numpy(self.store.latents[rows].astype(np.float32))
        drafted = torch.tensor([choose.random() < self.drafts for choose in chosen])
        if drafted.any():
            hide = torch.tensor([choose.random() < HIDDEN for choose in chosen])
            latents[drafted] = self.drafted(clips[drafted.numpy()], torch.tensor(frames)[drafted], hide[drafted])
        return {"pictures": to_pixels(self.store.frames.frames[rows]), "latents": latents}

    @torch.no_grad()
    def drafted(self, clips: np.ndarray, frames: Tensor, hide: Tensor) -> Tensor:
        """Return the model's drafts of one frame of each clip by its first caption, `(n, c, h, w)`, on the CPU.

        Args:
            clips: Numbers of clips, `(n,)`.
            frames: One of each, counted from the first that the draft shows, `(n,)`.
            hide: Whose own names the draft does without, if their things have other looks, `(n,)`.
        """
        draft, captions = self.model.draft, self.captions
        assert draft is not None
        assert captions is not None
        names = captions.rows([captions.texts[clip][0] for clip in clips], length=1)
        moments = frame_moments(draft.frames, draft.frames)[frames]
        several = torch.tensor([bool(self.several[int(clip)]) for clip in clips])
        hidden = torch.where(hide & several, self.own[clips], -1)
        device = draft.mean.device
        return draft(names.to(device), moments.to(device), hidden=hidden.to(device)).float().cpu()

    @cached_property
    def own(self) -> Tensor:
        """Which of the draft's names is that of each clip of the data set, `(clips,)`; -1: none."""
        assert self.model.draft is not None
        assert self.captions is not None
        return numbers(self.model.draft, self.captions)

    def _shown(self, clip: int) -> int:
        """Return how many frames of a clip may be drawn: all of it, or as many as the draft has."""
        count = int(self.store.frames.counts[clip])
        return self.model.draft.frames if self.drafts and self.model.draft is not None else count

    def _row(self, clip: int, frame: int) -> int:
        """Return where a frame stands, counted from the first shown one; a shorter clip rests at its end."""
        count = int(self.store.frames.counts[clip])
        before = max(0, count - self._shown(clip)) // 2
        return int(self.store.frames.starts[clip]) + min(before + frame, count - 1)

    def loss(self, network: Callable[..., Any], batch: dict[str, Tensor], seeds: list[int]) -> Tensor:
        """Return squared error, half the gradient L1 and the weighted perceptual distance, per sample."""
        pictures = batch["pictures"]
        made = network(batch["latents"]).float()
        loss = SQUARE_WEIGHT * (made - pictures).square().mean(dim=(1, 2, 3)) + gradient_l1(made, pictures) / 2
        return loss if self.distance is None else loss + self.perceptual * self.distance(made, pictures)

    def validate(self) -> dict[str, float]:
        """Return PSNR (dB, data range 2) and, if it is trained, perceptual distance, means over held-out frames."""
        pictures = to_pixels(self.store.frames.frames[self.test_rows]).to(self.model.device)
        latents = torch.from_numpy(self.store.latents[self.test_rows].astype(np.float32)).to(self.model.device)
        parts = tracked(latents.split(16), self.progress, "validation")
        made = torch.cat([self.network(part) for part in parts]).float().clamp(-1, 1)
        error = (made - pictures).square().mean(dim=(1, 2, 3))
        found = {"psnr": (10 * torch.log10(4 / error)).mean().item()}
        return found if self.distance is None else found | {"perceptual": self._seen(made, pictures)}

    def _seen(self, made: Tensor, pictures: Tensor) -> float:
        assert self.distance is not None
        pairs = zip(made.split(16), pictures.split(16), strict=True)
        return torch.cat([self.distance(a, b) for a, b in pairs]).mean().item()

    def preview(self, directory: Path) -> None:
        """Write a sheet: held-out frames, as decoded."""
        from kineograph.video import Video, contact_sheet

        rows = self.test_rows[:8]
        latents = torch.from_numpy(self.store.latents[rows].astype(np.float32)).to(self.model.device)
        decoded = self.network(latents).float().cpu().clamp(-1, 1)
        pictures = [
            frame for pair in zip(to_pixels(self.store.frames.frames[rows]), decoded, strict=True) for frame in pair
        ]
        contact_sheet([Video(frame[None], 1) for frame in pictures]).save(directory / "reconstruction.png")

    def export(self, directory: Path) -> None:
        """Write the whole model, ready to `generate`."""
        self.model.save_pretrained(directory, torch.float32)
