"""Hostile and broken files get a status, before anything is decoded and without reading any other file."""

import os
import wave

import numpy as np
import pytest
from films import join, shot, write

from kineograph.curation.config import Limits
from kineograph.curation.probe import Rejected, probe


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write(tmp_path_factory.mktemp("probe") / "film.mp4", shot(1, 12))


def status(path, limits=None):
    with pytest.raises(Rejected) as caught:
        probe(os.fspath(path), limits)
    assert caught.value.reason
    return caught.value.status


def test_facts_of_a_header(film):
    facts = probe(str(film))
    assert (facts.codec, facts.width, facts.height, facts.frames, facts.rate) == ("h264", 160, 96, 12, 24.0)
    assert (facts.duration, facts.time_base, facts.aspect, facts.video_streams) == (0.5, "1/12288", 1.0, 1)


def test_empty_text_and_noise_are_unreadable(tmp_path):
    for name, content in (("empty.mp4", b""), ("text.mp4", b"hello\n" * 50), ("noise.mp4", os.urandom(5000))):
        (tmp_path / name).write_bytes(content)
        assert status(tmp_path / name) == "unreadable"
    assert status(tmp_path / "missing.mp4") == "unreadable"


def test_sound_alone_is_no_video(tmp_path):
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    assert status(tmp_path / "sound.wav") == "no_video"


@pytest.mark.parametrize("name", ["list.mp4", "list.ffconcat", "list.txt"])
def test_a_concat_list_does_not_open_other_files(tmp_path, film, name):
    (tmp_path / "film.mp4").write_bytes(film.read_bytes())
    (tmp_path / name).write_text("ffconcat version 1.0\nfile film.mp4\n")
    assert status(tmp_path / name) == "unsupported"


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4"])
def test_a_playlist_does_not_open_other_files(tmp_path, film, name):
    (tmp_path / "film.mp4").write_bytes(film.read_bytes())
    (tmp_path / name).write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfilm.mp4\n#EXT-X-ENDLIST\n")
    assert status(tmp_path / name) == "unsupported"


def test_a_claim_of_enormous_pictures_is_refused(tmp_path):
    (tmp_path / "huge.y4m").write_bytes(b"YUV4MPEG2 W60000 H60000 F25:1\nFRAME\n" + bytes(1000))
    assert status(tmp_path / "huge.y4m") in ("too_large", "unreadable")
    (tmp_path / "large.y4m").write_bytes(b"YUV4MPEG2 W9000 H9000 F25:1\nFRAME\n" + bytes(1000))
    assert status(tmp_path / "large.y4m") == "too_large"


def test_limits_on_size_rate_and_length(film):
    assert status(film, Limits(max_pixels=100)) == "too_large"
    assert status(film, Limits(max_fps=10)) == "too_large"
    assert status(film, Limits(max_hours=1e-5)) == "too_large"
    assert status(film, Limits(max_gigabytes=1e-8)) == "too_large"


def test_fuzzed_headers_get_a_status_and_nothing_else(tmp_path, film):
    """Broken text in the moov box raises UnicodeDecodeError in PyAV; any exception must become a status."""
    content = film.read_bytes()
    start = content.index(b"moov")
    rng = np.random.default_rng(1)
    statuses = set()
    for i in range(60):
        fuzzed = bytearray(content)
        for place in rng.integers(start, len(content), 20):
            fuzzed[place] = rng.integers(256)
        path = tmp_path / f"{i}.mp4"
        path.write_bytes(fuzzed)
        try:
            probe(str(path))
            statuses.add("ok")
        except Rejected as rejected:
            statuses.add(rejected.status)
    assert "ok" not in statuses or len(statuses) > 1
    assert statuses <= {"ok", "unreadable", "no_video", "unsupported", "too_large"}


def test_text_that_is_no_utf8_in_tags(tmp_path):
    path = write(tmp_path / "tagged.mp4", shot(2, 4), metadata={"title": "XXXXXXXX"})
    path.write_bytes(path.read_bytes().replace(b"XXXXXXXX", b"\xff\xfe\xc3\x28\xff\xff\xff\xff"))
    assert probe(str(path)).frames == 4


@pytest.mark.parametrize(
    "name", ["a; rm -rf b.mp4", "-i.mp4", "line\nbreak.mp4", "quote'\".mp4", "file:x.mp4", "%d.mp4"]
)
def test_names_are_names(tmp_path, film, name):
    (tmp_path / name).write_bytes(film.read_bytes())
    assert probe(str(tmp_path / name)).frames == 12


def test_names_that_are_no_utf8(tmp_path, film):
    path = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(film.read_bytes())
    assert probe(os.fsdecode(path)).frames == 12


def test_pipes_and_folders_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    assert status(tmp_path / "pipe.mp4") == "unsupported"
    assert status(tmp_path) == "unsupported"


def test_cover_art_is_no_film(tmp_path):
    """A larger picture beside the film, marked as attached."""
    import av

    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=24)
        video.width, video.height, video.pix_fmt = 160, 96, "yuv420p"
        cover = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 640, 480, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        for stream, pictures in ((cover, np.zeros((1, 480, 640, 3), np.uint8)), (video, shot(3, 12))):
            for i, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = i
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 2, "the fixture has no cover"
    facts = probe(str(path))
    assert (facts.codec, facts.width, facts.video_streams) == ("h264", 160, 1)


def test_the_largest_of_several_video_streams(tmp_path):
    import av

    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as output:
        streams = []
        for width, height in ((80, 48), (160, 96)):
            stream = output.add_stream("libx264", rate=24)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append(stream)
        for stream in streams:
            for i, picture in enumerate(join(shot(4, 6, (stream.height, stream.width)))):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = i
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    facts = probe(str(path))
    assert (facts.stream, facts.width, facts.video_streams) == (1, 160, 2)
