"""Modules that tests of curation share lie beside them; and the films of whole runs."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from films import join, shot, write


@pytest.fixture(scope="session")
def film(tmp_path_factory):
    """Two shots of a second."""
    folder = tmp_path_factory.mktemp("film")
    return write(folder / "film.mp4", join(shot(1, 24, (48, 64)), shot(2, 24, (48, 64))), gop=12)


@pytest.fixture
def raw(tmp_path, film):
    """One good film, its copy, a text, an empty file, a film too short, a caption, a hidden file."""
    folder = tmp_path / "raw"
    (folder / "below").mkdir(parents=True)
    (folder / "good.mp4").write_bytes(film.read_bytes())
    (folder / "good.txt").write_text("two\npictures")
    (folder / "below" / "copy.mp4").write_bytes(film.read_bytes())
    (folder / "text.mp4").write_text("no film")
    (folder / "empty.mp4").touch()
    (folder / ".hidden.mp4").write_text("x")
    (folder / "notes.md").write_text("about these films")
    write(folder / "short.mp4", shot(3, 6, (48, 64)))
    return folder
