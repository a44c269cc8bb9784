"""LPIPS, the learned distance of two aligned pictures, on weights that the user gives.

Zhang et al. 2018, arXiv:1801.03924, eq. 1: features of a classifier after each stage, normalised over channels;
squared differences, weighted per channel by a linear head, averaged over places, summed over stages. Version 0.1 of the
authors' code: pixels in [-1, 1] are shifted and scaled to ImageNet's statistics.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from kineograph.errors import InputError, WeightsError
from kineograph.metrics.features.extractor import Card
from kineograph.metrics.features.weights import file_hash, fill, load_tensors, locate
from kineograph.metrics.pixel import as_image_pair

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPSILON = 1e-10  # `normalize_tensor` of the authors' code
TAPS = {"alex": (2, 5, 8, 10, 12), "vgg": (4, 9, 16, 23, 30)}  # first layer of `features` that is not in the stage


def alexnet() -> nn.Sequential:
    """Build the feature layers of torchvision's AlexNet (Krizhevsky 2014, arXiv:1404.5997)."""
    relu = lambda: nn.ReLU(inplace=False)
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), relu(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, 1, 2), relu(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, 1, 1), relu(), nn.Conv2d(384, 256, 3, 1, 1), relu(),
        nn.Conv2d(256, 256, 3, 1, 1), relu(),
    )  # fmt: skip


def vgg16() -> nn.Sequential:
    """Build the feature layers of torchvision's VGG-16 (Simonyan & Zisserman 2014, arXiv:1409.1556), up to relu5_3."""
    layers: list[nn.Module] = []
    before = 3
    for stage, (width, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        layers += [nn.MaxPool2d(2, 2)] if stage else []
        for _ in range(depth):
            layers += [nn.Conv2d(before, width, 3, 1, 1), nn.ReLU(inplace=False)]
            before = width
    return nn.Sequential(*layers)


NETWORKS = {"alex": alexnet, "vgg": vgg16}


@dataclass(frozen=True)
class Lpips:
    """A distance with its identity.

    Attributes:
        card: Network and hash of both files.
        stages: The network, cut after each tap.
        heads: One weight per channel for each stage, `(1, channels, 1, 1)`.
    """

    card: Card
    stages: tuple[nn.Sequential, ...]
    heads: tuple[Tensor, ...]

    @torch.inference_mode()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Measure frames.

        Args:
            a: Shape (frames, 3, height, width) in [-1, 1].
            b: Same shape.

        Returns:
            Distance of each frame, shape (frames,); 0 for equal ones.

        Raises:
            InputError: Shapes differ, or frames smaller than the network's stride allows.
        """
        first, second = as_image_pair(a, b)
        if first.ndim != 4 or first.shape[1] != 3 or min(first.shape[-2:]) < 32:
            raise InputError(f"LPIPS needs (frames, 3, height, width) of 32 pixels or more, not {tuple(first.shape)}.")
        x, y = standardise(first.float()), standardise(second.float())
        total = torch.zeros(len(x))
        for stage, head in zip(self.stages, self.heads, strict=True):
            x, y = stage(x), stage(y)
            total += (head * (unit_channels(x) - unit_channels(y)).square()).sum(1).mean((1, 2))
        return total


def standardise(x: Tensor) -> Tensor:
    """Shift and scale pixels in [-1, 1] to the statistics of ImageNet."""
    return (x - torch.tensor(SHIFT)[:, None, None]) / torch.tensor(SCALE)[:, None, None]


def unit_channels(x: Tensor) -> Tensor:
    """Give the channels of every place the length 1."""
    return x / (x.square().sum(1, keepdim=True).sqrt() + EPSILON)


def load_lpips(source: str | Path, heads: str | Path | None = None) -> Lpips:
    """Load the distance.

    Args:
        source: torchvision's `alexnet-owt-7be5be79.pth` or `vgg16-397923af.pth`; the classifier in it is not used.
        heads: `alex.pth` or `vgg.pth` of the authors' version 0.1; None takes those inside an installed `torchmetrics`
            or `lpips`.

    Raises:
        WeightsError: A file is missing or is another network.
    """
    path = locate(source)
    state = {k.removeprefix("features."): v for k, v in load_tensors(path).items() if k.startswith("features.")}
    name = _kind(state, path)
    network = NETWORKS[name]()
    fill(network, state, path)
    head_path = locate(heads) if heads is not None else installed_heads(name)
    ends = (0, *TAPS[name])
    stages = tuple(nn.Sequential(*list(network)[a:b]) for a, b in pairwise(ends))
    digest = hashlib.sha256((file_hash(path) + file_hash(head_path)).encode()).hexdigest()
    card = Card(f"lpips-{name}", digest, "pixels shifted and scaled, no resizing", "frame", False, "arXiv:1801.03924")
    return Lpips(card, stages, _heads(head_path, [_width(stage) for stage in stages]))


def _width(stage: nn.Sequential) -> int:
    """Return the channels that come out of a stage."""
    return [layer.out_channels for layer in stage if isinstance(layer, nn.Conv2d)][-1]


def _kind(state: dict[str, Tensor], path: Path) -> str:
    """Tell AlexNet and VGG-16 apart by the first convolution."""
    shape = tuple(state["0.weight"].shape) if "0.weight" in state else ()
    kinds: dict[tuple[int, ...], str] = {(64, 3, 11, 11): "alex", (64, 3, 3, 3): "vgg"}
    if shape not in kinds:
        raise WeightsError(
            f"{path} is neither torchvision's AlexNet nor its VGG-16 (features.0.weight: {list(shape) or 'missing'}). "
            "LPIPS takes alexnet-owt-7be5be79.pth or vgg16-397923af.pth."
        )
    return kinds[shape]


def installed_heads(name: str) -> Path:
    """Find the linear heads inside an installed package (7 KB, BSD-2).

    Raises:
        WeightsError: Neither package is installed.
    """
    for package, folder in (("torchmetrics", "functional/image/lpips_models"), ("lpips", "weights/v0.1")):
        found = find_spec(package)
        if found and found.origin and (path := Path(found.origin).parent / folder / f"{name}.pth").is_file():
            return path
    raise WeightsError(f"The heads of LPIPS ({name}.pth) come inside torchmetrics: pip install torchmetrics.")


def _heads(path: Path, widths: list[int]) -> tuple[Tensor, ...]:
    """Read one weight per channel and stage.

    Raises:
        WeightsError: The file is for another network.
    """
    state = load_tensors(path)
    heads = tuple(state.get(f"lin{i}.model.1.weight", torch.empty(0)) for i in range(len(widths)))
    if [head.numel() for head in heads] != widths:
        raise WeightsError(f"{path} holds heads of {[h.numel() for h in heads]} channels; needed are {widths}.")
    return tuple(head.reshape(1, -1, 1, 1).float() for head in heads)
