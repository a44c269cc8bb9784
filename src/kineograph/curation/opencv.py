"""OpenCV on first use: it belongs to the extra `curation`, and every process here works on one thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kineograph.errors import require

if TYPE_CHECKING:
    import cv2
else:

    class _OnFirstUse:
        """Stands for the module `cv2`, which is imported when a name of it is first asked for."""

        def __getattr__(self, name: str) -> Any:
            module = require("cv2", "curation")
            module.setNumThreads(1)
            value = getattr(module, name)
            setattr(self, name, value)
            return value

    cv2 = _OnFirstUse()

__all__ = ["cv2"]
