"""Do pictures fit their text, and are they good to look at: CLIP similarity and LAION's aesthetic score.

Stable Video Diffusion takes CLIP embeddings of first, middle and last frame, their cosine with the caption, and the
LAION aesthetic predictor on them (Blattmann et al. 2023, arXiv:2311.15127, app. C). It states neither which CLIP nor
how three frames become one number; here both scores are means over the frames.

CLIP's weights cannot be had without a download, so there is a stand-in from picture statistics. It is a different
measure: its columns end in `_standin`, and no rule for the real scores accepts them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kineograph._read_weights import read_weight_file
from kineograph.curation.colours import brightness_word, colour_shares, colourfulness
from kineograph.curation.duplicates import grey
from kineograph.curation.export import caption_of
from kineograph.curation.ids import fingerprint, sha256_of
from kineograph.errors import InputError, WeightsError, unknown

VERSION = 1
STANDIN_VERSION = 2
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Per-channel mean and standard deviation of CLIP's training images (openai/CLIP, `clip.py`)."""


class ClipSimilarity:
    """Scorer for `clip_similarity`, the mean cosine of frames and caption, and `aesthetic`.

    Args:
        folder: A CLIP model in transformers' layout, with its tokenizer.
        head: LAION's aesthetic head for this CLIP: `sa_0_4_vit_l_14_linear.pth` (LAION-AI/aesthetic-predictor, one
            linear layer) or `sac+logos+ava1-l14-linearMSE.pth` (improved-aesthetic-predictor, an MLP without
            activations), or either as safetensors. None leaves `aesthetic` null.
        device: Where to compute.

    Raises:
        WeightsError: There is no CLIP model, or the head does not fit it.
    """

    name = "clip"
    columns = {"clip_similarity": "double", "aesthetic": "double"}  # noqa: RUF012
    needs = ("captions",)

    def __init__(self, folder: str | Path, head: str | Path | None = None, device: str = "cpu") -> None:
        self.folder, self.head, self.device = Path(folder), None if head is None else Path(head), device
        if not (self.folder / "config.json").is_file():
            raise WeightsError(f"'{folder}' is no CLIP model in transformers' layout: it has no config.json.")
        if self.head is not None and not self.head.is_file():
            raise WeightsError(f"There is no aesthetic head at '{head}'.")

    @property
    def fingerprint(self) -> str:
        """Of code and weights."""
        head = sha256_of(self.head) if self.head else ""
        return fingerprint("clip", VERSION, [folder_hash(self.folder), head])

    @functools.cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        """Model, tokenizer and head, loaded on first use."""
        model, tokenizer = load_clip(self.folder, self.device)
        if self.head is None:
            return model, tokenizer, None
        weight, bias = load_head(self.head, model.config.projection_dim)
        return model, tokenizer, (weight.to(self.device), bias.to(self.device))

    def score(self, strip: np.ndarray, row: dict[str, Any]) -> dict[str, float | None]:
        """Measure one clip.

        Args:
            strip: uint8 (frames, height, width, 3), RGB.
            row: The clip's row; the text is its main caption. Without one, `clip_similarity` is null.
        """
        import torch

        with torch.inference_mode():
            pictures = self.embed_frames(strip)
            text = caption_of(row)
            similarity = float((pictures @ self.embed_text([text])[0]).mean()) if text else None
            head = self._parts[2]
            aesthetic = None if head is None else float((pictures @ head[0] + head[1]).mean())
        return {"clip_similarity": similarity, "aesthetic": aesthetic}

    def embed_frames(self, frames: np.ndarray) -> Any:
        """Embed pictures: float tensor (frames, dimensions), each of length 1."""
        import torch

        model = self._parts[0]
        pixels = prepare(frames, model.config.vision_config.image_size).to(self.device)
        with torch.inference_mode():
            return _unit(model.get_image_features(pixel_values=pixels))

    def embed_text(self, texts: Sequence[str]) -> Any:
        """Embed texts: float tensor (texts, dimensions), each of length 1. Tokens beyond the context are cut."""
        import torch

        model, tokenizer, _ = self._parts
        longest = model.config.text_config.max_position_embeddings
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        given = {key: tokens[key].to(self.device) for key in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            return _unit(model.get_text_features(**given))


def load_clip(folder: Path, device: str) -> tuple[Any, Any]:
    """Load a CLIP model and its tokenizer from a folder, never from the network.

    Raises:
        WeightsError: The folder does not hold both.
    """
    from transformers import AutoTokenizer, CLIPModel

    try:
        model: Any = CLIPModel.from_pretrained(str(folder), local_files_only=True).eval().requires_grad_(False)
        return model.to(device), AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise WeightsError(f"'{folder}' cannot be loaded as CLIP: {error}") from error


def prepare(frames: np.ndarray, size: int) -> Any:
    """Prepare pictures as CLIP was trained: short side to `size` by bicubic, centre crop, normalise.

    Args:
        frames: uint8 (frames, height, width, 3), RGB.
        size: Edge of the result in pixels.

    Returns:
        float32 tensor (frames, 3, size, size).
    """
    import torch
    from einops import rearrange
    from PIL import Image

    height, width = frames.shape[1:3]
    scale = size / min(height, width)
    target = (size, int(height * scale)) if width < height else (int(width * scale), size)
    left, top = (target[0] - size) // 2, (target[1] - size) // 2
    resized = [np.asarray(Image.fromarray(frame).resize(target, Image.Resampling.BICUBIC)) for frame in frames]
    pixels = np.stack(resized)[:, top : top + size, left : left + size] / 255
    normal = (pixels - np.array(MEAN)) / np.array(STD)
    return rearrange(torch.from_numpy(normal.astype(np.float32)), "f h w c -> f c h w").contiguous()


def load_head(file: str | Path, dimensions: int) -> tuple[Any, Any]:
    """Load an aesthetic head as one affine map.

    Both published heads are affine: the MLP (768-1024-128-64-16-1) has dropout between its layers but no activation,
    so its layers multiply out.

    Args:
        file: `.pth`, `.pt` or `.safetensors`.
        dimensions: Of the embeddings it is for.

    Returns:
        Weight (dimensions,) and bias (), float32 tensors.

    Raises:
        WeightsError: Another layout, or for another CLIP.
    """
    state = _read_state(Path(file))
    layers = sorted({name.rpartition(".")[0] for name in state}, key=lambda name: [int(n) for n in name.split(".")[1:]])
    linear, mlp = layers == [""], all(name.startswith("layers.") for name in layers)
    if not (linear or mlp) or {f"{name}.{part}".lstrip(".") for name in layers for part in ("weight", "bias")} != {
        *state
    }:
        raise WeightsError(
            f"'{file}' is no LAION aesthetic head: its keys are {', '.join(sorted(state)[:6])}. Known are 'weight' and "
            f"'bias', or 'layers.0.weight' to 'layers.7.bias'."
        )
    import torch

    weight, bias = torch.eye(state[f"{layers[0]}.weight".lstrip(".")].shape[1], dtype=torch.float64), 0.0
    for name in layers:
        matrix = state[f"{name}.weight".lstrip(".")].double()
        weight, bias = matrix @ weight, matrix @ bias if isinstance(bias, torch.Tensor) else 0.0
        bias = bias + state[f"{name}.bias".lstrip(".")].double()
    if tuple(weight.shape) != (1, dimensions):
        raise WeightsError(
            f"'{file}' maps {weight.shape[1]} numbers to {weight.shape[0]}, but this CLIP's embeddings have "
            f"{dimensions}. The 768 heads are for ViT-L/14, the 512 ones for ViT-B."
        )
    return weight[0].float(), torch.as_tensor(bias)[0].float()


def _read_state(file: Path) -> dict[str, Any]:
    import torch

    try:
        state = read_weight_file(file)
    except WeightsError as error:
        raise WeightsError(f"'{file}' cannot be read as weights: {error}") from error
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"'{file}' holds no dictionary of tensors.")
    return state


def _unit(output: Any) -> Any:
    """Normalise embeddings; transformers 5 wraps them, transformers 4 does not."""
    import torch

    features = output if isinstance(output, torch.Tensor) else output.pooler_output
    return torch.nn.functional.normalize(features.float(), dim=-1)


def folder_hash(folder: Path) -> str:
    """Hash the configuration, tokenizer and weight files of a model folder."""
    files = [file for file in sorted(folder.iterdir()) if file.suffix in (".json", ".safetensors", ".bin", ".txt")]
    return fingerprint("folder", 1, [[file.name, sha256_of(file)] for file in files])


# Offline -----------------------------------------------------------------------------------------------------------


class StandinSimilarity:
    """Offline stand-in for both scores, from picture statistics; not CLIP, and not an aesthetic predictor.

    `aesthetic_standin`, from 0 to 1, is the mean of colourfulness (Hasler and Suesstrunk 2003), contrast, sharpness and
    exposure. `clip_similarity_standin`, from 0 to 1, is the mean cosine between the colours and the brightness that the
    caption names and those of the frames; null for captions without such words.
    """

    name = "standin"
    columns = {"clip_similarity_standin": "double", "aesthetic_standin": "double"}  # noqa: RUF012
    needs = ("captions",)

    @property
    def fingerprint(self) -> str:
        """Of code."""
        return fingerprint("standin", STANDIN_VERSION, [])

    def score(self, strip: np.ndarray, row: dict[str, Any]) -> dict[str, float | None]:
        """Measure one clip; see `ClipSimilarity.score`."""
        looks = float(np.mean([looks_of(frame) for frame in strip]))
        return {"clip_similarity_standin": colour_agreement(strip, caption_of(row)), "aesthetic_standin": looks}


def looks_of(frame: np.ndarray) -> float:
    """Rate one picture by its statistics, from 0 to 1."""
    luma = grey(frame)
    contrast = min(1.0, float(luma.std()) / 64)
    edges = np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean()
    sharpness = min(1.0, float(edges) / 16)
    exposure = 1 - abs(float(luma.mean()) - 118) / 137
    return float(np.mean([min(1.0, colourfulness(frame) / 80), contrast, sharpness, exposure]))


def colour_agreement(strip: np.ndarray, text: str) -> float | None:
    """Return the mean cosine of a text's colour and brightness words with the frames; None where it has none.

    A frame's vector holds the share of each colour, and 1 for the word of its brightness; a text's holds 1 for each of
    these words. So a text agrees as far as its colours fill the picture, also one that was made from the same picture.
    """
    words = {word.strip(".,;:!?'\"()").lower() for word in text.split()}
    shares = [colour_shares(frame) for frame in strip]
    spoken = np.array([float(word in words) for word in (*shares[0], *_LIGHT)])
    if not spoken.any():
        return None
    shown = np.array([[*one.values(), *_brightness(frame)] for one, frame in zip(shares, strip, strict=True)])
    for part in (slice(None, -len(_LIGHT)), slice(-len(_LIGHT), None)):
        shown[:, part] *= spoken[part].any()  # a text that says nothing of one is not measured by it
    lengths = np.linalg.norm(shown, axis=1) * np.linalg.norm(spoken)
    return float((shown @ spoken / np.maximum(lengths, 1e-12)).mean())


_LIGHT = ("dark", "bright")


def _brightness(frame: np.ndarray) -> tuple[float, ...]:
    return tuple(float(brightness_word(frame) == word) for word in _LIGHT)


def from_spec(spec: str) -> ClipSimilarity | StandinSimilarity:
    """Build a scorer from a word of the command line: `standin`, `clip:FOLDER` or `clip:FOLDER,HEAD`.

    Raises:
        InputError: It is none of these.
    """
    kind, _, rest = spec.partition(":")
    if kind == "standin" and not rest:
        return StandinSimilarity()
    if kind != "clip":
        raise unknown("similarity", kind, ("standin", "clip"))
    if not rest:
        raise InputError("Write clip:FOLDER, or clip:FOLDER,HEAD with LAION's aesthetic head.")
    folder, _, head = rest.partition(",")
    return ClipSimilarity(folder, head or None)
