"""What a stage trains on: frames, captions and latents of a data set, each made once and kept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kineograph.data.cache import default_cache
from kineograph.data.frames import FrameSpec, FrameStore, frame_store
from kineograph.data.latents import LatentStore, latent_store
from kineograph.data.lengths import frames_at
from kineograph.data.manifest import read_manifest
from kineograph.data.splits import DEFAULT_HELD_OUT, held_out_split
from kineograph.devices import best_device, has_bf16
from kineograph.errors import InputError
from kineograph.models.autoencoder import FrameAutoencoder
from kineograph.models.text import TextEncoder
from kineograph.models.text_pair import TwoTextEncoders
from kineograph.models.weights import check_finite
from kineograph.training.autoencoder import to_pixels
from kineograph.training.captions import CaptionTokens, encode_captions
from kineograph.training.opening import check_lengths, preview_prompts
from kineograph.training.task import Progress

MAX_FRAMES = 24


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the data is and what is taken of each clip."""

    data: Path
    """Data-set folder with manifest.jsonl (made by `kineograph data` or `kineograph curate`)."""
    size: int = 128
    """Edge of the training frames in pixels: the middle square of each picture."""
    sample_fps: float = 8.0
    """Frames per second taken of each clip."""
    max_frames: int | None = None
    """Frames taken from the start of each clip at most (default: 24, or those of a sample if these are more)."""
    background: str = "white"
    """Colour under transparent frames."""
    held_out: str = DEFAULT_HELD_OUT
    """Split that validation looks at (default: that of the emoji, or what the data set calls it, such as `test`)."""
    balance: str = ""
    """Field of the manifest whose values are shown more evenly; empty: every clip alike."""
    prompts: tuple[str, ...] = ()
    """Prompts of previews (default: captions of the data set)."""
    cache: Path | None = None
    """Folder for decoded frames and latents (default: $KINEOGRAPH_CACHE, or ~/.cache/kineograph)."""

    def __post_init__(self) -> None:
        if any(not prompt.strip() for prompt in self.prompts):
            raise InputError("--validation-prompt is empty; say what to show.")

    def refuse_prompts(self, stage: str) -> None:
        """Refuse prompts of previews where a stage would ignore them.

        Raises:
            InputError: There are some.
        """
        if self.prompts:
            raise InputError(f"--validation-prompt is for stages that draw from prompts, not for '{stage}'.")

    def refuse_balance(self, stage: str) -> None:
        """Refuse `balance` where a stage would ignore it.

        Raises:
            InputError: It is set.
        """
        if self.balance:
            raise InputError(f"--balance is for text-to-image and text-to-video stages, not for '{stage}'.")

    def frames_of_clips(self, num_frames: int = 1) -> int:
        """Return how many frames are taken of each clip where a sample has `num_frames`.

        Raises:
            InputError: `max_frames` is below that.
        """
        if self.max_frames is not None and self.max_frames < num_frames:
            raise InputError(
                f"--num-frames {num_frames} needs as many frames of each clip, but --max-frames is {self.max_frames}."
            )
        return max(MAX_FRAMES, num_frames) if self.max_frames is None else self.max_frames

    def check_size(self, autoencoder: FrameAutoencoder) -> None:
        """Refuse a size that an autoencoder does not divide.

        Raises:
            InputError: The message names the nearest that it does.
        """
        factor = autoencoder.factor
        if self.size % factor or self.size < factor:
            low = max(factor, self.size // factor * factor)
            raise InputError(f"--size {self.size} is not a multiple of {factor}; take {low} or {low + factor}.")

    def store(self, progress: Progress | None = None, num_frames: int = 1) -> FrameStore:
        """Open (or decode) the frames, as many of each clip as samples of `num_frames` need.

        Raises:
            InputError: Frames are asked for that make no sense.
            DataError: By its manifest the data set has no clip of that length.
        """
        taken = self.frames_of_clips(num_frames)
        spec = FrameSpec(size=self.size, fps=self.sample_fps, max_frames=taken, background=self.background)
        clips = [clip for clip in read_manifest(self.data) if clip.split == "train"]
        if clips:
            check_lengths([frames_at(clip, self.sample_fps) for clip in clips], num_frames, self.sample_fps)
        return frame_store(self.data, spec, self.cache, progress)

    def previewed(self, frames: FrameStore) -> tuple[str, ...]:
        """Return the prompts of previews."""
        return self.prompts or preview_prompts(frames, self.validated(frames))

    def validated(self, frames: FrameStore) -> str:
        """Return the split that validation looks at; without `held_out`, what the data set calls it.

        Raises:
            DataError: There is no clip of the split that was named.
        """
        return held_out_split((clip.split for clip in frames.clips), self.held_out) or self.held_out

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
