"""Kineograph: a video model is an image model plus time.

The public face. Names are imported on first use, so that `import kineograph` costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kineograph import metrics as metrics
    from kineograph.sampling.generate import generate as generate
    from kineograph.sampling.generate import load as load
    from kineograph.systems import systems as systems
    from kineograph.video import Video as Video

__version__ = "0.1.0"

_PUBLIC = {
    "Video": "kineograph.video",
    "generate": "kineograph.sampling.generate",
    "load": "kineograph.sampling.generate",
    "systems": "kineograph.systems",
    "metrics": None,
}

__all__ = ["Video", "__version__", "generate", "load", "metrics", "systems"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _PUBLIC:
        from kineograph.errors import nearest

        raise AttributeError(f"module 'kineograph' has no attribute '{name}'{nearest(name, _PUBLIC)}")
    home = _PUBLIC[name]
    value = (
        importlib.import_module(f"kineograph.{name}") if home is None else getattr(importlib.import_module(home), name)
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
