"""Key maps as data: pairs of patterns that rename weights both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from kineograph.errors import WeightsError

_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class KeyMap:
    """A renaming between a foreign layout and ours.

    Attributes:
        pairs: `(theirs, ours)` prefixes; `{i}` stands for a number and has the same value on both sides. The first pair
            that matches the start of a key is used; what follows the prefix is kept.
        rest: What happens to a key that no pair matches: `"keep"` it as it is, or it is an `"error"`.
        drop: Foreign prefixes that hold no weights of the network (position tables, running counters).
        what: Name of the foreign layout, for messages.
    """

    pairs: Sequence[tuple[str, str]]
    rest: str = "keep"
    drop: Sequence[str] = ()
    what: str = "foreign"

    def to_ours(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename foreign weights to ours."""
        kept = {key: value for key, value in state_dict.items() if not any(_match(p, key) for p in self._dropped)}
        return self._rename(kept, self._forward)

    def to_theirs(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename our weights to the foreign layout."""
        return self._rename(state_dict, self._backward)

    @cached_property
    def _forward(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(theirs), ours) for theirs, ours in self.pairs]

    @cached_property
    def _backward(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(ours), theirs) for theirs, ours in self.pairs]

    @cached_property
    def _dropped(self) -> list[re.Pattern[str]]:
        return [_pattern(prefix) for prefix in self.drop]

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


def _match(pattern: re.Pattern[str], key: str) -> bool:
    return pattern.match(key) is not None


def _apply(pattern: re.Pattern[str], target: str, key: str) -> str | None:
    """Return the new key, or None where the pattern does not match the key's start."""
    found = pattern.match(key)
    return None if found is None else target.format(**found.groupdict()) + key[found.end() :]
