"""Weights from a path or the Hub: found, hashed, read without running their code, checked key by key."""

from __future__ import annotations

import functools
import hashlib
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kineograph._weight_kinds import is_npz
from kineograph.errors import WeightsError
from kineograph.models.weights import load_strictly, read_weights

HUB = "hub:"


def locate(source: str | Path, sha256: str | None = None) -> Path:
    """Find a weights file.

    Args:
        source: A local path, or `hub:OWNER/NAME/FILE` for a file on the Hugging Face Hub.
        sha256: Expected hash, or its beginning. Files named `*-0123abcd.pth` carry theirs in the name.

    Returns:
        The local path.

    Raises:
        WeightsError: Missing, or the hash does not fit, which mostly means a broken download.
    """
    path = _from_hub(str(source)[len(HUB) :]) if str(source).startswith(HUB) else Path(source).expanduser()
    if not path.exists():
        raise WeightsError(f"No weights at {path}. Give the path of the downloaded file, or {HUB}OWNER/NAME/FILE.")
    named = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    expected = sha256 or (named.group(1) if named else None)
    if expected and path.is_file() and not file_hash(path).startswith(expected):
        raise WeightsError(
            f"{path} has SHA-256 {file_hash(path)[:16]}…, expected {expected[:16]}…: "
            "the download is broken or it is another file. Download it again."
        )
    return path


def _from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    parts = name.split("/", 2)
    if len(parts) < 3:
        raise WeightsError(f"A Hub file is written {HUB}OWNER/NAME/FILE, given '{HUB}{name}'.")
    return Path(hf_hub_download(f"{parts[0]}/{parts[1]}", parts[2]))


@functools.lru_cache(maxsize=64)
def _hash(path: str, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, or of the safetensors files of a model folder."""
    files = sorted(path.glob("*.safetensors")) + sorted(path.glob("*.bin")) if path.is_dir() else [path]
    if not files:
        raise WeightsError(f"{path} holds no safetensors or bin file.")
    hashes = [_hash(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def load_torchscript(path: Path) -> Any:
    """Load a TorchScript archive on the CPU.

    Raises:
        WeightsError: The archive is broken.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return torch.jit.load(str(path), map_location="cpu").eval()
        except RuntimeError as error:
            raise WeightsError(f"{path} is no readable TorchScript archive: {str(error).splitlines()[0]}") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors, a PyTorch file (tensors only, nothing is executed) or a NumPy archive.

    Raises:
        WeightsError: Unreadable, or not a state dict.
    """
    state: dict[str, Any] = dict(_arrays(path)) if is_npz(path) else read_weights(path)
    for name in ("state_dict", "model", "module"):
        if isinstance(state.get(name), dict):
            state = state[name]
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors.")
    return tensors


def _arrays(path: Path) -> dict[str, Tensor]:
    """Read an archive of NumPy arrays; ones of Python objects are refused."""
    import numpy as np

    try:
        with np.load(path) as archive:
            return {key: torch.from_numpy(archive[key]) for key in archive.files}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path} cannot be read as NumPy arrays: {error}.") from error


def fill(network: nn.Module, state: dict[str, Tensor], origin: Path) -> nn.Module:
    """Load a state dict strictly (batch counters aside), and freeze the network in evaluation mode.

    Raises:
        WeightsError: Missing or unknown keys or other shapes, with examples.
    """
    counters = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    kept = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    load_strictly(network, {**counters, **kept}, str(origin))
    return network.eval().requires_grad_(False)
