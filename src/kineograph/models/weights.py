"""Reading weights safely: safetensors only, every key accounted for, every value finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from kineograph.errors import WeightsError

Network = TypeVar("Network", bound=nn.Module)


def read_safetensors(file: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        WeightsError: It is missing, no safetensors file, or holds values that are not finite.
    """
    from safetensors.torch import load_file

    path = Path(file)
    if not path.is_file():
        raise WeightsError(f"There is no weights file '{path}'.")
    try:
        tensors = load_file(str(path))
    except Exception as error:  # safetensors raises exception types of its Rust side
        raise WeightsError(f"'{path}' is not a readable safetensors file: {error}") from error
    check_finite(tensors, str(path))
    return tensors


def write_safetensors(
    tensors: Mapping[str, Tensor], file: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file under a temporary name, then rename it."""
    from safetensors.torch import save_file

    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    save_file(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, str(part), dict(metadata or {})
    )
    part.replace(path)


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse NaN and infinite weights.

    Raises:
        WeightsError: Names the first such tensor.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WeightsError(
                f"'{where}' holds values that are not finite in '{name}'. The file is damaged or its training diverged."
            )


def check_keys(wanted: Iterable[str], given: Iterable[str], where: str) -> None:
    """Refuse weights whose names are not exactly those of the model.

    Raises:
        WeightsError: Lists up to five missing and five unknown names.
    """
    wanted, given = set(wanted), set(given)
    missing, unknown = sorted(wanted - given), sorted(given - wanted)
    if missing or unknown:
        parts = [f"{len(missing)} missing (such as {', '.join(missing[:5])})"] if missing else []
        parts += [f"{len(unknown)} unknown (such as {', '.join(unknown[:5])})"] if unknown else []
        raise WeightsError(f"The weights of '{where}' do not fit the model: {'; '.join(parts)}.")


def load_diffusers(cls: type[Network], directory: str | Path) -> Network:
    """Build a diffusers model from its folder, strictly.

    Args:
        cls: The diffusers model class.
        directory: Folder with `config.json` and `diffusion_pytorch_model.safetensors`.

    Returns:
        The model in float32.

    Raises:
        WeightsError: The folder or a file is missing, or the keys, shapes or values do not fit.
    """
    folder = Path(directory)
    if not (folder / "config.json").is_file():
        raise WeightsError(f"'{folder}' is no diffusers model folder: there is no config.json.")
    model = cls.from_config(cls.load_config(str(folder)))  # pyright: ignore[reportAttributeAccessIssue]
    tensors = read_safetensors(folder / "diffusion_pytorch_model.safetensors")
    load_strictly(model, tensors, str(folder))
    return model


def load_strictly(model: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load a state dict whose names and shapes must be exactly the model's.

    Raises:
        WeightsError: A name is missing or unknown, or a shape differs.
    """
    own = model.state_dict()
    check_keys(own, tensors, where)
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise WeightsError(
                f"'{name}' in '{where}' has shape {tuple(tensor.shape)}; the model wants {tuple(own[name].shape)}."
            )
    model.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in tensors.items()})


def save_diffusers(model, directory: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a diffusers model as `config.json` and safetensors, each under a temporary name first.

    Args:
        model: The diffusers model.
        directory: Target folder.
        dtype: Type of the stored floating-point weights; None keeps theirs.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.to(dtype) if dtype and t.is_floating_point() else t for name, t in model.state_dict().items()}
    write_safetensors(tensors, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    part = folder / "config.json.part"
    part.write_text(model.to_json_string())
    part.replace(folder / "config.json")
