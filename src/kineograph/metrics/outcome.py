"""What an evaluation found: scores, metrics that were skipped, clips that could not be measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from kineograph.errors import unknown
from kineograph.metrics.score import Score


@dataclass(frozen=True)
class Failure:
    """A clip that could not be measured.

    Attributes:
        side: `"generated"` or `"reference"`.
        clip: Its name.
        reason: Why.
        metric: The metric that could not take it; empty where none could.
    """

    side: str
    clip: str
    reason: str
    metric: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Everything one call of `evaluate` found.

    Attributes:
        scores: The numbers, by the name typed (`"fvd"`); several-part metrics add `-PART`.
        skipped: Metrics that could not run, with the reason and the line that mends it.
        failures: Clips that could not be measured.
        generated: Names of the generated clips measured, in order.
        reference: Names of the reference clips measured.
        decoded: How many files were decoded; the rest came from the store.
        notes: What a reader has to know about the data.
        features: Features by extractor, then side, for plots: shape (clips, dimensions).
    """

    scores: Mapping[str, Score]
    skipped: Mapping[str, str]
    failures: tuple[Failure, ...]
    generated: tuple[str, ...]
    reference: tuple[str, ...]
    decoded: int
    notes: tuple[str, ...] = ()
    features: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Score:
        if key not in self.scores:
            raise unknown("score", key, self.scores)
        return self.scores[key]

    @property
    def complete(self) -> bool:
        """Whether every clip was measured."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "scores": {key: score.to_dict() for key, score in self.scores.items()},
            "skipped": dict(self.skipped),
            "failures": [vars(f) for f in self.failures],
            "generated": len(self.generated),
            "reference": len(self.reference),
            "decoded": self.decoded,
            "notes": list(self.notes),
        }
