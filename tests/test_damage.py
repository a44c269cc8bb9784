"""Damage that decoders hide is told, and every frame that comes before the error is right."""

from pathlib import Path

import av
import numpy as np
import pytest

from kineograph._ebml import breaks as ebml_breaks
from kineograph._riff import breaks as riff_breaks
from kineograph._transport import losses
from kineograph.errors import MediaError
from kineograph.video import Video, iterate

FRAMES, RATE = 30, 25


def moving():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (9, 13, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)[:64, :96]
    return np.stack([np.roll(picture, 2 * index, axis=1) for index in range(FRAMES)])


def film(path, codec="libx264", options=None, mux=None, pixel_format="yuv420p", container=None):
    with av.open(str(path), "w", format=container, options=mux or {}) as output:
        stream = output.add_stream(codec, rate=RATE, options=options or {})
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 64, 96, pixel_format, 15
        for picture in moving():
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixel_format)))
        output.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Films in every container, made once, with the frames that they hold."""
    folder = tmp_path_factory.mktemp("films")
    made = {
        "ts": film(folder / "a.ts"),
        "m2ts": film(folder / "a.m2ts", mux={"mpegts_m2ts_mode": "1"}, container="mpegts"),
        "mpeg2": film(folder / "b.ts", "mpeg2video", {"b": "2M"}),
        "mkv": film(folder / "a.mkv"),
        "webm": film(folder / "a.webm", "libvpx", {"b": "1M", "deadline": "realtime"}),
        "avi": film(folder / "a.avi", "mpeg4", {"b": "2M"}),
        "mjpeg": film(folder / "b.avi", "mjpeg", {"qscale": "3"}, pixel_format="yuvj420p"),
        "slices": film(folder / "a.mp4", options={"slices": "4"}, mux={"movflags": "faststart"}),
        "ffv1": Video.from_uint8(moving(), RATE).save(folder / "b.mkv"),
    }
    return {name: (path, dict(iterate(path))) for name, path in made.items()}


def trial(path, data, clean):
    """Read a damaged copy: whether it was told, and how many frames differ from those of the whole film."""
    path.write_bytes(data)
    got, told = {}, False
    try:
        got.update(iterate(path))
    except MediaError:
        told = True
    wrong = [time for time, frame in got.items() if np.abs(frame.astype(int) - nearest(clean, time)).mean() > 2]
    return told, len(wrong)


def nearest(clean, time):
    return clean[min(clean, key=lambda known: abs(known - time))]


@pytest.mark.parametrize(("name", "stride"), [("ts", 188), ("m2ts", 192), ("mpeg2", 188)])
def test_lost_transport_packets_are_told(tmp_path, films, name, stride):
    path, clean = films[name]
    data = path.read_bytes()
    count, rng = len(data) // stride, np.random.default_rng(1)
    outcomes = []
    for _ in range(25):
        at, lost = int(rng.integers(8, count - 8)), int(rng.choice([1, 2, 4]))
        outcomes.append(trial(tmp_path / "x.ts", data[: at * stride] + data[(at + lost) * stride :], clean))
    assert sum(told for told, _ in outcomes) >= 10
    assert [wrong for _, wrong in outcomes] == [0] * 25


@pytest.mark.parametrize("name", ["mkv", "webm", "avi", "mjpeg", "slices", "ffv1"])
def test_missing_bytes_are_told(tmp_path, films, name):
    path, clean = films[name]
    data, rng = path.read_bytes(), np.random.default_rng(2)
    for _ in range(12):
        at, lost = int(rng.integers(len(data) // 8, len(data) * 7 // 8)), int(rng.choice([16, 200, 800]))
        assert trial(tmp_path / f"x{path.suffix}", data[:at] + data[at + lost :], clean) == (True, 0)


@pytest.mark.parametrize("name", ["ffv1", "slices"])
def test_overwritten_bytes_are_told(tmp_path, films, name):
    """FFV1 has check sums; a damaged slice of H.264 spoils nothing that was shown before it."""
    path, clean = films[name]
    data, rng = path.read_bytes(), np.random.default_rng(3)
    first = data.index(b"mdat") + 64 if name == "slices" else len(data) // 8
    places = rng.integers(first, len(data) * 3 // 4, 8).tolist()
    outcomes = [trial(tmp_path / f"x{path.suffix}", data[:at] + bytes(150) + data[at + 150 :], clean) for at in places]
    assert sum(told for told, _ in outcomes) >= 6
    assert [wrong for _, wrong in outcomes] == [0] * 8


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
def test_a_lost_picture_that_others_build_on(tmp_path, films, suffix):
    """The container is sound, since the picture never came into it; H.264 numbers its references."""
    path, clean = films["mkv"]
    with av.open(str(path)) as source, av.open(str(tmp_path / f"x.{suffix}"), "w") as output:
        given = source.streams.video[0]
        track = output.add_stream_from_template(given)
        packets = [packet for packet in source.demux(given) if packet.size]
        lost = max(range(16, 28), key=lambda index: packets[index].size)  # a reference picture
        for packet in packets[:lost] + packets[lost + 1 :]:
            packet.stream = track
            output.mux(packet)
    told, wrong = trial(tmp_path / f"x.{suffix}", (tmp_path / f"x.{suffix}").read_bytes(), clean)
    assert (told, wrong) == (True, 0)
    with pytest.raises(MediaError, match=r"readable up to .* pictures are missing that the next one builds on"):
        Video.read(tmp_path / f"x.{suffix}")


def test_pictures_that_the_decoder_leaves_out(tmp_path):
    """HEVC's gives no frame, and no error, where a reference is missing."""
    whole = Path(__file__).parent / "fixtures" / "hevc.mp4"
    with av.open(str(whole)) as source, av.open(str(tmp_path / "x.mp4"), "w") as output:
        given = source.streams.video[0]
        track = output.add_stream_from_template(given)
        for number, packet in enumerate(packet for packet in source.demux(given) if packet.size):
            if number != 1:
                packet.stream = track
                output.mux(packet)
    assert len(Video.read(whole)) == 4
    with pytest.raises(MediaError, match="leaves out pictures whose references are missing"):
        Video.read(tmp_path / "x.mp4")


def test_the_good_part_is_readable(tmp_path, films):
    path, clean = films["ts"]
    data = path.read_bytes()
    at = 188 * video_packets(data)[12]
    (tmp_path / "x.ts").write_bytes(data[:at] + data[at + 188 :])
    with pytest.raises(MediaError, match="packets of the transport stream are missing") as caught:
        Video.read(tmp_path / "x.ts")
    end = float(str(caught.value).split("end=")[1].split(",")[0])
    before = Video.read(tmp_path / "x.ts", end=end).to_uint8()
    assert len(before) >= 1
    assert all((frame == clean[time]).all() for time, frame in zip(sorted(clean), before, strict=False))


def test_whole_files_hold_together(films):
    for name, (_, clean) in films.items():
        assert len(clean) == FRAMES, name
    assert losses(films["ts"][0], 256) == losses(films["m2ts"][0], 256) == []
    assert ebml_breaks(films["mkv"][0]) == ebml_breaks(films["webm"][0]) == []
    assert riff_breaks(films["avi"][0]) == riff_breaks(films["mjpeg"][0]) == []


def test_recordings_one_after_the_other_are_no_loss(tmp_path, films):
    """Their counters begin anew, with a keyframe."""
    data = films["ts"][0].read_bytes()
    (tmp_path / "x.ts").write_bytes(data + data)
    assert losses(tmp_path / "x.ts", 256) == []
    sent_twice = 188 * video_packets(data)[10]
    (tmp_path / "y.ts").write_bytes(data[: sent_twice + 188] + data[sent_twice:])
    assert losses(tmp_path / "y.ts", 256) == []


def video_packets(data):
    packets = np.frombuffer(data, np.uint8).reshape(-1, 188).astype(int)
    return np.flatnonzero((packets[:, 1] & 31) * 256 + packets[:, 2] == 256).tolist()
