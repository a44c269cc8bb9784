"""C3D fine-tuned on UCF-101: the network of the video inception score.

Tran et al. 2015, arXiv:1412.0767; Saito et al. 2020 (TGANv2), arXiv:1811.09245, section 4.1. Weights
`conv3d_deepnetA_ucf.npz` with the mean clip `mean2.npz` (TGANv2's release), or scripted as `c3d_ucf101.pt` (StyleGAN-V;
its output is taken to be probabilities, as StyleGAN-V's code takes it). The licence of the weights is unclear.
"""

from __future__ import annotations

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from kineograph.errors import WeightsError
from kineograph.metrics.features import resize
from kineograph.metrics.features.extractor import Card, Extractor
from kineograph.metrics.features.weights import file_hash, fill, is_torchscript, load_tensors, load_torchscript, locate

SOURCE = (
    "Tran et al. 2015, arXiv:1412.0767; UCF-101 fine-tuning by Saito et al. 2020, arXiv:1811.09245; licence unclear"
)
WIDTHS = {
    "conv1a": 64,
    "conv2a": 128,
    "conv3a": 256,
    "conv3b": 256,
    "conv4a": 512,
    "conv4b": 512,
    "conv5a": 512,
    "conv5b": 512,
}
POOL_AFTER = ("conv1a", "conv2a", "conv3b", "conv4b", "conv5b")
FRAMES, SIDE = 16, 112


class C3D(nn.Module):
    """Eight convolutions and three linear layers, with the parameter names of the chainer file."""

    def __init__(self, classes: int = 101):
        super().__init__()
        before = 3
        for name, after in WIDTHS.items():
            self.add_module(name, nn.Conv3d(before, after, 3, padding=1))
            before = after
        self.fc6, self.fc7, self.fc8 = nn.Linear(512 * 4 * 4, 4096), nn.Linear(4096, 4096), nn.Linear(4096, classes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map (n, 3, 16, 112, 112), BGR bytes less the mean clip, to `logits` (n, 101) and `fc7` (n, 4096)."""
        for name in WIDTHS:
            x = functional.relu(self.get_submodule(name)(x))
            if name in POOL_AFTER:
                kernel = (1, 2, 2) if name == "conv1a" else 2
                x = functional.max_pool3d(x, kernel, kernel, ceil_mode=True)
        x = functional.relu(self.fc6(x.flatten(1)))
        x = functional.relu(self.fc7(x))
        return {"logits": self.fc8(x), "fc7": x}


def load_c3d(source: str | Path, mean: str | Path | None = None) -> Extractor:
    """Load the network of the video inception score.

    Args:
        source: `conv3d_deepnetA_ucf.npz`, a safetensors copy, or StyleGAN-V's scripted `c3d_ucf101.pt`.
        mean: `mean2.npz`, array `mean` of shape (3, 16, 128, 171) or with a leading axis; None looks beside the
            weights. The scripted file needs none.

    Returns:
        A clip extractor for exactly 16 frames with layers `logits` (101) and `fc7`; the scripted file gives `logits`.

    Raises:
        WeightsError: A file is missing, broken or another network.
    """
    path = locate(source)
    if is_torchscript(path):
        return _scripted(path)
    average_path = locate(mean or path.with_name("mean2.npz"))
    average = _mean_clip(average_path)
    state = {k.replace("/W", ".weight").replace("/b", ".bias"): v for k, v in load_tensors(path).items()}
    network = fill(C3D(), state, path)
    text = f"128 x, BGR, corner-aligned bilinear to 112x112, + 128 - mean clip {file_hash(average_path)[:8]} (TGANv2)"
    card = Card("c3d-ucf101", file_hash(path), text, "clip", False, SOURCE)
    return Extractor(card, lambda clips: _prepare(clips, average), network, ("logits", "fc7"), FRAMES, 4)


def _mean_clip(path: Path) -> Tensor:
    tensors = load_tensors(path)
    if "mean" not in tensors or tensors["mean"].numel() != 3 * FRAMES * 128 * 171:
        raise WeightsError(f"{path} must hold an array 'mean' of shape (3, {FRAMES}, 128, 171).")
    return tensors["mean"].float().reshape(3, FRAMES, 128, 171)[:, :, 8 : 8 + SIDE, 8 : 8 + SIDE]


def _prepare(clips: Tensor, average: Tensor) -> Tensor:
    frames = rearrange(clips[:, :FRAMES].flip(2) * 128, "b f c h w -> (b f) c h w")
    frames = resize.corner_bilinear(frames, SIDE, SIDE)
    return rearrange(frames, "(b f) c h w -> b c f h w", b=len(clips)) + (128 - average)


def _scripted(path: Path) -> Extractor:
    network = load_torchscript(path)
    text = "bytes; the scripted network resizes to 112x112 and subtracts its mean (StyleGAN-V)"
    card = Card("c3d-ucf101", file_hash(path), text, "clip", False, SOURCE)
    prepare = lambda clips: rearrange(resize.to_bytes(clips[:, :FRAMES]), "b f c h w -> b c f h w").contiguous()
    call = lambda x: {"logits": network(x).double().clamp_min(torch.finfo(torch.float64).tiny).log()}
    return Extractor(card, prepare, call, ("logits",), FRAMES, 4)
