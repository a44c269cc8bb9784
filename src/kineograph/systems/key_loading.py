"""Load weights through a key map, and say what does not fit in the names that the file itself has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn

from kineograph.errors import WeightsError
from kineograph.systems.keys import KeyMap

EXAMPLES = 3


def load_mapped(
    network: nn.Module,
    theirs: Mapping[str, Tensor],
    keys: KeyMap,
    where: str,
    *,
    prefix: str = "",
    wanted: Mapping[str, Tensor] | None = None,
) -> None:
    """Load a network's weights from those of a file; every name and shape must fit.

    Args:
        network: What to fill.
        theirs: The weights under the file's names, without the prefix.
        keys: From their names to ours.
        where: The file or folder.
        prefix: What stands before the names in the file.
        wanted: The part of the network's weights that the file must hold; None: all.

    Raises:
        WeightsError: One is missing, unknown or of another shape; it is called what the file calls it.
    """
    ours = mapped(theirs, keys, where, prefix)
    check_mapped(ours, network.state_dict() if wanted is None else wanted, keys, where, prefix)
    network.load_state_dict(ours, strict=False)


def mapped(theirs: Mapping[str, Tensor], keys: KeyMap, where: str, prefix: str = "") -> dict[str, Tensor]:
    """Return weights in our names.

    Raises:
        WeightsError: Some have names that the layout does not know.
    """
    strange = keys.unknown(theirs)
    if strange:
        raise WeightsError(
            f"'{where}' holds {len(strange)} weights that are unknown in the {keys.what} layout "
            f"({examples(prefix + key for key in strange)}), beside {len(theirs) - len(strange)} known ones."
        )
    return keys.to_ours(theirs)


def check_mapped(
    ours: Mapping[str, Tensor], wanted: Mapping[str, Tensor], keys: KeyMap, where: str, prefix: str = ""
) -> None:
    """Refuse weights that do not fit, under the file's names.

    Args:
        ours: The weights that were read, in our names.
        wanted: What the network has.
        keys: From their names to ours.
        where: The file or folder.
        prefix: What stands before the names in the file.

    Raises:
        WeightsError: Lists what is missing, unknown and of another shape.
    """
    check_named(ours, wanted, where, lambda key: prefix + keys.their_name(key))


def check_named(
    ours: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str, named: Callable[[str], str]
) -> None:
    """Refuse weights that do not fit, under the names that a function returns. See `check_mapped`."""
    missing = {named(key): None for key in wanted if key not in ours}
    strange = {named(key): None for key in ours if key not in wanted}
    shapes = [
        f"{named(key)} is {list(ours[key].shape)} and must be {list(value.shape)}"
        for key, value in wanted.items()
        if key in ours and ours[key].shape != value.shape
    ]
    problems = [_counted(missing, "missing"), _counted(strange, "unknown"), _counted(shapes, "of another shape")]
    if any(problems):
        raise WeightsError(f"The weights in '{where}' do not fit: {'; '.join(filter(None, problems))}.")


def _counted(names: Mapping[str, None] | list[str], problem: str) -> str:
    if not names:
        return ""
    return f"{len(names)} {'key is' if len(names) == 1 else 'keys are'} {problem} ({examples(names)})"


def examples(names: Iterable[str]) -> str:
    """Return the first few of some names."""
    names = list(names)
    return ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")
