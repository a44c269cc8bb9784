"""CLIP's text encoder out of a single file, and its tokenizer, which such files lack."""

from __future__ import annotations

import gzip
import importlib.util
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kineograph.checkpoints import shapes
from kineograph.checkpoints.open_clip import UNUSED
from kineograph.errors import WeightsError
from kineograph.models.text import TextEncoder, in_names_of, load_tokenizer
from kineograph.models.weights import built, write_json, write_text
from kineograph.systems.key_loading import check_named

CLIP_ON_THE_HUB = "openai/clip-vit-large-patch14"
"""Where the tokenizer is in the Hugging Face cache, if it is there."""


def text_encoder(
    tensors: Mapping[str, Tensor], activation: str, tokenizer: Any, where: str, named: shapes.Named = str
) -> TextEncoder:
    """Build CLIP's text encoder from its weights in transformers' names.

    Args:
        tensors: The weights.
        activation: See `shapes.clip_text`.
        tokenizer: CLIP's.
        where: The file, for messages.
        named: From a weight's name without `text_model.` to the file's.

    Raises:
        WeightsError: A weight is missing, unknown or of another shape.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    bare = {key.removeprefix("text_model."): value for key, value in tensors.items() if not UNUSED.search(key)}
    config = CLIPTextConfig(**shapes.clip_text(bare, activation, where, named))
    model = built(lambda: CLIPTextModel(config), bare, where)
    _fill(model, bare, where, named)
    return TextEncoder(model, tokenizer, config.max_position_embeddings, pooled_first=False, masked=False)


def _fill(model: Any, tensors: Mapping[str, Tensor], where: str, named: shapes.Named) -> None:
    weights = in_names_of(model, tensors)
    check_named(weights, model.state_dict(), where, lambda key: named(key.removeprefix("text_model.")))
    model.load_state_dict(weights)


def projected_text_encoder(
    tensors: Mapping[str, Tensor], tokenizer: Any, where: str, named: shapes.Named = str
) -> TextEncoder:
    """Build OpenCLIP's text encoder with its projection from its weights in transformers' names. See `text_encoder`.

    Raises:
        WeightsError: A weight is missing, unknown or of another shape.
    """
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    width = tensors["text_projection.weight"].shape[0]
    config = CLIPTextConfig(**shapes.clip_text(tensors, "gelu", where, named), projection_dim=width)
    model = built(lambda: CLIPTextModelWithProjection(config), tensors, where)
    _fill(model, tensors, where, named)
    return TextEncoder(model, tokenizer, config.max_position_embeddings, pooled_first=False, masked=False)


# --- Tokenizer --------------------------------------------------------------------------------------------------------


def find_tokenizer(file: Path, other: str | Path | None = None) -> Any:
    """Return CLIP's tokenizer for a single file.

    Looked for, in this order: in `other`, in a folder `tokenizer` beside the file, in the installed package open_clip,
    and in the Hugging Face cache under `openai/clip-vit-large-patch14`.

    Raises:
        WeightsError: It is in none of these places.
    """
    places = [Path(other) / "tokenizer", Path(other)] if other is not None else []
    for place in (*places, file.parent / "tokenizer", file.parent):
        if (place / "vocab.json").is_file() or (place / "tokenizer.json").is_file():
            return load_tokenizer(place)
    spec = importlib.util.find_spec("open_clip")
    for root in spec.submodule_search_locations or () if spec else ():
        if (merges := Path(root) / "bpe_simple_vocab_16e6.txt.gz").is_file():
            return from_merges(gzip.decompress(merges.read_bytes()).decode())
    try:
        return load_tokenizer(CLIP_ON_THE_HUB)
    except WeightsError as error:
        raise WeightsError(
            f"'{file}' holds CLIP's text encoder but, as all such files, not its words. Put CLIP's vocab.json and "
            f"merges.txt into '{file.parent / 'tokenizer'}', or run: pip install --no-deps open_clip_torch"
        ) from error


def from_merges(text: str) -> Any:
    """Build CLIP's tokenizer from the list of its merges, as openai/CLIP's `simple_tokenizer.py` does."""
    merges = text.split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = byte_letters()
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(line.replace(" ", "") for line in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_json({word: number for number, word in enumerate(words)}, root / "vocab.json")
        write_text("\n".join(["#version: 0.2", *merges]) + "\n", root / "merges.txt")
        write_json({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}, root / "tokenizer_config.json")
        return load_tokenizer(root)


def byte_letters() -> list[str]:
    """Return the letter that stands for each byte, in the order of CLIP's vocabulary (GPT-2's byte-level code)."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return [*(chr(byte) for byte in printed), *(chr(256 + n) for n in range(len(others)))]
