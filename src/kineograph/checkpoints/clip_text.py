"""CLIP's text encoder in the layouts of single files, and its tokenizer, which those files lack."""

from __future__ import annotations

import gzip
import importlib.util
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kineograph.checkpoints import shapes
from kineograph.errors import WeightsError
from kineograph.models.text import TextEncoder, in_names_of, load_tokenizer
from kineograph.models.weights import load_strictly, write_json, write_text
from kineograph.systems.keys import KeyMap, nest

OPEN_CLIP = KeyMap(
    pairs=(
        ("token_embedding.", "embeddings.token_embedding."),
        ("positional_embedding", "embeddings.position_embedding.weight"),
        ("ln_final.", "final_layer_norm."),
        *nest(
            [("transformer.resblocks.{n}.", "encoder.layers.{n}.")],
            [
                ("ln_1.", "layer_norm1."),
                ("ln_2.", "layer_norm2."),
                ("mlp.c_fc.", "mlp.fc1."),
                ("mlp.c_proj.", "mlp.fc2."),
                ("attn.out_proj.", "self_attn.out_proj."),
                ("attn.in_proj_", "self_attn.in_proj_"),
            ],
        ),
    ),
    rest="error",
    what="OpenCLIP text encoder",
)
"""open_clip's names and transformers', but for the joint query, key and value."""
CLIP_ON_THE_HUB = "openai/clip-vit-large-patch14"
"""Where the tokenizer is in the Hugging Face cache, if it is there."""
UNUSED = re.compile(r"(text_projection|logit_scale|attn_mask|position_ids)")


def from_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an OpenCLIP text tower's weights in transformers' names, without its last layer.

    Stable Diffusion 2, ModelScopeT2V and VideoCrafter take the states before the last layer, so it is never run.
    """
    kept = {key: value for key, value in tensors.items() if not UNUSED.search(key)}
    last = shapes.count(kept, r"transformer\.resblocks\.(\d+)\.") - 1
    kept = {key: value for key, value in kept.items() if not key.startswith(f"transformer.resblocks.{last}.")}
    return _split(OPEN_CLIP.to_ours(kept))


def _split(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the joint query, key and value apart."""
    apart: dict[str, Tensor] = {}
    for key, value in tensors.items():
        stem, joint, kind = key.partition("in_proj_")
        parts = dict(zip("qkv", value.chunk(3), strict=True)) if joint else {}
        apart |= {f"{stem}{part}_proj.{kind}": chunk.clone() for part, chunk in parts.items()} or {key: value}
    return apart


def to_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a text encoder's weights as OpenCLIP's text tower; the inverse of `from_open_clip`.

    The layer after the last and the projection, which models on the states before it never run but the authors' code
    wants in the file, are a copy and zeros.
    """
    joint: dict[str, Tensor] = {}
    for key, value in tensors.items():
        stem, found, kind = key.partition("q_proj.")
        if found:
            joint[f"{stem}in_proj_{kind}"] = torch.cat([tensors[f"{stem}{part}_proj.{kind}"] for part in "qkv"])
        elif not key.endswith(("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias")):
            joint[key] = value
    theirs = OPEN_CLIP.to_theirs(joint)
    layers = shapes.count(theirs, r"transformer\.resblocks\.(\d+)\.")
    last, more = (f"transformer.resblocks.{layer}." for layer in (layers - 1, layers))
    theirs |= {more + key.removeprefix(last): value.clone() for key, value in theirs.items() if key.startswith(last)}
    width = theirs["ln_final.weight"].shape[0]
    return theirs | {"text_projection": torch.zeros(width, width), "logit_scale": torch.zeros(())}


def text_encoder(tensors: Mapping[str, Tensor], activation: str, tokenizer: Any, where: str) -> TextEncoder:
    """Build CLIP's text encoder from its weights in transformers' names.

    Raises:
        WeightsError: A weight is missing, unknown or of another shape.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    bare = {key.removeprefix("text_model."): value for key, value in tensors.items() if not UNUSED.search(key)}
    config = CLIPTextConfig(**shapes.clip_text(bare, activation, where))
    model = CLIPTextModel(config)
    load_strictly(model, in_names_of(model, bare), where)
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
