"""From a picture to context tokens: a few learned queries read all tokens of CLIP.

VideoCrafter1 (Chen et al. 2023, arXiv:2310.19512, section 3.2). The network is a Perceiver resampler (Alayrac et al.
2022, arXiv:2204.14198), which diffusers has as IP-Adapter Plus's projection.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kineograph.errors import WeightsError
from kineograph.models.image_encoder import ImageEncoder, load_image_encoder, save_image_encoder
from kineograph.models.latent_video import LatentVideoModel, Settings, load_latent_video
from kineograph.models.text import TextEncoder
from kineograph.models.text_pair import TwoTextEncoders
from kineograph.models.video_unet import VideoUNet
from kineograph.models.weights import load_strictly, read_json, read_safetensors, write_json, write_safetensors
from kineograph.models.whole_folder import whole_folder

RESAMPLER = "picture_resampler"
"""Folder of the resampler inside a model's."""


class PictureTokens(nn.Module):
    """Pictures to tokens that stand after those of the text.

    Args:
        encoder: CLIP's image encoder; frozen.
        resampler: From all its tokens to a few.
    """

    def __init__(self, encoder: ImageEncoder, resampler: nn.Module) -> None:
        super().__init__()
        self.encoder, self.resampler = encoder, resampler

    def forward(self, images: Tensor) -> Tensor:
        """Encode pictures `(n, 3, height, width)` in [-1, 1] to `(n, tokens, channels)`.

        Grey pictures (zeros) are the unconditional ones (`scripts/evaluation/funcs.py`).
        """
        return self.resampler(self.encoder.tokens(images))

    def beside(self, text: Tensor, images: Tensor) -> Tensor:
        """Return the context: text tokens `(n, length, channels)`, then those of the pictures."""
        return torch.cat([text, self(images).to(text)], dim=1)


class PictureVideoModel:
    """The parts of a model that takes a prompt and a picture.

    Args:
        parts: A text-to-video model whose network also attends to pictures.
        pictures: From pictures to the last tokens of the context.
    """

    def __init__(self, parts: LatentVideoModel, pictures: PictureTokens) -> None:
        self.parts, self.pictures = parts, pictures

    @property
    def settings(self) -> Settings:
        """How the model wants to be used."""
        return self.parts.settings

    @property
    def network(self) -> VideoUNet:
        """The network."""
        return self.parts.network

    @property
    def text(self) -> TextEncoder | TwoTextEncoders:
        """The text encoder."""
        return self.parts.text

    def to(self, device: torch.device | str) -> PictureVideoModel:
        """Move all parts."""
        self.parts.to(device)
        self.pictures.to(device)
        return self

    def save_pretrained(self, directory: str | Path, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write the model's folder: that of a `LatentVideoModel`, and beside it the parts that read pictures."""
        weights = {name: value.to(dtype) for name, value in self.pictures.resampler.state_dict().items()}
        with whole_folder(directory) as folder:
            save_image_encoder(self.pictures.encoder, folder / "image_encoder", folder / "feature_extractor", dtype)
            write_json(resampler_sizes(self.pictures.resampler.state_dict()), folder / RESAMPLER / "config.json")
            write_safetensors(weights, folder / RESAMPLER / "model.safetensors", {"format": "pt"})
            self.parts.save_pretrained(folder, dtype)


def load_picture_video(directory: str | Path) -> PictureVideoModel:
    """Load what `PictureVideoModel.save_pretrained` wrote, in float32 and evaluation mode.

    Raises:
        WeightsError: A file is missing or damaged, or a weight does not fit.
    """
    folder = Path(directory)
    parts = load_latent_video(folder)
    weights = read_safetensors(folder / RESAMPLER / "model.safetensors")
    if read_json(folder / RESAMPLER / "config.json") != resampler_sizes(weights):
        raise WeightsError(f"The weights in '{folder / RESAMPLER}' are not of the sizes that its config.json says.")
    encoder = load_image_encoder(folder / "image_encoder", folder / "feature_extractor")
    return PictureVideoModel(parts, PictureTokens(encoder, resampler_of(weights, str(folder))))


HEAD_WIDTH = 64
"""Width of a head in the resamplers that were published."""


def resampler_sizes(weights: Any) -> dict[str, int]:
    """Return the arguments of `build_resampler`, read off its weights.

    Raises:
        WeightsError: A weight is missing.
    """
    try:
        inside = weights["layers.0.attn.to_q.weight"].shape[0]
        return {
            "in_channels": weights["proj_in.weight"].shape[1],
            "out_channels": weights["proj_out.weight"].shape[0],
            "width": weights["proj_in.weight"].shape[0],
            "depth": 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers.")),
            "num_heads": max(1, inside // HEAD_WIDTH),
            "head_dim": min(inside, HEAD_WIDTH),
            "tokens": weights["latents"].shape[1],
        }
    except (KeyError, IndexError) as error:
        raise WeightsError(f"These are no weights of a resampler of pictures: {error} is missing.") from error


def resampler_of(weights: Any, where: str) -> Any:
    """Build a resampler from its weights.

    Raises:
        WeightsError: One is missing, unknown or of another shape.
    """
    resampler = build_resampler(**resampler_sizes(weights))
    load_strictly(resampler, weights, where)
    return resampler.eval()


def build_resampler(
    *,
    in_channels: int = 1280,
    out_channels: int = 1024,
    width: int = 1024,
    depth: int = 4,
    num_heads: int = 12,
    head_dim: int = 64,
    tokens: int = 16,
) -> Any:
    """Build a resampler; the defaults are VideoCrafter1's (`LatentVisualDiffusion.init_projector`).

    Args:
        in_channels: Width of CLIP's tokens (ViT-H: 1280).
        out_channels: Width of the context.
        width: Width inside.
        depth: Blocks.
        num_heads: Heads of each attention.
        head_dim: Width of a head.
        tokens: Queries, and so tokens of a picture.
    """
    from diffusers.models.embeddings import IPAdapterPlusImageProjection

    return IPAdapterPlusImageProjection(
        embed_dims=in_channels,
        output_dims=out_channels,
        hidden_dims=width,
        depth=depth,
        dim_head=head_dim,
        heads=num_heads,
        num_queries=tokens,
    )
