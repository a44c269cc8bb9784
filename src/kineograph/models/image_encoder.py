"""Pictures as conditions: CLIP's image encoder behind an antialiased resize.

Radford et al. 2021, arXiv:2103.00020. Stable Video Diffusion takes the projected class token of ViT-H, VideoCrafter1
all tokens of the same network.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kineograph.errors import WeightsError
from kineograph.models.weights import built, load_strictly, read_folder, read_json, write_safetensors

# Radford et al. 2021, released code (`clip/clip.py`, `_transform`), for pictures in [0, 1]
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ImageEncoder(nn.Module):
    """A frozen CLIP image encoder.

    Args:
        model: transformers' `CLIPVisionModelWithProjection`.
        mean: Mean of each colour in [0, 1], subtracted.
        std: Deviation of each colour, divided by.
    """

    def __init__(
        self,
        model: Any,
        mean: tuple[float, ...] = CLIP_MEAN,
        std: tuple[float, ...] = CLIP_STD,
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.mean, self.std = tuple(mean), tuple(std)

    @property
    def size(self) -> int:
        """Edge of the pictures that the network sees, 224."""
        return self.model.config.image_size

    def prepared(self, images: Tensor) -> Tensor:
        """Resize pictures `(n, 3, height, width)` in [-1, 1] to the network's square and normalise their colours."""
        square = resize_antialiased(images.float(), (self.size, self.size))
        mean, std = (square.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return ((square + 1) / 2 - mean) / std

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return one projected token of each picture.

        Args:
            images: `(n, 3, height, width)` in [-1, 1], any size.

        Returns:
            `(n, 1, projection channels)`.
        """
        pixels = self.prepared(images).to(self.model.device, self.model.dtype)
        return self.model(pixels).image_embeds[:, None]

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """Return all tokens `(n, 1 + patches, channels)` of the last layer, neither normalised nor projected."""
        pixels = self.prepared(images).to(self.model.device, self.model.dtype)
        return self.model.vision_model(pixels).last_hidden_state


def resize_antialiased(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Blur by what is lost, then resize bicubically with the corners kept in place.

    Stable Video Diffusion was trained with this resize (kornia's, in `sgm/modules/encoders/modules.py`).

    Args:
        images: `(n, channels, height, width)`.
        size: Height and width to make.
    """
    for axis, (given, wanted) in enumerate(zip(images.shape[-2:], size, strict=True)):
        images = _blur(images, axis + 2, max((given / wanted - 1) / 2, 0.001))
    return F.interpolate(images, size=size, mode="bicubic", align_corners=True)


def _blur(images: Tensor, axis: int, sigma: float) -> Tensor:
    """Convolve with a Gaussian of two deviations to each side along one axis, mirrored at the border."""
    length = int(max(4 * sigma, 3))
    length += 1 - length % 2
    places = torch.arange(length, dtype=images.dtype, device=images.device) - length // 2
    kernel = torch.exp(-(places**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).reshape((1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1))
    margin = min(length // 2, images.shape[axis] - 1)
    if margin < length // 2:  # a mirror cannot be longer than what it shows
        kernel = kernel.narrow(axis, length // 2 - margin, 2 * margin + 1)
        kernel = kernel / kernel.sum()
    border = (0, 0, margin, margin) if axis == 2 else (margin, margin, 0, 0)
    padded = F.pad(images, border, mode="reflect")
    return F.conv2d(padded, kernel.expand(images.shape[1], -1, -1, -1), groups=images.shape[1])


def load_image_encoder(encoder: str | Path, processor: str | Path | None = None) -> ImageEncoder:
    """Load an image encoder from transformers folders.

    Args:
        encoder: Folder with `config.json` and weights, as `find_files` finds them.
        processor: Folder with `preprocessor_config.json`, for the colours; None takes CLIP's.

    Raises:
        WeightsError: A file is missing or damaged, or the weights do not fit.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    folder = Path(encoder)
    if not (folder / "config.json").is_file():
        raise WeightsError(f"'{folder}' holds no image encoder: there is no config.json.")
    config, tensors = CLIPVisionConfig.from_dict(read_json(folder / "config.json")), read_folder(folder, "model")
    model = built(lambda: CLIPVisionModelWithProjection(config), tensors, str(folder))
    load_strictly(model, {k: t for k, t in tensors.items() if not k.endswith("position_ids")}, str(folder))
    colours = _colours(Path(processor) / "preprocessor_config.json") if processor else {}
    return ImageEncoder(model, **colours)


def _colours(file: Path) -> dict[str, tuple[float, ...]]:
    try:
        data = read_json(file)
        return {"mean": tuple(data["image_mean"]), "std": tuple(data["image_std"])}
    except (KeyError, TypeError) as error:
        raise WeightsError(f"'{file}' does not say how colours are normalised ({error}).") from error


def save_image_encoder(
    encoder: ImageEncoder, directory: str | Path, processor: str | Path, dtype: torch.dtype | None = None
) -> None:
    """Write an image encoder as transformers folders: the network, and beside it how pictures are prepared.

    Args:
        encoder: What to write.
        directory: Folder of the network.
        processor: Folder of `preprocessor_config.json`.
        dtype: Type of the stored weights; None keeps theirs.
    """
    folder = Path(directory)
    tensors = {k: t.to(dtype) if dtype and t.is_floating_point() else t for k, t in encoder.model.state_dict().items()}
    write_safetensors(tensors, folder / "model.safetensors", {"format": "pt"})
    encoder.model.config.architectures = [type(encoder.model).__name__]
    encoder.model.config.to_json_file(str(folder / "config.json"))
    colours = {"image_mean": list(encoder.mean), "image_std": list(encoder.std), "rescale_factor": 1 / 255}
    steps = {f"do_{step}": True for step in ("center_crop", "convert_rgb", "normalize", "rescale", "resize")}
    edges = {"size": {"shortest_edge": encoder.size}, "crop_size": {"height": encoder.size, "width": encoder.size}}
    data = {"image_processor_type": "CLIPImageProcessor", **colours, **steps, **edges, "resample": 3}  # 3: bicubic
    Path(processor).mkdir(parents=True, exist_ok=True)
    part = Path(processor) / "preprocessor_config.json.part"
    part.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(Path(processor) / "preprocessor_config.json")
