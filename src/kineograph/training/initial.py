"""Weights that a task starts from: those of another run, or of a model."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from kineograph.checkpoints.run import is_run_checkpoint
from kineograph.errors import InputError, WeightsError
from kineograph.models.autoencoder import Decoder, FrameAutoencoder, load_autoencoder
from kineograph.models.draft import DraftNetwork
from kineograph.models.latent_video import LatentVideoModel
from kineograph.sampling.generate import open_model
from kineograph.training import checkpoint
from kineograph.training.parameters import constants, load_weights, trainable


def start_from(task: Any, place: Path) -> None:
    """Copy weights into a task: of a checkpoint (averaged, if it has averages), a run's newest one, or of a model.

    Args:
        task: What is to be trained.
        place: A run directory, one of its checkpoints, a model folder or the name of a bundled model.

    Raises:
        InputError: There is neither a run nor a model.
        WeightsError: The weights do not fit.
    """
    where, own, fixed = place, trainable(task.network), constants(task.network)
    if is_run_checkpoint(place) or checkpoint.checkpoints(place):
        where = _checked(place) if is_run_checkpoint(place) else checkpoint.latest(place, _say)
        weights = checkpoint.load(where, "ema") or checkpoint.load(where, "weights")
        stored = checkpoint.load(where, "constants")
    else:
        found = _weights_of_model(task.network, place)
        weights = _fitting(task.network, own, found)
        stored = {name: found[name] for name in fixed if name in found}
    load_weights(own, weights, str(where))
    load_weights({name: fixed[name] for name in fixed if name in stored}, stored, str(where))


def _checked(place: Path) -> Path:
    """Return a checkpoint that is whole.

    Raises:
        WeightsError: It is not; the message names the file.
    """
    if (trouble := checkpoint.damage(place)) is not None:
        raise WeightsError(f"The checkpoint is damaged: {trouble}.")
    return place


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _weights_of_model(network: Any, place: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a model's autoencoder or of its denoising network."""
    folder = place / "model" if (place / "model").is_dir() else place
    if isinstance(network, FrameAutoencoder):
        inner = folder / "vae" if (folder / "vae").is_dir() else folder
        return load_autoencoder(inner).state_dict()
    model = open_model(folder)
    if isinstance(network, Decoder) and isinstance(model, LatentVideoModel):
        return {f"autoencoder.{name}": value for name, value in model.autoencoder.state_dict().items()}
    if not isinstance(network, DraftNetwork):
        return model.network.state_dict()
    draft = model.draft if isinstance(model, LatentVideoModel) else None
    if draft is None:
        raise InputError(f"'{place}' has no draft to start from.")
    return draft.state_dict()


def _fitting(network: Any, own: Iterable[str], weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leave out weights of frozen parts, and of temporal layers where the network has none; strangers stay."""
    frozen = set(network.state_dict()) - set(own)
    timeless = not any(".temporal." in name for name in own)
    return {
        name: value for name, value in weights.items() if name not in frozen and not (timeless and ".temporal." in name)
    }
