"""What a stage trains on: frames, captions and latents of a data set, each made once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kineograph.data.frames import FrameSpec, FrameStore, default_cache, frame_store
from kineograph.data.latents import LatentStore, latent_store
from kineograph.devices import best_device, has_bf16
from kineograph.errors import InputError
from kineograph.models.autoencoder import FrameAutoencoder
from kineograph.models.text import TextEncoder
from kineograph.models.text_pair import TwoTextEncoders
from kineograph.models.weights import check_finite
from kineograph.training.autoencoder import to_pixels
from kineograph.training.captions import CaptionTokens, encode_captions

Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the data is and what is taken of each clip."""

    data: Path
    """Data-set folder with manifest.jsonl (made by `kineograph data` or `kineograph curate`)."""
    size: int = 128
    """Edge of the square training frames in pixels."""
    sample_fps: float = 8.0
    """Frames per second taken of each clip."""
    max_frames: int = 24
    """Frames taken of each clip at most."""
    background: str = "white"
    """Colour under transparent frames."""
    held_out: str = "held-out-combinations"
    """Split that validation looks at."""
    balance: str = ""
    """Field of the manifest whose values are shown more evenly; empty: every clip alike."""
    cache: Path | None = None
    """Folder for decoded frames and latents (default: $KINEOGRAPH_CACHE, or ~/.cache/kineograph)."""

    def refuse_balance(self, stage: str) -> None:
        """Refuse `balance` where a stage would ignore it.

        Raises:
            InputError: It is set.
        """
        if self.balance:
            raise InputError(f"--balance is for text-to-image and text-to-video stages, not for '{stage}'.")

    def store(self, progress: Progress | None = None) -> FrameStore:
        """Open (or decode) the frames."""
        spec = FrameSpec(size=self.size, fps=self.sample_fps, max_frames=self.max_frames, background=self.background)
        return frame_store(self.data, spec, self.cache, progress)

    def captions(
        self, text: TextEncoder | TwoTextEncoders, frames: FrameStore, progress: Progress | None = None
    ) -> CaptionTokens:
        """Encode the captions, or open what an earlier run has encoded."""
        kept = Path(self.cache or default_cache()) / "captions"
        return encode_captions(text, frames.clips, kept=kept, fingerprint=text.fingerprint(), progress=progress)


def encoded(
    autoencoder: FrameAutoencoder, frames: FrameStore, cache: Path | None = None, progress: Progress | None = None
) -> LatentStore:
    """Open (or encode) the latents of a frame store; they belong to the encoder, whatever the decoder is.

    Raises:
        WeightsError: The autoencoder's weights are not finite.
    """
    device = best_device()
    autoencoder = autoencoder.to(device).eval()
    digest = hashlib.sha256(
        f"{autoencoder.patch} {autoencoder.shortcut} {autoencoder.scale} {autoencoder.shift} {has_bf16()}".encode()
    )
    tensors = autoencoder.vae.state_dict()
    check_finite(tensors, "the autoencoder")
    for name, tensor in sorted(item for item in tensors.items() if item[0].startswith(("encoder.", "quant_conv."))):
        digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())

    def encode(pixels: np.ndarray) -> np.ndarray:
        with torch.autocast(device.type, torch.bfloat16, enabled=has_bf16()):
            return autoencoder.encode(to_pixels(pixels).to(device)[:, None])[:, 0].float().cpu().numpy()

    return latent_store(frames, encode, digest.hexdigest(), cache, progress=progress)
