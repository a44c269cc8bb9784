"""CLIP: the network of CLIPSIM, frame consistency and most text-video scores.

Radford et al. 2021, arXiv:2103.00020; weights MIT. Loaded from a transformers folder, or from a file in the layout of
OpenAI's release and open_clip (`visual.conv1.weight`, ...), whose keys are mapped onto transformers' CLIPModel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kineograph.checkpoints.open_clip import image_to_ours, projected_text_to_ours
from kineograph.checkpoints.single_files import part
from kineograph.errors import InputError, WeightsError, unknown
from kineograph.metrics.features import resize
from kineograph.metrics.features.extractor import Card, Extractor
from kineograph.metrics.features.weights import file_hash, fill, is_torchscript, load_tensors, load_torchscript, locate

SOURCE = "Radford et al. 2021, arXiv:2103.00020; MIT"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Per-channel mean and standard deviation of CLIP's training images, openai/CLIP `clip.py:_transform`."""
BOOKKEEPING = ("input_resolution", "context_length", "vocab_size", "attn_mask")
"""What OpenAI's scripted files hold beside weights."""


@dataclass(frozen=True)
class Clip:
    """Both towers of a CLIP model.

    Attributes:
        frames: Frame extractor with the layer `embedding`, not normalised.
        text: Maps prompts to embeddings of shape (prompts, dimensions), not normalised; None without a tokenizer.
    """

    frames: Extractor
    text: Callable[[Sequence[str]], Tensor] | None


def load_clip(
    source: str | Path, tokenizer: str | Path | None = None, rule: str = "official", quick_gelu: bool = True
) -> Clip:
    """Load a CLIP model.

    Args:
        source: A transformers folder, or a file in OpenAI's or open_clip's layout (also OpenAI's scripted `.pt`).
        tokenizer: Folder with CLIP's `vocab.json` and `merges.txt`; None looks into `source`.
        rule: `"official"`, or `"evalcrafter"` for EvalCrafter's preparation as published.
        quick_gelu: For files: OpenAI's weights use x sigmoid(1.702 x), open_clip's LAION weights the exact GELU.

    Returns:
        Image and text towers.

    Raises:
        WeightsError: Missing, broken or other weights.
        InputError: Unknown rule.
    """
    path = locate(source)
    if rule not in RULES:
        raise unknown("CLIP preparation", rule, RULES)
    model = _from_folder(path) if path.is_dir() else _from_file(path, quick_gelu)
    size = model.config.vision_config.image_size
    prepare, text = RULES[rule]
    card = Card(_name(model.config), file_hash(path), text.format(size=size), "frame", False, SOURCE)
    network = lambda x: {"embedding": _pooled(model.get_image_features(pixel_values=x))}
    words = tokenizer or (path if path.is_dir() else None)
    return Clip(Extractor(card, lambda x: prepare(x, size), network, ("embedding",)), _text_tower(model, words))


def _name(config: Any) -> str:
    vision = config.vision_config
    size = {512: "s", 768: "b", 1024: "l", 1280: "h", 1664: "g"}.get(vision.hidden_size, str(vision.hidden_size))
    return f"clip-vit-{size}-{vision.patch_size}"


def _pooled(output: Any) -> Tensor:
    """The projected embedding: transformers 5 wraps it, transformers 4 returns the tensor."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _text_tower(model: Any, folder: str | Path | None) -> Callable[[Sequence[str]], Tensor] | None:
    if folder is None:
        return None
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    longest = model.config.text_config.max_position_embeddings

    @torch.inference_mode()
    def encode(prompts: Sequence[str]) -> Tensor:
        """Embed prompts; tokens beyond the context are cut, as everywhere in the field."""
        tokens = tokenizer(list(prompts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        return _pooled(model.get_text_features(**{k: tokens[k] for k in ("input_ids", "attention_mask")})).float()

    return encode


def _from_folder(path: Path) -> Any:
    from transformers import CLIPModel

    return CLIPModel.from_pretrained(str(path), local_files_only=True).eval().requires_grad_(False)


def _from_file(path: Path, quick_gelu: bool) -> Any:
    from transformers import CLIPModel

    state = dict(load_torchscript(path).state_dict()) if is_torchscript(path) else load_tensors(path)
    state = {k.removeprefix("module."): v for k, v in state.items()}
    if "visual.conv1.weight" not in state:
        raise WeightsError(f"{path} is not a CLIP ViT in OpenAI's layout: no 'visual.conv1.weight'.")
    return fill(CLIPModel(_config(state, quick_gelu)), to_transformers(state, str(path)), path)


def _config(state: dict[str, Tensor], quick_gelu: bool) -> Any:
    """Read every size off the shapes; heads are 64 wide in all published models."""
    from transformers import CLIPConfig

    depth = lambda tower: (
        1 + max(int(m[1]) for k in state if (m := re.match(rf"{tower}transformer\.resblocks\.(\d+)", k)))
    )
    width, patch = state["visual.conv1.weight"].shape[0], state["visual.conv1.weight"].shape[-1]
    side = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5) * patch
    words, text_width = state["token_embedding.weight"].shape
    shared = {"hidden_act": "quick_gelu" if quick_gelu else "gelu", "projection_dim": state["text_projection"].shape[1]}
    sizes = lambda w: {"hidden_size": w, "num_attention_heads": max(1, w // 64), "intermediate_size": 4 * w}
    text = sizes(text_width) | {"num_hidden_layers": depth(""), "vocab_size": words, "eos_token_id": words - 1}
    text |= {"max_position_embeddings": len(state["positional_embedding"]), "bos_token_id": words - 2, **shared}
    vision = sizes(width) | {"num_hidden_layers": depth(r"visual\."), "patch_size": patch, "image_size": side, **shared}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=shared["projection_dim"])


def to_transformers(state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Map OpenAI's names to those of transformers' CLIPModel; errors name the file `where`."""
    kept = {key: value.float() for key, value in state.items() if not key.endswith(BOOKKEEPING)}
    scale = {key: kept.pop(key) for key in ("logit_scale",) if key in kept}
    words = {key: value for key, value in kept.items() if not key.startswith("visual.")}
    text = projected_text_to_ours(words, where)
    projection = {"text_projection.weight": text.pop("text_projection.weight")}
    towers = image_to_ours(part(kept, "visual."), where, "visual.") | {
        f"text_model.{key}": value for key, value in text.items()
    }
    return {**towers, **projection, **scale}


def _normalise(x: Tensor) -> Tensor:
    mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device)[:, None, None] for v in (MEAN, STD))
    return (x - mean) / std


def _official(pixels: Tensor, size: int) -> Tensor:
    x = resize.to_bytes(pixels)
    x = resize.pillow_bicubic(x, *resize.shorter_side(x.shape[-2], x.shape[-1], size))
    return _normalise(resize.centre_crop(x, size) / 255)


RULES: dict[str, tuple[Callable[[Tensor, int], Tensor], str]] = {
    "official": (
        _official,
        "bytes, antialiased bicubic, shorter side to {size}, centre crop, / 255, CLIP mean and deviation",
    ),
    "evalcrafter": (
        lambda x, size: resize.bilinear(resize.to_bytes(x), size, size).round(),
        "bytes squashed to {size}x{size} (OpenCV bilinear), 0 to 255, no normalisation (EvalCrafter as published)",
    ),
}


def unit(x: Tensor) -> Tensor:
    """Scale the last axis to length one, in float64.

    Raises:
        InputError: A zero vector.
    """
    x = x.double()
    if bool((x.norm(dim=-1) == 0).any()):
        raise InputError("A feature vector is zero, so its cosine is not defined.")
    return functional.normalize(x, dim=-1)
