"""EvalCrafter: seventeen metrics and their regression to human opinion.

Liu et al. 2024, arXiv:2310.11440; code evalcrafter/EvalCrafter 1275bda (no licence file: written from its formulas).
The published coefficients come from an unregularised fit on few models: several metrics carry a negative weight. They
are kept as published; `fit` finds new ones from human ratings under non-negative or ridge regression, with
cross-validation and rank correlations with intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from kineograph._text import read_json, read_words
from kineograph.errors import DataError, InputError, require
from kineograph.metrics.arrays import ArrayLike, as_features, as_tensor, finite

Aspect = Literal["quality", "alignment", "motion", "temporal"]


@dataclass(frozen=True)
class Metric:
    """One of the seventeen.

    Attributes:
        key: Column name.
        aspect: Aspect of quality whose regression it enters; None for metrics reported but not regressed.
        network: What computes it.
        install: How to obtain that; empty where nothing is needed.
        divisor: The published regression divides the reported number by this.
        inverted: The published regression takes 1 - x.
        measure: Name of the metric of `kineograph evaluate` that computes it; empty where there is none.
    """

    key: str
    aspect: Aspect
    network: str
    install: str
    divisor: float = 1.0
    inverted: bool = False
    measure: str = ""


_CLIP = "kineograph evaluate --weights clip=FOLDER (openai/clip-vit-base-patch32)"
METRICS: tuple[Metric, ...] = (
    Metric("vqa_a", "quality", "DOVER, aesthetic head", "git clone https://github.com/VQAssessment/DOVER", 100),
    Metric("vqa_t", "quality", "DOVER, technical head", "git clone https://github.com/VQAssessment/DOVER", 100),
    Metric(
        "is",
        "quality",
        "Inception-2015-12-05, every frame, 10 splits",
        "--weights inception=PATH",
        100,
        measure="is-evalcrafter",
    ),
    Metric("clip_temp", "temporal", "CLIP ViT-B/32, neighbouring frames", _CLIP, measure="clip-temp"),
    Metric("warping_error", "temporal", "RAFT, occlusion-masked", "RAFT weights (raft-things.pth)", 1, True),
    Metric(
        "face_consistency", "temporal", "CLIP ViT-B/32, every frame with the first", _CLIP, measure="face-consistency"
    ),
    Metric("action_score", "motion", "VideoMAE v2-B Kinetics-400 and CLIP", "VideoMAE v2-B weights"),
    Metric("motion_ac_score", "motion", "RAFT, mean flow above 5 pixels", "RAFT weights (raft-things.pth)"),
    Metric("flow_score", "motion", "RAFT, mean flow", "RAFT weights (raft-things.pth)", 100),
    Metric("clip_score", "alignment", "CLIP ViT-B/32, text and every frame", _CLIP, measure="clipsim"),
    Metric("blip_bleu", "alignment", "BLIP-2 OPT-2.7b captions of 5 frames", "Salesforce/blip2-opt-2.7b (15 GB)"),
    Metric(
        "sd_score", "alignment", "5 SDXL pictures per prompt, CLIP", "stabilityai/stable-diffusion-xl-base-1.0 (7 GB)"
    ),
    Metric("detection_score", "alignment", "GroundingDINO, SAM, DeAOT", "GroundingDINO, SAM and DeAOT weights"),
    Metric("color_score", "alignment", "the same masks, mean hue", "GroundingDINO, SAM and DeAOT weights"),
    Metric("count_score", "alignment", "the same masks, counted", "GroundingDINO, SAM and DeAOT weights"),
    Metric("ocr_score", "alignment", "OCR of every frame", "pip install rapidocr (published: PaddleOCR)", 1, True),
    Metric("celebrity_id_score", "alignment", "VGG-Face, three photographs", "pip install deepface", 1, True),
)
"""Order within an aspect is the order of the published coefficients."""

PUBLISHED: dict[Aspect, tuple[tuple[float, ...], float]] = {
    "quality": ((0.03004555, 0.02887537, -0.01382558), 0.08707463),
    "temporal": ((2.92492244, 0.45475678, 0.17561504), -3.42274051),
    "motion": ((-0.01641512, -0.01340959, -0.10517075), 0.12975620),
    "alignment": (
        (-0.0701577, 0.02561424, 0.05566109, 0.0173974, -0.020954, 0.03069167, 0.00372351, 0.22686202),
        -0.30683182,
    ),
}
"""Weights and intercept by aspect, `eval_from_metrics.py`."""


def of_aspect(aspect: Aspect) -> tuple[Metric, ...]:
    """The metrics of one aspect."""
    return tuple(m for m in METRICS if m.aspect == aspect)


def published_scores(values: Mapping[str, float], *, corrected: bool = False) -> dict[str, float]:
    """The four aspect scores and their sum, from the numbers of one model.

    Args:
        values: The seventeen numbers in the units of the published table (VQA 0-100, flow in pixels, IS as is).
        corrected: The published code multiplies every regression by 5 except the intercept of the alignment one, which
            shifts that aspect by 122.7 points; corrected multiplies it too.

    Returns:
        `quality`, `alignment`, `motion`, `temporal` and `total`, about 0 to 100 each.

    Raises:
        InputError: A number is missing; the message says what computes it. Nothing is filled in.
    """
    missing = [m for m in METRICS if m.key not in values]
    if missing:
        lines = "; ".join(f"{m.key} needs {m.network} ({m.install})" for m in missing[:3])
        raise InputError(f"The published regression needs all 17 numbers; {len(missing)} are missing: {lines}.")
    scores: dict[str, float] = {}
    for aspect, (weights, intercept) in PUBLISHED.items():
        columns = [_scaled(metric, values[metric.key]) for metric in of_aspect(aspect)]
        scale = 1 if aspect == "alignment" and not corrected else 5
        scores[aspect] = 100 * (5 * sum(w * x for w, x in zip(weights, columns, strict=True)) + scale * intercept)
    return {**scores, "total": sum(scores.values())}


def _scaled(metric: Metric, value: float) -> float:
    value = value / metric.divisor
    return 1 - value if metric.inverted else value


def skipped(available: Sequence[str]) -> dict[str, str]:
    """Metrics that are not available, with the reason and what to install."""
    return {m.key: f"needs {m.network}: {m.install}" for m in METRICS if m.key not in set(available)}


ATTRIBUTES = ("face", "count", "action", "text", "amp", "color")


@dataclass(frozen=True)
class Prompt:
    """One line of EvalCrafter's prompt list with its metadata.

    Attributes:
        text: The prompt.
        attributes: `metadata.json` attributes, such as `{"color": "red", "amp": "large"}`.
    """

    text: str
    attributes: Mapping[str, Any]


def read_prompts(text_file: Path, metadata_file: Path) -> list[Prompt]:
    """Read `prompt700.txt` and `metadata.json`.

    The metadata maps the number of the line, as four digits ("0000"), to an object with `attributes`.

    Raises:
        DataError: Unreadable, or an attribute that EvalCrafter does not know.
    """
    lines, table = read_words(text_file), read_json(metadata_file)
    try:
        rows = [table.get(f"{i:04d}", {}).get("attributes", {}) for i in range(len(lines))]
    except AttributeError as error:
        raise DataError(f"{metadata_file} is no EvalCrafter metadata: {error}.") from error
    unknown = {key for row in rows for key in row} - set(ATTRIBUTES)
    if unknown:
        raise DataError(f"Unknown attributes {sorted(unknown)} in {metadata_file}. Known: {', '.join(ATTRIBUTES)}.")
    return [Prompt(text, row) for text, row in zip(lines, rows, strict=True)]


@dataclass(frozen=True)
class Correlation:
    """A rank correlation with its interval.

    Attributes:
        value: Spearman's rho or Kendall's tau.
        low: Lower end, by the bootstrap over rows.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """A regression from metrics to human opinion.

    Attributes:
        weights: One per metric, on the metrics as given.
        intercept: Added.
        low: Lower ends of the weights' bootstrap intervals.
        high: Upper ends.
        penalty: Ridge penalty chosen by cross-validation, on standardised metrics; 0 for non-negative fits.
        spearman: Of predictions for held-out rows with the ratings.
        kendall: The same, Kendall's tau-b.
        spearman_mean: Of the plain mean of the standardised metrics with the ratings: what the fit has to beat.
        span: Smallest and largest value of each metric in the training rows, shape (metrics, 2).
    """

    weights: Tensor
    intercept: float
    low: Tensor
    high: Tensor
    penalty: float
    spearman: Correlation
    kendall: Correlation
    spearman_mean: Correlation
    span: Tensor

    def predict(self, metrics: ArrayLike, *, extrapolate: bool = False) -> Tensor:
        """Predict opinions for rows of shape (n, metrics).

        Raises:
            InputError: A metric leaves the range it was fitted on by more than a tenth.
        """
        x = as_features(metrics, "metrics", 1)
        slack = 0.1 * (self.span[:, 1] - self.span[:, 0])
        outside = ((x < self.span[:, 0] - slack) | (x > self.span[:, 1] + slack)).any(0).nonzero()[:, 0].tolist()
        if outside and not extrapolate:
            raise InputError(
                f"Metrics {outside} leave the range of the ratings; extrapolate=True predicts all the same."
            )
        return x @ self.weights + self.intercept


def fit(
    metrics: ArrayLike,
    ratings: ArrayLike,
    *,
    kind: Literal["nonnegative", "ridge"] = "nonnegative",
    folds: int = 5,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Fit:
    """Fit human opinion.

    Args:
        metrics: Shape (rows, metrics), oriented so that more is better.
        ratings: Mean opinion of each row, shape (rows,).
        kind: `"nonnegative"` least squares, in which no metric can lower a score, or `"ridge"`.
        folds: Of the cross-validation for predictions and for the penalty.
        resamples: Of the bootstrap over rows.
        level: Of the intervals.
        seed: Of folds and resamples.

    Returns:
        The fit, with correlations of held-out predictions.

    Raises:
        InputError: Fewer rows than metrics and folds need, or a metric without spread.
    """
    x = as_features(metrics, "metrics")
    y = finite(as_tensor(ratings, "ratings").double().flatten(), "ratings")
    rows, columns = x.shape
    if len(y) != rows or rows < max(columns + 2, 2 * folds):
        raise InputError(
            f"{rows} rows and {len(y)} ratings for {columns} metrics: at least {max(columns + 2, 2 * folds)}."
        )
    if bool((x.std(0) == 0).any()):
        raise InputError("A metric is the same in every row, so its weight is not defined.")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(rows, generator=generator)
    penalty = _choose_penalty(x, y, order, folds) if kind == "ridge" else 0.0
    held_out = _held_out(x, y, order, folds, kind, penalty)
    weights, intercept = _solve(x, y, kind, penalty)
    draws = [torch.randint(rows, (rows,), generator=generator) for _ in range(resamples)]
    draws = [i for i in draws if bool((x[i].std(0) > 0).all())]
    spread = torch.stack([_solve(x[i], y[i], kind, penalty)[0] for i in draws])
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = spread.quantile(tails, dim=0)
    plain = ((x - x.mean(0)) / x.std(0)).mean(1)
    correlate = lambda a, name: _correlation(a, y, name, draws, tails)
    return Fit(
        weights, intercept, low, high, penalty, correlate(held_out, "spearmanr"), correlate(held_out, "kendalltau"),
        correlate(plain, "spearmanr"), torch.stack([x.amin(0), x.amax(0)], 1),
    )  # fmt: skip


def _solve(x: Tensor, y: Tensor, kind: str, penalty: float) -> tuple[Tensor, float]:
    mean, scale = x.mean(0), x.std(0)
    z, target = (x - mean) / scale, y - y.mean()
    if kind == "nonnegative":
        values, _ = require("scipy.optimize", "metrics").nnls(z.numpy(), target.numpy())
        solution = torch.from_numpy(values)
    else:
        solution = torch.linalg.solve(z.T @ z + penalty * len(z) * torch.eye(z.shape[1], dtype=z.dtype), z.T @ target)
    weights = solution / scale
    return weights, float(y.mean() - mean @ weights)


def _held_out(x: Tensor, y: Tensor, order: Tensor, folds: int, kind: str, penalty: float) -> Tensor:
    prediction = torch.empty_like(y)
    for fold in range(folds):
        out = order[fold::folds]
        kept = torch.cat([order[f::folds] for f in range(folds) if f != fold])
        weights, intercept = _solve(x[kept], y[kept], kind, penalty)
        prediction[out] = x[out] @ weights + intercept
    return prediction


def _choose_penalty(x: Tensor, y: Tensor, order: Tensor, folds: int) -> float:
    grid = torch.logspace(-4, 2, 13).tolist()
    errors = [float((_held_out(x, y, order, folds, "ridge", p) - y).square().mean()) for p in grid]
    return grid[errors.index(min(errors))]


def _correlation(a: Tensor, y: Tensor, name: str, draws: list[Tensor], tails: Tensor) -> Correlation:
    measure = getattr(require("scipy.stats", "metrics"), name)
    value = lambda i: float(measure(a[i].numpy(), y[i].numpy()).statistic)
    spread = [value(i) for i in draws if len(a[i].unique()) > 1 and len(y[i].unique()) > 1]
    low, high = torch.tensor(spread, dtype=torch.float64).quantile(tails).tolist()
    return Correlation(value(torch.arange(len(y))), low, high)
