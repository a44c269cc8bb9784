"""Checkpoints of a run: a directory of safetensors and JSON that appears at once, or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kineograph.errors import DataError, ResourceError, WeightsError

FORMAT = 1


def checkpoint_dir(run: Path, step: int) -> Path:
    """Return the directory of the checkpoint after `step` optimizer steps."""
    return run / "checkpoints" / f"step-{step:08d}"


def checkpoints(run: Path) -> list[Path]:
    """List a run's complete checkpoints, oldest first; unfinished ones do not count."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if (path / "state.json").is_file())


def latest(run: Path) -> Path:
    """Return the newest complete checkpoint of a run.

    Raises:
        DataError: The run has none.
    """
    found = checkpoints(run)
    if not found:
        raise DataError(f"There is no checkpoint to resume in '{run / 'checkpoints'}'. Start the run without --resume.")
    return found[-1]


def save(
    run: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int
) -> Path:
    """Write a checkpoint and delete the oldest beyond `keep`.

    Everything goes to a hidden directory first and is renamed when complete, so that a killed run leaves either the
    whole checkpoint or none.

    Args:
        run: Run directory.
        step: Optimizer steps done.
        tensors: File stem -> named tensors.
        state: JSON values.
        keep: Number of checkpoints to keep.

    Returns:
        The checkpoint's directory.

    Raises:
        ResourceError: The disk is full.
    """
    target = checkpoint_dir(run, step)
    part = target.with_name(f".part-{target.name}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _write_parts(part, tensors, {"format": FORMAT, "step": step, **state})
        if target.exists():
            shutil.rmtree(target)
        part.replace(target)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise ResourceError(f"The checkpoint of step {step} could not be written to '{run}': {error}.") from error
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return target


def _write_parts(part: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    for stem, named in tensors.items():
        contiguous = {name: tensor.detach().contiguous().cpu() for name, tensor in named.items()}
        save_file(contiguous, str(part / f"{stem}.safetensors"))
    (part / "state.json").write_text(json.dumps(state, indent=1))
    for file in part.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def load(checkpoint: Path, stem: str) -> dict[str, Tensor]:
    """Read one tensor file of a checkpoint; an absent file is an empty dictionary.

    Raises:
        WeightsError: The file is damaged.
    """
    file = checkpoint / f"{stem}.safetensors"
    if not file.is_file():
        return {}
    try:
        return load_file(str(file))
    except Exception as error:  # safetensors raises its own Rust-side exception types
        raise WeightsError(f"'{file}' is not a readable safetensors file: {error}") from error


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's JSON values."""
    return json.loads((checkpoint / "state.json").read_text())


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten the state of an optimizer of one parameter group: `"3.exp_avg"` belongs to parameter 3."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": torch.as_tensor(value) for i, entry in state.items() for name, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `optimizer_tensors` flattened."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
