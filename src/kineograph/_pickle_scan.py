"""What a PyTorch file's list of tensors names and declares, read as words: nothing of it is followed."""

from __future__ import annotations

import itertools
import pickletools
import re
import struct
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from kineograph._weight_kinds import first_entry, layout_of

MAX_OPERATIONS = 5_000_000
"""How much of a list is looked through; one of 2,515 tensors, as many as Stable Diffusion XL has, takes 80,500."""


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


def names_in(path: Path) -> set[str]:
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
