"""What takes the place of harmless objects in PyTorch's files: classes of our own, which hold and do nothing.

Training scripts keep NumPy's numbers, paths, dates and the settings of a run beside the weights. Numbers come out as
Python's, dictionaries as plain ones, the rest as nothing; no class or function that a file names is made or called.
"""

from __future__ import annotations

import re
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any


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


def stand_ins(names: set[str]) -> list[Any]:
    """Return the stand-ins for the names in a file, as PyTorch wants to be told of them."""
    made: list[Any] = [StandIn, DtypeStandIn]  # the types of what is made are looked up as well
    for name in names:
        made += [(ours, name)] if (ours := stand_in(name)) else []
    return made
