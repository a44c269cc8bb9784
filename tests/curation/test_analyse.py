"""The single decode on synthetic films whose cuts, damage, times and shapes are known exactly."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from films import SIZE, decoded, dissolve, fade, join, shot, unstamped, write

from kineograph.curation.album import Album
from kineograph.curation.analyse import analyse, fill, nearest
from kineograph.curation.analyse import decoded as frames_of
from kineograph.curation.config import Limits, MotionConfig
from kineograph.curation.probe import Rejected, footage

UNIT = 12800 // 24  # of an MP4 of 24 frames per second, if its time base is 1/12800


def seconds(analysis, facts, pts):
    return [float((p - analysis.pts[0]) * Fraction(facts.time_base)) for p in pts]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return tmp_path_factory.mktemp("films")


@pytest.fixture(scope="module")
def two_shots():
    return join(shot(1, 36, pan=(1, 0)), shot(2, 36, pan=(-1, 0.5)))


def test_hard_cut_at_a_known_time(films, two_shots):
    facts, found = analyse(str(write(films / "cut.mp4", two_shots)))
    assert seconds(found, facts, found.hard_cuts) == [1.5]
    assert (found.status, len(found.pts), found.gradual, found.holes) == ("ok", 72, [], [])
    assert seconds(found, facts, [found.end_pts]) == [3.0]
    assert (found.width, found.height, found.rotation) == (SIZE[1], SIZE[0], 0)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hevc.mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none:pools=1:frame-threads=1"}}),
        ("tenbit.mp4", {"codec": "libx264", "pixel_format": "yuv420p10le"}),
        ("yuv444.mp4", {"pixel_format": "yuv444p"}),
        ("mpeg2.mpg", {"codec": "mpeg2video"}),
        ("mpeg4.avi", {"codec": "mpeg4"}),
        ("vp8.webm", {"codec": "libvpx", "options": {"cpu-used": "8", "deadline": "realtime"}}),
        ("h264.ts", {}),
        ("h264.mkv", {}),
        ("ffv1.mkv", {"codec": "ffv1"}),
        ("mjpeg.mov", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
    ],
)
def test_codecs_and_containers_keep_the_cut(films, two_shots, name, told):
    facts, found = analyse(str(write(films / name, two_shots, fps=25, **told)))
    assert len(found.pts) == 72
    assert seconds(found, facts, found.hard_cuts) == pytest.approx([36 / 25], abs=1.1e-3)
    assert found.status == "ok"


def test_dissolve_is_an_interval_that_holds_it(films):
    joined = dissolve(shot(3, 60, pan=(0.5, 0)), shot(4, 60, pan=(0, 0.5)), 24)
    facts, found = analyse(str(write(films / "dissolve.mp4", joined)))
    assert found.hard_cuts == []
    [(start, end)] = [seconds(found, facts, pair) for pair in found.gradual]
    assert start <= 37 / 24
    assert end >= 59 / 24
    assert end - start <= 24 / 24 + 3 / 8


def test_fade_to_black_and_back(films):
    film = join(fade(shot(5, 48), 18), fade(shot(6, 48), 18, into=True))
    facts, found = analyse(str(write(films / "fade.mp4", film)))
    covered = [seconds(found, facts, pair) for pair in found.gradual]
    assert covered[0][0] <= 32 / 24
    assert covered[-1][1] >= 63 / 24
    assert covered[-1][1] - covered[0][0] <= 36 / 24 + 4 / 8


def test_a_variable_frame_rate_is_cut_at_its_own_times(films):
    """30, 10, 60 frames per second; frame numbers over the mean rate would put the cuts at 3.6 s and 4.8 s."""
    shots = [shot(seed, n) for seed, n in ((7, 120), (8, 40), (9, 120))]
    pts = [*range(0, 2400, 20), *range(2400, 4800, 60), *range(4800, 6000, 10)]
    path = write(films / "vfr.mp4", join(*shots), pts=pts, time_base=Fraction(1, 600), fps=30)
    facts, found = analyse(str(path))
    assert seconds(found, facts, found.hard_cuts) == pytest.approx([4.0, 8.0], abs=1e-6)


def test_matroska_without_presentation_times_loses_no_frame(films, two_shots):
    """FFmpeg makes up times that do not ascend; taken at their word, 29 of 72 frames would count as late."""
    path = unstamped(films / "unstamped.mkv", two_shots)
    with footage(str(path)) as container:
        made_up = [frame.pts for frame in frames_of(container, container.streams.video[0])]
    assert sorted(made_up) != made_up
    facts, found = analyse(str(path))
    assert facts.by_dts
    assert (len(found.pts), found.status, found.holes) == (72, "ok", [])
    assert seconds(found, facts, found.hard_cuts) == pytest.approx([1.5], abs=1.1e-3)


def test_an_offset_start_is_no_offset_of_cuts(films, two_shots):
    pts = [120 + i for i in range(72)]
    path = write(films / "offset.mkv", two_shots, pts=pts, time_base=Fraction(1, 24))
    facts, found = analyse(str(path))
    assert found.pts[0] * Fraction(facts.time_base) == 5
    assert seconds(found, facts, found.hard_cuts) == [1.5]


def test_hue_alone_makes_a_cut(films):
    """Red, green, blue of equal value and saturation: a mean difference of HSV misses green to blue."""
    flat = [np.broadcast_to(np.array(c, np.uint8), (36, *SIZE, 3)) for c in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    facts, found = analyse(str(write(films / "hue.mp4", join(*flat))))
    assert seconds(found, facts, found.hard_cuts) == [1.5, 3.0]


def test_a_flash_is_no_cut(films):
    film = shot(10, 72, pan=(0.5, 0))
    film[30:32] = 255
    film[50:54] = np.clip(film[50:54].astype(int) + 120, 0, 255)
    _, found = analyse(str(write(films / "flash.mp4", film)))
    assert (found.hard_cuts, found.gradual) == ([], [])


def test_a_pan_is_no_cut(films):
    _, found = analyse(str(write(films / "pan.mp4", shot(11, 96, pan=(3, 1)))))
    assert (found.hard_cuts, found.gradual) == ([], [])


def test_motion_of_a_pan_of_known_speed(films):
    """Two pixels a frame, half a second at 24 frames per second: 24 pixels of a short side of 180."""
    path = write(films / "speed.mp4", shot(12, 72, (180, 320), pan=(1, 0)), options={"crf": "10"})
    _, found = analyse(str(path))
    assert found.flow_size == "320x180"
    assert len(found.flow) == 5
    assert np.median(found.flow) == pytest.approx(12 / 180, rel=0.15)
    still = analyse(str(write(films / "still.mp4", shot(12, 48, (180, 320)))))[1]
    assert max(still.flow) < 2e-3
    fast = analyse(str(path), motion=MotionConfig("dis"))[1]
    assert np.median(fast.flow) == pytest.approx(12 / 180, rel=0.15)


def test_rotation_and_pixel_aspect_give_the_displayed_size(films, two_shots, tmp_path):
    plain = write(films / "plain.mp4", two_shots)
    turned = rotated(plain, films / "turned.mp4", 90)
    with Album(tmp_path / "album") as album:
        _, found = analyse(str(turned), album=album)
        picture = album.at(0)
    assert (found.width, found.height, found.rotation) == (SIZE[0], SIZE[1], 90)
    assert picture.shape[:2] == (SIZE[1], SIZE[0])
    expected = np.rot90(decoded(plain)[0][0], -1)[..., ::-1].astype(int)
    assert np.abs(picture.astype(int) - expected).mean() < 6
    _, found = analyse(str(write(films / "wide.mp4", two_shots, aspect=Fraction(4, 3))))
    assert (found.width, found.height) == (round(SIZE[1] * 4 / 3), SIZE[0])


def rotated(source: Path, target: Path, degrees: int) -> Path:
    """Write a display matrix into the track header of an MP4: clockwise degrees."""
    content = bytearray(source.read_bytes())
    at = content.index(b"tkhd") + 4
    matrix = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1)}[degrees]
    a, b, c, d = (v << 16 for v in matrix)
    values = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
    content[at + 40 : at + 76] = values
    target.write_bytes(content)
    return target


# Damage ----------------------------------------------------------------------------------------------------------


def flipped(source: Path, target: Path, flips: int, low: float = 0.3, high: float = 0.7) -> Path:
    """Flip bits in a part of a file's media data."""
    content = bytearray(source.read_bytes())
    start = content.index(b"mdat") + 8
    size = len(content) - start
    rng = np.random.default_rng(0)
    for place in rng.integers(start + int(low * size), start + int(high * size), flips):
        content[place] ^= 1 << rng.integers(8)
    target.write_bytes(content)
    return target


@pytest.fixture(scope="module")
def long_film(films):
    """Six shots of a second, keyframes every half second, header first."""
    film = join(*(shot(20 + i, 24, pan=(1, 0.5)) for i in range(6)))
    return write(films / "long.mp4", film, gop=12, container={"movflags": "+faststart"}, options={"crf": "12"})


def test_bit_flips_are_seen_although_nothing_raises(films, long_film):
    _, found = analyse(str(flipped(long_film, films / "flips.mp4", 200, 0.05, 0.95)))
    assert found.status == "corrupt"
    assert found.corrupt_frames > 0


def test_a_little_damage_is_a_hole_up_to_the_next_keyframe(films, long_film):
    path = flipped(long_film, films / "few.mp4", 3, 0.5, 0.52)
    facts, found = analyse(str(path))
    assert found.status == "ok"
    assert found.corrupt_frames > 0
    assert found.holes
    good = dict(zip(*(decoded(long_film)[i] for i in (1, 0)), strict=True))
    bad = dict(zip(*(decoded(path)[i] for i in (1, 0)), strict=True))
    for pts in found.pts:  # everything outside holes is what was encoded
        assert np.array_equal(good[pts], bad[pts]), pts
    assert all((end - found.pts[0]) * Fraction(facts.time_base) % Fraction(1, 2) == 0 for _, end in found.holes)


def test_a_truncated_film_keeps_what_is_before_the_end(films, long_film):
    content = long_film.read_bytes()
    path = films / "truncated.mp4"
    path.write_bytes(content[: int(len(content) * 0.6)])
    facts, found = analyse(str(path))
    assert found.status == "truncated"
    assert 0.4 * 144 < len(found.pts) < 0.75 * 144
    assert seconds(found, facts, found.hard_cuts)[:3] == [1.0, 2.0, 3.0]


def test_decoding_goes_on_after_a_packet_that_cannot_be_decoded(films, long_film):
    """A whole packet of noise in the middle: the films after it are still found."""
    with av.open(str(long_film)) as container:
        sizes = [(p.pos, p.size) for p in container.demux(container.streams.video[0]) if p.size]
    content = bytearray(long_film.read_bytes())
    at, size = sizes[60]
    content[at : at + size] = bytes(size)
    path = films / "noise.mp4"
    path.write_bytes(content)
    facts, found = analyse(str(path))
    assert seconds(found, facts, found.hard_cuts)[-2:] == [4.0, 5.0]
    assert [seconds(found, facts, hole)[0] for hole in found.holes] == pytest.approx([2.5], abs=0.05)


def test_memory_does_not_grow_with_the_film(films, tmp_path):
    """The album holds pictures on disk; the state in memory is numbers."""
    path = write(films / "minute.mp4", (f for _ in range(8) for f in shot(30, 24)), gop=24)
    with Album(tmp_path / "album") as album:
        _, found = analyse(str(path), album=album)
    assert len(album.pts) == 8 * 2 + 7  # two a second, and the frames before keyframes
    assert len(found.checks) == 192
    assert found.kept == album.pts.tolist()


def test_pictures_decoded_again_are_the_same(films, tmp_path):
    path = write(films / "again.mp4", shot(31, 60, pan=(1, 0)), gop=24)
    with Album(tmp_path / "one") as first, Album(tmp_path / "two") as second:
        _, found = analyse(str(path), album=first)
        wanted = found.kept[1::2]
        fill(str(path), set(wanted), Limits(), second, decoding=found.decoding)
        assert second.pts.tolist() == wanted
        assert all(np.array_equal(first.at(pts), second.at(pts)) for pts in wanted)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video", "libvpx-vp9", "ffv1"])
def test_fast_decoding_leaves_the_loop_filter_out_where_there_is_one_to_leave_out(films, tmp_path, two_shots, codec):
    """Cuts, times and nearly the pictures stay; codecs that are not named are decoded exactly."""
    options = {"libx264": {"preset": "veryfast", "crf": "35"}, "libx265": {"x265-params": "log-level=none:pools=1"}}
    film = write(films / f"filter-{codec}.mkv", two_shots, codec=codec, options=options.get(codec))
    with Album(tmp_path / "fast") as first, Album(tmp_path / "exact") as second:
        fast = analyse(str(film), album=first, decoding="fast")[1]
        exact = analyse(str(film), album=second, decoding="exact")[1]
        unlike = [np.abs(first.at(p).astype(int) - second.at(p)).mean() for p in fast.kept]
    assert (fast.decoding, exact.decoding) == ("fast", "exact")
    assert (fast.pts, fast.hard_cuts, fast.kept) == (exact.pts, exact.hard_cuts, exact.kept)
    assert len(fast.hard_cuts) == 1
    assert (fast.checks != exact.checks) == (codec == "libx264")
    assert 0 < max(unlike) < 4 if codec == "libx264" else max(unlike) == 0


def test_the_nearest_picture():
    assert nearest([0, 10, 20, 30], 14, 0, 30) == 10
    assert nearest([0, 10, 20, 30], 30, 0, 30) == 20
    assert nearest([0, 10, 20, 30], 5, 11, 19) is None


def test_a_size_change_in_the_middle_is_a_cut(films, tmp_path):
    first = write(tmp_path / "a.ts", shot(40, 36))
    second = write(tmp_path / "b.ts", shot(41, 36, (64, 128)), pts=range(36, 72), time_base=Fraction(1, 24))
    path = films / "resized.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    _, found = analyse(str(path))
    assert [(w, h) for _, w, h in found.sizes] == [(128, 64)]
    assert found.sizes[0][0] in found.hard_cuts


# Kinds of film ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fields.mpg", {"fps": 25, "codec": "mpeg2video", "options": {"flags": "+ildct+ilme"}}),
        ("fields.mp4", {"options": {"x264-params": "tff=1"}}),
    ],
)
def test_interlaced_frames_are_counted(films, two_shots, name, told):
    _, found = analyse(str(write(films / name, two_shots, **told)))
    assert (len(found.pts), found.interlaced) == (72, 72)
    assert len(found.hard_cuts) == 1


X265 = "log-level=none:pools=1:frame-threads=1"


@pytest.mark.parametrize(
    ("name", "codec", "transfer"),
    [
        ("pq.mp4", "libx264", "smpte2084"),
        ("hlg.mp4", "libx264", "arib-std-b67"),
        ("pq.mkv", "libx265", "smpte2084"),
        ("sdr.mp4", "libx264", "bt709"),
    ],
)
def test_the_transfer_characteristics_are_noted(films, two_shots, name, codec, transfer):
    """Pictures of high dynamic range are not tone mapped, so that whoever selects must be able to leave them out."""
    colours = f"transfer={transfer}:colorprim=bt2020:colormatrix=bt2020nc"
    options = {"x264-params": colours} if codec == "libx264" else {"x265-params": f"{X265}:{colours}"}
    told = {"codec": codec, "pixel_format": "yuv420p10le", "options": options}
    facts, found = analyse(str(write(films / name, two_shots, **told)))
    assert (found.transfer, found.pixel_format) == (transfer, "yuv420p10le")
    assert seconds(found, facts, found.hard_cuts) == [1.5]


@pytest.mark.parametrize(("name", "codec", "kind"), [("alpha.mkv", "ffv1", "yuva420p"), ("alpha.mov", "png", "rgba")])
def test_alpha_is_named_and_ignored(films, two_shots, tmp_path, name, codec, kind):
    """Colours count as they are stored, however transparent."""
    path = films / name
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=24)
        stream.height, stream.width, stream.pix_fmt = *SIZE, kind
        for i, picture in enumerate(two_shots):
            veiled = np.dstack([picture, np.full(SIZE, i % 256, np.uint8)])
            frame = av.VideoFrame.from_ndarray(veiled, format="rgba").reformat(format=kind)
            frame.pts = i
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with Album(tmp_path / "album") as album:
        facts, found = analyse(str(path), album=album)
        picture = album.at(0)[..., ::-1]
    assert found.pixel_format == kind
    assert seconds(found, facts, found.hard_cuts) == [1.5]
    assert np.abs(picture.astype(int) - two_shots[0]).mean() < 8, "chroma is halved"


def test_decoding_times_below_zero(films, two_shots):
    """As reordered pictures have them at the start of an MP4."""
    path = write(films / "reordered.mp4", two_shots, options={"preset": "veryfast", "bf": "2"})
    with av.open(str(path)) as container:
        assert next(container.demux(container.streams.video[0])).dts < 0, "the fixture has none"
    facts, found = analyse(str(path))
    assert (len(found.pts), found.pts[0]) == (72, 0)
    assert seconds(found, facts, found.hard_cuts) == [1.5]


def test_presentation_times_below_zero_are_hidden_frames(films, two_shots):
    """An MP4 whose first half second lies before its beginning: players do not show it, and it does not count."""
    pts = [i - 12 for i in range(72)]
    told = {"pts": pts, "time_base": Fraction(1, 24), "container": {"avoid_negative_ts": "disabled"}}
    facts, found = analyse(str(write(films / "early.mp4", two_shots, **told)))
    assert (len(found.pts), found.pts[0], found.status) == (60, 0, "ok")
    assert seconds(found, facts, found.hard_cuts) == [1.0]


def test_packets_of_no_duration(films, two_shots):
    """Two frames at one time: only the first can be shown."""
    pts = [i + 2 * (i > 20) for i in range(72)]
    path = write(films / "gap.mp4", two_shots, pts=pts, time_base=Fraction(1, 24))
    content = bytearray(path.read_bytes())
    table = content.index(b"stts") + 8
    counts = np.frombuffer(content[table + 4 : table + 4 + 8 * 3], ">u4").reshape(3, 2)
    assert int.from_bytes(content[table : table + 4], "big") == 3
    assert counts[1][0] == 1, "not the one long frame"
    content[table + 16 : table + 20] = bytes(4)
    still = films / "still.mp4"
    still.write_bytes(content)
    with av.open(str(still)) as container:
        stamps = [p.pts for p in container.demux(container.streams.video[0]) if p.size]
    assert len(set(stamps)) == len(stamps) - 1
    facts, found = analyse(str(still))
    assert (len(found.pts), found.status) == (71, "ok")
    assert all(np.diff(found.pts) > 0)
    assert seconds(found, facts, found.hard_cuts) == pytest.approx([35 / 24])


def test_a_data_stream_first(films, two_shots):
    """The film is the second stream, among packets that nothing decodes."""
    path = films / "data.ts"
    with av.open(str(path), "w") as output:
        data, video = output.add_data_stream("klv"), output.add_stream("libx264", rate=24)
        video.height, video.width, video.pix_fmt = *SIZE, "yuv420p"
        for i, picture in enumerate(two_shots):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = i
            output.mux(video.encode(frame))
            packet = av.Packet(b"\x06\x0e\x2b\x34" * 5)
            packet.stream, packet.time_base = data, Fraction(1, 24)
            packet.pts = packet.dts = i
            output.mux(packet)
        output.mux(video.encode(None))
    facts, found = analyse(str(path))
    assert (facts.stream, facts.video_streams) == (1, 1)
    assert (found.status, len(found.pts), seconds(found, facts, found.hard_cuts)) == ("ok", 72, [1.5])


def test_small_pictures_have_their_motion(films):
    """A film of 48x64 pixels is no still."""
    path = write(films / "tiny.mp4", shot(12, 72, (48, 64), pan=(0.5, 0)), options={"crf": "10"})
    _, found = analyse(str(path))
    assert found.flow_size == "64x48"
    assert np.median(found.flow) == pytest.approx(6 / 48, rel=0.25)


def test_decoding_is_single_threaded_and_silent(films, two_shots):
    """FFmpeg's threads have hung on HEVC, and Python callbacks for its log in them."""
    path = write(films / "threads.mp4", two_shots)
    with footage(str(path)) as container:
        assert av.logging.get_level() is None
        stream = container.streams.video[0]
        next(frames_of(container, stream))
        assert stream.codec_context.thread_count == 1


def test_containers_are_closed(films, two_shots):
    """However it ends: whole, refused, or in an exception."""
    path = write(films / "leak.mp4", two_shots)
    text = films / "leak.txt"
    text.write_text("no film")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        analyse(str(path), motion=MotionConfig("none"))
        with pytest.raises(Rejected):
            analyse(str(text))
        with pytest.raises(Rejected):
            analyse(str(path), limits=Limits(max_pixels=1))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("damage", [b"", b"\0" * 64])
def test_a_film_without_a_frame_is_refused(films, damage):
    path = films / f"empty{len(damage)}.mp4"
    path.write_bytes(damage)
    with pytest.raises(Rejected, match="unreadable"):
        analyse(str(path))


@pytest.mark.parametrize("at", [9, 40, 46, 70, 100])
def test_lost_packets_of_a_transport_stream_are_a_hole(tmp_path, at):
    """The decoder makes frames of what is left, none of them marked; none of them may count as good."""
    path = write(tmp_path / "clean.ts", shot(1, 48, (96, 128), pan=(2, 0)), gop=24, options={"preset": "veryfast"})
    content, whole = path.read_bytes(), analyse(str(path))[1]
    assert len(content) // 188 > 110
    assert not whole.holes
    (tmp_path / "lost.ts").write_bytes(content[: at * 188] + content[(at + 2) * 188 :])
    found, known = analyse(str(tmp_path / "lost.ts"))[1], dict(zip(whole.pts, whole.checks, strict=True))
    assert found.holes
    assert len(found.pts) >= 12
    assert [pts for pts, check in zip(found.pts, found.checks, strict=True) if known[pts] != check] == []


@pytest.mark.parametrize("name", ["late.mkv", "late.webm", "late.mp4", "late.ts", "late.flv", "late.wmv", "late.mov"])
def test_films_that_begin_late_are_whole(tmp_path, name):
    """At 7.5 s; Matroska and ASF count their length from 0."""
    codec = {"codec": "libvpx", "options": {"deadline": "realtime"}} if name.endswith("webm") else {}
    stamps, unit = [round(7500 + i * 1000 / 24) for i in range(48)], Fraction(1, 1000)
    if name.endswith("wmv"):
        codec, stamps, unit = {"codec": "mpeg4"}, [180 + i for i in range(48)], Fraction(1, 24)
    path = write(tmp_path / name, shot(2, 48), pts=stamps, time_base=unit, **codec)
    assert (analyse(str(path))[1].status, len(analyse(str(path))[1].pts)) == ("ok", 48)


@pytest.mark.parametrize("name", ["cut.mkv", "cut.webm"])
def test_a_late_film_that_breaks_off_is_truncated(tmp_path, name):
    codec = {"codec": "libvpx", "options": {"deadline": "realtime"}} if name.endswith("webm") else {}
    stamps = [round(2000 + i * 1000 / 24) for i in range(96)]
    path = write(tmp_path / name, shot(2, 96), pts=stamps, time_base=Fraction(1, 1000), gop=12, **codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert analyse(str(path))[1].status == "truncated"
