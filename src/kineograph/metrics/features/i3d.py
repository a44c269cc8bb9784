"""I3D on Kinetics-400: the network of FVD and KVD.

Carreira and Zisserman 2017, arXiv:1705.07750; DeepMind's weights, Apache-2.0, as the PyTorch port
`i3d_pretrained_400.pt` (VideoGPT, TATS, cd-fvd, common_metrics) or scripted as `i3d_torchscript.pt` (StyleGAN-V). The
feature is the 400 logits averaged over the remaining frames, without softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from kineograph.errors import unknown
from kineograph.metrics.features import resize
from kineograph.metrics.features.extractor import Card, Extractor
from kineograph.metrics.features.weights import file_hash, fill, is_torchscript, load_tensors, load_torchscript, locate

SOURCE = "Carreira and Zisserman 2017, arXiv:1705.07750; DeepMind, Kinetics-400, Apache-2.0"
SIZE = 224
MIXED = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
"""Input channels and the channels of the branches b0, b1a, b1b, b2a, b2b, b3b."""
Triple = tuple[int, int, int]


def same_padding(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """TensorFlow's 'same': pad zeros so that ceil(size / stride) windows fit, the odd one behind."""
    pads: list[int] = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max(k - (size % s or s), 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads) if any(pads) else x


def max_pool(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Maximum over 'same' windows; the padding counts as zero, as in the port, where inputs are never negative."""
    return functional.max_pool3d(same_padding(x, kernel, stride), kernel, stride)


class Unit3D(nn.Module):
    """Convolution with 'same' padding, then batch norm and ReLU, or a bias."""

    def __init__(self, before: int, after: int, kernel: int = 1, stride: int = 1, norm: bool = True):
        super().__init__()
        self.kernel: Triple = (kernel, kernel, kernel)
        self.stride: Triple = (stride, stride, stride)
        self.conv3d = nn.Conv3d(before, after, kernel, stride, bias=not norm)
        self.bn = nn.BatchNorm3d(after, eps=1e-5) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, before, frames, height, width) to (n, after, frames', height', width')."""
        x = self.conv3d(same_padding(x, self.kernel, self.stride))
        return x if self.bn is None else functional.relu(self.bn(x))


class Mixed(nn.Module):
    """Inception block of four branches."""

    def __init__(self, before: int, widths: tuple[int, ...]):
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = Unit3D(before, b0)
        self.b1a, self.b1b = Unit3D(before, b1a), Unit3D(b1a, b1b, 3)
        self.b2a, self.b2b = Unit3D(before, b2a), Unit3D(b2a, b2b, 3)
        self.b3b = Unit3D(before, b3b)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the branches."""
        pooled = self.b3b(max_pool(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), pooled], 1)


class I3D(nn.Module):
    """The network, with the parameter names of the PyTorch port."""

    def __init__(self, classes: int = 400):
        super().__init__()
        self.Conv3d_1a_7x7 = Unit3D(3, 64, 7, 2)
        self.Conv3d_2b_1x1, self.Conv3d_2c_3x3 = Unit3D(64, 64), Unit3D(64, 192, 3)
        for name, (before, widths) in MIXED.items():
            self.add_module(name, Mixed(before, widths))
        self.logits = Unit3D(1024, classes, norm=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map (n, 3, frames, 224, 224) in [-1, 1] to `logits` (n, classes) and `pool` (n, 1024)."""
        x = max_pool(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = max_pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name in MIXED:
            if name == "Mixed_4b":
                x = max_pool(x, (3, 3, 3), (2, 2, 2))
            if name == "Mixed_5b":
                x = max_pool(x, (2, 2, 2), (2, 2, 2))
            x = self.get_submodule(name)(x)
        x = functional.avg_pool3d(x, (2, 7, 7), 1)
        return {"logits": self.logits(x)[..., 0, 0].mean(2), "pool": x.mean((2, 3, 4))}


def _per_frame(rule: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def prepare(clips: Tensor) -> Tensor:
        frames = rule(resize.to_bytes(rearrange(clips, "b f c h w -> (b f) c h w")))
        return rearrange(2 * frames / 255 - 1, "(b f) c h w -> b c f h w", b=len(clips)).contiguous()

    return prepare


def _shorter_side_and_crop(x: Tensor) -> Tensor:
    return resize.centre_crop(resize.bilinear(x, *resize.shorter_side(x.shape[-2], x.shape[-1], SIZE, ceil=True)), SIZE)


RESIZES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "google": (
        _per_frame(lambda x: resize.tensorflow1_bilinear(x, SIZE, SIZE)),
        "bytes, TensorFlow 1 bilinear to 224x224, aspect not kept, 2 x / 255 - 1 (google frechet_video_distance)",
    ),
    "squash": (
        _per_frame(lambda x: resize.bilinear(x, SIZE, SIZE)),
        "bytes, half-pixel bilinear to 224x224, aspect not kept, 2 x / 255 - 1 (TATS, LVDM, DIGAN, cd-fvd)",
    ),
    "crop": (
        _per_frame(_shorter_side_and_crop),
        "bytes, shorter side to 224 (half-pixel bilinear), centre crop, 2 x / 255 - 1 (VideoGPT, common_metrics)",
    ),
}


def load_i3d(source: str | Path, resize_rule: str = "squash") -> Extractor:
    """Load the FVD network.

    Args:
        source: `i3d_pretrained_400.pt`, a safetensors copy, or StyleGAN-V's `i3d_torchscript.pt`; a path or
            `hub:OWNER/NAME/FILE`.
        resize_rule: `"google"`, `"squash"` or `"crop"`; the scripted file resizes itself.

    Returns:
        A clip extractor for 9 frames or more, with layers `logits` (400) and `pool` (1024); the scripted file gives
        `logits` only.

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
    network = fill(I3D().to(memory_format=torch.channels_last_3d), load_tensors(path), path)  # pyright: ignore[reportCallIssue]
    card = Card("i3d-kinetics400", file_hash(path), text, "clip", False, SOURCE)
    return Extractor(card, prepare, network, ("logits", "pool"), fewest_frames=9, batch=4)


def _scripted(path: Path) -> Extractor:
    network = load_torchscript(path)
    text = "bytes; the scripted network resizes to 224x224 and scales (StyleGAN-V)"
    card = Card("i3d-kinetics400", file_hash(path), text, "clip", False, SOURCE)
    prepare = lambda clips: rearrange(resize.to_bytes(clips), "b f c h w -> b c f h w").contiguous()
    call = lambda x: {"logits": network(x, rescale=True, resize=True, return_features=True)}
    return Extractor(card, prepare, call, ("logits",), fewest_frames=9, batch=4)
