"""PyTorch's files of weights, read as data: no code that they name is ever run, nor asked for.

`torch.load(weights_only=True)` makes tensors and plain values and refuses everything else. What training scripts keep
beside the weights without harm, such as NumPy's numbers and the settings of a run, is let through by stand-ins of our
own in place of the named classes: numbers come out as Python's, the rest as nothing.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kineograph._pickle_scan import Scan, names_in, scanned
from kineograph._stand_ins import stand_in, stand_ins
from kineograph._weight_kinds import layout_of
from kineograph.errors import WeightsError

MAX_DEPTH = 8
"""How deep weights may lie in the data that training scripts store them with."""


def read_torch_file(path: Path) -> Any:
    """Read a file that `torch.save` wrote, in its present or its older layout.

    Raises:
        WeightsError: It is cut or damaged, names Python objects, or would take more memory than it is long.
    """
    import torch

    _check_archive(path)
    names = names_in(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins(names)):
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            content = _loaded(path)
    except Exception as error:
        raise WeightsError(_refusal(path, error)) from error
    if isinstance(content, Mapping):
        _check_stored(content, path)
    return content


def _loaded(path: Path) -> Any:
    """Let PyTorch read a file; it takes what is called .safetensors for that, so such a one is handed over opened."""
    import torch

    if path.suffix != ".safetensors":
        return torch.load(str(path), map_location="cpu", weights_only=True)
    with path.open("rb") as stream:
        return torch.load(stream, map_location="cpu", weights_only=True)


def _check_archive(path: Path) -> None:
    """Refuse a PyTorch file that unpacks to more than it is long: PyTorch stores its parts as they are.

    Raises:
        WeightsError: It is compressed, or its parts overlap.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # torch says what is wrong with it
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    if packed or sum(part.file_size for part in parts) > path.stat().st_size:
        raise WeightsError(
            f"'{path}' is an archive that unpacks to more than it is long, as no file that PyTorch wrote does. It is "
            "not read; ask for the safetensors version."
        )


def _check_stored(content: Any, path: Path, depth: int = 0) -> None:
    """Refuse tensors that claim more values than the file holds, which would be made when they are first used.

    Raises:
        WeightsError: Names the first.
    """
    from torch import Tensor

    for name, value in content.items():
        if isinstance(value, Mapping) and depth < MAX_DEPTH:
            _check_stored(value, path, depth + 1)
        elif isinstance(value, Tensor) and not _is_stored(value):
            raise WeightsError(
                f"'{path}' holds a tensor '{name}' that is not stored whole (shape {tuple(value.shape)}), as no "
                "checkpoint does. It is not read; ask for the safetensors version."
            )


def _is_stored(value: Any) -> bool:
    import torch

    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


# --- Why a file is not read -------------------------------------------------------------------------------------------


def _refusal(path: Path, error: Exception) -> str:
    """Say why a PyTorch file was not read."""
    scan = scanned(path)
    if cut := _cut(path, scan):
        return f"'{path}' is not a readable PyTorch file: {cut}. A truncated download is the usual cause."
    refused = sorted(name for name in scan.names if name in _asked(error) or _is_code(name))
    if refused:
        return _objects(path, next(filter(_is_code, refused), refused[0]))
    if scan.protocol > 2 and "Unsupported operand" in str(error):
        return (
            f"'{path}' is pickled with protocol {scan.protocol}, and only protocol 2 can be read as data. Ask for "
            "the safetensors version, or for one that torch.save wrote with its own protocol."
        )
    reason = _last_words(error)
    if reason.startswith("Can only") and (known := sorted(filter(stand_in, scan.names))):
        return _objects(path, known[-1])
    return f"'{path}' is not a readable PyTorch file: {reason}. A truncated download is the usual cause."


def _cut(path: Path, scan: Scan) -> str:
    """Say by how much a file is shorter than its list of tensors declares; empty where it is whole."""
    size, values = path.stat().st_size, sum(scan.storages.values())
    legacy = layout_of(path) == "legacy"
    declared = scan.end + values + 8 * len(scan.storages) if legacy else scan.end + values
    if not scan.whole and scan.end >= size:
        return f"it is cut: {size:,} bytes are there, and they end within its list of tensors"
    if scan.whole and size < declared:
        least = "" if legacy else "at least "
        return f"it is cut: {size:,} bytes are there, and its list of tensors declares {least}{declared:,}"
    if not legacy and not zipfile.is_zipfile(path):
        return f"it is cut: {size:,} bytes are there, and the table at its end is missing"
    return ""


def _asked(error: Exception) -> set[str]:
    """Return the name that PyTorch stumbled over, with the beginning that it leaves out."""
    found = str(error).partition("GLOBAL ")[2].split(" ")[0].strip("`")
    return {found, f"builtins.{found}"}


def _last_words(error: Exception) -> str:
    """Return the reason in an error of PyTorch's, without its advice to run the file's code."""
    told = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
    return (told.strip().splitlines() or [type(error).__name__])[0].rstrip(".") or type(error).__name__


CODE = re.compile(
    r"(os|posix|nt|sys|subprocess|importlib|runpy|shutil|socket|ctypes|pty|commands|code|pdb|timeit|webbrowser|marshal|"
    r"pickle|types|functools|operator|multiprocessing|threading|asyncio|signal|io|_io|tempfile|urllib|http)\..*|"
    r"(.*\.)?_?[a-z][a-z_0-9]*"
)
"""Names by which a file asks for code to run: modules of the system, and functions, which begin with a small letter."""


def _is_code(name: str) -> bool:
    """Say whether a name in a file is that of a function to be called, and none that is known to be harmless."""
    known = name.startswith(("torch.", "collections.", "_codecs.")) or name in SAFE_BUILTINS
    return not known and stand_in(name) is None and CODE.fullmatch(name) is not None


SAFE_BUILTINS = ("builtins.set", "builtins.bytearray", "builtins.complex")
"""What PyTorch reads by itself."""


def _objects(path: Path, name: str) -> str:
    """Say that a file wants Python objects, or code, beside its weights."""
    if name.startswith("torch.nn.modules"):
        return (
            f"'{path}' holds a whole network as a Python object ({name}), not its weights alone, and making it would "
            "run code that the file names, which this library never does. Save its state_dict()."
        )
    what, which = (
        ("Python code", "that code") if CODE.fullmatch(name) else ("Python objects", "the code of their class")
    )
    return (
        f"'{path}' holds {what} beside its weights ({name}), and loading it would run {which}, which this "
        "library never does. Ask for the safetensors version, or save its tensors alone on a machine that you can "
        "afford to lose."
    )
