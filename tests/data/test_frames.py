"""Decoded frames and latents on disk: content, keys, and what happens to bad files."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kineograph.data.frames import FrameSpec, frame_store, square
from kineograph.data.latents import latent_store
from kineograph.data.manifest import Clip, read_manifest, write_manifest
from kineograph.errors import DataError, InputError
from kineograph.video import Video

SPEC = FrameSpec(size=16, fps=8.0, max_frames=4)


@pytest.fixture
def data(tmp_path):
    levels = torch.arange(6).float().div(10)[:, None, None, None].expand(6, 3, 16, 16)
    Video(levels, fps=8.0).save(tmp_path / "moving.webp")
    Video(torch.full((1, 3, 8, 16), 0.5), fps=8.0).save(tmp_path / "still.webp")
    Video(levels, fps=24.0).save(tmp_path / "fast.webp")
    rows = [("moving", 6, 8.0, 16), ("still", 1, 0.0, 8), ("fast", 6, 24.0, 16)]
    clips = [
        Clip(f"{n}.webp", n, fps, frames, 16, h, split="test" if n == "fast" else "train") for n, frames, fps, h in rows
    ]
    write_manifest(tmp_path, clips)
    return tmp_path


def test_clips_are_sampled_by_time(data, tmp_path):
    store = frame_store(data, SPEC, tmp_path / "cache")
    assert store.counts.tolist() == [4, 1, 2]  # 6 frames at 24 fps are a quarter of a second: two samples at 8 fps
    levels = (store.frames[:, 0, 0, 0] / 127.5 - 1).round(1).tolist()
    assert levels == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.5, 0.0, 0.3])
    assert store.rows_of("test").tolist() == [5, 6]
    assert store.clips_of("train", min_frames=2).tolist() == [0]
    assert store.random_frames(np.array([0, 2]), [5, 6])[:, 0, 0, 0].tolist() == store.frames[[1, 5], 0, 0, 0].tolist()


def test_store_is_kept_and_its_key_follows_content(data, tmp_path):
    first = frame_store(data, SPEC, tmp_path / "cache")
    calls = []
    again = frame_store(data, SPEC, tmp_path / "cache", progress=lambda *a: calls.append(a))
    assert again.key == first.key
    assert calls == []
    assert frame_store(data, replace(SPEC, size=8), tmp_path / "cache").key != first.key


def test_more_than_a_few_bad_files_stop_the_run(data, tmp_path):
    (data / "moving.webp").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 3 clips cannot be read, such as 'moving\.webp'"):
        frame_store(data, SPEC, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("index.json"))


def test_square_takes_the_middle_and_pads_nothing():
    tall = np.arange(8 * 4, dtype=np.uint8).reshape(1, 8, 4, 1).repeat(3, -1)
    assert (square(tall, 4) == tall[:, 2:6]).all()
    assert (square(tall.swapaxes(1, 2), 4) == tall[:, 2:6].swapaxes(1, 2)).all()
    assert square(tall, 2).shape == (1, 2, 2, 3)
    assert (square(tall[:, :4], 4) == tall[:, :4]).all()


def replaced(data):
    """Write other pictures under the name of one clip."""
    Video(torch.linspace(-1, 1, 6)[:, None, None, None].expand(6, 3, 16, 16), fps=8.0).save(data / "moving.webp")


def retold(data):
    manifest = data / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"train"', '"other"', 1))


@pytest.mark.parametrize("change", [replaced, retold])
def test_a_changed_data_set_is_decoded_again(change, data, tmp_path):
    first = frame_store(data, SPEC, tmp_path / "cache")
    change(data)
    again = frame_store(data, SPEC, tmp_path / "cache")
    assert again.key != first.key
    assert again.content != first.content


@pytest.mark.parametrize("kind", ["frames", "latents"])
@pytest.mark.parametrize("name", ["index.json", "*.?*[86]"])
@pytest.mark.parametrize("rest", [0, 7])
def test_a_broken_store_is_made_again(kind, name, rest, data, tmp_path):
    def encode(pixels):
        return pixels.mean((1, 2), keepdims=True).transpose(0, 3, 1, 2) / 255

    def opened():
        frames = frame_store(data, SPEC, tmp_path / "cache")
        return {"frames": frames.frames, "latents": latent_store(frames, encode, "a", tmp_path / "cache").latents}[kind]

    wanted = np.array(opened())
    (file,) = (tmp_path / "cache" / kind).glob(f"*/{name}")
    file.write_bytes(file.read_bytes()[:rest])
    assert (opened() == wanted).all()


def test_clips_that_cannot_be_read_are_kept_count_of(data, tmp_path, monkeypatch):
    monkeypatch.setattr("kineograph.data.frames.MAX_FAILED_SHARE", 0.5)
    (data / "still.webp").write_bytes(b"no picture")
    store = frame_store(data, SPEC, tmp_path / "cache")
    assert list(store.failed) == ["still.webp"]
    assert len(store.clips) == 2


@pytest.mark.parametrize("change", [{"size": 0}, {"fps": 0.0}, {"fps": float("nan")}, {"max_frames": 0}])
def test_frames_that_make_no_sense_are_refused(change):
    with pytest.raises(InputError, match="--size .*--max-frames .*--sample-fps"):
        replace(SPEC, **change)


def test_latents_are_encoded_once_and_belong_to_their_encoder(data, tmp_path):
    frames = frame_store(data, SPEC, tmp_path / "cache")
    calls = []

    def encode(pixels):
        calls.append(len(pixels))
        return pixels.mean((1, 2), keepdims=True).transpose(0, 3, 1, 2) / 255

    store = latent_store(frames, encode, "a", tmp_path / "cache", batch=3)
    assert store.shape == (3, 1, 1)
    assert calls == [3, 3, 1]
    assert latent_store(frames, encode, "a", tmp_path / "cache").latents.shape == (7, 3, 1, 1)
    assert len(calls) == 3
    latent_store(frames, encode, "b", tmp_path / "cache")
    assert len(calls) == 4
    assert store.window(1, 0, 3)[:, 0, 0, 0].tolist() == [store.latents[4, 0, 0, 0]] * 3
    assert store.window(0, 1, 2)[:, 0, 0, 0].tolist() == store.latents[1:3, 0, 0, 0].tolist()


def test_a_picture_is_one_frame_whatever_the_manifest_and_the_rate_say(data, tmp_path):
    """And a clip that the manifest calls a picture is sampled as a clip."""
    clips = [replace(clip, frames=1 if clip.frames > 1 else 48) for clip in read_manifest(data)]
    write_manifest(data, clips)
    assert frame_store(data, replace(SPEC, fps=32.0, max_frames=8), tmp_path / "cache").counts.tolist() == [8, 1, 8]
