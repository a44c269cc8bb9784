"""Metrics of video: distances, quality, consistency, with protocol and error bars.

Names are imported on first use (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kineograph.metrics.classifier_score import inception_score as inception_score
    from kineograph.metrics.evaluation import Evaluation as Evaluation
    from kineograph.metrics.evaluation import evaluate as evaluate
    from kineograph.metrics.extrapolation import frechet_infinity as frechet_infinity
    from kineograph.metrics.frechet import frechet_distance as frechet_distance
    from kineograph.metrics.frechet import frechet_from_moments as frechet_from_moments
    from kineograph.metrics.frechet import frechet_from_statistics as frechet_from_statistics
    from kineograph.metrics.intervals import Estimate as Estimate
    from kineograph.metrics.intervals import frechet_interval as frechet_interval
    from kineograph.metrics.intervals import inception_score_interval as inception_score_interval
    from kineograph.metrics.intervals import mean_interval as mean_interval
    from kineograph.metrics.intervals import mmd_interval as mmd_interval
    from kineograph.metrics.kernel import mmd as mmd
    from kineograph.metrics.manifold import precision_recall as precision_recall
    from kineograph.metrics.moments import Moments as Moments
    from kineograph.metrics.natural import brisque_features as brisque_features
    from kineograph.metrics.natural import niqe as niqe
    from kineograph.metrics.natural import viideo as viideo
    from kineograph.metrics.pixel import psnr as psnr
    from kineograph.metrics.protocols import PROTOCOLS as PROTOCOLS
    from kineograph.metrics.score import Protocol as Protocol
    from kineograph.metrics.score import Score as Score
    from kineograph.metrics.score import compare as compare
    from kineograph.metrics.structural import ms_ssim as ms_ssim
    from kineograph.metrics.structural import ssim as ssim

_HOMES = {
    "evaluation": ("Evaluation", "evaluate"),
    "extrapolation": ("frechet_infinity",),
    "frechet": ("frechet_distance", "frechet_from_moments", "frechet_from_statistics"),
    "classifier_score": ("inception_score",),
    "intervals": ("Estimate", "frechet_interval", "inception_score_interval", "mean_interval", "mmd_interval"),
    "manifold": ("precision_recall",),
    "kernel": ("mmd",),
    "moments": ("Moments",),
    "natural": ("brisque_features", "niqe", "viideo"),
    "pixel": ("psnr",),
    "protocols": ("PROTOCOLS",),
    "score": ("Protocol", "Score", "compare"),
    "structural": ("ms_ssim", "ssim"),
}
_PUBLIC = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _PUBLIC:
        from kineograph.errors import nearest

        raise AttributeError(f"module 'kineograph.metrics' has no attribute '{name}'{nearest(name, _PUBLIC)}")
    value = getattr(importlib.import_module(f"kineograph.metrics.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(_PUBLIC)
