"""The registry of published systems: `kineograph.systems()` lists them, each is one file.

The package is callable, because `kineograph.systems` is both this package and the function of the public face.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING

from kineograph.errors import unknown

if TYPE_CHECKING:
    from kineograph.systems.card import System

_NAMES = (
    "modelscope",
    "zeroscope",
    "animatediff",
    "align_your_latents",
    "stable_video_diffusion",
    "text2video_zero",
    "videocrafter",
    "lavie",
    "show1",
)

_SHORT = {"svd": "stable_video_diffusion", "ayl": "align_your_latents", "modelscope_t2v": "modelscope"}
"""Other names that people type."""


class Registry(Mapping[str, "System"]):
    """The systems by name; a system's file is imported when it is looked up."""

    def __getitem__(self, name: str) -> System:
        if name not in _NAMES:
            raise KeyError(name)
        return importlib.import_module(f"kineograph.systems.{name}").SYSTEM

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)

    def find(self, name: str) -> System:
        """Return a system for a name that a user typed, in any case, with `-` or `_`.

        Raises:
            InputError: No such system; the message names the nearest.
        """
        known = name.lower().replace("-", "_")
        known = _SHORT.get(known, known)
        if known not in _NAMES:
            raise unknown("system", name, _NAMES)
        return self[known]


def systems() -> Registry:
    """Return the registry of published systems."""
    return Registry()


class _CallablePackage(ModuleType):
    def __call__(self) -> Registry:
        return systems()


sys.modules[__name__].__class__ = _CallablePackage
