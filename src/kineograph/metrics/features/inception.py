"""Inception-v3 of TensorFlow's 2015-12-05 release: the network of FID, KID and IS.

Szegedy et al. 2015, arXiv:1512.00567; weights Apache-2.0, converted as `pt_inception-2015-12-05-6726825d.pth`
(pytorch-fid, torch-fidelity, torchmetrics) or scripted as `inception-2015-12-05.pt` (StyleGAN2-ADA, clean-fid). Not
torchvision's Inception: other weights, 1008 classes, and three patched poolings, marked below.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kineograph.errors import unknown
from kineograph.metrics.features import resize
from kineograph.metrics.features.extractor import Card, Extractor
from kineograph.metrics.features.weights import file_hash, fill, is_torchscript, load_tensors, load_torchscript, locate

SOURCE = "Szegedy et al. 2015, arXiv:1512.00567; TensorFlow release of 2015-12-05, Apache-2.0"


class Unit(nn.Module):
    """Convolution, batch norm (eps 0.001), ReLU."""

    def __init__(self, before: int, after: int, kernel: int | tuple[int, int], **options: Any):
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, bias=False, **options)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, before, height, width) to (n, after, height', width')."""
        return functional.relu(self.bn(self.conv(x)))


def average(x: Tensor) -> Tensor:
    """3 x 3 mean that does not count the padding, as TensorFlow's; torchvision's counts it."""
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class BlockA(nn.Module):
    """Mixed_5b to Mixed_5d."""

    def __init__(self, before: int, pooled: int):
        super().__init__()
        self.branch1x1 = Unit(before, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Unit(before, 48, 1), Unit(48, 64, 5, padding=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(before, 64, 1), Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, padding=1)
        self.branch_pool = Unit(before, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate four branches."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat(
            [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, self.branch_pool(average(x))], 1
        )


class BlockB(nn.Module):
    """Mixed_6a."""

    def __init__(self, before: int):
        super().__init__()
        self.branch3x3 = Unit(before, 384, 3, stride=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(before, 64, 1), Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the grid."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, functional.max_pool2d(x, 3, 2)], 1)


class BlockC(nn.Module):
    """Mixed_6b to Mixed_6e."""

    def __init__(self, before: int, inner: int):
        super().__init__()
        row, column = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = Unit(before, 192, 1)
        self.branch7x7_1 = Unit(before, inner, 1)
        self.branch7x7_2, self.branch7x7_3 = Unit(inner, inner, **row), Unit(inner, 192, **column)
        self.branch7x7dbl_1 = Unit(before, inner, 1)
        self.branch7x7dbl_2, self.branch7x7dbl_3 = Unit(inner, inner, **column), Unit(inner, inner, **row)
        self.branch7x7dbl_4, self.branch7x7dbl_5 = Unit(inner, inner, **column), Unit(inner, 192, **row)
        self.branch_pool = Unit(before, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate four branches."""
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(average(x))], 1)


class BlockD(nn.Module):
    """Mixed_7a."""

    def __init__(self, before: int):
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Unit(before, 192, 1), Unit(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Unit(before, 192, 1)
        self.branch7x7x3_2 = Unit(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Unit(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Unit(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the grid."""
        long = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), long, functional.max_pool2d(x, 3, 2)], 1)


class BlockE(nn.Module):
    """Mixed_7b and Mixed_7c; the last one pools by maximum, as the TensorFlow graph does."""

    def __init__(self, before: int, pool: Callable[[Tensor], Tensor]):
        super().__init__()
        self.pool = pool
        row, column = {"kernel": (1, 3), "padding": (0, 1)}, {"kernel": (3, 1), "padding": (1, 0)}
        self.branch1x1 = Unit(before, 320, 1)
        self.branch3x3_1 = Unit(before, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = Unit(384, 384, **row), Unit(384, 384, **column)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Unit(before, 448, 1), Unit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = Unit(384, 384, **row), Unit(384, 384, **column)
        self.branch_pool = Unit(before, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate six branches."""
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        splits = [self.branch3x3_2a(single), self.branch3x3_2b(single)]
        splits += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *splits, self.branch_pool(self.pool(x))], 1)


class Inception(nn.Module):
    """The network, with the parameter names of the released file."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = Unit(3, 32, 3, stride=2), Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Unit(64, 80, 1), Unit(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b, self.Mixed_6c = BlockC(768, 128), BlockC(768, 160)
        self.Mixed_6d, self.Mixed_6e = BlockC(768, 160), BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, average)
        self.Mixed_7c = BlockE(2048, lambda x: functional.max_pool2d(x, 3, 1, 1))
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map (n, 3, 299, 299) in [-1, 1] to pool features, unbiased logits and, for StyleGAN's score, biased ones."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, 2)))
        x = functional.max_pool2d(x, 3, 2)
        for block in (self.Mixed_5b, self.Mixed_5c, self.Mixed_5d, self.Mixed_6a, self.Mixed_6b):
            x = block(x)
        for block in (self.Mixed_6c, self.Mixed_6d, self.Mixed_6e, self.Mixed_7a, self.Mixed_7b, self.Mixed_7c):
            x = block(x)
        pooled = x.mean((2, 3))
        unbiased = functional.linear(pooled, self.fc.weight)
        return {"pool": pooled, "logits_unbiased": unbiased, "logits": unbiased + self.fc.bias}


def _signed(x: Tensor) -> Tensor:
    return (x - 128) / 128


RESIZES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "tensorflow1": (
        lambda x: _signed(resize.tensorflow1_bilinear(resize.to_bytes(x), 299, 299)),
        "bytes, TensorFlow 1 bilinear to 299x299, (x - 128) / 128 (TTUR, torch-fidelity, torchmetrics antialias=False)",
    ),
    "pytorch-fid": (
        lambda x: 2 * resize.bilinear(resize.to_bytes(x) / 255, 299, 299) - 1,
        "[0, 1], half-pixel bilinear to 299x299 without antialiasing, 2 x - 1 (pytorch-fid)",
    ),
    "clean": (
        lambda x: _signed(resize.antialiased_bicubic(resize.to_bytes(x), 299, 299).clamp(0, 255)),
        "bytes, antialiased bicubic in floating point to 299x299, clipped, (x - 128) / 128 (clean-fid)",
    ),
    "torchmetrics": (
        lambda x: _signed(resize.antialiased_bilinear(resize.to_bytes(x), 299, 299)),
        "bytes, antialiased bilinear to 299x299, (x - 128) / 128 (torchmetrics >= 1.8.0 default)",
    ),
}


def load_inception(source: str | Path, resize_rule: str = "tensorflow1") -> Extractor:
    """Load the FID network.

    Args:
        source: `pt_inception-2015-12-05-6726825d.pth`, a safetensors copy, or NVIDIA's scripted
            `inception-2015-12-05.pt`; a path or `hub:OWNER/NAME/FILE`.
        resize_rule: `"tensorflow1"`, `"pytorch-fid"`, `"clean"` or `"torchmetrics"`; the scripted file resizes itself.

    Returns:
        A frame extractor with layers `pool` (2048), `logits_unbiased` and `logits` (1008); the scripted file gives
        `pool` and `logits_unbiased` (as log-probabilities).

    Raises:
        WeightsError: The file is missing, broken or another network.
        InputError: Unknown resize rule.
    """
    path = locate(source)
    if is_torchscript(path):
        return _scripted(path)
    if resize_rule not in RESIZES:
        raise unknown("resize rule", resize_rule, RESIZES)
    prepare, text = RESIZES[resize_rule]
    network = fill(Inception(), load_tensors(path), path)
    card = Card("inception-2015-12-05", file_hash(path), text, "frame", False, SOURCE)
    return Extractor(card, prepare, network, ("pool", "logits_unbiased", "logits"))


def _scripted(path: Path) -> Extractor:
    network = load_torchscript(path)
    text = "bytes; the scripted network resizes (TensorFlow 1 bilinear) and scales (StyleGAN2-ADA, clean-fid)"
    card = Card("inception-2015-12-05", file_hash(path), text, "frame", False, SOURCE)
    call = lambda x: {
        "pool": network(x, return_features=True),
        "logits_unbiased": network(x, no_output_bias=True).double().clamp_min(1e-300).log(),
    }
    return Extractor(card, lambda x: resize.to_bytes(x).to(torch.uint8), call, ("pool", "logits_unbiased"))
