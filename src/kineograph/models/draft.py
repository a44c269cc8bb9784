"""A draft: the clip of a prompt, as latents, from the text alone.

Where there is hardly any data left in the noise, the best estimate of it is the mean over all that the prompt may show,
E[x0 | prompt]. A convolutional network learns this map slowly: the text reaches every position alike, and what belongs
where it has to find out from the borders. A fully connected network learns it in minutes, and takes the noisiest steps
instead, as an expert does (Balaji et al. 2022, eDiff-I, arXiv:2211.01324, sec. 4: denoisers for parts of the noise
levels). Its estimate is one for all of them, so these steps cost nothing.
Time is one more input of it: it is an image model plus time, and asked for each frame's moment by itself.
Differs from the paper: the expert does not look at x, which is what makes it small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from kineograph.errors import WeightsError, unknown
from kineograph.models.weights import built, load_strictly, read_json, read_safetensors, write_json, write_safetensors

FOLDER = "draft"
WIDTH, BLOCKS, PROTOTYPES = 1024, 2, 2048
"""Size of a fresh draft: 9.6 million parameters for 8 latent channels at 16x16."""
MIDDLE = 0.5
WAVES = 8
"""Cosines over the clip that tell a moment, from half a period on."""
HEIGHT = 3.0
"""Height of these waves: beside hundreds of values of the text, eight of height 1 say little."""


class DraftNetwork(nn.Module):
    """From the first token of a prompt, its sentence embedding, and a moment of the clip to the latents of a frame.

    Args:
        text_dim: Width of a token.
        latent_shape: (channels, height, width) of one frame.
        frames: Frames of the clips that it was trained on.
        width: Width of the hidden layers.
        blocks: Residual blocks.
        prototypes: Sentences that it knows.
    """

    def __init__(
        self,
        text_dim: int,
        latent_shape: tuple[int, int, int],
        frames: int,
        width: int = WIDTH,
        blocks: int = BLOCKS,
        prototypes: int = PROTOTYPES,
    ) -> None:
        super().__init__()
        self.text_dim, self.latent_shape, self.frames, self.width = text_dim, latent_shape, frames, width
        self.enter = nn.Linear(text_dim, width)
        self.known = Prototypes(prototypes, text_dim, width)
        self.time = nn.Linear(WAVES, width, bias=False)
        self.blocks = nn.ModuleList([Bilinear(width) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, latent_shape[0] * latent_shape[1] * latent_shape[2])
        nn.init.zeros_(self.leave.weight)

    @property
    def config(self) -> dict[str, Any]:
        """What `load_draft` builds it from."""
        sizes = {"text_dim": self.text_dim, "latent_shape": list(self.latent_shape), "frames": self.frames}
        return {**sizes, "width": self.width, "blocks": len(self.blocks), "prototypes": len(self.known.keys)}

    def forward(self, tokens: Tensor, moments: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Return one frame for each prompt.

        Args:
            tokens: `(prompts, tokens, text_dim)`; the first is the sentence embedding.
            moments: Where in the clip, 0 to 1, `(prompts,)`; None: its middle.
            noise: Added to the embedding after it is scaled to unit variance, `(prompts, text_dim)`; in training.

        Returns:
            Latents `(prompts, channels, height, width)`.
        """
        sentence = unit_variance(tokens)
        if noise is not None:
            sentence = sentence + noise
        if moments is None:
            moments = sentence.new_full((len(sentence),), MIDDLE)
        return self.frame(sentence, moments)

    def frame(self, sentence: Tensor, moments: Tensor) -> Tensor:
        """Map sentences of unit variance `(prompts, text_dim)` and moments to latents, as `forward` does."""
        x = self.enter(sentence) + self.known(sentence) + self.time(HEIGHT * waves(moments))
        for block in self.blocks:
            x = block(x)
        return self.leave(self.norm(x)).unflatten(1, self.latent_shape)

    def clip(self, tokens: Tensor, num_frames: int) -> Tensor:
        """Return clips, each around its middle at the trained frame rate; longer ones than trained are slower.

        A prompt far from all prototypes is taken for the nearest one (`Prototypes.read`).

        Args:
            tokens: As for `forward`.
            num_frames: Frames; a single one is the middle.

        Returns:
            Latents `(prompts, frames, channels, height, width)`.
        """
        sentences = repeat(self.known.read(unit_variance(tokens)), "p d -> (p f) d", f=num_frames)
        moments = frame_moments(num_frames, self.frames).to(tokens.device)
        rows = self.frame(sentences, moments.repeat(len(tokens)))
        return rearrange(rows, "(p f) c h w -> p f c h w", f=num_frames)


class Prototypes(nn.Module):
    """A memory of sentences: the mean of what is remembered of each, by how likely it is the one that was meant.

    If what comes in is a prototype blurred by noise of variance 1 / rate, the softmax is the posterior of which one it
    is. Without it, a prompt that is no caption gets a blend of all captions that are somewhat near.
    Source: Ramsauer et al. 2021, arXiv:2008.02217 (Hopfield networks with continuous states), as a layer whose stored
    patterns are learned.

    Args:
        count: Prototypes.
        text_dim: Width of a sentence.
        width: Width of what is remembered.
    """

    RATE = 0.5
    FAR = 0.3
    """Mean squared distance of one value, where those of a sentence have variance 1. Measured on the bundled
    draft: beyond it are 3 of 3,271 training names, none of 104 held-out ones, 28 of thirty paraphrases."""
    LEAST = -40.0
    """Logarithm of the least likelihood, relative to the best: e^-87 and below are denormal numbers, which are slow."""

    def __init__(self, count: int, text_dim: int, width: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.randn(count, text_dim))
        self.values = nn.Parameter(torch.randn(count, width))
        self.log_rate = nn.Parameter(torch.tensor(math.log(self.RATE)))

    def forward(self, sentence: Tensor) -> Tensor:
        """Map sentences (batch, text_dim) to (batch, width); in float32, as hundreds differ by less than one."""
        with torch.autocast(sentence.device.type, enabled=False):
            likelihood = self.log_rate.exp() * (sentence @ self.keys.T - self.keys.square().sum(dim=1) / 2)
            relative = likelihood - likelihood.amax(dim=1, keepdim=True).detach()
            return torch.softmax(relative.clamp(min=self.LEAST), dim=1) @ self.values

    def read(self, sentence: Tensor) -> Tensor:
        """Return sentences `(batch, text_dim)`, those further than `FAR` from every prototype as the nearest of them.

        What is said in other words than any caption is meant as one of them; where the layers behind were never
        trained, they would make a blend of it.
        """
        distance = torch.cdist(sentence, self.keys).square() / sentence.shape[1]
        least, place = distance.min(dim=1)
        return torch.where((least > self.FAR)[:, None], self.keys[place], sentence)

    def place(self, sentences: Tensor) -> None:
        """Put the prototypes of a fresh memory on sentences that are far from each other.

        Farthest-first traversal (Gonzalez 1985, doi:10.1016/0304-3975(85)90224-5): each is the one farthest from those
        before it, so that near-duplicates, such as the tones of one person, come last.

        Args:
            sentences: At least as many as prototypes, `(sentences, text_dim)`.
        """
        chosen, distance = [0], torch.full((len(sentences),), torch.inf)
        while len(chosen) < len(self.keys):
            distance = torch.minimum(distance, (sentences - sentences[chosen[-1]]).square().sum(dim=1))
            chosen.append(int(distance.argmax()))
        with torch.no_grad():
            self.keys.copy_(sentences[chosen])


def unit_variance(tokens: Tensor) -> Tensor:
    """Return the sentence embeddings of prompts, the first tokens, scaled to unit variance, `(prompts, text_dim)`."""
    sentence = tokens[:, 0].float()
    return nn.functional.normalize(sentence, dim=1) * sentence.shape[1] ** 0.5


def waves(moments: Tensor) -> Tensor:
    """Return `(n, WAVES)` cosines of moments `(n,)`: the first rows of the discrete cosine transform over a clip."""
    return torch.cos(torch.pi * torch.arange(1, WAVES + 1, device=moments.device) * moments[:, None])


def frame_moments(num_frames: int, trained: int) -> Tensor:
    """Return the moments of a clip's frames, 0 to 1: the middles of equal parts, as many as trained frames or more."""
    return MIDDLE + (torch.arange(num_frames) - (num_frames - 1) / 2) / max(num_frames, trained)


class Bilinear(nn.Module):
    """A residual block whose only nonlinearity is a product: who it is times what skin, say.

    Source: Shazeer 2020, arXiv:2002.05202, sec. 2 ("Bilinear"), with two thirds of the width as there.

    Args:
        width: Values in and out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 2 * width // 3
        self.norm = nn.LayerNorm(width)
        self.value, self.gate = nn.Linear(width, inner), nn.Linear(width, inner)
        self.out = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width) to the same."""
        normed = self.norm(x)
        return x + self.out(self.value(normed) * self.gate(normed))


def resized(draft: Tensor, height: int, width: int) -> Tensor:
    """Return a draft `(prompts, frames, channels, h, w)` at another size."""
    if draft.shape[-2:] == (height, width):
        return draft
    frames = nn.functional.interpolate(draft.flatten(0, 1), (height, width), mode="bilinear", antialias=True)
    return frames.unflatten(0, draft.shape[:2])


def save_draft(network: DraftNetwork, folder: Path, dtype: torch.dtype) -> None:
    """Write `draft/` into a model folder."""
    tensors = {name: tensor.to(dtype) for name, tensor in network.state_dict().items()}
    write_safetensors(tensors, folder / FOLDER / "model.safetensors", {"format": "pt"})
    write_json(network.config, folder / FOLDER / "config.json")


def load_draft(folder: Path) -> DraftNetwork | None:
    """Load the draft of a model folder, in float32 and evaluation mode; None: it has none.

    Raises:
        WeightsError: Its configuration or weights are missing, damaged, or do not belong together.
    """
    where = folder / FOLDER
    if not where.is_dir():
        return None
    config = _checked(read_json(where / "config.json"), where / "config.json")
    tensors = read_safetensors(where / "model.safetensors")
    network = built(lambda: DraftNetwork(**config), tensors, str(where))
    load_strictly(network, tensors, str(where))
    return network.float().eval()


def _checked(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return a configuration with sizes that are sizes.

    Raises:
        WeightsError: A field is unknown, missing or no positive whole number.
    """
    names = ("text_dim", "latent_shape", "frames", "width", "blocks", "prototypes")
    for name in config:
        if name not in names:
            raise unknown(f"field in {file}", name, names, WeightsError)
    shape = config.get("latent_shape")
    sizes = [config.get(name) for name in names if name != "latent_shape"]
    sizes += shape if isinstance(shape, list) and len(shape) == 3 else [None]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise WeightsError(f"'{file}' must give {', '.join(names)} as positive whole numbers, not {dict(config)}.")
    return {**config, "latent_shape": tuple(shape or ())}
