"""Key maps as data: pairs of patterns that rename weights both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kineograph.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class PositionTable:
    """A sinusoidal table that a foreign layout stores beside certain weights.

    Attributes:
        beside: Ending of the key of a weight whose last axis is as wide as the table.
        name: Ending of the table's key, in place of `beside`.
        frames: Length of the table.
        inside: What the key also contains, where other layers have weights of the same ending.
    """

    beside: str
    name: str
    frames: int
    inside: str = ""

    def of(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tables, each `(1, frames, channels)`, that belong to the weights of a state dict."""
        from kineograph.temporal.position import sinusoidal_positions

        return {
            key.removesuffix(self.beside) + self.name: sinusoidal_positions(self.frames, value.shape[-1], value)[None]
            for key, value in state_dict.items()
            if key.endswith(self.beside) and self.inside in key
        }


@dataclass(frozen=True)
class RotaryTable(PositionTable):
    """The rates of a rotary position code.

    Attributes:
        frames: Twice their number.
        rates: The rates, where they are not the usual ones.
    """

    rates: tuple[float, ...] | None = None

    def of(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the rates, each `(frames / 2,)`, that belong to the weights of a state dict."""
        import torch

        from kineograph.temporal.rotary import rotary_rates

        own = None if self.rates is None else torch.tensor(self.rates)
        return {
            key.removesuffix(self.beside) + self.name: rotary_rates(self.frames, value)
            if own is None
            else own.to(value.device, copy=True)
            for key, value in state_dict.items()
            if key.endswith(self.beside)
        }


@dataclass(frozen=True)
class KeyMap:
    """A renaming between a foreign layout and ours.

    Attributes:
        pairs: `(theirs, ours)` prefixes; `{i}` stands for a number and has the same value on both sides. The first pair
            that matches the start of a key is used; what follows the prefix is kept.
        rest: What happens to a key that no pair matches: `"keep"` it as it is, or it is an `"error"`.
        tables: Foreign position tables, which are computed here: dropped on the way in, made on the way out.
        pointwise: Foreign prefixes whose weights are convolutions of one place where ours are linear: `(out, in, 1)`.
        pointwise_axes: Axes of these convolutions: 2 for `(out, in, 1, 1)`.
        what: Name of the foreign layout, for messages.
    """

    pairs: Sequence[tuple[str, str]]
    rest: str = "keep"
    tables: Sequence[PositionTable] = ()
    pointwise: Sequence[str] = ()
    pointwise_axes: int = 1
    what: str = "foreign"

    def to_ours(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename foreign weights to ours."""
        kept = {key: value for key, value in state_dict.items() if not any(key.endswith(t.name) for t in self.tables)}
        kept = {key: value.flatten(1) if self._is_pointwise(key) else value for key, value in kept.items()}
        return self._rename(kept, self._forward)

    def to_theirs(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename our weights to the foreign layout."""
        renamed = self._rename(state_dict, self._backward)
        ones = (1,) * self.pointwise_axes
        renamed = {k: v.reshape(v.shape + ones) if self._is_pointwise(k) else v for k, v in renamed.items()}
        return renamed | {name: table for kind in self.tables for name, table in kind.of(renamed).items()}

    def _is_pointwise(self, key: str) -> bool:
        return key.endswith(".weight") and any(_pattern(prefix).match(key) for prefix in self.pointwise)

    def their_name(self, key: str) -> str:
        """Return what the foreign layout calls a weight of ours."""
        return next((name for pattern, target in self._backward if (name := _apply(pattern, target, key))), key)

    def unknown(self, state_dict: Mapping[str, Tensor]) -> list[str]:
        """List the foreign weights that no pair matches, where such are an error."""
        if self.rest == "keep":
            return []
        kept = [key for key in state_dict if not any(key.endswith(table.name) for table in self.tables)]
        return [key for key in kept if not any(pattern.match(key) for pattern, _ in self._forward)]

    @cached_property
    def _forward(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(theirs), ours) for theirs, ours in self.pairs]

    @cached_property
    def _backward(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(ours), theirs) for theirs, ours in self.pairs]

    def _rename(
        self, state_dict: Mapping[str, Tensor], rules: Sequence[tuple[re.Pattern[str], str]]
    ) -> dict[str, Tensor]:
        renamed: dict[str, Tensor] = {}
        unmatched: list[str] = []
        for key, value in state_dict.items():
            new = next((name for pattern, target in rules if (name := _apply(pattern, target, key))), None)
            if new is None and self.rest == "error":
                unmatched.append(key)
            renamed[new or key] = value
        if unmatched:
            raise WeightsError(
                f"{len(unmatched)} of {len(state_dict)} keys are not known in the {self.what} layout, "
                f"for example {', '.join(unmatched[:5])}."
            )
        if len(renamed) != len(state_dict):
            raise WeightsError(f"Two keys of the {self.what} layout map to one; the file mixes layouts.")
        return renamed


def nest(outer: Sequence[tuple[str, str]], inner: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Combine where a layer sits with what its weights are called: every outer pair followed by every inner pair."""
    return [(theirs + t, ours + o) for theirs, ours in outer for t, o in inner]


def _pattern(template: str) -> re.Pattern[str]:
    """Compile a prefix template: `{name}` is a number, everything else is literal."""
    parts = _FIELD.split(template)
    return re.compile("".join(re.escape(part) if n % 2 == 0 else rf"(?P<{part}>\d+)" for n, part in enumerate(parts)))


def _apply(pattern: re.Pattern[str], target: str, key: str) -> str | None:
    """Return the new key, or None where the pattern does not match the key's start."""
    found = pattern.match(key)
    return None if found is None else target.format(**found.groupdict()) + key[found.end() :]


def motion_module_places(image: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return where motion modules sit in diffusers' `UNetMotionModel` and in ours.

    Args:
        image: Configuration of the image network; a module follows the attention of a block, or the ResNet where the
            block has no attention.
    """
    blocks = [
        (f"{part}_blocks.{n}.", kind) for part in ("down", "up") for n, kind in enumerate(image[f"{part}_block_types"])
    ]
    places = [
        (f"{block}motion_modules.{{j}}.", f"{block}{'attentions' if 'Attn' in kind else 'resnets'}.{{j}}.temporal.")
        for block, kind in blocks
    ]
    return [*places, ("mid_block.motion_modules.{j}.", "mid_block.attentions.{j}.temporal.")]


# How diffusers names the weights of our layers

ATTENTION_KEYS = (
    ("to_q.", "query."),
    ("to_k.", "key."),
    ("to_v.", "value."),
    ("to_out.0.", "output."),
)
"""diffusers' `Attention` and our `FrameAttention`."""

TRANSFORMER_KEYS = (
    ("norm.", "norm."),
    ("proj_in.", "enter."),
    ("proj_out.", "leave."),
    *nest(
        [("transformer_blocks.{n}.", "blocks.{n}.")],
        [
            ("norm", "norm"),
            *nest(
                [("attn1.", "attend1."), ("attn2.", "attend2.")],
                ATTENTION_KEYS,
            ),
            ("ff.net.0.proj.", "feed_forward.widen."),
            ("ff.net.2.", "feed_forward.narrow."),
        ],
    ),
)
"""diffusers' `TransformerTemporalModel` and our `TemporalTransformer`."""

CONVOLUTION_KEYS = (
    *((f"conv{stage + 1}.0.", f"stages.{stage}.norm.") for stage in range(4)),
    ("conv1.2.", "stages.0.conv."),  # the first stage has no dropout, hence the other index
    *((f"conv{stage + 1}.3.", f"stages.{stage}.conv.") for stage in range(1, 4)),
)
"""diffusers' `TemporalConvLayer` and our `TemporalConvolution`."""

VIDEO_BLOCK_KEYS = (
    ("norm", "norm"),
    *nest([("attn1.", "attend1."), ("attn2.", "attend2.")], ATTENTION_KEYS),
    *nest([("ff_in.net.", "feed_in."), ("ff.net.", "feed_out.")], [("0.proj.", "widen."), ("2.", "narrow.")]),
)
"""diffusers' `TemporalBasicTransformerBlock` and our `TemporalVideoBlock`."""

RES_BLOCK_KEYS = (
    ("norm", "norm"),
    ("conv1.", "enter."),
    ("time_emb_proj.", "level."),
    ("conv2.", "leave."),
)
"""diffusers' `TemporalResnetBlock` and our `TemporalResBlock`."""
