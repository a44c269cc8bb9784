"""OpenCV comes on first use, and its absence names the extra."""

import subprocess
import sys

import pytest

from kineograph.errors import MissingExtraError


def test_nothing_heavy_is_imported_before_it_is_used():
    code = (
        "import sys, kineograph.curation.pipeline, kineograph.curation.run\n"
        "assert not {'cv2', 'torch', 'pyarrow', 'duckdb', 'ray', 'av'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_the_package_the_extra_is_named(monkeypatch):
    from kineograph.curation.opencv import cv2

    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r'pip install "kineograph\[curation\]"'):
        cv2.a_name_that_was_never_asked_for  # noqa: B018


def test_work_is_done_on_one_thread():
    from kineograph.curation.opencv import cv2

    assert cv2.getNumThreads() == 1
