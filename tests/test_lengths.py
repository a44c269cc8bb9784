"""What `probe` says of a film equals what reading it gives: frames, rate, size and seconds, in every container."""

from fractions import Fraction

import av
import numpy as np
import pytest

from kineograph.video import Video, iterate, probe

COUNT = 24
UNIT = Fraction(1, 1000)
EVEN = [Fraction(index, 24) for index in range(COUNT)]
SLOW = [Fraction(index, 10) for index in range(COUNT)]
LATE = [time + Fraction(15, 2) for time in EVEN]
UNEVEN = [Fraction(int(stamp), 1000) for stamp in np.cumsum([0, *[33, 100, 17, 40] * 6])[:COUNT]]


def film(path, times=None, *, codec="libx264", rate=24, options=None, aspect=None, container=None):
    """Write frames that differ, at given times; without times at the encoder's rate."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", format=container, options=options or {}) as output:
        stream = output.add_stream(codec, rate=rate, options={"g": "8"} if codec == "libx264" else {})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if times is not None:
            stream.codec_context.time_base = UNIT
        for index in range(COUNT):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8), format="rgb24")
            frame = frame.reformat(format="yuv420p")
            if times is not None:
                frame.pts, frame.time_base = round(times[index] / UNIT), UNIT
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def check(path, frames=COUNT, fps=None, seconds=None):
    facts, video = probe(path), Video.read(path)
    assert facts.frames == len(video) == sum(1 for _ in iterate(path)) == (frames or facts.frames)
    assert facts.fps == pytest.approx(video.fps, rel=1e-6)
    assert facts.duration == pytest.approx(video.duration, abs=1e-6)
    assert (facts.height, facts.width) == (video.height, video.width)
    assert fps is None or video.fps == pytest.approx(fps)
    assert seconds is None or video.duration == pytest.approx(seconds, abs=2e-3)
    return len(video)


@pytest.mark.parametrize("flags", [
    "frag_keyframe", "frag_keyframe+empty_moov", "frag_keyframe+empty_moov+default_base_moof+dash",
    "frag_keyframe+empty_moov+default_base_moof+dash+global_sidx", "cmaf", "faststart",
])  # fmt: skip
def test_fragments_are_counted(tmp_path, flags):
    """The index in front of a DASH or CMAF file lists its first fragments at most."""
    check(film(tmp_path / "a.mp4", options={"movflags": flags}), fps=24, seconds=1)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mkv", "libx264"), ("a.webm", "libvpx"), ("a.mp4", "libx264"), ("a.ts", "libx264"), ("a.flv", "libx264"),
     ("a.avi", "mpeg4"), ("a.nut", "libx264"), ("a.asf", "msmpeg4")],
)  # fmt: skip
def test_facts_and_frames_agree(tmp_path, name, codec):
    """At a rate other than the nominal one, at none, and where time does not begin at 0."""
    check(film(tmp_path / f"slow-{name}", SLOW, codec=codec, rate=30), fps=10, seconds=2.4)
    check(film(tmp_path / f"uneven-{name}", UNEVEN, codec=codec))
    if name != "a.avi":  # it has no time stamps: frames that come late are places without a frame
        check(film(tmp_path / f"late-{name}", LATE, codec=codec), seconds=1)


@pytest.mark.parametrize("name", ["a.mpg", "a.mxf"])
def test_programme_streams_agree(tmp_path, name):
    check(film(tmp_path / name, codec="mpeg2video"), fps=24, seconds=1)


@pytest.mark.parametrize(("name", "container", "codec"), [("a.h264", "h264", "libx264"), ("a.ivf", "ivf", "libvpx")])
def test_raw_streams_agree(tmp_path, name, container, codec):
    check(film(tmp_path / name, container=container, codec=codec, rate=30))


def test_places_without_a_frame_are_no_truncation(tmp_path):
    """An AVI's header counts them; its index knows better."""
    path = film(tmp_path / "a.avi", SLOW, codec="mpeg4", rate=24)
    check(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    with pytest.raises(ValueError, match="truncated or corrupt"):
        Video.read(path)


def test_a_transport_stream_cut_between_keyframes(tmp_path):
    """What comes before the first keyframe is neither read nor counted."""
    path = film(tmp_path / "a.ts")
    packets = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 188)
    path.write_bytes(packets[len(packets) // 8 :].tobytes())
    assert check(path, frames=None) < COUNT


def test_hidden_frames_of_vp8_are_not_counted(tmp_path):
    path = film(tmp_path / "a.ivf", container="ivf", codec="libvpx")
    data, place = bytearray(path.read_bytes()), 32
    for _ in range(5):
        place += 12 + int.from_bytes(data[place : place + 4], "little")
    assert data[place + 12] & 1  # not a keyframe
    data[place + 12] &= 0xEF
    path.write_bytes(data)
    check(path, frames=COUNT - 1)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_width_is_that_of_the_frames_read(tmp_path, suffix):
    path = film(tmp_path / f"a.{suffix}", aspect=Fraction(64, 45))
    check(path, fps=24)
    assert (probe(path).width, probe(path).sample_aspect_ratio) == (48, pytest.approx(64 / 45))
