"""A score never travels alone: value, error bar, protocol, counts, warnings."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kineograph.errors import InputError


@dataclass(frozen=True)
class Protocol:
    """Everything that decides whether two numbers may be compared.

    Attributes:
        metric: Name under which the number is reported, such as `"FVD"` or `"FD[efficientnet-lite0]"`.
        facts: Feature extractor and weight hash, frames, stride, clip rule, preparation, estimator and its constants,
            and for biased estimators the sample counts.
        published: Name of the published protocol that these facts follow, or None.
    """

    metric: str
    facts: Mapping[str, Any]
    published: str | None = None

    @property
    def hash(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of metric and facts."""
        text = json.dumps([self.metric, dict(self.facts)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Score:
    """One measured number.

    Attributes:
        value: The estimate.
        protocol: What was measured, how.
        low: Lower end of the interval; None without one.
        high: Upper end.
        stderr: Standard error.
        level: Nominal coverage of the interval.
        method: How the interval was found.
        generated: Number of generated clips used.
        reference: Number of reference clips used.
        reference_data: Hash of the reference files, without which two distances cannot be compared.
        better: `"higher"`, `"lower"`, or `""` where neither is.
        warnings: What a reader of the number has to know.
        per_clip: Values of single clips, where the metric has them.
    """

    value: float
    protocol: Protocol
    low: float | None = None
    high: float | None = None
    stderr: float | None = None
    level: float | None = None
    method: str = ""
    generated: int = 0
    reference: int = 0
    reference_data: str | None = None
    better: str = ""
    warnings: tuple[str, ...] = ()
    per_clip: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The reported name."""
        return self.protocol.metric

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        bar = "" if self.low is None or self.high is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.name} = {self.value:.5g}{bar} (protocol {self.protocol.hash})"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; numbers that JSON cannot hold become None."""
        number = lambda x: x if x is None or math.isfinite(x) else None
        return {
            "metric": self.name,
            "value": number(self.value),
            "interval": [number(self.low), number(self.high)],
            "stderr": number(self.stderr),
            "level": self.level,
            "interval_method": self.method,
            "better": self.better,
            "generated": self.generated,
            "reference": self.reference,
            "reference_data": self.reference_data,
            "protocol": {
                "hash": self.protocol.hash,
                "published": self.protocol.published,
                **dict(self.protocol.facts),
            },
            "warnings": list(self.warnings),
            "per_clip": {name: number(value) for name, value in self.per_clip.items()},
        }


def score_from_dict(row: Mapping[str, Any]) -> Score:
    """Read what `Score.to_dict` wrote.

    Raises:
        InputError: A key is missing, or the protocol's hash does not fit its facts.
    """
    try:
        facts = {k: v for k, v in row["protocol"].items() if k not in ("hash", "published")}
        protocol = Protocol(row["metric"], facts, row["protocol"]["published"])
        kept = ("stderr", "level", "better", "generated", "reference", "reference_data")
        low, high = row["interval"]
        value = math.nan if row["value"] is None else row["value"]
        score = Score(value, protocol, low, high, **{k: row[k] for k in kept}, method=row["interval_method"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"Not a score written by kineograph evaluate: {error!r}.") from error
    if protocol.hash != row["protocol"]["hash"]:
        raise InputError(
            f"The protocol of {row['metric']} was edited: hash {protocol.hash}, recorded {row['protocol']['hash']}."
        )
    return score


def compare(scores: Sequence[Score], *, allow_mismatch: bool = False) -> list[Score]:
    """Order scores of one metric from best to worst, if they may be compared at all.

    Args:
        scores: At least two scores.
        allow_mismatch: Compare in spite of different protocols or reference data.

    Returns:
        The scores, best first.

    Raises:
        InputError: Protocols or reference data differ; the message names each difference.
    """
    if len(scores) < 2:
        raise InputError(f"A comparison needs at least two scores, given {len(scores)}.")
    differences = [line for other in scores[1:] for line in _differences(scores[0], other)]
    if differences and not allow_mismatch:
        raise InputError(
            "These numbers were measured differently and cannot be compared: "
            + "; ".join(dict.fromkeys(differences))
            + ". Measure again under one protocol, or pass allow_mismatch=True and say so beside the numbers."
        )
    return sorted(scores, key=float, reverse=scores[0].better == "higher")


def _differences(a: Score, b: Score) -> list[str]:
    lines = [] if a.name == b.name else [f"metric {a.name} and {b.name}"]
    keys = sorted(set(a.protocol.facts) | set(b.protocol.facts))
    missing = object()
    for key in keys:
        x, y = (s.protocol.facts.get(key, missing) for s in (a, b))
        if x != y:
            lines.append(f"{key}: {'nothing' if x is missing else x} and {'nothing' if y is missing else y}")
    if a.reference_data != b.reference_data:
        lines.append(f"reference data {a.reference_data} and {b.reference_data}")
    return lines
