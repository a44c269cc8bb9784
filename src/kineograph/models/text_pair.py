"""Two text encoders side by side, as Stable Diffusion XL has them.

Podell et al. 2023, arXiv:2307.01952, section 2.1: both encoders' states before the last layer stand beside each other
in each token, and the second's projected end-of-text state enters the time embedding, with the size of the picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kineograph.models.text import TextEncoder, in_names_of, load_tokenizer
from kineograph.models.weights import built, load_strictly, read_folder, read_json


class TwoTextEncoders(nn.Module):
    """Two frozen CLIP text encoders.

    Args:
        first: CLIP ViT-L's (`CLIPTextModel`).
        second: OpenCLIP ViT-bigG's (`CLIPTextModelWithProjection`).
        zero_empty: An empty prompt is all zeros instead of encoded, as the authors sample
            (`force_uc_zero_embeddings` in sgm, `force_zeros_for_empty_prompt` in diffusers).
    """

    pooled_first = False
    masked = False

    def __init__(self, first: TextEncoder, second: TextEncoder, zero_empty: bool = True) -> None:
        super().__init__()
        self.first, self.second, self.zero_empty = first, second, zero_empty

    @property
    def dim(self) -> int:
        """Width of a token: both encoders' together."""
        return self.first.dim + self.second.dim

    @property
    def max_tokens(self) -> int:
        """Length that prompts are padded or cut to."""
        return self.first.max_tokens

    @property
    def towers(self) -> tuple[Any, ...]:
        """The networks."""
        return self.first.model, self.second.model

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts to float32 `(prompts, max_tokens, dim)`. See `encode`."""
        return self.encode(prompts)[0]

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode prompts.

        Returns:
            Tokens, float32 `(prompts, max_tokens, dim)`, and pooled text, float32 `(prompts, projection channels)`.
        """
        outputs = [
            tower.model(tower.token_ids(prompts), output_hidden_states=True) for tower in (self.first, self.second)
        ]
        tokens = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1).float()
        pooled = outputs[1].text_embeds.float()
        kept = torch.tensor([bool(prompt) or not self.zero_empty for prompt in prompts], device=tokens.device)
        return tokens * kept[:, None, None], pooled * kept[:, None]

    def fingerprint(self) -> str:
        """Return a hash of the weights and settings, for cache keys."""
        both = f"{self.first.fingerprint()}{self.second.fingerprint()}{self.zero_empty}"
        return hashlib.sha256(both.encode()).hexdigest()[:20]

    def components(self) -> dict[str, list[str]]:
        """Return the entries of the parts in a pipeline's index."""
        return {**self.first.components(), **self.second.components("_2")}

    def save_pretrained(self, directory: str | Path, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write `text_encoder/`, `text_encoder_2/`, `tokenizer/` and `tokenizer_2/` into a model folder."""
        self.first.save_pretrained(directory, dtype)
        self.second.save_pretrained(directory, dtype, "_2")


def load_two_text_encoders(directory: str | Path, zero_empty: bool = True) -> TwoTextEncoders:
    """Load the two text encoders of a model folder.

    Args:
        directory: Folder with `text_encoder/`, `text_encoder_2/`, `tokenizer/` and `tokenizer_2/`.
        zero_empty: See `TwoTextEncoders`.

    Raises:
        WeightsError: A part is missing, or its weights do not fit.
    """
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    folder = Path(directory)
    towers = [
        _tower(kind, folder / f"text_encoder{suffix}", folder / f"tokenizer{suffix}")
        for kind, suffix in ((CLIPTextModel, ""), (CLIPTextModelWithProjection, "_2"))
    ]
    return TwoTextEncoders(towers[0], towers[1], zero_empty)


def _tower(kind: Any, weights: Path, words: Path) -> TextEncoder:
    from transformers import CLIPTextConfig

    config = CLIPTextConfig.from_dict(read_json(weights / "config.json"))
    tensors = read_folder(weights, "model")
    model = built(lambda: kind(config), tensors, str(weights))
    load_strictly(model, in_names_of(model, tensors), str(weights))
    tokenizer = load_tokenizer(words)
    longest = min(tokenizer.model_max_length, config.max_position_embeddings)
    return TextEncoder(model, tokenizer, longest, pooled_first=False, masked=False)
