"""What a feature extractor is, and how it says which one it is.

An extractor is a network, the preparation of its input and a card. The card holds everything that decides whether two
features may be compared: the network, the hash of its weights, the preparation in one line. Its key names features in
the store on disk and enters the hash of every protocol.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from kineograph.errors import InputError

Unit = Literal["frame", "clip"]


@dataclass(frozen=True)
class Card:
    """Identity of a feature extractor.

    Attributes:
        name: Such as `"i3d-kinetics400"`.
        weights: SHA-256 of the weights file, or of the tensors for weights that ship with us.
        preparation: How pixels become the network's input, in one line.
        unit: Whether features belong to single frames or whole clips.
        standin: True for networks that stand in for a published one; their numbers never carry a published name.
        source: Paper and licence of the weights.
    """

    name: str
    weights: str
    preparation: str
    unit: Unit
    standin: bool
    source: str

    @property
    def key(self) -> str:
        """Hash of all that decides comparability, 16 hexadecimal digits."""
        facts = {k: v for k, v in asdict(self).items() if k != "source"}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Extractor:
    """A network with the preparation of its input.

    Attributes:
        card: Its identity.
        prepare: Maps pixels in [-1, 1] to the network's input: frames of shape (n, 3, height, width) for the unit
            `"frame"`, clips of shape (n, frames, 3, height, width) for `"clip"`.
        network: Maps that input to named features, each of shape (n, dimensions).
        layers: The names, the first being the customary one.
        fewest_frames: Shortest clip the network accepts.
        batch: Inputs per call of the network.
    """

    card: Card
    prepare: Callable[[Tensor], Tensor]
    network: Callable[[Tensor], dict[str, Tensor]]
    layers: tuple[str, ...]
    fewest_frames: int = 1
    batch: int = 16

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Extract features.

        Args:
            pixels: Clips of shape (batch, frames, channels, height, width) in [-1, 1]; one channel is repeated, a
                fourth (alpha) is refused.

        Returns:
            For each layer, float32 features of shape (batch, frames, dimensions) for the unit `"frame"` or
            (batch, dimensions) for `"clip"`.

        Raises:
            InputError: Wrong shape, or too few frames.
        """
        clips = as_rgb(pixels)
        if clips.shape[1] < self.fewest_frames:
            raise InputError(f"{self.card.name} needs at least {self.fewest_frames} frames, given {clips.shape[1]}.")
        items = rearrange(clips, "b f c h w -> (b f) c h w") if self.card.unit == "frame" else clips
        parts = [self.network(self.prepare(part)) for part in items.split(self.batch)]
        features = {name: torch.cat([part[name] for part in parts]).float().cpu() for name in self.layers}
        if self.card.unit == "clip":
            return features
        return {name: rearrange(x, "(b f) d -> b f d", b=len(clips)) for name, x in features.items()}


def as_rgb(pixels: Tensor) -> Tensor:
    """Check clips of shape (batch, frames, channels, height, width) and give them three channels.

    Raises:
        InputError: Another rank or channel count, or values that are not finite.
    """
    if pixels.ndim != 5 or pixels.shape[2] not in (1, 3):
        raise InputError(
            f"Clips must have shape (batch, frames, 1 or 3 channels, height, width), given {tuple(pixels.shape)}. "
            "Put a background behind transparent pictures: Video.read(path, background='white')."
        )
    if not bool(torch.isfinite(pixels).all()):
        raise InputError("Pixels hold NaN or infinite values.")
    return pixels.expand(-1, -1, 3, -1, -1)
