"""The emoji data set on archives made here, in the form of the npm packages."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from kineograph.data import emoji, emoji_archives, emoji_words
from kineograph.data.captions import weighted_captions
from kineograph.data.manifest import read_manifest
from kineograph.errors import DataError, InputError, ResourceError
from kineograph.video import Video


def webp(frames: int, size: int = 32) -> bytes:
    """An RGBA animation: an opaque square that moves over a transparent ground."""
    pictures = []
    for i in range(frames):
        pixels = np.zeros((size, size, 4), np.uint8)
        pixels[8:16, 2 + i : 10 + i] = (200, 30, 40, 255)
        pictures.append(Image.fromarray(pixels))
    out = io.BytesIO()
    pictures[0].save(out, "WEBP", save_all=True, append_images=pictures[1:], duration=42, lossless=True)
    return out.getvalue()


@pytest.fixture
def archives(tmp_path):
    contents = {
        0: {"1f939-1f3ff-200d-2642-fe0f": webp(5), "0023-fe0f-20e3": webp(1), "23-fe0f-20e3": webp(1)},
        1: {"1f1f1-1f1fe": webp(1), "1f3f4-e0067_e0062_e0065_e006e_e0067": webp(2)},
        2: {"1f34e": b"this is no picture"},
        3: {"fffe": webp(1)},
    }
    folder = tmp_path / "archives"
    folder.mkdir()
    for number, package in enumerate(emoji_archives.PACKAGES):
        with tarfile.open(folder / emoji_archives.archive_name(package), "w:gz") as tar:
            for stem, content in contents[number].items():
                info = tarfile.TarInfo(f"package/assets/{stem}.webp")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    write_keywords(folder, {"🤹‍♂️": ["man_juggling", "performance", "balance", "juggler"]})
    return folder


def write_keywords(folder, table):
    content = json.dumps(table).encode()
    with tarfile.open(folder / emoji_archives.archive_name(emoji_words.PACKAGE), "w:gz") as tar:
        info = tarfile.TarInfo("package/dist/emoji-en-US.json")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def test_names_become_captions():
    assert emoji.caption_of(emoji.code_points("1f939-1f3ff-200d-2642-fe0f")) == "man juggling dark skin tone"
    assert emoji.caption_of(emoji.code_points("1f1f1-1f1fe")) == "flag of Libya"
    assert emoji.caption_of(emoji.code_points("1f3f4-e0067_e0062_e0065_e006e_e0067")) == "flag of England"
    assert emoji.caption_of("x") is None
    assert "medium-light skin tone" in emoji.caption_of(emoji.code_points("1f44b-1f3fc"))


def test_data_set_is_decoded_composited_captioned_and_reported(archives, tmp_path):
    report = emoji.obtain_emoji(tmp_path / "out", archives=archives, size=16, background="#00ff00")
    clips = {clip.caption: clip for clip in read_manifest(tmp_path / "out")}
    assert set(clips) == {"man juggling dark skin tone", "keycap #", "flag of Libya", "flag of England"}
    assert report.clips == 4
    assert report.animated == 2
    assert set(report.skipped) == {"1f34e", "fffe"}
    juggler = clips["man juggling dark skin tone"]
    assert dict(weighted_captions(juggler))["a dark-skinned juggling man"] == pytest.approx(0.6 / 9)
    assert (juggler.frames, juggler.width, juggler.height, juggler.licence[:3]) == (5, 16, 16, "MIT")
    video = Video.read(tmp_path / "out" / juggler.path)
    assert len(video) == 5
    assert video.frames.shape[1] == 3
    assert (video.to_uint8()[:, 0, 0] == (0, 255, 0)).all()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["clips"] == 4


def test_second_run_keeps_clips_and_gives_the_same_manifest(archives, tmp_path):
    first = emoji.obtain_emoji(tmp_path / "out", archives=archives, size=16)
    manifest = (tmp_path / "out" / "manifest.jsonl").read_bytes()
    clip = next((tmp_path / "out" / "clips").iterdir())
    before = clip.stat().st_mtime_ns
    with pytest.raises(DataError, match=r"already holds a data set .*--overwrite"):
        emoji.obtain_emoji(tmp_path / "out", archives=archives, size=16)
    assert emoji.obtain_emoji(tmp_path / "out", archives=archives, size=16, overwrite=True) == first
    assert (tmp_path / "out" / "manifest.jsonl").read_bytes() == manifest
    assert clip.stat().st_mtime_ns == before
    with pytest.raises(DataError, match="begun with"):
        emoji.obtain_emoji(tmp_path / "out", archives=archives, size=32, overwrite=True)


def test_a_limit_takes_animated_clips_and_progress_has_a_total(archives, tmp_path):
    seen = []
    report = emoji.obtain_emoji(
        tmp_path / "out", archives=archives, size=16, limit=2, progress=lambda *step: seen.append(step)
    )
    assert (report.clips, report.animated) == (2, 2)
    assert report.bytes == sum(file.stat().st_size for file in (tmp_path / "out" / "clips").iterdir())
    assert seen[-2:] == [(1, 2, "clips"), (2, 2, "clips")]
    assert all(total is not None for _, total, _ in seen)
    with pytest.raises(InputError, match="--limit 0"):
        emoji.obtain_emoji(tmp_path / "other", archives=archives, limit=0)
    assert not (tmp_path / "other").exists()


def test_a_trial_holds_whole_families_from_all_over_and_grows():
    people = {f"1f9{base:02x}{tone}": True for base in range(20, 60) for tone in ("", "-1f3fb", "-1f3ff")}
    found = {f"1f1{base:02x}": False for base in range(99)} | people
    small, large = emoji.chosen(found, 30), emoji.chosen(found, 60)
    assert small < large < emoji.chosen(found, 130) < emoji.chosen(found, None) == set(found)
    assert all(found[stem] for stem in large)
    assert not all(found[stem] for stem in emoji.chosen(found, 130))
    families = {stem.split("-")[0] for stem in small}
    assert len(families) == 10
    assert max(families) > "1f928" > min(families)


def test_transparent_background_keeps_alpha(archives, tmp_path):
    emoji.obtain_emoji(tmp_path / "out", archives=archives, size=16, background="transparent")
    clip = next(c for c in read_manifest(tmp_path / "out") if c.frames == 5)
    assert Video.read(tmp_path / "out" / clip.path).frames.shape[1] == 4


def test_held_out_combinations_have_all_parts_in_training():
    tones = ["light", "medium-light", "medium", "medium-dark", "dark"]
    captions = [f"{base} {tone} skin tone" for base in map("person {}".format, range(60)) for tone in tones] + ["dog"]
    test = emoji.held_out(captions)
    train = set(captions) - test
    assert 5 < len(test) < 40
    assert test == emoji.held_out(reversed(captions))
    assert "dog" not in test
    for caption in test:
        base, (tone,) = emoji.split_tones(caption)
        assert any(emoji.split_tones(other)[0] == base for other in train)
        assert any(emoji.split_tones(other)[1] == (tone,) for other in train)


def test_no_npm_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ResourceError, match="--archives"):
        emoji.obtain_emoji(tmp_path)


def test_broken_archives_and_bad_options_are_named(archives, tmp_path):
    for size, background, words in ((4, "white", "--size 4"), (16, "grean", "'grean' is no colour")):
        with pytest.raises(InputError, match=words):
            emoji.obtain_emoji(tmp_path / "x", archives=archives, size=size, background=background)
    broken = archives / emoji_archives.archive_name(emoji_archives.PACKAGES[1])
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(DataError, match="not a complete npm archive"):
        emoji.obtain_emoji(tmp_path / "out", archives=archives, size=16)
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
    broken.unlink()
    with pytest.raises(DataError, match="npm pack"):
        emoji.obtain_emoji(tmp_path / "out", archives=archives, size=16)
