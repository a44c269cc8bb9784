"""PyTorch's files of weights, read as data: no code that they name is ever run, nor asked for.

`torch.load(weights_only=True)` makes tensors and plain values and refuses everything else. What training scripts keep
beside the weights without harm, such as NumPy's numbers and the settings of a run, is let through by stand-ins of our
own in place of the named classes: numbers come out as Python's, the rest as nothing.
"""

from __future__ import annotations

import itertools
import pickletools
import re
import struct
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from kineograph._weight_kinds import first_entry, layout_of
from kineograph.errors import WeightsError

MAX_DEPTH = 8
"""How deep weights may lie in the data that training scripts store them with."""
MAX_OPERATIONS = 5_000_000
"""How much of a file's list of tensors is looked through; Stable Diffusion XL's takes 60,000."""


def read_torch_file(path: Path) -> Any:
    """Read a file that `torch.save` wrote, in its present or its older layout.

    Raises:
        WeightsError: It is cut or damaged, names Python objects, or would take more memory than it is long.
    """
    import torch

    _check_archive(path)
    names = _names(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_stand_ins(names)):
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


# --- Stand-ins --------------------------------------------------------------------------------------------------------


class StandIn:
    """Takes the place of an object that is named in a file and not wanted."""

    def __new__(cls, *_: Any) -> StandIn:
        """Make one, whatever the object was to be made of."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        """Forget what the object held."""


class DictStandIn(StandIn):
    """Takes the place of a class that is a dictionary; PyTorch fills only its own and plain ones, so it makes such."""

    def __new__(cls, *_: Any) -> Any:
        """Make an empty dictionary, whatever it was to be made of."""
        return OrderedDict()


class DtypeStandIn(StandIn):
    """Takes the place of NumPy's type of an array: a code such as `"i8"` and the order of the bytes."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code, self.order = str(code), "<"

    def __setstate__(self, state: Any) -> None:
        """Keep the order of the bytes, which NumPy notes second."""
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]


CODES = {
    **{"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
    **{"f2": "e", "f4": "f", "f8": "d"},
}
"""NumPy's codes of numbers and those of `struct`."""


def number(dtype: Any = None, data: Any = b"", *_: Any) -> Any:
    """Return a number of NumPy's as one of Python's; nothing where it is no number."""
    if isinstance(dtype, DtypeStandIn) and dtype.code in CODES and isinstance(data, bytes):
        code = dtype.order + CODES[dtype.code]
        if struct.calcsize(code) == len(data):
            return struct.unpack(code, data)[0]
    return StandIn()


def nothing(*_: Any) -> StandIn:
    """Return a stand-in, whatever a function was to be called with."""
    return StandIn()


def empty(*_: Any) -> dict[Any, Any]:
    """Return a plain dictionary in place of one with a default."""
    return {}


def empty_list(*_: Any) -> list[Any]:
    """Return a plain list in place of one with a longest length."""
    return []


HARMLESS: tuple[tuple[str, Callable[..., Any]], ...] = (
    (r"numpy\.(_core|core)\.multiarray\.scalar", number),
    (r"numpy\.dtype", DtypeStandIn),
    (r"numpy\.(_core|core)\.(multiarray\._reconstruct|numeric\._frombuffer)", nothing),
    (r"numpy\.random\._pickle\.\w+", nothing),
    (r"copyreg\._reconstructor", nothing),
    (r"collections\.defaultdict", empty),
    (r"collections\.deque", empty_list),
    (r"numpy\.(ndarray|dtypes\.\w+|bool_?|u?int\d+|float\d+|str_|random\.\w+\.[A-Z]\w+)", StandIn),
    (r"builtins\.(object|list|dict|tuple|int|float|str|bool|bytes|frozenset|slice|range)", StandIn),
    (r"pathlib\.(_local\.)?(Pure)?(Posix|Windows)?Path", StandIn),
    (r"datetime\.(datetime|date|time|timedelta|timezone)|uuid\.UUID|decimal\.Decimal|fractions\.Fraction", StandIn),
    (r"argparse\.Namespace|types\.SimpleNamespace|typing\.Any", StandIn),
    (r"(easydict|addict|yacs|munch)\.[\w.]+|[\w.]+\.(AttributeDict|FrozenDict)", DictStandIn),
    (r"(omegaconf|pytorch_lightning|lightning|lightning_fabric|ml_collections)\.[\w.]+", StandIn),
    (r"torch\.torch_version\.TorchVersion|torch\.(cuda\.)?amp\.grad_scaler\.\w+", StandIn),
)
"""What training scripts keep beside weights, by full names, and what takes its place."""


def stand_in(name: str) -> Callable[..., Any] | None:
    """Return what takes the place of a class or function, or None where a file that names it is refused."""
    return next((ours for pattern, ours in HARMLESS if re.fullmatch(pattern, name)), None)


def _stand_ins(names: set[str]) -> list[Any]:
    """Return the stand-ins for the names in a file, as PyTorch wants to be told of them."""
    made: list[Any] = [StandIn, DtypeStandIn]  # the types of what is made are looked up as well
    for name in names:
        made += [(ours, name)] if (ours := stand_in(name)) else []
    return made


# --- What a pickle names, without following it ------------------------------------------------------------------------


@dataclass
class Scan:
    """What stands in a file's list of tensors.

    Attributes:
        names: Classes and functions, by full names.
        storages: Bytes of each stored block of values, by its key.
        protocol: Version of the pickle.
        whole: Whether the list came to its end.
        end: Place in the file after the list and, in older files, after the keys of the blocks.
    """

    names: set[str] = field(default_factory=set)
    storages: dict[str, int] = field(default_factory=dict)
    protocol: int = 0
    whole: bool = False
    end: int = 0


GLOBAL = re.compile(rb"c([\w.]+)\n([\w.]+)\n")
"""How a pickle names a class or function."""


def _names(path: Path) -> set[str]:
    """Return what a file names, and perhaps more that looks like it, which does no harm; archives are searched at once.

    Looking through a list of 7,000 tensors word by word takes six times as long.
    """
    if not zipfile.is_zipfile(path):
        return scanned(path).names
    try:
        with zipfile.ZipFile(path) as archive:
            listed = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            words = archive.read(listed) if listed else b""
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return set()  # torch says what is wrong with it
    return {_modern(module.decode(), name.decode()) for module, name in GLOBAL.findall(words)}


SIZES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1}
SIZES |= {"Bool": 1, "ComplexFloat": 8, "ComplexDouble": 16, "Untyped": 1}
"""Bytes of a value in PyTorch's storages."""


def scanned(path: Path) -> Scan:
    """Look through a PyTorch file's list of tensors, reading words only."""
    scan = Scan()
    with path.open("rb") as stream:
        if layout_of(path) == "legacy":
            for _ in range(3):  # magic number, version and machine
                scan.whole = _scan_pickle(stream, Scan())
            scan.whole = scan.whole and _scan_pickle(stream, scan) and _scan_pickle(stream, Scan())
        else:
            stream.seek(_list_begins(path))
            scan.whole = _scan_pickle(stream, scan)
        scan.end = stream.tell()
    return scan


def _list_begins(path: Path) -> int:
    """Return the place of `data.pkl` in an archive, also in one whose end is missing."""
    name, begin = first_entry(path)
    if name.endswith("/data.pkl") or not zipfile.is_zipfile(path):
        return begin
    try:
        with zipfile.ZipFile(path) as archive:
            entry = next(info for info in archive.infolist() if info.filename.endswith("/data.pkl"))
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, StopIteration):
        return begin
    with path.open("rb") as stream:
        stream.seek(entry.header_offset + 26)
        sizes = stream.read(4)
    return entry.header_offset + 30 + (sum(struct.unpack("<HH", sizes)) if len(sizes) == 4 else 0)


def _scan_pickle(stream: BinaryIO, scan: Scan) -> bool:
    """Note what a pickle names, and say whether it came to its end."""
    items: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for operation, argument, _ in itertools.islice(pickletools.genops(stream), MAX_OPERATIONS):
            items = _noted(scan, operation.name, argument, items, memo)
            if operation.name == "STOP":
                return True
    except Exception:  # pickletools raises plain exceptions; whatever it is, the list breaks off here
        return False
    return False


def _noted(scan: Scan, operation: str, argument: Any, items: list[Any], memo: dict[int, Any]) -> list[Any]:
    """Note one operation; return the words since the last mark."""
    if operation == "MARK":
        return []
    if operation in ("BINPUT", "LONG_BINPUT"):
        memo[argument] = items[-1] if items else None
    elif operation in ("BINGET", "LONG_BINGET"):
        items.append(memo.get(argument))
    elif operation == "BINPERSID":
        _note_storage(scan, items)
    elif operation == "PROTO":
        scan.protocol = argument
    elif argument is not None:
        items.append(argument)
    if operation == "GLOBAL":
        scan.names.add(_modern(*str(argument).split(" ", 1)))
    elif operation == "STACK_GLOBAL":
        scan.names.add(".".join(str(word) for word in items[-2:]))
    return items


def _modern(module: str, name: str) -> str:
    """Return the full name today of what Python 2 had elsewhere, which is how `torch.save` writes it."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _note_storage(scan: Scan, items: list[Any]) -> None:
    """Note a block of values, which is named as `("storage", type, key, device, number of values)`."""
    if len(items) >= 5 and items[0] == "storage" and isinstance(items[4], int):
        kind = str(items[1]).rpartition(" ")[2].removesuffix("Storage")
        scan.storages[str(items[2])] = SIZES.get(kind, 1) * items[4]


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
