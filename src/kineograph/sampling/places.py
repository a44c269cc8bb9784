"""Where a model lies: bundled, in a local folder or file, or on the Hugging Face Hub. Found without importing torch."""

from __future__ import annotations

import re
from pathlib import Path

import kineograph
from kineograph.errors import WeightsError, nearest
from kineograph.models.weight_files import lacks_weights

BUNDLED = Path(kineograph.__file__).parent / "bundled"
INDEX = "model_index.json"
RUN_MODEL = "model"
"""Where a training run keeps its model."""
HUB_NAME = re.compile(r"[\w-]+/[\w.-]+")
"""How models on the Hugging Face Hub are named: `owner/name`."""
HUB_FILES = ["*.json", "*.txt", "*.safetensors"]
"""What is fetched of one; never files that could hold code."""


def bundled() -> list[str]:
    """List the names of the models inside the package."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{INDEX}"))


def bundled_folder(name: str | Path) -> Path | None:
    """Return the folder of a bundled name, unless a model of that name lies in the working directory."""
    hidden = local(name) is not None and any((root / INDEX).is_file() for root in (Path(name), Path(name) / RUN_MODEL))
    return BUNDLED / str(name) if str(name) in bundled() and not hidden else None


def local(name: str | Path) -> Path | None:
    """Return the path of what lies here under a name, or None. The folder of a training run means its model."""
    path = Path(name).expanduser()
    if not (path / INDEX).is_file() and (path / RUN_MODEL / INDEX).is_file():
        return path / RUN_MODEL
    return path if path.exists() else None


def here(name: str | Path) -> Path | None:
    """Return the path of a model that needs no fetching, or None for one that the Hub may have.

    A folder in the working directory that is no model, such as the data set `emoji`, does not hide a bundled name.

    Raises:
        WeightsError: There is no such model, and the name is none of the Hub's.
    """
    found = bundled_folder(name) or local(name)
    if found is None and not HUB_NAME.fullmatch(str(name)):
        raise WeightsError(
            f"There is no model '{name}'{nearest(str(name), bundled())} Bundled: {', '.join(bundled()) or 'none'}; "
            "or give a model folder, one that holds model_index.json, a checkpoint file, or owner/name on the Hub."
        )
    return found


def find(name: str | Path) -> Path:
    """Return the path of a bundled name, of a local model, a folder or a file, or of a model on the Hugging Face Hub.

    Raises:
        WeightsError: There is no such model.
    """
    return here(name) or _fetched(str(name))


def base_here(name: str | Path) -> Path | None:
    """Return the path of an image model that needs no fetching, or None for one that the Hub may have.

    Raises:
        WeightsError: There is no such file or folder, and the name is none of the Hub's.
    """
    found = bundled_folder(name) or local(name)
    if found is None and not HUB_NAME.fullmatch(str(name)):
        raise WeightsError(f"--base: there is no file or folder '{name}'{nearest(str(name), bundled())}")
    return found


def find_base(name: str | Path) -> Path:
    """Return the path of an image model: a bundled one, a local one, or one on the Hub.

    Raises:
        WeightsError: There is no such model.
    """
    return base_here(name) or _fetched(str(name))


def _fetched(name: str) -> Path:
    """Return the local copy of a model on the Hub, fetching what is missing.

    Raises:
        WeightsError: It is neither there nor here.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        ignored = ["*.fp16.*", "*.non_ema.*"]
        folder = Path(snapshot_download(name, allow_patterns=HUB_FILES, ignore_patterns=ignored))
        if lacks_weights(folder):  # of some models there is half precision only
            folder = Path(snapshot_download(name, allow_patterns=HUB_FILES, ignore_patterns=ignored[1:]))
        return folder
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise WeightsError(
            f"There is no folder '{name}', and no such model could be fetched from the Hugging Face Hub: {reason}."
        ) from error
