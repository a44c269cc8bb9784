"""CLIP's two towers in the layout of open_clip and openai/CLIP, and in transformers', both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from kineograph.checkpoints import shapes
from kineograph.systems.key_loading import mapped
from kineograph.systems.keys import KeyMap, nest

LAYER = (
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
    ("attn.out_proj.", "self_attn.out_proj."),
    ("attn.in_proj_", "self_attn.in_proj_"),
)
"""A layer, but for the joint query, key and value."""

TEXT = KeyMap(
    pairs=(
        ("token_embedding.", "embeddings.token_embedding."),
        ("positional_embedding", "embeddings.position_embedding.weight"),
        ("ln_final.", "final_layer_norm."),
        *nest([("transformer.resblocks.{n}.", "encoder.layers.{n}.")], LAYER),
    ),
    rest="error",
    what="OpenCLIP text encoder",
)
IMAGE = KeyMap(
    pairs=(
        ("class_embedding", "vision_model.embeddings.class_embedding"),
        ("conv1.", "vision_model.embeddings.patch_embedding."),
        ("positional_embedding", "vision_model.embeddings.position_embedding.weight"),
        ("ln_pre.", "vision_model.pre_layrnorm."),
        ("ln_post.", "vision_model.post_layernorm."),
        ("proj", "visual_projection.weight"),
        *nest([("transformer.resblocks.{n}.", "vision_model.encoder.layers.{n}.")], LAYER),
    ),
    rest="error",
    what="OpenCLIP image encoder",
)
UNUSED = re.compile(r"(text_projection|logit_scale|attn_mask|position_ids)")
"""Weights of a text tower that no video model uses."""


def text_to_ours(tensors: Mapping[str, Tensor], where: str, prefix: str = "") -> dict[str, Tensor]:
    """Return a text tower's weights in transformers' names, without its last layer.

    Stable Diffusion 2, ModelScopeT2V and VideoCrafter take the states before the last layer, so it is never run.

    Args:
        tensors: The weights.
        where: The file, for messages.
        prefix: What stands before the names in the file.

    Raises:
        WeightsError: Some weights are unknown.
    """
    kept = {key: value for key, value in tensors.items() if not UNUSED.search(key)}
    last = shapes.count(kept, r"transformer\.resblocks\.(\d+)\.") - 1
    kept = {key: value for key, value in kept.items() if not key.startswith(f"transformer.resblocks.{last}.")}
    return apart(mapped(kept, TEXT, where, prefix))


def their_text_name(key: str) -> str:
    """Return what open_clip calls a weight of transformers' text encoder (without `text_model.`)."""
    return "text_projection" if key == "text_projection.weight" else TEXT.their_name(_joint_name(key))


def their_image_name(key: str) -> str:
    """Return what open_clip calls a weight of transformers' image encoder, without `visual.`."""
    return IMAGE.their_name(_joint_name(key)).removesuffix(".weight" if key == "visual_projection.weight" else "\0")


def _joint_name(key: str) -> str:
    return re.sub(r"\b[qkv]_proj\.", "in_proj_", key)


def text_to_theirs(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inverse of `text_to_ours`.

    The layer after the last and the projection, which models on the states before it never run but the authors' code
    wants in the file, are a copy and zeros.
    """
    theirs = TEXT.to_theirs(joint(tensors))
    layers = shapes.count(theirs, r"transformer\.resblocks\.(\d+)\.")
    last, more = (f"transformer.resblocks.{layer}." for layer in (layers - 1, layers))
    theirs |= {more + key.removeprefix(last): value.clone() for key, value in theirs.items() if key.startswith(last)}
    width = theirs["ln_final.weight"].shape[0]
    return theirs | {"text_projection": torch.zeros(width, width), "logit_scale": torch.zeros(())}


def projected_text_to_ours(tensors: Mapping[str, Tensor], where: str, prefix: str = "") -> dict[str, Tensor]:
    """Return a whole text tower's weights, with its last layer and projection. See `text_to_ours`."""
    kept = {key: value for key, value in tensors.items() if not UNUSED.search(key)}
    projection = tensors["text_projection"].T.contiguous()
    return apart(mapped(kept, TEXT, where, prefix)) | {"text_projection.weight": projection}


def projected_text_to_theirs(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inverse of `projected_text_to_ours`; the scale of the logits, which nobody uses here, is zero."""
    own = {key.removeprefix("text_model."): value for key, value in tensors.items()}
    projection = own.pop("text_projection.weight").T.contiguous()
    return {**TEXT.to_theirs(joint(own)), "text_projection": projection, "logit_scale": torch.zeros(())}


def image_to_ours(tensors: Mapping[str, Tensor], where: str, prefix: str = "") -> dict[str, Tensor]:
    """Return an image tower's weights (`visual.` removed) in transformers' names. See `text_to_ours`."""
    turned = {key: value.T.contiguous() if key == "proj" else value for key, value in tensors.items()}
    return apart(mapped(turned, IMAGE, where, prefix))


def image_to_theirs(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inverse of `image_to_ours`."""
    theirs = IMAGE.to_theirs(joint(tensors))
    return {key: value.T.contiguous() if key == "proj" else value for key, value in theirs.items()}


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take joint weights of query, key and value apart."""
    parts: dict[str, Tensor] = {}
    for key, value in tensors.items():
        stem, found, kind = key.partition("in_proj_")
        three = dict(zip("qkv", value.chunk(3), strict=True)) if found else {}
        parts |= {f"{stem}{part}_proj.{kind}": chunk.clone() for part, chunk in three.items()} or {key: value}
    return parts


def joint(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join the weights of query, key and value; the inverse of `apart`."""
    joined: dict[str, Tensor] = {}
    for key, value in tensors.items():
        stem, found, kind = key.partition("q_proj.")
        if found:
            joined[f"{stem}in_proj_{kind}"] = torch.cat([tensors[f"{stem}{part}_proj.{kind}"] for part in "qkv"])
        elif not re.search(r"\.[kv]_proj\.", key):
            joined[key] = value
    return joined
