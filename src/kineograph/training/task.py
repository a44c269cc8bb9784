"""What a stage brings to the loop, and what is the same for most stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

Progress = Callable[[int, "int | None", str], None]
"""Called with what is done, what there is in all where that is known, and what is being done."""
Item = TypeVar("Item")


class Task(Protocol):
    """What a stage brings to the loop."""

    name: str
    network: nn.Module
    num_samples: int
    part: str
    """Attribute of the model that `export` writes and `network` is, or holds under that name; empty: no such model."""
    notes: Sequence[str]
    """What the data and the base give, a line each; the first thing that a run says."""
    made: Mapping[str, Any]
    """Flags that built the task beyond its `facts`; a run keeps these as well."""
    progress: Progress | None
    """Told how far `validate` and `preview` are."""

    def facts(self) -> Mapping[str, Any]:
        """Return what the task was made of, JSON values by flag: what a run keeps when it is resumed."""
        ...

    def load(self, indices: list[int], seeds: list[int]) -> dict[str, Tensor]:
        """Return the data of some samples, choices (such as the frame) by seed; runs in a thread."""
        ...

    def loss(self, network: Callable[..., Any], batch: dict[str, Tensor], seeds: list[int]) -> Tensor:
        """Return one loss per sample, (samples,); all randomness comes from the seeds."""
        ...

    def validate(self) -> dict[str, float]:
        """Measure at fixed samples, noise levels and seeds."""
        ...

    def preview(self, directory: Path) -> None:
        """Draw pictures with fixed seeds."""
        ...

    def export(self, directory: Path) -> None:
        """Write an inference-ready model folder."""
        ...


class Told:
    """What a task says until it is made to say more."""

    part: str = ""
    notes: Sequence[str] = ()
    made: Mapping[str, Any] = MappingProxyType({})
    progress: Progress | None = None


def tracked(items: Iterable[Item], progress: Progress | None, what: str) -> Iterator[Item]:
    """Yield items, and tell how many are done."""
    total = len(items) if isinstance(items, Sized) else None
    for done, item in enumerate(items):
        yield item
        if progress:
            progress(done + 1, total, what)
