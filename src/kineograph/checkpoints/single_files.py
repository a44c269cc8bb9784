"""Single files as the original repositories publish them: what is inside, told by the names of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from kineograph._read_weights import read_metadata
from kineograph.checkpoints.unwrap import own_names, unwrapped
from kineograph.errors import WeightsError
from kineograph.models.weights import check_finite, read_weights

UNET, VAE, TEXT, OPEN_TEXT = (
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
)
"""Where CompVis' latent diffusion code and its forks keep the parts of a model."""
BOOKKEEPING = (
    "model_ema.",
    "betas",
    "alphas_cumprod",
    "sqrt_",
    "log_one_minus_",
    "posterior_",
    "logvar",
    "scale_arr",
    "lvlb_weights",
    "loss.",
    "first_stage_model.loss.",
    "denoiser.sigmas",
)
"""Weights of such files that no part of a model uses for sampling."""


STEP = "global_step"
"""Where training programs note how long they trained: beside the weights, or in a safetensors file's header."""
PREDICTION = "modelspec.prediction_type"
"""Where a header says what the network predicts, `epsilon` or `v` (Stability-AI/ModelSpec, 1.0.1)."""
PRESET = "preset"
"""Text in the header of a file that was written here: which of its system's published networks it is."""


@dataclass(frozen=True)
class Kind:
    """A kind of single file.

    Attributes:
        name: What it is called here.
        title: What it is called in messages.
        marks: Whether names of weights are such a file's.
    """

    name: str
    title: str
    marks: Callable[[set[str]], bool]


def _has(*words: str) -> Callable[[set[str]], bool]:
    """Return a test: some name contains every one of the words."""
    return lambda names: any(all(word in name for word in words) for name in names)


def _bare(names: set[str]) -> bool:
    """Say whether a file in the latent diffusion layout holds nothing but the network."""
    return not any(name.startswith((VAE, "cond_stage_model.", "conditioner.")) for name in names)


KINDS = (
    Kind("motion_lora", "a motion LoRA", lambda names: _has("motion_modules", "lora")(names)),
    Kind("lora", "a LoRA", lambda names: any(".lora" in n or "lora_" in n or "_lora." in n for n in names)),
    Kind("sparsectrl", "SparseCtrl", lambda names: _has("controlnet_")(names) and _has("motion_modules.")(names)),
    Kind("controlnet", "a ControlNet", _has("controlnet_")),
    Kind("motion_module", "a motion module", _has("motion_modules.")),
    Kind("svd", "Stable Video Diffusion", _has("time_stack.")),
    Kind("videocrafter", "VideoCrafter", _has("init_attn.")),
    Kind("modelscope", "ModelScopeT2V's network", _has("temopral_conv.")),
    Kind("lavie", "LaVie's base network", _has("attn_temp.")),
    Kind("image", "an image checkpoint", lambda names: _has(UNET + "input_blocks.")(names) and not _bare(names)),
    Kind("unet", "the network of an image model alone", _has("input_blocks.", "in_layers.")),
    Kind("video_unet", "the network of a video model alone", _has("down_blocks.", ".temp_convs.")),
    Kind("video_unet", "the network of a video model alone", _has("temporal_transformer_blocks.")),
    Kind("unet", "the network of an image model alone", _has("down_blocks.", "resnets.")),
    Kind("vae", "an autoencoder", lambda names: any(n.startswith(("decoder.", "first_stage")) for n in names)),
)
"""In the order in which they are tried."""
LORAS = KINDS[:2]


@dataclass(frozen=True)
class SingleFile:
    """A file that was read and recognised.

    Attributes:
        path: Where it is.
        kind: What it is.
        tensors: Its weights, unwrapped.
        step: The training step that the file notes, or None.
        metadata: Texts in the header of a safetensors file.
    """

    path: Path
    kind: Kind
    tensors: Mapping[str, Tensor]
    step: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_single(path: Path) -> SingleFile:
    """Read and recognise a file.

    Raises:
        WeightsError: It cannot be read, holds values that are not finite, or nothing that is known.
    """
    content = read_weights(path)
    metadata = read_metadata(path)
    step = content.get(STEP, metadata.get(STEP, ""))
    tensors = unwrapped(content, str(path))
    if not tensors:
        raise WeightsError(f"'{path}' holds no weights by name; its entries are {_examples(content)}.")
    if not any(kind.marks(set(tensors)) for kind in LORAS):  # whose names say what they change
        tensors = own_names(tensors, str(path))
    kind = next((kind for kind in KINDS if kind.marks(set(tensors))), None)
    if kind is None:
        known = ", ".join(dict.fromkeys(kind.title for kind in KINDS[:-1]))
        raise WeightsError(f"'{path}' holds weights such as {_examples(tensors)}, which are none of: {known}.")
    check_finite(tensors, str(path))
    return SingleFile(path, kind, tensors, int(step) if str(step).isdecimal() else None, metadata)


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def check_parts(file: SingleFile, prefixes: tuple[str, ...]) -> None:
    """Refuse a file with weights outside the parts that are read.

    Raises:
        WeightsError: Lists some.
    """
    strange = [key for key in file.tensors if not key.startswith((*prefixes, *BOOKKEEPING))]
    if strange:
        raise WeightsError(
            f"'{file.path}' looks like {file.kind.title}, but {len(strange)} of its {len(file.tensors)} weights are "
            f"unknown there, such as {', '.join(strange[:5])}."
        )


def _examples(content: Mapping[str, Any]) -> str:
    return ", ".join(f"'{key}'" for key in list(content)[:4]) or "none"
