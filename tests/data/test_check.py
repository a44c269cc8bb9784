"""`check` says what is in a data set, what is wrong, and what a training run would leave out."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from kineograph.data.check import check
from kineograph.data.manifest import Clip, windows_hint, write_manifest
from kineograph.data.synthetic import write_synthetic
from kineograph.errors import DataError, InputError
from kineograph.video import Video


def data_set(folder, specs):
    """Write films of (frames, (height, width), fps) and a true manifest."""
    clips = []
    for index, (frames, size, fps) in enumerate(specs):
        pixels = np.random.default_rng(index).integers(0, 256, (frames, *size, 3), dtype=np.uint8)
        path = Video.from_uint8(pixels, fps or 8).save(folder / f"{index}.mkv")
        clips.append(Clip(path.name, f"clip {index % 2}", fps, frames, size[1], size[0], licence="CC0"))
    write_manifest(folder, clips)
    return clips


def test_a_good_data_set(tmp_path):
    write_synthetic(tmp_path, 6, 1, num_frames=5, size=(16, 24), test_every=3)
    report = check(tmp_path)
    assert report.ok
    assert (report.clips, report.animated, report.frames, report.seconds) == (6, 6, 30, 3.75)
    assert report.splits == {"train": 4, "test": 2}
    assert "`train` trains on split 'train' (4 clips), validates on 'test' (2 clips)" in report.summary()
    assert report.licences == {"CC0-1.0": 6}
    assert (report.captions, report.distinct_captions) == (6, 6)
    assert report.buckets == [
        {"height": 16, "width": 24, "fps": 8.0, "min_frames": 4, "max_frames": 7, "clips": 6},
    ]
    assert (report.first_bad_line, report.unreadable, report.mismatched, report.missing) == (None, {}, {}, [])
    assert json.loads(json.dumps(report.to_json()))["ok"] is True
    assert "bucket 24x16, 4 to 7 frames at 8 fps: 6 clips" in report.summary()


def test_buckets_are_a_histogram(tmp_path):
    data_set(
        tmp_path,
        [(4, (16, 16), 8), (6, (16, 16), 8), (8, (16, 16), 8), (4, (16, 24), 8), (4, (16, 16), 12), (1, (16, 16), 0)],
    )
    report = check(tmp_path)
    assert report.ok
    assert [(row["width"], row["fps"], row["min_frames"], row["clips"]) for row in report.buckets] == [
        (16, 8, 4, 2), (16, 0, 1, 1), (16, 8, 8, 1), (16, 12, 4, 1), (24, 8, 4, 1),
    ]  # fmt: skip
    assert (report.animated, report.distinct_captions) == (5, 2)


def test_trouble_is_listed(tmp_path):
    clips = data_set(tmp_path, [(24, (32, 32), 8)] * 5)
    whole = (tmp_path / "1.mkv").read_bytes()
    (tmp_path / "1.mkv").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "2.mkv").unlink()
    (tmp_path / "3.mkv").write_text("oops")
    wrong = Clip("4.mkv", "", 24, 24, 32, 16)
    write_manifest(tmp_path, [*clips[:4], wrong, clips[0]])
    report = check(tmp_path)
    assert not report.ok
    assert report.missing == ["2.mkv"]
    assert sorted(report.unreadable) == ["1.mkv", "3.mkv"]
    assert "truncated or corrupt: readable up to" in report.unreadable["1.mkv"]
    assert report.mismatched == {"4.mkv": "fps is 8, the manifest says 24; height is 32, the manifest says 16"}
    assert report.duplicates == ["0.mkv"]
    assert (report.clips, report.captions) == (6, 5)
    summary = report.summary()
    for line in ("1 named twice, such as 0.mkv", "1 missing", "2 unreadable, such as 1.mkv", "1 different from the"):
        assert line in summary


def test_opening_only_misses_truncation_and_says_so(tmp_path):
    data_set(tmp_path, [(24, (32, 32), 8)])
    mp4 = Video.read(tmp_path / "0.mkv").save(tmp_path / "0.mp4")
    write_manifest(tmp_path, [Clip("0.mp4", "x", 8, 24, 32, 32)])
    data = mp4.read_bytes()
    mp4.write_bytes(data[: len(data) * 7 // 10])
    quick = check(tmp_path, decode=False)
    assert quick.ok
    assert "files were opened but not decoded" in quick.summary()
    assert not check(tmp_path).ok


def test_first_bad_line_has_its_number(tmp_path):
    data_set(tmp_path, [(2, (16, 16), 8)] * 3)
    file = tmp_path / "manifest.jsonl"
    lines = file.read_text().splitlines()
    for broken, message in (
        ("{oops", "manifest.jsonl:3: not valid JSON"),
        ("[]", "manifest.jsonl:3: expected a JSON object"),
        ('{"path": "x"}', "manifest.jsonl:3: key 'caption' is missing"),
    ):
        file.write_text("\n".join([*lines[:2], broken, lines[2]]) + "\n")
        report = check(tmp_path)
        assert message in (report.first_bad_line or "")
        assert (report.ok, report.clips) == (False, 2)
        assert "first bad line" in report.summary()
    file.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-16" in (check(tmp_path).first_bad_line or "")


def test_what_a_request_drops(tmp_path):
    clips = data_set(
        tmp_path, [(16, (32, 32), 8), (16, (32, 32), 24), (48, (16, 16), 24), (1, (32, 32), 0), (15, (32, 32), 8)]
    )
    write_manifest(tmp_path, [*clips, Clip("gone.mkv", "x", 8, 16, 32, 32)])
    report = check(tmp_path, num_frames=16, fps=8, size=32)
    assert report.kept == 2  # the first, and the third (2 s at 24 fps)
    assert report.dropped == {"shorter than 16 frames at 8 fps": 2, "a single frame at 8 fps": 1, "missing": 1}
    assert report.enlarged == 1
    assert len(clips) + 1 == report.kept + sum(report.dropped.values())
    assert "a run of 16 frames at 8 fps keeps 2 of 6 clips\n2 dropped: shorter" in report.summary()
    assert check(tmp_path, num_frames=16).dropped == {"a single frame": 1, "shorter than 16 frames": 1, "missing": 1}
    assert check(tmp_path, num_frames=1).kept == 5


@pytest.mark.parametrize("frames", [15, 16, 17, 47, 48])
def test_a_kept_clip_really_gives_the_frames(tmp_path, frames):
    """The rule that drops clips agrees with what `Video.read` can deliver."""
    data_set(tmp_path, [(frames, (16, 16), 24)])
    available = len(Video.read(tmp_path / "0.mkv", fps=8))
    for wanted in range(max(1, available - 1), available + 2):
        assert check(tmp_path, num_frames=wanted, fps=8).kept == (wanted <= available)


@pytest.mark.parametrize("decode", [True, False])
def test_clips_of_varying_rate_are_judged_by_time(tmp_path, decode):
    """60 pictures, one every 0.1 s on average: 6 s give 48 samples at 8 fps, whatever rate the header names."""
    steps = np.tile([0.05, 0.15], 30)
    times = np.concatenate([[0.0], np.cumsum(steps)[:-1]])
    pixels = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    path = Video.from_uint8(pixels, 10, times=times.tolist()).save(tmp_path / "a.mkv")
    write_manifest(tmp_path, [Clip(path.name, "x", 10.0, 60, 16, 16)])
    available = len(Video.read(path, fps=8))
    assert available in (47, 48)
    assert check(tmp_path, num_frames=available, fps=8, decode=decode).kept == 1
    assert check(tmp_path, num_frames=available + 1, fps=8, decode=decode).dropped == {
        f"shorter than {available + 1} frames at 8 fps": 1
    }


def test_a_clip_that_changes_its_size_is_unreadable(tmp_path):
    """Training would refuse it: its frames do not stack."""
    frames = [Image.new("RGB", (16, height), "red") for height in (16, 24)]
    (tmp_path / "a").mkdir()
    for number, frame in enumerate(frames):
        frame.save(tmp_path / "a" / f"{number}.png")
    write_manifest(tmp_path, [Clip("a", "x", 8.0, 2, 16, 16)])
    assert list(check(tmp_path).unreadable) == ["a"]


def test_a_duration_that_travels_with_a_clip_is_compared(tmp_path):
    (clip,) = data_set(tmp_path, [(8, (16, 16), 8)])
    for duration, fits in ((1.0, True), (1.05, True), (2.0, False), (None, True)):
        write_manifest(tmp_path, [replace(clip, extra={"duration": duration})])
        assert (check(tmp_path).mismatched == {}) is fits
    assert check(tmp_path).ok


def test_captions_are_those_that_training_shows(tmp_path):
    clips = data_set(tmp_path, [(2, (16, 16), 8)] * 4)
    several = {"captions": [{"text": "a cat", "weight": 1.0}]}
    rows = [replace(clips[0], caption="", extra=several), clips[1], replace(clips[2], caption=" ")]
    write_manifest(tmp_path, [*rows, replace(clips[3], extra={"captions": "a cat"})])
    report = check(tmp_path)
    assert (report.captions, report.distinct_captions) == (3, 2)
    assert list(report.malformed) == ["3.mkv"]
    assert not report.ok
    assert "1 with captions that cannot be used, such as 3.mkv" in report.summary()


def test_one_file_under_two_names_and_paths_that_lead_out(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    clips = data_set(tmp_path, [(2, (16, 16), 8)] * 2)
    (tmp_path / "0.mkv").rename(root / "0.mkv")
    (root / "link.mkv").symlink_to("0.mkv")
    paths = ["0.mkv", "./0.mkv", "link.mkv", "../1.mkv", str(tmp_path / "1.mkv"), "x/../0.mkv"]
    write_manifest(root, [replace(clips[0], path=path) for path in paths])
    report = check(root)
    assert report.duplicates == ["./0.mkv", "link.mkv", str(tmp_path / "1.mkv"), "x/../0.mkv"]
    assert report.outside == ["../1.mkv", str(tmp_path / "1.mkv")]
    assert "2 lead out of the folder, such as ../1.mkv" in report.summary()


def test_pipes_and_devices_are_no_clips(tmp_path):
    """A hostile manifest does not make the check wait for ever."""
    (clip,) = data_set(tmp_path, [(2, (16, 16), 8)])
    os.mkfifo(tmp_path / "pipe")
    write_manifest(tmp_path, [replace(clip, path=path) for path in ("pipe", "/dev/zero", "0.mkv/x", "x" * 300)])
    report = check(tmp_path, num_frames=2)
    assert sorted(report.unreadable) == ["/dev/zero", "pipe"]
    assert report.missing == ["0.mkv/x", "x" * 300]


def test_a_windows_path_is_found(tmp_path):
    (tmp_path / "clips").mkdir()
    (clip,) = data_set(tmp_path, [(2, (16, 16), 8)])
    (tmp_path / "0.mkv").rename(tmp_path / "clips" / "0.mkv")
    write_manifest(tmp_path, [replace(clip, path="clips\\0.mkv")])
    assert check(tmp_path).ok
    write_manifest(tmp_path, [replace(clip, path="clips\\1.mkv")])
    report = check(tmp_path)
    assert report.missing == ["clips\\1.mkv"]
    assert "1 missing, such as clips\\1.mkv (a path of Windows" in report.summary()
    assert windows_hint("C:/films/a.mp4")
    assert not windows_hint("clips/a:b.mp4")


def test_impossible_requests_and_places(tmp_path):
    with pytest.raises(DataError, match="No data set at"):
        check(tmp_path)
    data_set(tmp_path, [(2, (16, 16), 8)])
    for arguments in ({"num_frames": 0}, {"fps": -1}, {"size": 0}):
        with pytest.raises(InputError, match="asks for nothing"):
            check(tmp_path, **arguments)
    (tmp_path / "manifest.jsonl").write_text("")
    assert not check(tmp_path).ok
