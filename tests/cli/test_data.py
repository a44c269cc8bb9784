"""`kineograph data`: verbs end to end on small input."""

import io
import json
import tarfile

import pytest
from PIL import Image

from kineograph import cli
from kineograph.data import emoji_words
from kineograph.data.emoji_archives import PACKAGES, archive_name

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
    content = json.dumps({"🤹‍♂️": ["man_juggling", "skill", "balance"]}).encode()
    with tarfile.open(folder / archive_name(emoji_words.PACKAGE), "w:gz") as tar:
        info = tarfile.TarInfo("package/dist/emoji-en-US.json")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return folder


def test_emoji_from_archives(tmp_path, archives, capsys):
    words = ["data", "emoji", "-o", str(tmp_path / "set"), "--archives", str(archives), "--size", "16", "--json"]
    assert cli.main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["clips"], report["animated"]) == (4, 4)
    rows = [json.loads(line) for line in (tmp_path / "set" / "manifest.jsonl").read_text().splitlines()]
    assert {(row["width"], row["frames"]) for row in rows} == {(16, 3)}
    assert any("juggling" in row["caption"] for row in rows)
    assert any("skill" in choice["text"] for row in rows for choice in row["captions"])


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


@pytest.fixture
def shapes(tmp_path, capsys):
    """A synthetic data set of six clips."""
    words = ["--count", "6", "--size", "32", "--num-frames", "5", "--test-every", "3", "--flow", "--seed", "4"]
    assert cli.main(["data", "synthetic", "-o", str(tmp_path / "shapes"), *words]) == 0
    assert "6 clips" in capsys.readouterr().out
    return tmp_path / "shapes"


def test_synthetic_clips_pass_the_check(shapes, capsys):
    assert cli.main(["data", "check", str(shapes), "--num-frames", "5", "--size", "32", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["clips"], report["kept"], report["splits"]) == (True, 6, 6, {"train": 4, "test": 2})
    assert len(list((shapes / "flow").glob("*.npz"))) == 6
    assert cli.main(["data", "check", str(shapes), "--num-frames", "5"]) == 0
    assert "of the split 'train': a run of 5 frames at 8 fps keeps 4 of 4 clips" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["synthetic", "-o", "SET", "--count", "1"], ["import", "SET/clips", "-o", "SET"], ["emoji", "-o", "SET"]]
)
def test_a_data_set_is_not_written_over_unasked(shapes, archives, capsys, words):
    before = {file: file.read_bytes() for file in shapes.rglob("*") if file.is_file()}
    words += ["--archives", str(archives)] if words[0] == "emoji" else []
    assert cli.main(["data", *(word.replace("SET", str(shapes)) for word in words)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert before == {file: file.read_bytes() for file in shapes.rglob("*") if file.is_file()}


def test_a_check_that_finds_something_fails(shapes, capsys):
    assert cli.main(["data", "check", str(shapes), "--num-frames", "50"]) == 1
    assert "shorter than 50 frames" in capsys.readouterr().out
    with (shapes / "manifest.jsonl").open("a") as file:
        file.write("not json\n")
    assert cli.main(["data", "check", str(shapes), "--json"]) == 1
    assert "manifest.jsonl:7" in json.loads(capsys.readouterr().out)["first_bad_line"]


def test_a_full_check_decodes_and_finds_a_truncated_file(shapes, capsys):
    clip = shapes / "clips" / "000002.mkv"
    clip.write_bytes(clip.read_bytes()[:-600])
    assert cli.main(["data", "check", str(shapes), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["decoded"] is True
    assert {*report["unreadable"], *report["mismatched"]} == {"clips/000002.mkv"}
    clip.write_bytes((shapes / "clips" / "000001.mkv").read_bytes())
    assert cli.main(["data", "check", str(shapes), "--fast", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decoded"] is False


def test_import_of_a_folder_with_captions(shapes, tmp_path, capsys):
    for i, clip in enumerate(sorted((shapes / "clips").iterdir())):
        clip.with_suffix(".txt").write_text(f"shape number {i}")
    words = ["data", "import", str(shapes / "clips"), "-o", str(tmp_path / "imported"), "--licence", "MIT", "--json"]
    assert cli.main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["layout"], report["clips"], report["missing_captions"]) == ("folder", 6, [])
    assert cli.main(["data", "check", str(tmp_path / "imported"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["licences"] == {"MIT": 6}


@pytest.mark.parametrize(
    "words", [["check", "nowhere"], ["import", "nowhere"], ["synthetic", "-o", "x", "--objects", "9"]]
)
def test_what_cannot_be_done_is_one_paragraph(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
