"""Decoded frames and latents on disk: content, keys, and what happens to bad files."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kineograph.data.frames import FrameSpec, frame_store, square
from kineograph.data.latents import latent_store
from kineograph.data.manifest import Clip, write_manifest
from kineograph.errors import DataError
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


def test_square_pads_and_never_crops():
    tall = np.arange(8 * 4, dtype=np.uint8).reshape(1, 8, 4, 1).repeat(3, -1)
    padded = square(tall, 8)
    assert padded.shape == (1, 8, 8, 3)
    assert (padded[:, :, 2:6] == tall).all()
    assert (padded[:, :, 0] == tall[:, :, 0]).all()


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
