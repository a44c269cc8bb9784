"""The metrics of an evaluation as a table: which features each takes, how it estimates, what its number is called."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kineograph.metrics import consistency, motion, natural, pixel, structural
from kineograph.metrics.classifier_score import inception_score_splits
from kineograph.metrics.extrapolation import too_few_samples
from kineograph.metrics.features.clip import unit
from kineograph.metrics.frechet import frechet_distance
from kineograph.metrics.intervals import (
    Estimate,
    frechet_interval,
    inception_score_interval,
    mean_interval,
    mmd_interval,
)
from kineograph.metrics.kernel import mmd
from kineograph.metrics.manifold import precision_recall

FAMILIES = {
    "frechet": "Fréchet distance of features",
    "mmd": "kernel distance of features",
    "inception": "inception score of a classifier",
    "manifold": "precision, recall, density, coverage of features",
    "consistency": "likeness of a clip's frames by features",
    "text": "likeness of frames and prompt",
    "match": "likeness of frames and prompt, learned from the reference",
    "frames": "from the frames of a clip alone",
    "pairs": "against the reference clip of the same name",
}
Family = Literal["frechet", "mmd", "inception", "manifold", "consistency", "text", "match", "frames", "pairs"]


@dataclass(frozen=True)
class Measure:
    """One metric.

    Attributes:
        label: Name of the number; `{}` is replaced by the extractor's name, so that stand-ins name themselves.
        family: How it is computed.
        better: `"higher"`, `"lower"` or `""`.
        extractor: Name in `EXTRACTORS`, or "".
        layer: Layer of the extractor.
        options: Constants of the estimator; all of them enter the protocol.
        default: Whether it is measured when no metrics are named; EvalCrafter's have a name for all of them.
        least_frames: Fewest frames of a clip; 0 is what its family needs.
        side: Fewest pixels along the shorter edge.
    """

    label: str
    family: Family
    better: str
    extractor: str = ""
    layer: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    default: bool = True
    least_frames: int = 0
    side: int = 1

    @property
    def frames(self) -> int:
        """Fewest frames of a clip."""
        return self.least_frames or {"consistency": 2}.get(self.family, 1)

    @property
    def clips(self) -> int:
        """Fewest samples of a side."""
        return {"frechet": 2, "mmd": 2, "manifold": self.options.get("k", 0) + 1}.get(self.family, 1)

    @property
    def title(self) -> str:
        """What it is, for lists: the number's name and how it is found."""
        return FAMILIES[self.family]

    @property
    def needs_reference(self) -> bool:
        """Whether real clips are needed."""
        return self.family in ("frechet", "mmd", "manifold", "match", "pairs")

    def with_options(self, **options: Any) -> Measure:
        """The same metric with other constants."""
        return replace(self, options={**self.options, **options})


FRECHET = {"ddof": 1}
MMD = {"degree": 3, "gamma": "1/dimensions", "coef": 1.0, "estimator": "unbiased"}

MEASURES: dict[str, Measure] = {
    "fvd": Measure("FVD", "frechet", "lower", "i3d", "logits", FRECHET),
    "kvd": Measure("KVD", "mmd", "lower", "i3d", "logits", MMD),
    "cd-fvd": Measure("CD-FVD", "frechet", "lower", "videomae", "fc_norm", FRECHET),
    "video-is": Measure("IS (C3D, UCF-101)", "inception", "higher", "c3d", "logits", {"splits": 1}),
    "fid": Measure("FID", "frechet", "lower", "inception", "pool", FRECHET),
    "kid": Measure("KID", "mmd", "lower", "inception", "pool", MMD),
    "is": Measure("IS", "inception", "higher", "inception", "logits_unbiased", {"splits": 1}),
    "clipsim": Measure("CLIPSIM", "text", "higher", "clip", "embedding", {"scale": 1.0}),
    "frame-consistency": Measure(
        "frame consistency (CLIP)", "consistency", "", "clip", "embedding", {"pairs": "all_pairs"}
    ),
    "fd-motion": Measure("FD[{}]", "frechet", "lower", "motion", "pool", FRECHET),
    "kd-motion": Measure("KD[{}]", "mmd", "lower", "motion", "pool", MMD),
    "fd-image": Measure("FD[{}]", "frechet", "lower", "image", "pool", FRECHET),
    "kd-image": Measure("KD[{}]", "mmd", "lower", "image", "pool", MMD),
    "is-image": Measure("IS[{}]", "inception", "higher", "image", "logits", {"splits": 1}),
    "precision-recall": Measure("{part}[{}]", "manifold", "higher", "motion", "pool", {"k": 5}),
    "consistency-image": Measure("frame consistency[{}]", "consistency", "", "image", "pool", {"pairs": "all_pairs"}),
    "subject-consistency": Measure(
        "subject consistency, VBench rule[{}]", "consistency", "higher", "image", "pool", {"pairs": "vbench"}
    ),
    "background-consistency": Measure(
        "background consistency, VBench rule (CLIP)", "consistency", "higher", "clip", "embedding", {"pairs": "vbench"}
    ),
    "text-match": Measure(
        "text match[{} to MiniLM, fitted on the reference]", "match", "higher", "image", "pool", {"ridge": 1.0}
    ),
    "clip-temp": Measure(
        "CLIP-Temp (EvalCrafter)", "consistency", "higher", "clip", "embedding", {"pairs": "adjacent"}, default=False
    ),
    "face-consistency": Measure(
        "face consistency (EvalCrafter)",
        "consistency",
        "higher",
        "clip",
        "embedding",
        {"pairs": "first"},
        default=False,
    ),
    "is-evalcrafter": Measure(
        "IS (EvalCrafter)", "inception", "higher", "inception", "logits_unbiased", {"splits": 10}, default=False
    ),
    "flicker": Measure("temporal flickering (VBench)", "frames", "higher", least_frames=2),
    "smoothness": Measure(
        "motion smoothness[neighbours' mean]",
        "frames",
        "higher",
        options={"interpolation": "mean of the neighbours"},
        least_frames=3,
    ),
    "flow": Measure(
        "flow score[Lucas-Kanade]", "frames", "", options={"flow": "pyramidal Lucas-Kanade"}, least_frames=2
    ),
    "warping-error": Measure(
        "warping error[Lucas-Kanade]", "frames", "lower", options={"flow": "pyramidal Lucas-Kanade"}, least_frames=2
    ),
    "dynamic-degree": Measure(
        "dynamic degree[Lucas-Kanade]", "frames", "", options={"flow": "pyramidal Lucas-Kanade"}, least_frames=2
    ),
    "niqe": Measure("NIQE", "frames", "lower", options={"luma": "Rec. 601, full range"}, side=2 * natural.PATCH + 2),
    "psnr": Measure("PSNR", "pairs", "higher", options={"pool": "frames", "channels": "RGB", "identical": "100 dB"}),
    "ssim": Measure(
        "SSIM", "pairs", "higher", options={"window": "gaussian 11, 1.5", "border": "valid", "channels": "RGB"}, side=11
    ),
    "lpips": Measure("LPIPS", "pairs", "lower", "lpips", options={"pool": "frames", "version": "0.1"}),
    "ms-ssim": Measure("MS-SSIM", "pairs", "higher", options={"scales": 5, "channels": "RGB"}, side=11 * 2**4),
}
"""Names as typed after `--metrics`."""


def _luma(frames: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    return (frames.clamp(-1, 1).add(1).mul(127.5).round() * weights).sum(1)


FRAME_VALUES: dict[str, Callable[[Tensor, float], float]] = {
    "flicker": lambda x, fps: motion.flicker(x),
    "smoothness": lambda x, fps: motion.smoothness(x),
    "flow": lambda x, fps: motion.mean_flow(x),
    "warping-error": lambda x, fps: motion.warping_error(x),
    "dynamic-degree": motion.dynamic_degree,
    "niqe": lambda x, fps: float(natural.niqe(_luma(x)).mean()),
}
"""Value of one clip: frames (frames, 3, height, width) in [-1, 1] and their rate to a number."""


def pair_value(key: str, options: Mapping[str, Any], a: Tensor, b: Tensor) -> float:
    """Value of a generated clip against its reference, frames (frames, 3, height, width) in [-1, 1]."""
    if key == "psnr":
        return pixel.psnr(a, b, (-1, 1), pool=options.get("pool", "frames"), cap=100.0)
    if key == "ms-ssim":
        return structural.ms_ssim(a, b, (-1, 1))
    window = {"gaussian 11, 1.5": structural.gaussian_window(border=options["border"])}.get(options["window"])
    return structural.ssim(a, b, (-1, 1), window=window or structural.uniform_window())


def estimate_frechet(
    options: Mapping[str, Any], x: Tensor, y: Tensor, groups: tuple[Tensor, Tensor], level: float
) -> Estimate:
    """Distance with error bar; for ddof 0 the bar of ddof 1 is moved to the other value."""
    bar = frechet_interval(x, y, level=level, clusters=groups)
    if options["ddof"] == 1:
        return bar
    value = frechet_distance(x, y, ddof=options["ddof"])
    return replace(bar, value=value, low=bar.low + value - bar.value, high=bar.high + value - bar.value)


def estimate_mmd(
    options: Mapping[str, Any], x: Tensor, y: Tensor, groups: tuple[Tensor, Tensor], level: float
) -> Estimate:
    """Squared discrepancy with the error bar of the full U-statistic."""
    gamma = None if options["gamma"] == "1/dimensions" else float(options["gamma"])
    kernel = {"degree": options["degree"], "gamma": gamma, "coef": options["coef"]}
    bar = mmd_interval(x, y, **kernel, level=level, clusters=groups)
    if options["estimator"] == "unbiased":
        return bar
    extra = {k: options[k] for k in ("size", "subsets", "seed") if k in options}
    value = mmd(x, y, **kernel, estimator=options["estimator"], **extra)
    return replace(bar, value=value, low=bar.low + value - bar.value, high=bar.high + value - bar.value)


def estimate_inception(options: Mapping[str, Any], logits: Tensor, groups: Tensor, level: float) -> Estimate:
    """Inception score; with several splits the mean over them, whose error bar is that of one split."""
    logs = logits.double().log_softmax(1)
    bar = inception_score_interval(logs.exp(), level=level, clusters=groups)
    if options["splits"] == 1:
        return bar
    if "shuffle_seed" in options:
        logs = logs[torch.from_numpy(np.random.RandomState(options["shuffle_seed"]).permutation(len(logs)))]
    splits = inception_score_splits(logs, options["splits"], log=True)
    value, factor = splits.mean().item(), splits.mean().item() / bar.value
    return replace(bar, value=value, low=bar.low * factor, high=bar.high * factor, stderr=bar.stderr * factor)


def estimate_manifold(options: Mapping[str, Any], x: Tensor, y: Tensor, level: float) -> dict[str, Estimate]:
    """Precision, recall, density and coverage with error bars over samples."""
    result = precision_recall(x, y, options["k"])
    return {name: mean_interval(values, level=level) for name, values in result.samples.items()}


def text_value(options: Mapping[str, Any], frames: Tensor, text: Tensor) -> float:
    """Mean cosine of the frames' embeddings (frames, d) with the prompt's (d,)."""
    cosine = unit(frames) @ unit(text)
    return float(options["scale"] * (cosine.clamp_min(0) if options.get("clip_at_zero") else cosine).mean())


def consistency_value(options: Mapping[str, Any], frames: Tensor) -> float:
    """Agreement of the frames' features (frames, d) under the rule's pairs."""
    return consistency.RULES[options["pairs"]](frames)


def warn(measure: Measure, x: Tensor, y: Tensor | None) -> tuple[str, ...]:
    """What the reader of a number has to know about its sample counts."""
    if measure.family == "frechet" and y is not None:
        message = too_few_samples(len(x), len(y), x.shape[1])
        return (message,) if message else ()
    if measure.family == "inception":
        most = len(x) / measure.options["splits"]
        return (
            (f"at most {most:.4g} with {len(x)} samples in {measure.options['splits']} splits",)
            if most < x.shape[1]
            else ()
        )
    return ()


def finite_or_none(x: float) -> float | None:
    """JSON has no infinities: an undefined end of an interval is None."""
    return x if math.isfinite(x) else None
