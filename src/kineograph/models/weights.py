"""Weights on disk: read without running their code, every key accounted for, every value finite, written whole.

What this library writes is safetensors and JSON. What others wrote may also be PyTorch files, which are read as data
only.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kineograph._read_weights import read_configuration, read_safetensors_file, read_weight_file
from kineograph._weight_kinds import layout_of
from kineograph.errors import KineographError, WeightsError
from kineograph.models.weight_files import find_files
from kineograph.temporal.finite import not_finite

Network = TypeVar("Network", bound=nn.Module)


WEIGHTS = "diffusion_pytorch_model"
"""Stem of diffusers' weight files."""


def read_safetensors(file: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        WeightsError: It is missing, no safetensors file, or holds values that are not finite.
    """
    path = Path(file)
    tensors = read_safetensors_file(path)
    check_finite(tensors, str(path))
    return tensors


def read_weights(file: str | Path) -> dict[str, Any]:
    """Read a file of weights, safetensors or of PyTorch, told from its content; code in it is never run.

    Returns:
        What the file holds: tensors by name, for PyTorch files perhaps nested and beside other data.

    Raises:
        WeightsError: It is missing or unreadable, it holds Python objects, which could run code, it would take more
            memory than it is long, or it is safetensors with values that are not finite.
    """
    path = Path(file)
    content = read_weight_file(path)
    if layout_of(path) == "safetensors":
        check_finite(content, str(path))
    return content


def read_folder(folder: str | Path, stem: str = WEIGHTS) -> dict[str, Tensor]:
    """Read a network's weights from its folder, in whatever files `find_files` finds them.

    Raises:
        WeightsError: None is there, or a file cannot be read, or a value is not finite.
    """
    tensors: dict[str, Tensor] = {}
    for file in find_files(folder, stem):
        tensors |= read_weights(file)
    check_finite(tensors, str(folder))
    return tensors


LARGEST, DEEPEST, LONGEST = 10**7, 512, 1000
"""No configuration has a whole number above the first, more layers than the second, or a longer list than the third."""


def read_json(file: str | Path) -> dict[str, Any]:
    """Read a configuration, a JSON object.

    Raises:
        WeightsError: The file is missing, holds none, or holds sizes that no model has.
    """
    content = _read_object(file)
    for name, value in content.items():
        _check_sane(name, value, file)
    return content


def _check_sane(name: str, value: Any, file: str | Path) -> None:
    """Refuse sizes that would fill the memory or never end.

    Raises:
        WeightsError: Names the first.
    """
    if isinstance(value, dict):
        for inner, item in value.items():
            _check_sane(inner, item, file)
    elif isinstance(value, list):
        limit = LONGEST if all(isinstance(item, float) for item in value) else DEEPEST
        if len(value) > limit:
            raise WeightsError(f"'{file}' has {len(value)} entries in '{name}'; at most {limit} are believed.")
        for item in value:
            _check_sane(name, item, file)
    elif isinstance(value, int):
        limit = DEEPEST if "layers" in name or name == "depth" else LARGEST
        if abs(value) > limit:
            raise WeightsError(f"'{file}' says {name}={value}; at most {limit} is believed. The file is damaged.")


def _read_object(file: str | Path) -> dict[str, Any]:
    path = Path(file)
    content = read_configuration(path)
    if not isinstance(content, dict):
        raise WeightsError(f"'{path}' does not hold a JSON object.")
    return content


def write_text(text: str, file: str | Path) -> None:
    """Write a text file under a temporary name, then rename it."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _partial(path)
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(content: Mapping[str, Any], file: str | Path, *, sort_keys: bool = False) -> None:
    """Write a JSON object under a temporary name, then rename it."""
    write_text(json.dumps(content, indent=2, sort_keys=sort_keys) + "\n", file)


def write_safetensors(
    tensors: Mapping[str, Tensor], file: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file under a temporary name, then rename it."""
    from safetensors.torch import save_file

    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _partial(path)
    stored = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    try:
        save_file(stored, str(part), dict(metadata or {}))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse NaN and infinite weights, and tensors without any value.

    Raises:
        WeightsError: Names the first such tensor.
    """
    for name, tensor in tensors.items():
        if not tensor.numel():
            raise WeightsError(f"'{where}' holds a weight '{name}' without values, of shape {tuple(tensor.shape)}.")
        if not_finite(tensor):
            raise WeightsError(
                f"'{where}' holds values that are not finite (NaN or infinity) in '{name}'. "
                "The file is damaged or its training diverged."
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
        directory: Folder with `config.json` and weights, as `find_files` finds them.

    Returns:
        The model in float32.

    Raises:
        WeightsError: The folder or a file is missing, or the keys, shapes or values do not fit.
    """
    folder = Path(directory)
    if not (folder / "config.json").is_file():
        raise WeightsError(f"'{folder}' is no diffusers model folder: there is no config.json.")
    config, tensors = read_json(folder / "config.json"), current_names(read_folder(folder))
    build: Callable[[], Network] = lambda: cls.from_config(config)  # pyright: ignore[reportAttributeAccessIssue]
    model = built(build, tensors, str(folder))
    load_strictly(model, tensors, str(folder))
    return model


OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What attention in autoencoders was called before diffusers 0.15 (`_convert_deprecated_attention_blocks`)."""


def current_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under today's names; the first files of Stable Diffusion's autoencoder have others."""
    old = re.compile(r"(attentions\.\d+\.)(query|key|value|proj_attn)\.(?=weight|bias)")
    return {old.sub(lambda m: f"{m[1]}{OLD_ATTENTION[m[2]]}.", key): value for key, value in tensors.items()}


def built(build: Callable[[], Network], tensors: Mapping[str, Tensor], where: str) -> Network:
    """Build a network for weights, unless it would be far larger than they are.

    Args:
        build: Builds it.
        tensors: The weights.
        where: For the message.

    Raises:
        WeightsError: The configuration cannot be of these weights.
    """
    with torch.device("meta"):
        wanted = sum(value.numel() for value in build().state_dict().values())
    given = sum(tensor.numel() for tensor in tensors.values())
    if wanted > 2 * given + 10**6:
        raise WeightsError(
            f"The configuration in '{where}' describes a network of {wanted:,} values, and its weights are {given:,}: "
            "they do not belong together."
        )
    return unfilled(build)


def unfilled(build: Callable[[], Network]) -> Network:
    """Build a network without drawing random values for its weights; the caller loads every one.

    Drawing the 860 million values of Stable Diffusion 1.5's network takes 7 s of a core, building it otherwise 0.1 s.
    """
    with Undrawn():
        return build()


class Undrawn(TorchFunctionMode):
    """Inside, in this thread alone, tensors are not filled with random values; constants are."""

    DRAWN = frozenset({"uniform_", "normal_", "kaiming_uniform_", "xavier_uniform_", "trunc_normal_"})
    """By name, because transformers puts functions of its own in place of torch's; what is not listed draws as ever."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, unless it draws."""
        given = kwargs or {}
        if getattr(func, "__name__", "") in self.DRAWN:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


@contextmanager
def readable(where: str | Path) -> Iterator[None]:
    """Inside, whatever a file makes fail that is nobody's model is one error that says so.

    Args:
        where: The file or folder, for the message.

    Raises:
        WeightsError: Something failed that was not foreseen; the cause is attached.
    """
    try:
        yield
    except KineographError:
        raise
    except OSError as error:
        if error.filename is not None:
            raise
        raise WeightsError(f"'{where}' cannot be read: {error}.") from error
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0].rstrip(".")[:200]
        raise WeightsError(
            f"'{where}' cannot be read as a model: it is damaged, or made for something else "
            f"({type(error).__name__}: {reason})."
        ) from error


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
    write_safetensors(tensors, folder / f"{WEIGHTS}.safetensors", {"format": "pt"})
    write_text(model.to_json_string(), folder / "config.json")
