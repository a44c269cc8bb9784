"""`kineograph data`: verbs end to end on small input."""

import io
import json
import tarfile

import pytest
from PIL import Image

from kineograph import cli
from kineograph.data.emoji import PACKAGES, archive_name

MEN = ["1f939-1f3fb-200d-2642", "1f939-1f3ff-200d-2642", "1f600", "1f680"]  # juggling men, a grinning face, a rocket


def webp(colour: tuple[int, int, int]) -> bytes:
    """Return a three-frame animation: a square that moves."""
    frames = [Image.new("RGBA", (16, 16)) for _ in range(3)]
    for i, frame in enumerate(frames):
        frame.paste((*colour, 255), (i * 4, 4, i * 4 + 4, 8))
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], duration=42, lossless=True)
    return file.getvalue()


@pytest.fixture
def archives(tmp_path):
    """Four archives as npm leaves them, one emoji each."""
    folder = tmp_path / "archives"
    folder.mkdir()
    for i, (package, stem) in enumerate(zip(PACKAGES, MEN, strict=True)):
        content = webp((60 * i, 90, 200))
        with tarfile.open(folder / archive_name(package), "w:gz") as archive:
            entry = tarfile.TarInfo(f"package/assets/{stem}.webp")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return folder


def test_emoji_from_archives(tmp_path, archives, capsys):
    words = ["data", "emoji", "-o", str(tmp_path / "set"), "--archives", str(archives), "--size", "16", "--json"]
    assert cli.main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["clips"], report["animated"]) == (4, 4)
    rows = [json.loads(line) for line in (tmp_path / "set" / "manifest.jsonl").read_text().splitlines()]
    assert {(row["width"], row["frames"]) for row in rows} == {(16, 3)}
    assert any("juggling" in row["caption"] for row in rows)


@pytest.mark.parametrize(
    ("words", "named"),
    [(["--size", "1000"], "--size"), (["--background", "blau"], "--background"), (["--sise", "3"], "--size")],
)
def test_emoji_refuses(tmp_path, archives, capsys, words, named):
    assert cli.main(["data", "emoji", "-o", str(tmp_path / "set"), "--archives", str(archives), *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert named in said.err


def test_emoji_without_npm_says_what_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["data", "emoji", "-o", str(tmp_path / "set")]) == 2
    assert "--archives" in capsys.readouterr().err


def test_verbs_are_listed_and_a_wrong_one_names_the_nearest(capsys):
    assert cli.main(["data", "--help"]) == 0
    assert "emoji" in capsys.readouterr().out
    assert cli.main(["data", "emojy"]) == 2
    assert "did you mean 'emoji'?" in capsys.readouterr().err
    assert cli.main(["data"]) == 2
