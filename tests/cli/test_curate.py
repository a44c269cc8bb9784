"""`kineograph curate` end to end on a synthetic film."""

import json
import sys
from pathlib import Path

import pytest

from kineograph import cli

sys.path.insert(0, str(Path(__file__).parents[1] / "curation"))

from films import join, shot, write


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A finished run over two films and a text."""
    folder = tmp_path_factory.mktemp("curate")
    raw = folder / "raw"
    raw.mkdir()
    write(raw / "a.mp4", join(shot(1, 24, (48, 64)), shot(2, 24, (48, 64), pan=(1, 0))), gop=12)
    write(raw / "b.mp4", shot(3, 24, (48, 64), pan=(0, 1)), gop=12)
    (raw / "c.mp4").write_text("no film")
    (folder / "config.json").write_text(json.dumps({"clips": {"min_seconds": 0.5}, "scorers": {"overlay": {}}}))
    words = ["curate", str(raw), "-o", str(folder / "out"), "--config", str(folder / "config.json")]
    assert cli.main([*words, "--executor", "inline", "--licence", "CC0", "--json"]) == 0
    return folder / "out"


def again(out, capsys, *words):
    """Run with --resume and return the last line of its output."""
    folder = out.parent
    common = ["--config", str(folder / "config.json"), "--licence", "CC0", "--executor", "inline", "--json"]
    assert cli.main(["curate", str(folder / "raw"), "-o", str(out), "--resume", *common, *words]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_last_line_of_json_accounts_for_every_source(out, capsys):
    found = again(out, capsys)
    assert found["sources"] == {"in": 3, "ok": 2, "filtered": 0, "failed": 1}
    assert found["clips"] == 3
    assert found["computed"] == 0


def test_without_resume_results_are_not_touched(out, capsys):
    assert cli.main(["curate", str(out.parent / "raw"), "-o", str(out)]) == 2
    assert "--resume" in capsys.readouterr().err


def test_no_clip_is_status_one(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.mp4").write_text("no film")
    (tmp_path / "c.json").write_text('{"scorers": {}}')
    words = ["-o", str(tmp_path / "out"), "--config", str(tmp_path / "c.json"), "--executor", "inline"]
    assert cli.main(["curate", str(tmp_path / "raw"), *words]) == 1
    assert "1 unreadable" in capsys.readouterr().out


def test_captions_and_their_similarity_by_flags(tmp_path, capsys):
    """Without a captioner the summary says that captions are empty; with one, and the stand-in, svd-standin selects."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for i in range(4):
        write(raw / f"a_red-car_{i}.mp4", shot(i, 24, (48, 64), pan=(i, 0)), gop=12)
    (tmp_path / "c.json").write_text('{"clips": {"min_seconds": 0.5}, "scorers": {"text_area": {}}}')
    words = [
        "curate",
        str(raw),
        "-o",
        str(tmp_path / "out"),
        "--config",
        str(tmp_path / "c.json"),
        "--executor",
        "inline",
    ]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "no captioner: captions are empty" in said
    assert "--captions" in said
    assert cli.main([*words, "--resume", "--captions", "file-name"]) == 0
    assert "no captioner" not in capsys.readouterr().out
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert {json.loads(line)["caption"] for line in lines} == {"a red car"}
    assert cli.main([*words, "--resume", "--captions", "standin", "--similarity", "standin"]) == 0
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert len({json.loads(line)["clip_similarity_standin"] for line in lines}) > 1
    assert cli.main(["curate", "select", str(tmp_path / "out"), "svd-standin"]) == 0
    assert cli.main([*words, "--resume", "--captions", "coco:x"]) == 2
    assert "did you mean 'coca'" in capsys.readouterr().err


def test_the_yield_by_source(out, capsys):
    found = again(out, capsys, "--by-source")
    assert [one["path"] for one in found["by_source"]] == ["a.mp4", "b.mp4", "c.mp4"]
    assert found["yield"]["in"] == sum(one["in"] for one in found["by_source"]) == 3.0
    assert found["yield"]["out"] == 3.0
    folder = out.parent
    common = ["--config", str(folder / "config.json"), "--licence", "CC0", "--executor", "inline", "--by-source"]
    assert cli.main(["curate", str(folder / "raw"), "-o", str(out), "--resume", *common]) == 0
    said = capsys.readouterr().out
    assert "yield: 3.000 s in, 3.000 s in shots, 3.000 s in 3 clips; nothing lost; 1 files of unknown length" in said
    assert "a.mp4 (ok): 2.000 s in" in said


def test_subsets_of_a_study(out, tmp_path, capsys):
    words = ["curate", "subsets", str(out), str(tmp_path / "study"), "motion_mean"]
    assert cli.main([*words, "--shares", "0", "50", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["selections"]
    assert [one["name"] for one in made] == ["study-motion_mean-0", "study-motion_mean-50"]
    assert made[1]["kept"] < made[0]["kept"] == made[0]["population"]
    assert sorted(path.name for path in (tmp_path / "study" / "subsets").iterdir()) == [
        "motion_mean-0.json",
        "motion_mean-50.json",
    ]
    assert cli.main(words) == 0
    assert "study-motion_mean-12.5: " in capsys.readouterr().out
    assert cli.main([*words[:-1], "motoin_mean"]) == 2
    assert "motion_mean" in capsys.readouterr().err


def test_select_report_export(out, tmp_path, capsys):
    assert cli.main(["curate", "select", str(out), "motion_mean>=p34", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "default"
    assert cli.main(["curate", "report", str(out)]) == 0
    assert (out / "report.html").exists()
    capsys.readouterr()
    for layout in ("manifest", "webdataset", "huggingface"):
        words = ["-o", str(tmp_path / layout), "--layout", layout, "--selection", "default", "--json"]
        assert cli.main(["curate", "export", str(out), *words]) == 0
        assert json.loads(capsys.readouterr().out)
        assert cli.main(["curate", "export", str(out), *words]) == 2
        assert "--overwrite" in capsys.readouterr().err
        assert cli.main(["curate", "export", str(out), *words, "--overwrite"]) == 0
        capsys.readouterr()
    lines = (tmp_path / "manifest" / "manifest.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert json.loads(lines[0])["licence"] == "CC0"


def test_vote_sets_up_a_study_and_ranks(tmp_path, capsys, monkeypatch):
    for model in ("one", "two"):
        (tmp_path / model).mkdir()
        for i in range(2):
            write(tmp_path / model / f"{i:04}.mp4", shot(i, 4, (48, 64)))
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    study = str(tmp_path / "study")
    models = [word for model in ("one", "two") for word in ("--models", f"{model}={tmp_path / model}")]
    assert cli.main(["curate", "vote", study, *models, "--prompts", str(tmp_path / "prompts.txt")]) == 0
    monkeypatch.setattr("kineograph.curation.study.ask_in_terminal", lambda question: question.check or "left")
    assert cli.main(["curate", "vote", study, "--voter", "ada", "--limit", "4"]) == 0
    capsys.readouterr()
    assert cli.main(["curate", "vote", study, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["votes"] == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["vote", "X", "--models", "a", "--prompts", "Y"], "NAME=DIR"),
        (["vote", "X", "--models", "a=b"], "--prompts"),
        (["select", "X", "--apply", "n", "motion_mean>=1"], "not both"),
        (["nowhere", "-o", "X"], "no file or folder 'nowhere'"),
        (["gc", "nowhere"], "not the output folder"),
        (["raw", "-o", "X", "--resum"], "--resume"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["curate", *words]) == 2
    assert said in capsys.readouterr().err


def test_gc_lists_and_sweeps(out, capsys):
    (out / "clips" / "zz").mkdir(exist_ok=True)
    (out / "clips" / "zz" / "lost.mp4").write_text("x")
    assert cli.main(["curate", "gc", str(out), "--dry-run", "--json"]) == 0
    assert [Path(f).name for f in json.loads(capsys.readouterr().out)["files"]] == ["lost.mp4"]
    assert cli.main(["curate", "gc", str(out)]) == 0
    assert "1 files deleted" in capsys.readouterr().out


def test_help_lists_the_verbs(capsys):
    assert cli.main(["curate", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(verb in said for verb in ("run", "report", "select", "vote", "export", "gc", "Without a verb"))


def test_the_configuration_is_shown(capsys):
    assert cli.main(["curate", "X", "-o", "Y", "--show-config"]) == 0
    assert json.loads(capsys.readouterr().out)["cuts"]["threshold"] == 10.0
