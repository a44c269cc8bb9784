"""Synthetic clips are what their captions, masks and flows say."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from kineograph.data.manifest import read_manifest
from kineograph.data.synthetic import (
    BACKGROUNDS,
    COLOURS,
    DIRECTIONS,
    SHAPES,
    SIZES,
    SPEEDS,
    synthetic_clip,
    write_synthetic,
)
from kineograph.errors import InputError
from kineograph.video import Video

SEEDS = range(12)


def centroid(mask):
    rows, columns = np.nonzero(mask.numpy())
    return np.array([columns.mean(), rows.mean()])


def test_a_seed_is_a_clip():
    first, second, other = (synthetic_clip(seed, 4, 32) for seed in (5, 5, 6))
    assert torch.equal(first.video.frames, second.video.frames)
    assert torch.equal(first.flow, second.flow)
    assert first.caption == second.caption
    assert not torch.equal(first.video.frames, other.video.frames)


def test_shapes_of_everything():
    clip = synthetic_clip(1, 5, (32, 48), 12.0, objects=2)
    assert clip.video.frames.shape == (5, 3, 32, 48)
    assert clip.video.fps == 12
    assert clip.flow.shape == (4, 2, 32, 48)
    assert clip.mask.shape == (5, 2, 32, 48)
    assert clip.mask.dtype == torch.bool
    assert not clip.mask.all(1).any()  # a pixel shows one shape at most
    assert clip.video.metadata["prompt"] == clip.caption
    still = synthetic_clip(1, 1, 32)
    assert (len(still.video), still.flow.shape[0]) == (1, 0)
    assert "staying still" in still.caption


@pytest.mark.parametrize("seed", SEEDS)
def test_the_caption_is_true(seed):
    """Read the clip, not its parameters: the visible colour, extent and way match the words."""
    clip = synthetic_clip(seed, 9, 64, objects=1)
    head, background = clip.caption.split(", on a ")
    _, size, colour, shape, *motion = head.split()
    assert (shape in SHAPES, size in SIZES, colour in COLOURS) == (True, True, True)
    pixels = clip.video.to_uint8()
    inner = -functional.max_pool2d(-clip.mask[:, :1].float(), 3, 1, 1) > 0.5  # away from antialiased edges
    assert (pixels[inner[:, 0].numpy()] == COLOURS[colour]).all(-1).mean() > 0.95
    outer = functional.max_pool2d(clip.mask[:, :1].float(), 5, 1, 2) < 0.5
    assert (pixels[outer[:, 0].numpy()] == BACKGROUNDS[background.removesuffix(" background")]).all()
    extents = {}
    for name, share in SIZES.items():
        extents[name] = abs(2 * share * 64 - int(clip.mask[0, 0].any(0).sum()) - (shape == "square") * 0.3 * share * 64)
    assert min(extents, key=extents.__getitem__) == size
    way = centroid(clip.mask[-1, 0]) - centroid(clip.mask[0, 0])
    if motion == ["staying", "still"]:
        assert np.abs(way).max() == 0
    else:
        expected = np.array(DIRECTIONS[" ".join(motion[1:-1])]) * SPEEDS[motion[-1]] * 64
        assert np.abs(way - expected).max() < 0.6


@pytest.mark.parametrize("seed", SEEDS)
def test_shapes_never_leave_the_picture(seed):
    clip = synthetic_clip(seed, 6, (48, 64), objects=1)
    areas = clip.mask[:, 0].sum((1, 2)).float()
    assert areas.min() > 0.75 * areas.max()
    (shape,) = clip.shapes
    for time in (0, 5):
        for start, velocity, extent in zip(shape.start, shape.velocity, (64, 48), strict=True):
            assert shape.radius - 1e-9 <= start + velocity * time <= extent - shape.radius + 1e-9


@pytest.mark.parametrize("seed", [0, 3, 4, 7, 11, 12])  # shapes with an inside
def test_flow_explains_the_next_frame(seed):
    """Follow every pixel's flow into the next frame: the pattern found there is the pattern here."""
    clip = synthetic_clip(seed, 5, 64, objects=1, textured=True, pan=(0.75, -0.5))
    frames = clip.video.frames
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    grid = torch.stack([columns, rows], -1) + clip.flow.permute(0, 2, 3, 1)
    followed = functional.grid_sample(
        frames[1:], (grid + 0.5) / 32 - 1, mode="bicubic", padding_mode="border", align_corners=False
    )
    shape = clip.mask[:-1, :1].float()
    inside = -functional.max_pool2d(-shape, 7, 1, 3) > 0.5
    outside = functional.max_pool2d(shape, 13, 1, 6) < 0.5
    outside[..., :4], outside[..., -4:], outside[..., :4, :], outside[..., -4:, :] = False, False, False, False
    for region in (inside, outside):
        chosen = region.expand_as(frames[1:])
        assert chosen.any()
        error = (followed - frames[:-1])[chosen].abs().mean()
        unmoved = (frames[1:] - frames[:-1])[chosen].abs().mean()
        assert error < 0.02
        assert error < 0.4 * unmoved or unmoved < 0.005


def test_the_front_shape_hides_the_other():
    hidden = 0
    for seed in range(30):
        clip = synthetic_clip(seed, 3, 32, objects=2)
        alone = clip.mask[:, 0].sum((1, 2))
        hidden += bool((alone.max() - alone.min()) > 8)
        assert clip.shapes[0].colour != clip.shapes[1].colour
    assert hidden > 3  # some pairs do overlap


def test_captions_cover_the_vocabulary():
    captions = " ".join(synthetic_clip(seed, 2, 16).caption for seed in range(250))
    words = itertools.chain(SHAPES, COLOURS, BACKGROUNDS, SIZES, DIRECTIONS, SPEEDS, ["staying still", " and a "])
    assert [word for word in words if word not in captions] == []


def test_impossible_clips_are_refused():
    for arguments in ({"num_frames": 0}, {"size": 8}, {"objects": 3}):
        with pytest.raises(InputError, match="at least 1 frame, 16 pixels"):
            synthetic_clip(0, **arguments)


def test_data_set_on_disk(tmp_path):
    seen = []
    write_synthetic(tmp_path, 5, 3, num_frames=4, size=(16, 24), test_every=5, flow=True,
                    progress=lambda done, total, what: seen.append((done, total, what)))  # fmt: skip
    clips = read_manifest(tmp_path)
    assert seen[-1] == (5, 5, "clips")
    assert [clip.split for clip in clips] == ["train"] * 4 + ["test"]
    for index, clip in enumerate(clips):
        truth = synthetic_clip((3, index), 4, (16, 24))
        assert clip.caption == truth.caption
        assert torch.equal(Video.read(tmp_path / clip.path).frames, truth.video.frames)
        assert np.array_equal(np.load(tmp_path / clip.extra["flow"])["flow"], truth.flow.numpy())
    assert (clips[0].width, clips[0].height, clips[0].frames, clips[0].fps) == (24, 16, 4, 8)
    with pytest.raises(InputError, match="count=0"):
        write_synthetic(tmp_path, 0)
