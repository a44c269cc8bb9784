"""Exports are read back by the libraries they are for, and are the same bytes every time."""

import gc
import hashlib
import json
import os
import subprocess
import sys
import tarfile

import pytest
from fabricated import caption_rows, output, scores

from kineograph.curation import export, select
from kineograph.data.manifest import read_manifest
from kineograph.errors import DataError, InputError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    rows = output(folder, clips=10)
    select.run(folder, ["motion_mean>=0.003"], name="moving")
    return folder, rows


def hashes(folder):
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_our_manifest_reads_it(made):
    out, rows = made
    assert export.manifest(out) == out / "manifest.jsonl"
    clips = read_manifest(out)
    assert {clip.path for clip in clips} == {row.path for row in rows}
    assert all((out / clip.path).is_file() for clip in clips)
    by_id = {clip.extra["clip_id"]: clip for clip in clips}
    for number, row in enumerate(rows):
        clip = by_id[row.clip_id]
        assert (clip.fps, clip.frames, clip.width, clip.height) == (25.0, 200, 640, 360)
        assert (clip.source, clip.licence, clip.caption) == (row.source_path, "CC0", f"coca says {number}")
        assert clip.extra["motion_score"] == row.motion_mean
        assert clip.extra["captions"] == caption_rows(number)
        assert {key: clip.extra[key] for key in scores(number)} == scores(number)
        assert "phash" not in clip.extra


def test_a_selection_goes_elsewhere_with_absolute_paths(made, tmp_path):
    out, rows = made
    file = export.manifest(out, tmp_path / "chosen.jsonl", "moving")
    assert export.manifest(out, tmp_path / "chosen.jsonl", "moving") == file  # an earlier export is replaced
    other = tmp_path / "other.jsonl"
    other.write_text(file.read_text() + '{"path": "mine.mp4"}\n')
    with pytest.raises(InputError, match="is no earlier export"):
        export.manifest(out, other, "moving")
    assert "mine.mp4" in other.read_text()
    clips = read_manifest(file)
    assert {clip.extra["clip_id"] for clip in clips} == {row.clip_id for row in rows[3:]}
    assert all(os.path.isabs(clip.path) and os.path.isfile(clip.path) for clip in clips)  # noqa: PTH117, PTH113


@pytest.mark.parametrize(
    ("width", "height", "frames", "bucket"),
    [
        (1280, 720, 128, "16x9_720p_128f"),
        (1280, 718, 127, "16x9_480p_64f"),
        (720, 1280, 1000, "9x16_720p_512f"),
        (500, 500, 15, "1x1_480p_1f"),
        (640, 272, 60, "21x9_240p_32f"),
        (176, 144, 40, "4x3_0p_32f"),
    ],
)
def test_buckets(width, height, frames, bucket):
    assert export.bucket_of(width, height, frames) == bucket


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_webdataset_reads_the_shards(made, tmp_path):
    import webdataset

    out, rows = made
    report = export.webdataset(out, tmp_path / "shards", clips_per_shard=4)
    assert (report.clips, report.shards, report.buckets) == (10, 3, {"16x9_360p_128f": 10})
    assert (report.seconds, report.bytes) == (80, 20000)
    names = sorted(str(file) for file in (tmp_path / "shards").glob("*.tar"))
    samples = list(webdataset.WebDataset(names, shardshuffle=False, empty_check=False).decode())
    gc.collect()
    assert [sample["__key__"] for sample in samples] == sorted(row.clip_id for row in rows)
    by_id = {row.clip_id: (number, row) for number, row in enumerate(rows)}
    for sample in samples:
        number, row = by_id[sample["__key__"]]
        assert sample["mp4"] == (out / row.path).read_bytes()
        assert sample["txt"] == f"coca says {number}"
        assert sample["json"]["captions"] == caption_rows(number)
        assert sample["json"]["motion_score"] == row.motion_mean
        assert (sample["json"]["fps"], sample["json"]["start_pts"]) == (25.0, row.start_pts)


def test_shards_are_the_same_bytes_every_time(made, tmp_path):
    out, _ = made
    export.webdataset(out, tmp_path / "a", clips_per_shard=4)
    export.webdataset(out, tmp_path / "b", clips_per_shard=4)
    os.utime(next((out / "clips").rglob("*.mp4")))
    export.webdataset(out, tmp_path / "b", clips_per_shard=4)  # over the older one
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert len(hashes(tmp_path / "a")) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    with tarfile.open(next((tmp_path / "a").glob("*.tar"))) as tar:
        facts = {(member.mtime, member.uid, member.gid, member.uname, member.mode) for member in tar}
    assert facts == {(0, 0, 0, "", 0o644)}


def test_the_index_finds_every_file(made, tmp_path):
    out, rows = made
    export.webdataset(out, tmp_path / "s", "moving", clips_per_shard=3)
    index = json.loads((tmp_path / "s/index.json").read_text())
    found = {}
    for shard in index["shards"]:
        data = (tmp_path / "s" / shard["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard["bytes"], shard["sha256"])
        for sample in shard["samples"]:
            offset, length = sample["mp4"]
            found[sample["key"]] = data[offset : offset + length]
    assert found == {row.clip_id: (out / row.path).read_bytes() for row in rows[3:]}


def test_shards_end_at_their_size(made, tmp_path):
    out, _ = made
    assert export.webdataset(out, tmp_path / "s", bytes_per_shard=5000).shards == 5
    assert export.webdataset(out, tmp_path / "s", bytes_per_shard=1).shards == 10
    with pytest.raises(InputError, match="at least 1 clip"):
        export.webdataset(out, tmp_path / "s", clips_per_shard=0)


def test_datasets_loads_the_folder_offline(made, tmp_path):
    out, rows = made
    report = export.huggingface(out, tmp_path / "hf", "moving")
    assert (report.clips, report.bytes) == (7, 14000)
    code = (
        "import sys, json, datasets\n"
        "ds = datasets.load_dataset(sys.argv[1], split='train', cache_dir=sys.argv[2])\n"
        "ds = ds.cast_column('video', datasets.Video(decode=False))\n"
        "print(json.dumps([{**{k: r[k] for k in ('clip_id', 'text', 'motion_score', 'captions', 'fps')}, "
        "'path': r['video']['path']} for r in ds]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "hf"), str(tmp_path / "cache")],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = {row["clip_id"]: row for row in json.loads(done.stdout.splitlines()[-1])}
    assert set(found) == {row.clip_id for row in rows[3:]}
    for number, row in enumerate(rows[3:], 3):
        got = found[row.clip_id]
        assert (got["text"], got["motion_score"], got["fps"]) == (f"coca says {number}", row.motion_mean, 25.0)
        assert got["captions"] == caption_rows(number)
        with open(got["path"], "rb") as file:  # noqa: PTH123
            assert hashlib.sha256(file.read()).hexdigest() == row.sha256


def test_a_linked_export_holds_the_same(made, tmp_path):
    out, _ = made
    export.huggingface(out, tmp_path / "copied")
    export.huggingface(out, tmp_path / "linked", link=True)
    assert hashes(tmp_path / "copied") == hashes(tmp_path / "linked")
    assert "- CC0\n" in (tmp_path / "copied/README.md").read_text()


def test_other_folders_are_not_replaced(made, tmp_path):
    out, _ = made
    (tmp_path / "thesis.txt").write_text("precious")
    for write in (export.webdataset, export.huggingface):
        with pytest.raises(InputError, match="no earlier export"):
            write(out, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_what_is_missing_or_changed_is_an_error(tmp_path):
    rows = output(tmp_path / "out", clips=2)
    (tmp_path / "out" / rows[0].path).write_bytes(b"another film")
    for write in (export.webdataset, export.huggingface):
        with pytest.raises(DataError, match="SHA-256 differs"):
            write(tmp_path / "out", tmp_path / "s")
    assert not (tmp_path / "s").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "out" / rows[0].path).unlink()
    with pytest.raises(DataError, match="is gone"):
        export.huggingface(tmp_path / "out", tmp_path / "h")
    with pytest.raises(DataError, match="Unknown selection"):
        export.manifest(tmp_path / "out", selection="none")


def test_captions():
    assert export.caption_of({"caption": "from the list", "captions": None}) == "from the list"
    assert export.caption_of({"caption": "", "captions": []}) == ""
    assert export.caption_of({"caption": "x", "captions": caption_rows(3)[::-1]}) == "coca says 3"
