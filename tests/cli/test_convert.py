"""`kineograph convert` on the command line; what it writes is tested with the converter."""

import pytest

from kineograph.cli import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--output"),
        (("gone", "-o", "out", "--to", "kineograph"), "gone"),
        (("gone", "-o", "out", "--to", "comfyui"), "--to"),
        (("gone", "-o", "out", "--format", "diffusers"), "did you mean '--to'"),
        (("gone", "-o", "/dev/null/out", "--to", "kineograph"), "'/dev/null' is a file"),
    ],
)
def test_bad_input_is_one_paragraph_and_status_2(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())
