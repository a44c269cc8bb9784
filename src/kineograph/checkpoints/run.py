"""A training run's checkpoint as a model: what it trained, put into the model that the run began with or has written.

A checkpoint holds the weights that train (and their averages); the rest of the model stands beside it, in the run's
`model/`, or before that is written in `checkpoints/start/`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kineograph.checkpoints import whole
from kineograph.errors import WeightsError
from kineograph.models.weights import read_json, read_safetensors

if TYPE_CHECKING:
    from kineograph.checkpoints.load import Loaded

STATE, WEIGHTS = "state.json", "weights.safetensors"
START = "start"
MODEL_INDEX = "model_index.json"


def is_run_checkpoint(folder: Path) -> bool:
    """Say whether a folder is a checkpoint of a training run, be it that one file is missing."""
    return sum((folder / name).is_file() for name in (STATE, WEIGHTS, whole.INDEX)) > 1


def newest_of_run(folder: Path) -> Path | None:
    """Return the newest whole checkpoint of a run that has no model yet, and say so; None: it is no such folder."""
    found = sorted((path for path in (folder / "checkpoints").glob("step-*") if is_run_checkpoint(path)), reverse=True)
    whole_ones = (path for path in found if (path / whole.INDEX).is_file() and whole.damage(path) is None)
    taken = None if (folder / MODEL_INDEX).is_file() else next(whole_ones, None)
    if taken is not None:
        sys.stderr.write(f"'{folder}' is a run without a model yet; its checkpoint {taken.name} is taken.\n")
    return taken


def load_run_checkpoint(folder: Path, load: Callable[[Path], Loaded]) -> Loaded:
    """Load the model of a checkpoint, with averaged weights if it has some.

    Args:
        folder: `RUN/checkpoints/step-…`.
        load: Loads the folder of a whole model.

    Raises:
        WeightsError: The checkpoint is damaged, no model can be made of it, or the run's model is not beside it.
    """
    if (folder / whole.INDEX).is_file() and (trouble := whole.damage(folder)) is not None:
        raise WeightsError(f"The checkpoint is damaged: {trouble}.")
    state = read_json(folder / STATE)
    part = state.get("part")
    if not part:
        raise WeightsError(f"'{folder}' is a checkpoint of '{state.get('task')}', of which no model can be sampled.")
    model = load(_beside(folder))
    _put(getattr(model, part), _trained(folder), part, folder)
    return model


def _beside(folder: Path) -> Path:
    """Return the whole model of the run that a checkpoint is of."""
    places = folder.parent.parent / "model", folder.parent / START
    found = [place for place in places if (place / MODEL_INDEX).is_file()]
    if not found:
        raise WeightsError(
            f"'{folder}' holds what a run trained; the rest of its model would be in '{places[0]}' or '{places[1]}', "
            "but is in neither. Write it with the run's own command and --resume --export."
        )
    return found[0]


def _trained(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint, averaged if it averages, and what is stored beside them."""
    files = [name for name in ("ema.safetensors", WEIGHTS) if (folder / name).is_file()][:1]
    files += [name for name in ("constants.safetensors",) if (folder / name).is_file()]
    return {name: tensor for file in files for name, tensor in read_safetensors(folder / file).items()}


@torch.no_grad()
def _put(module: Any, tensors: dict[str, Tensor], part: str, folder: Path) -> None:
    """Copy tensors into a module; a network that was trained inside another one has that one's name before its own."""
    assert isinstance(module, nn.Module)
    own = module.state_dict()
    for name, tensor in tensors.items():
        target = own.get(name, own.get(name.removeprefix(f"{part}.")))
        if target is None or target.shape != tensor.shape:
            raise WeightsError(f"'{name}' of '{folder}' has no place in the model beside it, which is of another run.")
        target.copy_(tensor)
