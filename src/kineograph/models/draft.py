"""A draft: one picture of a prompt, as latents, from the text alone.

Where there is hardly any data left in the noise, the best estimate of it is the mean over all that the prompt may show,
E[x0 | prompt]. A convolutional network learns this map slowly: the text reaches every position alike, and what belongs
where it has to find out from the borders. A fully connected network learns it in minutes, and takes the noisiest steps
instead, as an expert does (Balaji et al. 2022, eDiff-I, arXiv:2211.01324, sec. 4: denoisers for parts of the noise
levels). Its estimate is one for all of them and for all frames, so these steps cost nothing.
Differs from the paper: the expert does not look at x, which is what makes it small.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kineograph.errors import WeightsError, unknown
from kineograph.models.weights import built, load_strictly, read_json, read_safetensors, write_json, write_safetensors

FOLDER = "draft"
WIDTH, BLOCKS = 1024, 2
"""Size of a fresh draft: 6.7 million parameters for 8 latent channels at 16x16."""


class DraftNetwork(nn.Module):
    """From the first token of a prompt, its sentence embedding, to latents.

    Args:
        text_dim: Width of a token.
        latent_shape: (channels, height, width) of one frame.
        width: Width of the hidden layers.
        blocks: Residual blocks.
    """

    def __init__(
        self, text_dim: int, latent_shape: tuple[int, int, int], width: int = WIDTH, blocks: int = BLOCKS
    ) -> None:
        super().__init__()
        self.text_dim, self.latent_shape, self.width = text_dim, latent_shape, width
        self.enter = nn.Linear(text_dim, width)
        self.blocks = nn.ModuleList([Bilinear(width) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, latent_shape[0] * latent_shape[1] * latent_shape[2])
        nn.init.zeros_(self.leave.weight)

    @property
    def config(self) -> dict[str, Any]:
        """What `load_draft` builds it from."""
        sizes = {"text_dim": self.text_dim, "latent_shape": list(self.latent_shape)}
        return {**sizes, "width": self.width, "blocks": len(self.blocks)}

    def forward(self, tokens: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return one picture for each prompt.

        Args:
            tokens: `(prompts, tokens, text_dim)`; the first is the sentence embedding.
            noise: Added to the embedding after it is scaled to unit variance, `(prompts, text_dim)`; in training.

        Returns:
            Latents `(prompts, channels, height, width)`.
        """
        sentence = nn.functional.normalize(tokens[:, 0].float(), dim=1) * self.text_dim**0.5
        x = self.enter(sentence if noise is None else sentence + noise)
        for block in self.blocks:
            x = block(x)
        return self.leave(self.norm(x)).unflatten(1, self.latent_shape)


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
    """Return a draft `(prompts, channels, h, w)` at another size."""
    if draft.shape[-2:] == (height, width):
        return draft
    return nn.functional.interpolate(draft, (height, width), mode="bilinear", antialias=True)


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
    names = ("text_dim", "latent_shape", "width", "blocks")
    for name in config:
        if name not in names:
            raise unknown(f"field in {file}", name, names, WeightsError)
    shape = config.get("latent_shape")
    sizes = [config.get("text_dim"), config.get("width"), config.get("blocks")]
    sizes += shape if isinstance(shape, list) and len(shape) == 3 else [None]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise WeightsError(f"'{file}' must give {', '.join(names)} as positive whole numbers, not {dict(config)}.")
    return {**config, "latent_shape": tuple(shape or ())}
