"""Clips survive the way to disk and back, and odd, broken or hostile files get a clear answer."""

import contextlib
import ctypes
import errno
import json
import os
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from kineograph._encode import _even, _png_chunk
from kineograph.errors import InputError, MediaError, ResourceError
from kineograph.video import Video, contact_sheet, iterate, probe

VARIABLE = (0.0, 0.05, 0.25, 1 / 3, 0.9, 1.0)
LOSSLESS = (".mkv", ".webp", ".apng", "")
ALL = (".mp4", ".webm", ".gif", *LOSSLESS)


def smooth(frames=6, height=33, width=47, channels=3):
    """Gradients that move, with one repeated frame, so that lossy codecs stay close and mergers are caught."""
    rows, columns = np.mgrid[:height, :width]
    out = np.full((frames, height, width, channels), 128, np.uint8)
    for index in range(frames):
        out[index, ..., 0] = 230 - np.abs((columns * 3 + index * 9) % 400 - 200)
        out[index, ..., 1] = 250 - np.abs(rows * 5 % 400 - 200)
        if channels == 4:
            out[index, ..., 3] = np.where((columns - 20 - index) ** 2 + (rows - 15) ** 2 < 100, 255, 0)
    if frames > 3:
        out[3] = out[2]
    return out


def noise(frames=5, height=19, width=23, channels=3):
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, channels), dtype=np.uint8)


def bars(frames, height=32, width=64):
    """Frames that tell their own number: a white bar as high as the index."""
    out = np.zeros((frames, height, width, 3), np.uint8)
    for index in range(frames):
        out[index, : index + 1] = 255
    return out


def numbers(video_or_arrays):
    """Read the frame numbers off `bars`."""
    pixels = video_or_arrays.to_uint8() if isinstance(video_or_arrays, Video) else np.stack(video_or_arrays)
    return [(frame[:, 8, 0] > 128).sum() - 1 for frame in pixels]


def listing(folder):
    return sorted(entry.name for entry in folder.iterdir())


def encode(path, pixels, *, codec="libx264", pix_fmt="yuv420p", stamps=None, unit=Fraction(1, 24), container=None,
           options=None, mux=None, sar=None, full_range=False):  # fmt: skip
    """Write an oracle with PyAV, not with the code under test."""
    with av.open(str(path), "w", format=container, options=mux or {}) as output:
        stream = output.add_stream(codec, rate=Fraction(24), options=options or {"crf": "8"})
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], pix_fmt
        stream.time_base = stream.codec_context.time_base = unit
        if sar:
            stream.codec_context.sample_aspect_ratio = sar
        if full_range:
            stream.codec_context.color_range = 2
        stamps = range(len(pixels)) if stamps is None else stamps
        for picture, stamp in zip(pixels, stamps, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format=pix_fmt, dst_color_range=2 if full_range else 1
            )
            frame.pts, frame.time_base = stamp, unit
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


# ---------------------------------------------------------------------------------------------------------- the object


def test_shapes_and_facts():
    video = Video.from_uint8(smooth(), 12.5)
    assert (len(video), video.height, video.width, video.alpha) == (6, 33, 47, False)
    assert video.frames.dtype == torch.float32
    assert video.frames.shape == (6, 3, 33, 47)
    assert video.duration == pytest.approx(6 / 12.5)
    assert Video(video.frames, 4, times=VARIABLE).duration == pytest.approx(1.25)


def test_every_byte_survives_the_trip_through_floats():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    video = Video.from_uint8(every, 8)
    assert (video.frames.min().item(), video.frames.max().item()) == (-1.0, 1.0)
    assert (video.to_uint8() == every).all()


def test_out_of_range_is_clamped_and_nan_is_never_black():
    frames = torch.tensor([-3.0, 0.0, 3.0]).view(1, 3, 1, 1).expand(2, 3, 4, 4).clone()
    assert Video(frames, 8).to_uint8()[0, 0, 0].tolist() == [0, 128, 255]
    frames[1, 0, 2, 2] = float("nan")
    with pytest.raises(InputError, match="Frame 1 of 2 holds NaN"):
        Video(frames, 8).to_uint8()


def test_nan_leaves_the_old_file(tmp_path):
    path = Video.from_uint8(smooth(), 8).save(tmp_path / "a.mp4")
    before = path.read_bytes()
    with pytest.raises(InputError, match="NaN"):
        Video(torch.full((2, 3, 8, 8), float("nan")), 8).save(path)
    assert path.read_bytes() == before
    assert listing(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 3, 4), 8), "shape"),
        ((torch.zeros(2, 2, 4, 4), 8), "3 or 4 channels"),
        ((torch.zeros(0, 3, 4, 4), 8), "none of them 0"),
        ((torch.zeros(2, 3, 4, 4, dtype=torch.uint8), 8), "from_uint8"),
        ((torch.zeros(2, 3, 4, 4), 0), "fps=0"),
        ((torch.zeros(2, 3, 4, 4), float("nan")), "fps=nan"),
        ((torch.zeros(2, 3, 4, 4), 8, (0.0,)), "2 frames but 1 times"),
        ((torch.zeros(2, 3, 4, 4), 8, (0.0, 0.0)), "must increase"),
        ((torch.zeros(2, 3, 4, 4), 8, (0.5, 1.0)), "the first is 0"),
    ],
)
def test_impossible_clips_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Video(*arguments)


# ---------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("times", [None, VARIABLE], ids=["constant", "variable"])
@pytest.mark.parametrize("suffix", ALL)
def test_same_frames_times_and_metadata_after_a_round_trip(tmp_path, suffix, times, channels):
    metadata = {"prompt": 'é "q" <x> & 😀\n', "seed": 3, "settings": {"steps": 30, "eta": 0.5}}
    video = Video.from_uint8(smooth(channels=channels), 30000 / 1001 if times is None else 8, times=times)
    background = "red" if (suffix, channels) == (".mp4", 4) else None
    path = video.save(tmp_path / f"clip{suffix}", background=background, metadata=metadata)
    back = Video.read(path)
    assert len(back) == len(video)
    assert back.fps == video.fps
    assert back.times == video.times
    assert back.metadata == metadata == Video.read_metadata(path)
    assert back.frames.shape[2:] == video.frames.shape[2:]
    assert back.frames.shape[1] == (3 if background else channels)
    streamed = [time for time, _ in iterate(path)]
    assert streamed == pytest.approx(list(video.frame_times), abs=1e-9)
    facts = probe(path)
    assert (facts.frames, facts.height, facts.width) == (6, 33, 47)
    assert facts.duration == pytest.approx(video.duration, abs=0.011)
    assert facts.alpha == back.alpha
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_formats_are_exact_on_noise(tmp_path, suffix, channels):
    pixels = noise(channels=channels)
    path = Video.from_uint8(pixels, 8).save(tmp_path / f"clip{suffix}")
    assert (Video.read(path).to_uint8() == pixels).all()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    frames=st.integers(1, 5), height=st.integers(1, 9), width=st.integers(1, 9), channels=st.sampled_from([3, 4]),
    suffix=st.sampled_from(LOSSLESS), seed=st.integers(0, 99), still=st.booleans(), fps=st.sampled_from([1, 7.5, 24]),
)  # fmt: skip
def test_lossless_for_any_small_clip(tmp_path, frames, height, width, channels, suffix, seed, still, fps):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (frames, height, width, channels), dtype=np.uint8)
    pixels = pixels[:1].repeat(frames, 0) if still else pixels
    back = Video.read(Video.from_uint8(pixels, fps).save(tmp_path / f"c{suffix}"))
    assert back.fps == fps
    assert (back.to_uint8() == pixels).all()


@pytest.mark.parametrize("suffix", ALL)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (8, 2), (31, 33)])
def test_tiny_pictures(tmp_path, suffix, size):
    pixels = noise(2, *size)
    back = Video.read(Video.from_uint8(pixels, 8).save(tmp_path / f"a{suffix}"))
    assert back.frames.shape == (2, 3, *size)
    assert suffix not in LOSSLESS or (back.to_uint8() == pixels).all()


def test_a_size_that_the_encoder_refuses(tmp_path):
    with pytest.raises(MediaError, match=r"Cannot write .*a\.mp4'"):
        Video(torch.zeros(1, 3, 2, 20_000), 8).save(tmp_path / "a.mp4")
    assert listing(tmp_path) == []


def test_lossy_formats_stay_close(tmp_path):
    video = Video.from_uint8(smooth(8, 48, 64), 8)
    for name, options, limit in [("a.mp4", {}, 36), ("a.webm", {}, 36), ("a.webp", {"quality": 90}, 30)]:
        back = Video.read(video.save(tmp_path / name, **options))
        psnr = 10 * torch.log10(4 / (back.frames - video.frames).square().mean())
        assert psnr > limit, name
    assert Video.read(video.save(tmp_path / "b.mp4", crf=40)).frames.sub(video.frames).abs().mean() > (
        Video.read(tmp_path / "a.mp4").frames.sub(video.frames).abs().mean()
    )


def test_gif_is_exact_up_to_256_colours(tmp_path):
    rng = np.random.default_rng(1)
    palette = np.unique(rng.integers(0, 1 << 24, 300))[:256]
    colours = np.stack([palette >> 16, palette >> 8 & 255, palette & 255], -1).astype(np.uint8)
    pixels = colours[rng.integers(0, 256, (4, 21, 17))]
    pixels[2] = pixels[1]
    pixels[3, :5, :5] = pixels[2, :5, :5]
    assert (Video.read(Video.from_uint8(pixels, 10).save(tmp_path / "a.gif")).to_uint8() == pixels).all()


def test_gif_alpha_is_one_bit_and_exact_where_opaque(tmp_path):
    pixels = smooth(channels=4)
    pixels[..., 1] //= 64
    pixels[..., 0] //= 8
    back = Video.read(Video.from_uint8(pixels, 10).save(tmp_path / "a.gif")).to_uint8()
    opaque = pixels[..., 3] == 255
    assert (back[..., 3] == pixels[..., 3]).all()
    assert (back[opaque] == pixels[opaque]).all()


def test_gif_of_many_colours_keeps_still_areas_still(tmp_path):
    pixels = smooth(4, 64, 64)
    pixels[:, :, :32] = pixels[0, :, :32]
    pixels[:, ::2, :, 2] = np.arange(64, dtype=np.uint8) * 3
    back = Video.read(Video.from_uint8(pixels, 10).save(tmp_path / "a.gif")).to_uint8()
    assert (back[:, :, :32] == back[:1, :, :32]).all()
    assert np.abs(back.astype(int) - pixels).mean() < 8


@pytest.mark.parametrize("channels", [3, 4])
def test_gif_keeps_a_flat_background_exactly(tmp_path, channels):
    pixels = np.full((3, 64, 64, channels), 255, np.uint8)
    pixels[:, 8:40, 8:40, :3] = noise(3, 32, 32) // 2
    pixels[:, 50:, :, :3] = 0
    pixels[:, 60:, :, 3:] = 0
    back = Video.read(Video.from_uint8(pixels, 10).save(tmp_path / "a.gif")).to_uint8()
    assert (back[:, :8] == 255).all()
    assert (back[:, 50:60] == pixels[:, 50:60]).all()
    assert (back[:, 60:, :, 3:] == 0).all()


def test_gif_delays_are_true_centiseconds(tmp_path):
    path = Video.from_uint8(smooth(8), 8).save(tmp_path / "a.gif")
    with Image.open(path) as image:
        delays = []
        for index in range(image.n_frames):
            image.seek(index)
            delays.append(image.info["duration"])
    assert sum(delays) == 1000  # 12.5 hundredths each: rounded, but exact in sum
    assert set(delays) == {120, 130}
    with pytest.raises(InputError, match="50 fps or less"):
        Video.from_uint8(smooth(), 60).save(tmp_path / "b.gif")


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng"])
def test_animations_made_by_pillow(tmp_path, suffix):
    """Another program's file: uneven delays, no record of ours."""
    pictures = [Image.fromarray(frame) for frame in bars(4, 8, 16)]
    path = tmp_path / f"a{suffix}"
    pictures[0].save(path, format="PNG" if suffix == ".apng" else None, save_all=True, append_images=pictures[1:],
                     duration=[100, 300, 50, 200], lossless=True)  # fmt: skip
    video = Video.read(path)
    assert numbers(video) == [0, 1, 2, 3]
    assert video.times == pytest.approx((0, 0.1, 0.4, 0.45))
    assert video.duration == pytest.approx(0.65, abs=0.11)
    assert video.metadata == {}
    assert numbers(Video.read(path, fps=20)) == [0, 0, 1, 1, 1, 1, 1, 1, 2, 3, 3, 3, 3]


def test_pyav_finds_the_same_frames_in_our_gif_webp_free_formats(tmp_path):
    """A second decoder (FFmpeg's) agrees with Pillow about the GIF and APNG containers."""
    pixels = smooth(6)
    for suffix in (".gif", ".apng"):
        path = Video.from_uint8(pixels, 10).save(tmp_path / f"a{suffix}")
        with av.open(str(path)) as container:
            frames = list(container.decode(video=0))
        ours = Video.read(path).to_uint8()
        assert [round(frame.time * 10) for frame in frames] == list(range(6))
        assert (np.stack([frame.to_ndarray(format="rgb24") for frame in frames]) == ours).all()


def test_png_is_one_picture(tmp_path):
    video = Video.from_uint8(noise(1, channels=4), 8, metadata={"prompt": "x"})
    back = Video.read(video.save(tmp_path / "a.png"))
    assert (back.to_uint8() == video.to_uint8()).all()
    assert back.metadata == {"prompt": "x"}
    with pytest.raises(InputError, match=r"can hold one picture, and the clip has 5.*\.apng"):
        Video.from_uint8(noise(), 8).save(tmp_path / "b.png")


def test_saving_at_another_rate_keeps_the_frames(tmp_path):
    back = Video.read(Video.from_uint8(bars(6), 8).save(tmp_path / "a.mkv", fps=24))
    assert (back.fps, numbers(back)) == (24, [0, 1, 2, 3, 4, 5])
    with pytest.raises(InputError, match="its own times"):
        Video.from_uint8(bars(6), 8, times=VARIABLE).save(tmp_path / "b.mkv", fps=24)


@pytest.mark.parametrize("suffix", ALL)
def test_same_clip_same_bytes(tmp_path, suffix):
    video = Video.from_uint8(smooth(), 8, metadata={"seed": 1})
    first, second = (video.save(tmp_path / f"{name}{suffix}") for name in "ab")
    files = [[first], [second]] if suffix else [sorted(first.iterdir()), sorted(second.iterdir())]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


def test_bytes_do_not_depend_on_what_memory_held_before(tmp_path):
    """Encoders that read unset memory give other bytes when malloc fills it (x264's macroblock tree does)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        pytest.skip("needs glibc's mallopt")
    perturb = -6  # M_PERTURB in malloc.h
    clips = [Video.from_uint8(smooth(6, *size), 8) for size in ((33, 47), (34, 48), (64, 64))]
    runs = []
    try:
        for fill in (1, 77):
            mallopt(perturb, fill)
            paths = [clip.save(tmp_path / f"a{suffix}") for clip in clips for suffix in (".mp4", ".webm")]
            runs.append([path.read_bytes() for path in paths])
    finally:
        mallopt(perturb, 0)
    assert runs[0] == runs[1]


# ------------------------------------------------------------------------------------------------------------ the files


def test_mp4_plays_everywhere(tmp_path):
    path = Video.from_uint8(smooth(), 8).save(tmp_path / "a.mp4")
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # faststart
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        frame = next(container.decode(stream))
        assert (context.name, context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 8)
        assert (frame.height, frame.width) == (34, 48)  # padded, not scaled
        assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (1, 1, 1, 1)
        record = json.loads(container.metadata["comment"])
    assert (record["size"], record["frames"]) == ([33, 47], 6)


def test_padding_repeats_the_edge(tmp_path):
    assert (_even(noise(2, 5, 7))[:, 5] == _even(noise(2, 5, 7))[:, 4]).all()
    pixels = smooth(4, 33, 47)
    path = Video.from_uint8(pixels, 8).save(tmp_path / "a.mp4", crf=1)
    assert np.abs(Video.read(path).to_uint8()[:, -1].astype(int) - pixels[:, -1]).mean() < 4


def test_colours_are_not_shifted(tmp_path):
    """Saturated patches through 8-bit BT.709: at most two levels of error, for both matrices and ranges."""
    patches = np.zeros((2, 32, 96, 3), np.uint8)
    for column, colour in enumerate(
        [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (10, 10, 10), (200, 120, 40)]
    ):
        patches[:, :, column * 16 : column * 16 + 16] = colour
    for name in ("a.mp4", "a.webm"):
        back = Video.read(Video.from_uint8(patches, 8).save(tmp_path / name, crf=1)).to_uint8()
        assert np.abs(back[:, 8:24, 8::16].astype(int) - patches[:, 8:24, 8::16]).max() <= 3, name
    full = encode(tmp_path / "full.mp4", patches, full_range=True)
    assert np.abs(Video.read(full).to_uint8()[:, 8:24, 8::16].astype(int) - patches[:, 8:24, 8::16]).max() <= 4


def test_untagged_files_follow_their_height(tmp_path):
    """Below 720 lines BT.601, from 720 on BT.709: pure green differs by dozens of levels between the two."""
    for height, matrix in ((64, 5), (720, 1)):
        green = np.zeros((1, height, 64, 3), np.uint8)
        green[..., 1] = 200
        path = tmp_path / f"{height}.mp4"
        with av.open(str(path), "w") as output:
            stream = output.add_stream("libx264", rate=8, options={"crf": "1"})
            stream.height, stream.width, stream.pix_fmt = height, 64, "yuv420p"
            frame = av.VideoFrame.from_ndarray(green[0], format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=1)
            frame.colorspace, frame.pts = 2, 0
            output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        assert np.abs(Video.read(path).to_uint8().astype(int) - green).max() <= 4


# --------------------------------------------------------------------------------------------------- reading by time


def test_variable_rate_keeps_true_times(tmp_path):
    """Frames 30, 10 and 60 per second: index / average rate would be wrong by up to seconds."""
    stamps = [index * 3000 for index in range(6)] + [18000 + index * 9000 for index in range(4)]
    stamps += [54000 + index * 1500 for index in range(6)]
    path = encode(tmp_path / "vfr.mp4", bars(16), stamps=stamps, unit=Fraction(1, 90000))
    video = Video.read(path)
    assert video.times == pytest.approx([stamp / 90000 for stamp in stamps])
    assert numbers(video) == list(range(16))
    shown = [max(i for i, stamp in enumerate(stamps) if stamp / 90000 <= k / 20 + 1e-9) for k in range(14)]
    sampled = Video.read(path, fps=20)
    assert (sampled.fps, sampled.times) == (20, None)
    assert numbers(sampled) == shown


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "avi"])
def test_windows_are_exact_in_every_container(tmp_path, container):
    path = encode(tmp_path / "a.bin", bars(30), container=container, options={"crf": "8", "g": "12"})
    assert Video.read(path).fps == 24
    assert numbers(Video.read(path)) == list(range(30))
    assert numbers(Video.read(path, start=17 / 24, end=21 / 24)) == [17, 18, 19, 20]
    assert numbers(Video.read(path, start=17.5 / 24, num_frames=2)) == [18, 19]
    assert numbers(Video.read(path, start=17.5 / 24, fps=24, num_frames=2)) == [17, 18]  # on screen at that moment
    assert numbers(Video.read(path, fps=8)) == list(range(0, 30, 3))
    assert [time for time, _ in iterate(path, start=1.0)] == pytest.approx([k / 24 for k in range(24, 30)], abs=1e-3)


def test_slower_source_repeats_only_as_asked(tmp_path):
    path = Video.from_uint8(bars(3), 4).save(tmp_path / "a.mkv")
    assert numbers(Video.read(path, fps=12)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert numbers(Video.read(path, fps=12, end=0.5)) == [0, 0, 0, 1, 1, 1]
    assert numbers(Video.read(path, fps=2)) == [0, 2]


def test_shifted_and_negative_stamps_count_from_the_first_frame(tmp_path):
    late = encode(tmp_path / "late.mkv", bars(8), stamps=range(120, 128), container="matroska")
    early = encode(tmp_path / "early.avi", bars(8), stamps=range(-3, 5))
    hidden = encode(tmp_path / "hidden.mp4", bars(8), stamps=range(-3, 5))  # an mp4 starts showing at time 0
    for path, first in ((late, 0), (early, 0), (hidden, 3)):
        assert Video.read(path).times is None
        assert numbers(Video.read(path)) == list(range(first, 8))
        assert numbers(Video.read(path, start=2 / 24, num_frames=2)) == [first + 2, first + 3]


def test_edit_list_hides_frames(tmp_path):
    """An edit that starts at frame 4 of the media: players show frames 4 to 9, and so do we."""
    path = encode(tmp_path / "a.mp4", bars(10), options={"crf": "8", "bf": "0", "g": "1"}, mux={"use_editlist": "1"})
    data = bytearray(path.read_bytes())
    elst = data.index(b"elst")
    count, duration, media_time = struct.unpack_from(">IIi", data, elst + 8)
    assert (count, media_time) == (1, 0)
    struct.pack_into(">Ii", data, elst + 12, duration * 6 // 10, 4 * 512)
    path.write_bytes(data)
    video = Video.read(path)
    assert numbers(video) == [4, 5, 6, 7, 8, 9]
    assert (video.times, probe(path).frames) == (None, 6)


@pytest.mark.parametrize(
    ("matrix", "turn", "clockwise"),
    [
        ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1), 90),
        ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2), 180),
        ((0, -1, 1, 0), lambda frame: np.rot90(frame, 1), 270),
        ((-1, 0, 0, 1), lambda frame: frame[:, ::-1], 0),
    ],
    ids=["90", "180", "270", "mirrored"],
)
def test_display_rotation_is_applied(tmp_path, matrix, turn, clockwise):
    pixels = smooth(2, 32, 48)
    path = encode(tmp_path / "a.mp4", pixels)
    upright = Video.read(path).to_uint8()
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    a, b, c, d = (int(entry) << 16 for entry in matrix)
    struct.pack_into(">9i", data, place, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    turned = Video.read(path)
    assert (turned.to_uint8()[0] == turn(upright[0])).all()
    facts = probe(path)
    assert (facts.rotation, facts.height, facts.width) == (clockwise, turned.height, turned.width)
    assert (Video.read(path, start=1 / 24).to_uint8()[0] == turn(upright[1])).all()


def test_odd_rotation_is_an_error(tmp_path):
    path = encode(tmp_path / "a.mp4", smooth(2, 32, 48))
    data = bytearray(path.read_bytes())
    half = round(0.7071 * 65536)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, half, half, 0, -half, half, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"turned by 45\.0 degrees"):
        Video.read(path)


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "suffix", "limit"),
    [
        ("libx264", "yuv420p10le", ".mp4", 3), ("libx264", "yuv444p", ".mp4", 2), ("ffv1", "gray", ".mkv", 0),
        ("ffv1", "gbrp10le", ".mkv", 1), ("mjpeg", "yuvj420p", ".avi", 4),
        ("prores_ks", "yuv422p10le", ".mov", 3), ("mpeg4", "yuv420p", ".avi", 5),
    ],
)  # fmt: skip
def test_codecs_and_pixel_formats(tmp_path, codec, pix_fmt, suffix, limit):
    pixels = np.repeat(smooth(4, 32, 48)[..., :1], 3, -1)
    options = {"crf": "4"} if codec.startswith("libx26") else {"qscale": "1"} if codec in ("mjpeg", "mpeg4") else {}
    path = encode(tmp_path / f"a{suffix}", pixels, codec=codec, pix_fmt=pix_fmt, options=options)
    back = Video.read(path)
    decoder = {"libx264": "h264", "prores_ks": "prores"}.get(codec, codec)
    assert (len(back), back.fps, probe(path).codec) == (4, 24, decoder)
    assert np.abs(back.to_uint8().astype(int) - pixels).mean() <= limit


def test_hevc():
    """`fixtures/hevc.mp4` was made once with `encode(..., codec="libx265")`, an encoder that aborts now and then."""
    path = Path(__file__).parent / "fixtures" / "hevc.mp4"
    pixels = np.repeat(smooth(4, 32, 48)[..., :1], 3, -1)
    back = Video.read(path)
    assert (len(back), back.fps, probe(path).codec) == (4, 24, "hevc")
    assert np.abs(back.to_uint8().astype(int) - pixels).mean() <= 3


def test_pixel_aspect_is_reported_not_applied(tmp_path):
    path = encode(tmp_path / "a.mp4", smooth(2, 32, 48), sar=Fraction(16, 11))
    assert probe(path).sample_aspect_ratio == pytest.approx(16 / 11)
    assert Video.read(path).frames.shape[2:] == (32, 48)


def test_streams_without_times_or_duration(tmp_path):
    path = encode(tmp_path / "raw.h264", bars(10), container="h264", options={"crf": "8", "bf": "2"})
    video = Video.read(path)
    assert numbers(video) == list(range(10))
    assert video.times is None
    live = encode(tmp_path / "live.mkv", bars(10), container="matroska", mux={"live": "1"})
    assert numbers(Video.read(live)) == list(range(10))
    assert probe(live).frames == 10


def test_size_change_on_the_way(tmp_path):
    first = encode(tmp_path / "a.h264", bars(3, 32, 64), container="h264").read_bytes()
    second = encode(tmp_path / "b.h264", bars(3, 48, 64), container="h264").read_bytes()
    path = tmp_path / "both.h264"
    path.write_bytes(first + second)
    with pytest.raises(MediaError, match="changes its picture size from 64x32 to 64x48"):
        Video.read(path)
    assert Video.read(path, size=(32, 64)).frames.shape == (6, 3, 32, 64)


def test_cover_art_is_not_the_video(tmp_path):
    Image.fromarray(noise(1, 16, 16)[0]).save(tmp_path / "cover.png")
    path = tmp_path / "song.mkv"
    with av.open(str(path), "w") as output:
        output.add_attachment("cover.png", "image/png", (tmp_path / "cover.png").read_bytes())
        stream = output.add_stream("libx264", rate=24, options={"crf": "8"})
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        for index, picture in enumerate(bars(4)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts = index
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert numbers(Video.read(path)) == [0, 1, 2, 3]


def test_size_background_and_alpha(tmp_path):
    pixels = smooth(3, 40, 60, 4)
    path = Video.from_uint8(pixels, 8).save(tmp_path / "a.webp")
    small = Video.read(path, size=(20, 30))
    assert small.frames.shape == (3, 4, 20, 30)
    assert small.frames.abs().max() <= 1
    red = Video.read(path, background="#ff0000")
    clear = pixels[..., 3] == 0
    assert (red.to_uint8()[clear] == (255, 0, 0)).all()
    assert (red.to_uint8()[~clear] == pixels[~clear][:, :3]).all()
    assert (Video.read(path).over((255, 0, 0)).to_uint8() == red.to_uint8()).all()
    with pytest.raises(InputError, match="'reddish' is not a colour"):
        Video.read(path, background="reddish")


def test_resize_keeps_flat_areas_and_does_not_bleed_hidden_colour():
    pixels = np.zeros((1, 32, 32, 4), np.uint8)
    pixels[..., :3] = (255, 0, 0)  # red hides under transparency
    pixels[:, 8:24, 8:24] = (0, 0, 255, 255)
    small = Video.from_uint8(pixels, 8).resize(13, 13)
    visible = small.frames[0, 3] > -0.9
    assert (small.frames[0, 0][visible] < -0.98).all()
    flat = Video(torch.full((1, 3, 17, 9), 0.25), 8).resize(5, 31)
    assert torch.allclose(flat.frames, torch.full_like(flat.frames, 0.25), atol=1e-5)


def test_crop_keeps_the_aspect():
    circle = Video.from_uint8(bars(2, 32, 64), 8).resize(16, 16, fit="crop")
    assert circle.frames.shape == (2, 3, 16, 16)
    wide = Video(torch.linspace(-1, 1, 64).expand(1, 3, 32, 64), 8).resize(32, 32, fit="crop")
    assert torch.allclose(wide.frames[0, 0, 0], torch.linspace(-1, 1, 64)[16:48], atol=1e-6)
    with pytest.raises(InputError, match="did you mean 'crop'"):
        wide.resize(3, 3, fit="crops")  # pyright: ignore


# -------------------------------------------------------------------------------------------------------------- folders


def test_foreign_folders_are_sorted_by_number(tmp_path):
    for index in range(12):
        Image.fromarray(bars(12)[index]).save(tmp_path / f"frame{index}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    video = Video.read(tmp_path)
    assert (numbers(video), video.fps) == (list(range(12)), 8)
    Image.fromarray(bars(1, 8, 8)[0]).save(tmp_path / "frame99.png")
    with pytest.raises(MediaError, match="is 8x8 pixels, but the folder's first picture is 64x32"):
        Video.read(tmp_path)


def test_folder_that_lost_a_picture(tmp_path):
    folder = Video.from_uint8(bars(4), 8).save(tmp_path / "clip")
    (folder / "000002.png").unlink()
    with pytest.raises(MediaError, match=r"holds 3 pictures, but its .* speaks of 4"):
        Video.read(folder)


def test_folder_is_replaced_only_if_it_is_ours(tmp_path):
    folder = Video.from_uint8(bars(4), 8).save(str(tmp_path / "clip.v1") + "/")
    Video.from_uint8(bars(2), 8).save(str(folder) + "/")
    assert len(Video.read(folder)) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(MediaError, match="files that are not a saved clip"):
        Video.from_uint8(bars(2), 8).save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert listing(tmp_path) == ["clip.v1", "mine"]
    (tmp_path / "film.mp4").mkdir()
    with pytest.raises(MediaError, match="a folder of that name exists"):
        Video.from_uint8(bars(2), 8).save(tmp_path / "clip.v1" / ".." / "film.mp4")


# ------------------------------------------------------------------------------------------------------------ bad input


def test_missing_text_empty_and_pictureless(tmp_path):
    Video.from_uint8(bars(2), 8).save(tmp_path / "clip.mp4")
    (tmp_path / "notes.mp4").write_text("hello world, this is no film\nreally")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").touch()
    (tmp_path / "fake.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    cases = {
        "clpi.mp4": "There is no file or folder .*did you mean 'clip.mp4'",
        "nowhere/clip.mp4": "the folder .*nowhere' does not exist either",
        "notes.mp4": "text that begins 'hello world",
        "empty.mp4": r"empty \(0 bytes\)",
        "folder": "holds no pictures .*it holds .txt",
        "fake.png": "is not a picture that can be read",
    }
    for name, message in cases.items():
        for action in (Video.read, probe, Video.read_metadata, iterate):
            with pytest.raises(MediaError, match=message) as caught:
                action(tmp_path / name)
            assert "\n" not in str(caught.value)


def test_sound_without_pictures(tmp_path):
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    for name in ("a.wav", "a.mp4"):
        (tmp_path / name).write_bytes(path.read_bytes())
        with pytest.raises(MediaError, match="holds sound but no video"):
            Video.read(tmp_path / name)


def test_video_without_frames(tmp_path):
    for name in ("a.mkv", "a.mp4"):
        with av.open(str(tmp_path / name), "w") as output:
            stream = output.add_stream("mpeg4", rate=24)
            stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
            stream.codec_context.open()
            output.start_encoding()
    (tmp_path / "a.y4m").write_bytes(b"YUV4MPEG2 W16 H16 F25:1 Ip A1:1 C420jpeg\n")
    for path in tmp_path.iterdir():
        with pytest.raises(MediaError, match=r"before the first frame|holds no video stream|without a single frame"):
            Video.read(path)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv", ".gif", ".webp", ".apng"])
def test_truncated_files_say_how_far_they_go(tmp_path, suffix):
    video = Video.from_uint8(noise(24, 32, 48), 8)
    whole = video.save(tmp_path / f"whole{suffix}", **({"crf": 30} if suffix in (".mp4", ".webm") else {}))
    data = whole.read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(MediaError, match="truncated or corrupt") as caught:
        Video.read(path)
    assert "\n" not in str(caught.value)
    if suffix in (".mp4", ".webm", ".mkv"):
        good = []
        with pytest.raises(MediaError, match="truncated or corrupt"):
            good.extend(time for time, _ in iterate(path))
        assert 8 <= len(good) <= 16
        assert f"readable up to {good[-1]:.3f} s" in str(caught.value)
        assert len(Video.read(path, end=good[-1])) == len(good) - 1
        assert len(Video.read(path, num_frames=5)) == 5


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv", ".gif", ".webp", ".apng", ".avi"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8, 0.95])
def test_no_cut_goes_unnoticed(tmp_path, suffix, share):
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".avi":
        encode(whole, noise(24, 32, 48), codec="mpeg4", options={})
    else:
        Video.from_uint8(noise(24, 32, 48), 8).save(whole)
    path = tmp_path / f"cut{suffix}"
    data = whole.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MediaError, match=r"truncated or corrupt|not a (video|picture) that can be read"):
        Video.read(path)


def test_flipped_bits_are_reported(tmp_path):
    path = Video.from_uint8(noise(24, 32, 48), 8).save(tmp_path / "a.mp4", crf=30)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat")
    rng = np.random.default_rng(0)
    for place in rng.integers(start + len(data[start:]) // 2, len(data), 60):
        data[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    with pytest.raises(MediaError, match="truncated or corrupt: readable up to"):
        Video.read(path)


def test_fuzzed_headers_never_escape_as_other_errors(tmp_path):
    whole = {s: Video.from_uint8(smooth(4), 8, metadata={"prompt": "x"}).save(tmp_path / f"w{s}").read_bytes()
             for s in (".mp4", ".webm", ".gif", ".webp", ".apng")}  # fmt: skip
    rng = np.random.default_rng(0)
    readable = 0
    for suffix, data in whole.items():
        for _ in range(20):
            broken = bytearray(data)
            for place in rng.integers(0, min(len(data), 900), 8):
                broken[place] = rng.integers(256)
            path = tmp_path / f"fuzz{suffix}"
            path.write_bytes(broken)
            with contextlib.suppress(MediaError):
                readable += len(Video.read(path)) > 0
    assert readable < 100


def test_playlists_do_not_open_other_files(tmp_path):
    Video.from_uint8(bars(2), 8).save(tmp_path / "secret.mp4")
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {tmp_path / 'secret.mp4'}\n")
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path / 'secret.mp4'}\n#EXT-X-ENDLIST\n")
    for name in ("list.mp4", "list.m3u8"):
        with pytest.raises(MediaError, match="not a video that can be read"):
            Video.read(tmp_path / name)


def test_claims_of_enormous_pictures(tmp_path):
    for side in (10_000, 60_000):  # Pillow warns of the first and refuses the second
        header = struct.pack(">II5B", side, side, 8, 2, 0, 0, 0)
        path = tmp_path / f"{side}.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", b"x"))
        with pytest.raises(MediaError, match="pixels"):
            Video.read(path)
    path = tmp_path / "huge.y4m"
    path.write_bytes(b"YUV4MPEG2 W60000 H60000 F25:1 Ip A1:1 C420jpeg\nFRAME\n" + bytes(1000))
    with pytest.raises(MediaError):
        Video.read(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 5}, r"shows no frame at or after 5 s"),
        ({"num_frames": 50}, "gives 6 frames from 0 s on, but num_frames=50"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"fps": -1}, "fps=-1"),
        ({"start": -1}, "start=-1"),
        ({"start": 1, "end": 1}, "end=1 is not after"),
    ],
)
def test_impossible_requests(tmp_path, arguments, message):
    path = Video.from_uint8(bars(6), 8).save(tmp_path / "a.mkv")
    with pytest.raises((InputError, MediaError), match=message):
        Video.read(path, **arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("a.mp5", {}, "unknown ending '.mp5', did you mean '.mp4'"),
        ("a.mp4", {}, "mp4 has no alpha channel. Give background='white'"),
        ("a.gif", {"crf": 20}, "crf=20 has no meaning for '.gif'"),
        ("a.webm", {"crf": 64}, "out of range"),
        ("a.webm", {"quality": 50}, "only webp has it"),
        ("a.webp", {"metadata": {"x": object()}}, "cannot be saved as JSON"),
        ("a.webp", {"metadata": {"x": float("nan")}}, "cannot be saved as JSON"),
        ("nowhere/a.webp", {}, "nowhere' does not exist"),
    ],
)
def test_impossible_targets(tmp_path, name, arguments, message):
    with pytest.raises((InputError, MediaError), match=message):
        Video.from_uint8(smooth(channels=4), 8).save(tmp_path / name, **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ALL)
def test_full_disk_leaves_nothing(tmp_path, suffix, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = Video.from_uint8(bars(4), 8).save(tmp_path / f"a{suffix}")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match=r"the disk is full\. Nothing was left behind"):
        Video.from_uint8(bars(2), 8).save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert len(Video.read(path)) == 4


@pytest.mark.parametrize("suffix", ALL)
def test_a_write_that_really_fails_halfway(tmp_path, suffix):
    """The kernel refuses to let files grow past 10 kB: every format notices, none leaves a stump."""
    resource = pytest.importorskip("resource")
    video = Video.from_uint8(noise(8, 128, 128), 8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # Python ignores SIGXFSZ
    try:
        with pytest.raises(ResourceError, match="Nothing was left behind"):
            video.save(tmp_path / f"a{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert listing(tmp_path) == []


def test_import_is_light():
    heavy = ("av", "PIL", "diffusers", "torchvision")
    code = f"import sys, kineograph.video; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------------- contact sheets


def test_contact_sheet_lays_frames_in_reading_order():
    video = Video.from_uint8(bars(7, 16, 24), 8, metadata={"prompt": "rising"})
    sheet = video.contact_sheet(columns=3, every=1, label="")
    assert sheet.size == (3 * 28 + 4, 3 * (4 + 16 + 4))
    pixels = np.array(sheet)
    cell = pixels[24 + 4 : 24 + 20, 4 + 28 : 4 + 28 + 24]
    assert (cell == bars(7, 16, 24)[4]).all()
    assert video.contact_sheet(columns=3).height > sheet.height  # the prompt is written above
    assert len(np.unique(np.array(video.contact_sheet(columns=8, every=3))[..., 0])) > 1


def test_contact_sheet_of_several_clips():
    clips = [Video.from_uint8(bars(9, 16, 24), 8), Video.from_uint8(smooth(4, 20, 20, 4), 8)]
    sheet = contact_sheet(clips, ["a long label " * 12, "ж ü"], frames_per_row=4)
    assert sheet.width == 4 * 28 + 4
    assert contact_sheet(clips, frames_per_row=4).height < sheet.height
    with pytest.raises(InputError, match="2 clips but 1 labels"):
        contact_sheet(clips, ["one"])
    with pytest.raises(InputError, match="at least one clip"):
        contact_sheet([])


def test_long_files_stream(tmp_path):
    """`iterate` holds one frame at a time: the first frames come before the rest is decoded."""
    path = encode(tmp_path / "a.mp4", bars(30))
    stream = iterate(path)
    assert numbers([next(stream)[1] for _ in range(3)]) == [0, 1, 2]
    stream.close()  # pyright: ignore
    assert isinstance(Path(path), Path)
