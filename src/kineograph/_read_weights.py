"""Weights from a file, whatever its name: safetensors or of PyTorch, read as data only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kineograph._text import read_json
from kineograph._torch_files import read_torch_file
from kineograph._weight_kinds import cut_safetensors, head, layout_of, what_it_is
from kineograph.errors import WeightsError


def read_weight_file(path: Path) -> dict[str, Any]:
    """Read a file of weights in the layout that its content has.

    Returns:
        What it holds: tensors by name, for PyTorch files perhaps nested and beside other data.

    Raises:
        WeightsError: It is missing or cut, something else than weights, or holds Python objects.
    """
    _check_there(path)
    layout = layout_of(path)
    if layout == "safetensors":
        return dict(read_safetensors_file(path))
    if not layout:
        raise WeightsError(_not_readable(path))
    content = read_torch_file(path)
    if not isinstance(content, dict):
        raise WeightsError(f"'{path}' holds one {type(content).__name__}, not weights by name.")
    return content


def read_safetensors_file(path: Path) -> dict[str, Any]:
    """Read a safetensors file.

    Raises:
        WeightsError: It is missing, cut or something else.
    """
    from safetensors.torch import load_file

    _check_there(path)
    if layout_of(path) != "safetensors":
        raise WeightsError(_not_readable(path))
    try:
        return load_file(str(path))
    except Exception as error:  # safetensors raises exception types of its Rust side
        raise WeightsError(
            f"'{path}' is not a readable safetensors file: {cut_safetensors(path) or _one_line(error)}."
        ) from error


def read_metadata(path: Path) -> dict[str, str]:
    """Return the texts in a safetensors file's header; none for other files, which have no such place."""
    from safetensors import safe_open

    if layout_of(path) != "safetensors":
        return {}
    with safe_open(str(path), "pt") as file:
        return file.metadata() or {}


def read_configuration(path: Path) -> Any:
    """Read a JSON file beside weights.

    Raises:
        WeightsError: It cannot be read, is no JSON, or something else lies in its place.
    """
    try:
        return read_json(path, WeightsError)
    except WeightsError as error:
        kind = what_it_is(path) if path.is_file() else ""
        if not kind or kind.startswith("it is a JSON"):
            raise
        raise WeightsError(f"'{path}' cannot be read as JSON: {kind}.") from error


def _check_there(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise WeightsError(f"'{path}' is a link to '{path.readlink()}', which is not there. Fetch the file itself.")
    if not path.is_file():
        raise WeightsError(f"There is no weights file '{path}'.")


def _not_readable(path: Path) -> str:
    """Say what stands in the place of weights."""
    wanted = "safetensors file" if path.suffix == ".safetensors" else "file of weights"
    if layout_of(path):
        reason = "it is a PyTorch file. Write its tensors as safetensors"
    else:
        reason = what_it_is(path) or _cut_or_unknown(path)
    return f"'{path}' is not a readable {wanted}: {reason}."


def _cut_or_unknown(path: Path) -> str:
    cut = cut_safetensors(path) if path.suffix == ".safetensors" else ""
    return cut or f"it begins with the bytes {head(path)[:8].hex(' ')}, which are those of no format that is known here"


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
