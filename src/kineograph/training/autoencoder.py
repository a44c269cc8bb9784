"""Stage one of latent diffusion: the autoencoder, trained on single frames.

Rombach et al. 2022, arXiv:2112.10752, sec. 3.1: reconstruction with a slight KL penalty on the latents.
Differs from the paper: an L1 loss on image gradients stands for the perceptual and adversarial terms, whose networks
cannot be had offline; it keeps edges sharp.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from kineograph.data.frames import FrameStore
from kineograph.models.autoencoder import FrameAutoencoder
from kineograph.training.batches import generators, randn
from kineograph.training.opening import training_clips
from kineograph.training.task import Told, tracked

SQUARE_WEIGHT = 5.0  # Ours: a held-out frame's squared error (0.008) counts as much as its L1 (0.04)
KL_WEIGHT = 1e-6  # Rombach et al. 2022, app. G: "a small weight factor ~ 1e-6"
GRADIENT_WEIGHT = 1.0
VALIDATION_FRAMES = 64


def to_pixels(frames: np.ndarray) -> Tensor:
    """Turn uint8 `(..., height, width, 3)` into floats `(..., 3, height, width)` in [-1, 1]."""
    return rearrange(torch.from_numpy(np.array(frames)).float() / 127.5 - 1, "... h w c -> ... c h w")


def gradient_l1(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean absolute difference of horizontal and vertical pixel differences, per sample `(n,)`."""
    difference = a - b
    dx, dy = difference.diff(dim=-1).abs(), difference.diff(dim=-2).abs()
    return dx.mean(dim=(1, 2, 3)) + dy.mean(dim=(1, 2, 3))


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(q || N(0, 1)) in nats, summed over the latent, per sample `(n,)`."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2, 3))


class AutoencoderTask(Told):
    """Trains a `FrameAutoencoder` on the training split's frames.

    Args:
        network: The autoencoder.
        store: Decoded frames.
        held_out: Name of the split to validate on.
        flip: Mirror every second sample.
        decoder_only: Keep the encoder, so that latents and the models trained on them stay valid, and weigh the squared
            error over L1 and edges, as Stable Diffusion's last decoder did (hf.co/stabilityai/sd-vae-ft-mse).
    """

    name = "autoencoder"

    def __init__(
        self,
        network: FrameAutoencoder,
        store: FrameStore,
        held_out: str,
        flip: bool = True,
        decoder_only: bool = False,
    ) -> None:
        self.network, self.store, self.flip, self.decoder_only = network, store, flip, decoder_only
        if decoder_only:
            network.freeze_encoder()
        self.held_out = held_out
        self.clips = training_clips(store, 1)
        test = store.rows_of(held_out)
        picks = test if len(test) else store.rows_of("train")
        self.test_rows = picks[:: max(1, len(picks) // VALIDATION_FRAMES)][:VALIDATION_FRAMES]
        self.num_samples = len(self.clips)

    def facts(self) -> dict[str, Any]:
        """Return the data and the kind of training, by flag."""
        return {
            **self.store.facts(),
            "held-out": self.held_out,
            "base": "decoder only" if self.decoder_only else "none",
        }

    def load(self, indices: list[int], seeds: list[int]) -> dict[str, Tensor]:
        """Return one random frame of each clip, `(n, 3, size, size)` in [-1, 1]."""
        return {"images": to_pixels(self.store.random_frames(self.clips[indices], seeds))}

    def loss(self, network: Callable[..., Any], batch: dict[str, Tensor], seeds: list[int]) -> Tensor:
        """Return L1 + gradient L1 + KL per sample; of a decoder alone, squared error + half the gradient L1."""
        images = batch["images"]
        draws = generators(seeds)
        if self.flip:
            mirrored = torch.stack([torch.rand((), generator=g) < 0.5 for g in draws]).to(images.device)
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        size = images.shape[-1] // self.network.factor
        noise = randn(draws, self.network.latent_channels, size, size).to(images.device)
        output, mean, log_variance = network(images, noise)
        output = output.float()
        edges = GRADIENT_WEIGHT * gradient_l1(output, images)
        if self.decoder_only:
            return SQUARE_WEIGHT * ((output - images) ** 2).mean(dim=(1, 2, 3)) + edges / 2
        kl = kl_to_standard_normal(mean.float(), log_variance.float())
        return (output - images).abs().mean(dim=(1, 2, 3)) + edges + KL_WEIGHT * kl

    def validate(self) -> dict[str, float]:
        """Return L1 and PSNR (dB, data range 2, mean over frames) on held-out frames."""
        images = to_pixels(self.store.frames[self.test_rows])
        output = torch.cat([self._through(part) for part in tracked(images.split(16), self.progress, "validation")])
        mse = ((output - images) ** 2).mean(dim=(1, 2, 3))
        return {"l1": (output - images).abs().mean().item(), "psnr": (10 * torch.log10(4 / mse)).mean().item()}

    def _through(self, images: Tensor) -> Tensor:
        mean, _ = self.network.posterior(images)
        return self.network.reconstruct(mean).float().clamp(-1, 1)

    def preview(self, directory: Path) -> None:
        """Write a sheet of held-out frames above their reconstructions."""
        from PIL import Image

        images = to_pixels(self.store.frames[self.test_rows[:8]])
        pair = torch.stack([images, self._through(images)])
        sheet = rearrange(((pair + 1) * 127.5).round().clamp(0, 255).byte(), "r n c h w -> (r h) (n w) c")
        Image.fromarray(sheet.numpy()).save(directory / "reconstruction.png")

    def export(self, directory: Path) -> None:
        """Write the autoencoder, with the latents' mean and deviation unless the encoder is a trained one's."""
        from kineograph.models.autoencoder import save_autoencoder

        if not self.decoder_only:
            self.network.calibrate(*self.statistics())
        save_autoencoder(self.network, directory / "vae")

    def statistics(self) -> tuple[float, float]:
        """Return mean and deviation of the raw latents of training frames."""
        rows = self.store.rows_of("train")
        rows = rows[:: max(1, len(rows) // 512)][:512]
        latents = torch.cat(
            [self.network.posterior(part)[0].float() for part in to_pixels(self.store.frames[rows]).split(32)]
        )
        return latents.mean().item(), latents.std().item()
