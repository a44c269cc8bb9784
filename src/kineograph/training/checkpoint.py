"""Checkpoints of a run: a directory of safetensors and JSON that appears at once, or not at all.

An index in each holds a checksum of every file; what is read is verified first, every byte. While a checkpoint of the
same step is written again, the one before bears the name `step-…-replaced`, so that at any moment a whole one is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from kineograph.checkpoints import whole
from kineograph.errors import DataError, WeightsError
from kineograph.training.replace import GONE, PART, discard, disk_trouble

FORMAT = 2  # 1 had no index
REPLACED = "-replaced"
_NAME = re.compile(rf"step-(\d{{8,}})({REPLACED})?")


def checkpoint_dir(run: Path, step: int) -> Path:
    """Return the directory of the checkpoint after `step` optimizer steps."""
    return run / "checkpoints" / f"step-{step:08d}"


def checkpoints(run: Path) -> list[Path]:
    """List a run's checkpoints, oldest first, damaged ones too; unfinished ones do not count."""
    folders = (run / "checkpoints").glob("step-*")
    return sorted((path for path in folders if _NAME.fullmatch(path.name) and path.is_dir()), key=_place)


def _place(path: Path) -> tuple[int, bool]:
    """Return where a checkpoint stands in order: `(step, not replaced)`."""
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return int(found[1]), found[2] is None


def latest(run: Path, say: Callable[[str], None] | None = None) -> Path:
    """Return the newest checkpoint of a run that is whole.

    Args:
        run: Run directory.
        say: Called with a line for each newer one that is damaged.

    Raises:
        DataError: The run has none.
        WeightsError: All are damaged; the message names the files.
    """
    found = checkpoints(run)
    if not found:
        raise DataError(f"There is no checkpoint to resume in '{run / 'checkpoints'}'. Start the run without --resume.")
    troubles: list[str] = []
    for path in reversed(found):
        trouble = damage(path)
        if trouble is None:
            _tell(troubles, path, say)
            return path
        troubles.append(trouble)
    raise WeightsError(f"No checkpoint in '{run / 'checkpoints'}' is whole: {'; '.join(troubles)}.")


def _tell(troubles: list[str], taken: Path, say: Callable[[str], None] | None) -> None:
    """Say which checkpoints are damaged and which one is taken instead."""
    for trouble in troubles if say else ():
        assert say is not None
        say(f"A checkpoint is damaged: {trouble}. The newest whole one is taken: {taken.name}.")


def set_aside(run: Path, kept: Path) -> None:
    """Rename the checkpoints that are newer than `kept` to `damaged-step-…`: nothing reads or deletes those."""
    for path in checkpoints(run):
        if _place(path) > _place(kept):
            aside = path.with_name(f"damaged-{path.name}")
            discard(aside)
            path.rename(aside)


def damage(checkpoint: Path) -> str | None:
    """Say by name which file of a checkpoint is missing or damaged; None: it is whole, every byte verified.

    Checkpoints of before there was an index are whole if all their files are there and can be read.
    """
    if (checkpoint / whole.INDEX).exists():
        return whole.damage(checkpoint)
    file = checkpoint / "state.json"
    try:
        state = load_state(checkpoint)
    except WeightsError as error:
        return str(error).removesuffix(".")
    if state.get("format") != 1:
        return f"'{checkpoint / whole.INDEX}' is missing"
    if not {"task", "step", "samples_seen"} <= state.keys():
        return f"'{file}' is damaged"
    averaged = state.get("config", {}).get("ema_halflife_samples", 0) > 0
    stems = ("weights", "optimizer", *(["ema"] if averaged else []))
    return next((words for stem in stems if (words := _unreadable(checkpoint / f"{stem}.safetensors"))), None)


def _unreadable(file: Path) -> str | None:
    """Say what is wrong with a safetensors file whose checksum nobody knows."""
    if not file.is_file():
        return f"'{file}' is missing"
    try:
        with safe_open(str(file), "pt"):
            return None
    except Exception as error:  # safetensors raises its own Rust-side exception types
        return f"'{file}' is not a readable safetensors file: {error}"


def save(
    run: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int
) -> Path:
    """Write a checkpoint and delete the oldest beyond `keep`.

    Everything goes to a hidden directory first and is renamed when complete, so that a killed run leaves either the
    whole checkpoint or none. Others are deleted only after that.

    Args:
        run: Run directory.
        step: Optimizer steps done.
        tensors: File stem -> named tensors.
        state: JSON values.
        keep: Number of checkpoints to keep.

    Returns:
        The checkpoint's directory.

    Raises:
        ResourceError: The disk is full; nothing of the checkpoint is left, and the ones before are untouched.
    """
    target = checkpoint_dir(run, step)
    part = target.with_name(f"{PART}{target.name}")
    _sweep(target.parent)
    try:
        with disk_trouble(f"The checkpoint of step {step} could not be written to '{run}'"):
            part.mkdir(parents=True)
            _write_parts(part, tensors, {"format": FORMAT, "step": step, **state})
            whole.write_index(part)
            _put(part, target)
    except BaseException:
        discard(part)
        raise
    earlier = [path for path in checkpoints(run) if _place(path) < _place(target)]
    replaced = [path for path in earlier if path.name.endswith(REPLACED)]
    rest = [path for path in earlier if path not in replaced]
    for old in (*replaced, *rest[: max(0, len(rest) + 1 - keep)]):
        discard(old)
    return target


def _put(part: Path, target: Path) -> None:
    """Give a written checkpoint its name; one of that name bears another until it is deleted."""
    if target.exists():
        replaced = target.with_name(target.name + REPLACED)
        discard(replaced)
        target.rename(replaced)
    part.rename(target)
    whole.sync(target.parent)


def _sweep(folder: Path) -> None:
    """Delete what killed processes left half written or half deleted."""
    for path in (*folder.glob(f"{PART}step-*"), *folder.glob(f"{GONE}*step-*")):
        discard(path)


def _write_parts(part: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    for stem, named in tensors.items():
        contiguous = {name: tensor.detach().contiguous().cpu() for name, tensor in named.items()}
        save_file(contiguous, str(part / f"{stem}.safetensors"))
    (part / "state.json").write_text(json.dumps(state, indent=1))


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
    """Read a checkpoint's JSON values.

    Raises:
        WeightsError: The file is missing, or no JSON object.
    """
    file = checkpoint / "state.json"
    if not file.is_file():
        raise WeightsError(f"'{file}' is missing.")
    try:
        state = json.loads(file.read_bytes())
    except ValueError as error:
        raise WeightsError(f"'{file}' is {'damaged' if file.stat().st_size else 'empty'} ({error}).") from error
    if not isinstance(state, dict):
        raise WeightsError(f"'{file}' is damaged: it holds no JSON object.")
    return state


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten the state of an optimizer of one parameter group: `"3.exp_avg"` belongs to parameter 3."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": torch.as_tensor(value) for i, entry in state.items() for name, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], where: str = "") -> None:
    """Restore what `optimizer_tensors` flattened.

    Raises:
        WeightsError: It is the state of an optimizer of other parameters.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
    for index, entry in state.items():
        for name, tensor in entry.items():
            wanted = parameters[index].shape if index in parameters else None
            if wanted is None or (tensor.ndim and tensor.shape != wanted):
                given = tuple(tensor.shape)
                raise WeightsError(f"'{index}.{name}' in '{where}', of shape {given}, belongs to nothing that trains.")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
