"""Animations keep how long each picture is held, the last one too, through reading and writing."""

import numpy as np
import pytest
from PIL import Image

from kineograph.errors import InputError, MediaError
from kineograph.video import Video, probe

UNITS = {".gif": 10, ".webp": 1, ".apng": 1}
HOLDS = {
    "even": [100, 100, 100, 100],
    "long last": [100, 100, 100, 900],
    "short last": [200, 200, 200, 40],
    "uneven": [100, 300, 50, 200],
    "nearly even": [100, 110, 100, 110],
    "dithered": [120, 130, 120, 130],
    "two": [70, 1500],
}


def animation(path, holds):
    """Another program's file."""
    pictures = [Image.fromarray(np.full((8, 8, 3), 40 * index + 5, np.uint8)) for index in range(len(holds))]
    kind = "PNG" if path.suffix == ".apng" else None
    pictures[0].save(path, format=kind, save_all=True, append_images=pictures[1:], duration=holds, lossless=True)
    return path


def held(path):
    """Milliseconds as Pillow reads them."""
    with Image.open(path) as image:
        found = []
        for index in range(image.n_frames):
            image.seek(index)
            image.load()
            found.append(round(image.info["duration"]))
        return found


def shown(video):
    return [round(1000 * (after - before)) for before, after in zip(
        video.frame_times, (*video.frame_times[1:], video.duration), strict=True)]  # fmt: skip


@pytest.mark.parametrize("holds", HOLDS.values(), ids=HOLDS)
@pytest.mark.parametrize("suffix", UNITS)
def test_holds_survive(tmp_path, suffix, holds):
    first = Video.read(animation(tmp_path / f"a{suffix}", holds))
    assert shown(first) == holds
    assert probe(tmp_path / f"a{suffix}").duration == pytest.approx(sum(holds) / 1000)
    for again in UNITS:
        path = first.save(tmp_path / f"b{again}")
        assert held(path) == holds
        second = Video.read(path)
        assert shown(second) == holds
        assert (second.fps, second.times, second.last) == (first.fps, first.times, first.last)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ""])
def test_a_long_last_picture_in_films_and_folders(tmp_path, suffix):
    video = Video.from_uint8(np.zeros((3, 16, 16, 3), np.uint8), 10)
    video = Video(video.frames, 10, last=2.5)
    back = Video.read(video.save(tmp_path / f"a{suffix}"))
    assert (back.fps, back.times, back.last, back.duration) == (10, None, 2.5, pytest.approx(2.7))
    assert probe(tmp_path / f"a{suffix}").duration == pytest.approx(2.7)


def test_an_even_rate_is_recognised_as_such(tmp_path):
    assert Video.read(animation(tmp_path / "a.gif", [40] * 6)).fps == 25
    ragged = Video.read(animation(tmp_path / "b.webp", [42, 41, 42, 42, 41, 42]))  # 24 per second, halves up
    assert (ragged.fps, ragged.times) == (24, None)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_a_single_picture_is_held_as_long_as_it_says(tmp_path, suffix):
    Image.new("RGB", (8, 8), "red").save(tmp_path / f"a{suffix}", duration=700, lossless=True, save_all=True)
    video = Video.read(tmp_path / f"a{suffix}")
    stated = suffix == ".gif"  # Pillow writes a single WebP without its time
    assert video.duration == pytest.approx(0.7 if stated else 1 / 8)
    assert held(video.save(tmp_path / "b.gif")) == ([700] if stated else [130])


def test_animations_are_no_frames_of_a_folder(tmp_path):
    animation(tmp_path / "a.webp", [100, 100, 100])
    with pytest.raises(MediaError, match=r"a\.webp' moves: it holds 3 pictures"):
        Video.read(tmp_path)


def test_sampling_sees_the_last_picture_for_its_time(tmp_path):
    path = animation(tmp_path / "a.gif", [100, 100, 500])
    assert len(Video.read(path, fps=10)) == 7
    cut = Video.read(path, end=0.4)
    assert (len(cut), cut.duration) == (3, pytest.approx(0.4))
    assert Video.read(path, num_frames=2).duration == pytest.approx(0.2)


@pytest.mark.parametrize("last", [0, -1, float("nan")])
def test_a_last_picture_is_held_for_some_time(last):
    with pytest.raises(InputError, match="no time to hold the last frame"):
        Video(Video.from_uint8(np.zeros((1, 4, 4, 3), np.uint8), 8).frames, 8, last=last)
