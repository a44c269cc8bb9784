"""Clips: copies show exactly the source's frames, never across a cut; encoded clips keep the exact shots and times."""

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from films import SIZE, decoded, dissolve, join, open_gop, shot, unstamped, write

from kineograph.curation import keyframes
from kineograph.curation.analyse import analyse
from kineograph.curation.clipping import check, is_trusted, make, miniatures, pictures, runs
from kineograph.curation.config import ClipConfig, Limits
from kineograph.curation.probe import examine, footage
from kineograph.curation.spans import Span, plan, shots

SHORT = ClipConfig("copy", min_seconds=0.3)


def cut(path, folder, config=SHORT, decoding="fast"):
    """Analyse, plan and write; return facts, analysis, spans and files."""
    facts, analysis = analyse(str(path), decoding=decoding)
    index = indexed(path)
    spans = plan(facts, analysis, index, config)
    files = [folder / f"{i}.mp4" for i in range(len(spans))]
    make(str(path), spans, files, Limits(), config, index)
    return facts, analysis, spans, files


def indexed(path):
    """Return a film's packets."""
    with footage(str(path)) as container:
        return keyframes.index(container, examine(container, Limits())[0])


def frames_of(path):
    """Return every frame of a film by its pts, as it decodes from the beginning."""
    pixels, pts = decoded(path, "gray")
    return dict(zip(pts, pixels, strict=True))


def assert_same_frames(source, spans, files):
    """Every frame of every clip is, bit by bit, the source's frame at that time."""
    whole = frames_of(source)
    for span, file in zip(spans, files, strict=True):
        with av.open(str(source)) as a, av.open(str(file)) as b:
            unit = b.streams.video[0].time_base / a.streams.video[0].time_base
        clip = {span.start + int(pts * unit): pixels for pts, pixels in frames_of(file).items()}
        assert sorted(clip) == [pts for pts in sorted(whole) if span.start <= pts < span.end]
        assert all(np.array_equal(whole[pts], pixels) for pts, pixels in clip.items())


THREE = join(shot(1, 30, pan=(1, 0)), shot(2, 31, pan=(0, 1)), shot(3, 35, pan=(-1, 0)))


def test_copies_are_bit_exact_and_do_not_cross_cuts(tmp_path):
    path = write(tmp_path / "film.mp4", THREE, gop=12, options={"bf": "2", "preset": "veryfast"})
    _, analysis, spans, files = cut(path, tmp_path)
    assert len(spans) == 3
    assert {span.method for span in spans} == {"copy"}
    assert_same_frames(path, spans, files)
    for span in spans:
        assert not any(span.start < hard < span.end for hard in analysis.hard_cuts)
    assert all(check(file, span, analysis) == "" for span, file in zip(spans, files, strict=True))


def test_a_shot_is_snapped_inward_not_to_the_nearest_keyframe(tmp_path):
    """Keyframes every 12 frames, a cut at frame 30 that makes none: 30 snaps to 36 and to 24, never across."""
    path = write(tmp_path / "film.mp4", THREE, gop=12, options={"sc_threshold": "0"})
    facts, _, spans, _ = cut(path, tmp_path)
    frame = Fraction(1, 24) / Fraction(facts.time_base)
    assert [(int(s.start / frame), int(s.end / frame)) for s in spans] == [(0, 24), (36, 60), (72, 96)]


def test_an_exact_end_keeps_more_and_every_reference(tmp_path):
    path = write(tmp_path / "film.mp4", THREE, gop=12, options={"sc_threshold": "0", "bf": "3", "preset": "veryfast"})
    facts, _, spans, files = cut(path, tmp_path, ClipConfig("copy", min_seconds=0.3, end="frame"))
    frame = Fraction(1, 24) / Fraction(facts.time_base)
    ends = [int(s.end / frame) for s in spans]
    assert 24 < ends[0] <= 30
    assert 60 < ends[1] <= 61 or ends[1] == 60
    assert_same_frames(path, spans, files)


def test_open_groups_of_pictures_lose_their_leading_pictures(tmp_path):
    """Frames before a keyframe that refer to it belong to neither clip; what is kept is bit-exact."""
    path = open_gop(tmp_path / "open.mp4", THREE, gop=15)
    with footage(str(path)) as container:
        index = keyframes.index(container, container.streams.video[0])
    inner = np.flatnonzero(index.key)[1:]
    assert all(len(index.leading(int(k))) for k in inner), "the fixture is no open GOP"
    _, _, spans, files = cut(path, tmp_path)
    assert len(spans) == 3
    assert_same_frames(path, spans, files)


@pytest.mark.parametrize("decoding", ["fast", "exact"])
def test_copies_are_compared_as_the_source_was_decoded(tmp_path, decoding):
    """Open groups of pictures, coarsely encoded: what fast decoding leaves out adds up in a group, and in its copy."""
    path = open_gop(tmp_path / "open.mp4", THREE, gop=15)
    _, analysis, spans, files = cut(path, tmp_path, decoding=decoding)
    assert len(spans) == 3
    assert [check(file, span, analysis) for file, span in zip(files, spans, strict=True)] == ["", "", ""]
    other = replace(analysis, decoding="exact" if decoding == "fast" else "fast")
    assert all(check(file, span, other) for file, span in zip(files, spans, strict=True)), "both decode the same"


def test_a_film_without_presentation_times_is_encoded_whole(tmp_path):
    film = unstamped(tmp_path / "film.mkv", THREE)
    _, analysis, spans, files = cut(film, tmp_path, ClipConfig(min_seconds=0.3, crf=0))
    assert {span.method for span in spans} == {"encode"}
    shown = np.concatenate([decoded(file, "gray")[0] for file in files])
    assert len(analysis.pts) == len(THREE)
    assert np.array_equal(shown, decoded(film, "gray")[0])


def test_encoded_clips_show_what_exact_decoding_gives(tmp_path):
    """Encoded without loss, after an analysis that left the loop filter out."""
    path = write(tmp_path / "film.mp4", THREE, options={"preset": "veryfast", "crf": "35"})
    _, analysis, spans, files = cut(path, tmp_path, ClipConfig("encode", min_seconds=0.3, crf=0))
    assert len(spans) == 3
    assert_same_frames(path, spans, files)
    assert miniatures(path, "exact")[0] != analysis.checks, "the film has no loop filter to leave out"


def test_encoding_twenty_times_gives_one_file(tmp_path):
    """x264's AVX-512 code reads unset memory, so that one encoding in three of this film differed."""
    path = write(tmp_path / "film.mp4", THREE, options={"preset": "veryfast", "crf": "35"})
    _, _, spans, files = cut(path, tmp_path, ClipConfig("encode", min_seconds=0.3))
    first = [file.read_bytes() for file in files]
    for i in range(19):
        again = [tmp_path / f"{i}-{file.name}" for file in files]
        make(str(path), spans, again, Limits(), ClipConfig("encode", min_seconds=0.3), indexed(path))
        assert [file.read_bytes() for file in again] == first


def test_between_clips_nothing_is_decoded(tmp_path):
    """Two spans far apart are two runs, each from the keyframe before it; what they show is the same."""
    path = write(tmp_path / "film.mp4", shot(8, 96, pan=(1, 0)), gop=12, options={"preset": "veryfast"})
    _, analysis = analyse(str(path))
    spans, index = [Span(*(analysis.pts[i] for i in ends), None) for ends in ((5, 15), (62, 80))], indexed(path)
    assert [(key[0], which) for key, which in runs(spans, index)] == [(analysis.pts[0], [0]), (analysis.pts[60], [1])]
    files = [tmp_path / "0.mp4", tmp_path / "1.mp4"]
    make(str(path), spans, files, Limits(), ClipConfig(crf=0), index)
    assert_same_frames(path, spans, files)


def test_keyframes_that_are_none_are_not_trusted(tmp_path):
    """Recovery points of periodic intra refresh claim to be keyframes; decoding from them shows other pictures."""
    options = {"x264-params": "intra-refresh=1:keyint=24:bframes=0:scenecut=0", "preset": "veryfast"}
    refresh = write(tmp_path / "refresh.ts", shot(8, 96, pan=(1, 0)), gop=24, options=options)
    plain = write(tmp_path / "plain.ts", shot(8, 96, pan=(1, 0)), gop=24, options={"preset": "veryfast"})
    for path, trusted in ((refresh, False), (plain, True)):
        _, analysis = analyse(str(path))
        spans = [Span(analysis.pts[60], analysis.pts[90], None)]
        assert is_trusted(str(path), spans, indexed(path), analysis, Limits(), 1, None) is trusted


def test_a_naive_copy_of_an_open_group_is_caught(tmp_path):
    """Copy the leading pictures too: the clip decodes without an error, to wrong frames; the check sees it."""
    path = open_gop(tmp_path / "open.mp4", THREE, gop=15)
    _, analysis = analyse(str(path))
    with footage(str(path)) as container:
        index = keyframes.index(container, examine(container, Limits())[0])
    key = int(np.flatnonzero(index.key)[1])
    stop = int(np.flatnonzero(index.key)[2])
    naive = np.arange(key, stop)
    start = int(index.pts[naive].min())
    span = Span(start, int(index.pts[stop : stop + 1][0]), naive)
    make(str(path), [span], [tmp_path / "naive.mp4"], Limits(), SHORT, index)
    assert check(tmp_path / "naive.mp4", span, analysis)


def test_long_shots_become_several_clips(tmp_path):
    path = write(tmp_path / "long.mp4", shot(4, 120, pan=(0.5, 0)), gop=12)
    facts, _, spans, files = cut(path, tmp_path, ClipConfig("copy", min_seconds=0.3, max_seconds=2.0))
    assert [float((s.end - s.start) * Fraction(facts.time_base)) for s in spans] == [2.0, 2.0, 1.0]
    assert_same_frames(path, spans, files)


def test_gradual_transitions_and_holes_are_left_out(tmp_path):
    path = write(tmp_path / "dissolve.mp4", dissolve(shot(5, 60), shot(6, 60), 18), gop=6)
    facts, analysis, spans, _ = cut(path, tmp_path)
    frame = Fraction(1, 24) / Fraction(facts.time_base)
    assert len(spans) == 2
    assert spans[0].end <= 43 * frame
    assert spans[1].start >= 60 * frame
    analysis.holes = [[int(10 * frame), int(20 * frame)]]
    assert (int(10 * frame), int(20 * frame)) not in shots(analysis)
    assert all(end <= 10 * frame or start >= 20 * frame for start, end in shots(analysis))


def test_encoding_keeps_the_exact_shots_and_times(tmp_path):
    pts = [i * (1 if i < 30 else 2) - (0 if i < 30 else 30) for i in range(96)]
    path = write(tmp_path / "vfr.mp4", THREE, pts=pts, time_base=Fraction(1, 24), gop=96, options={"sc_threshold": "0"})
    facts, analysis, spans, files = cut(path, tmp_path, ClipConfig(min_seconds=0.3, method="encode", crf=10))
    assert [span.start for span in spans] == [analysis.pts[0], *analysis.hard_cuts]
    whole, stamps = decoded(path)
    source = {stamp: picture for picture, stamp in zip(whole, stamps, strict=True)}
    for span, file in zip(spans, files, strict=True):
        clip, times = decoded(file)
        with av.open(str(file)) as container:
            unit = container.streams.video[0].time_base / Fraction(facts.time_base)
        at = [span.start + int(time * unit) for time in times]
        assert at == [stamp for stamp in stamps if span.start <= stamp < span.end]
        errors = [np.abs(source[a].astype(int) - p.astype(int)).mean() for a, p in zip(at, clip, strict=True)]
        assert max(errors) < 6


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "ffv1"), ("a.avi", "mpeg4"), ("a.mpg", "mpeg2video")])
def test_what_mp4_does_not_hold_is_encoded(tmp_path, name, codec):
    path = write(tmp_path / name, THREE, fps=25, codec=codec)
    _, _, spans, files = cut(path, tmp_path)
    assert {span.method for span in spans} == {"encode"}
    assert [len(decoded(file)[0]) for file in files] == [30, 31, 35]


@pytest.mark.parametrize("name", ["h264.ts", "h264.mkv", "hevc.mp4", "hevc.mkv", "tenbit.mp4", "odd.mkv"])
def test_copies_from_other_containers_and_codecs(tmp_path, name):
    told = {
        "hevc.mp4": {
            "codec": "libx265",
            "options": {"x265-params": "log-level=none:pools=1:frame-threads=1:keyint=12"},
        },
        "hevc.mkv": {
            "codec": "libx265",
            "options": {"x265-params": "log-level=none:pools=1:frame-threads=1:keyint=12:min-keyint=12:bframes=3"},
        },
        "tenbit.mp4": {"pixel_format": "yuv420p10le"},
        "odd.mkv": {"fps": Fraction(30000, 1001)},
    }.get(name, {})
    path = write(tmp_path / name, THREE, **{"gop": 12, "fps": 25, **told})
    _, analysis, spans, files = cut(path, tmp_path)
    assert len(spans) == 3
    assert {span.method for span in spans} == {"copy"}
    assert [check(file, span, analysis) for file, span in zip(files, spans, strict=True)] == ["", "", ""]


def test_rotation_and_pixel_aspect_survive_copy_and_encoding(tmp_path):
    from test_analyse import rotated

    wide = write(tmp_path / "wide.mp4", THREE, gop=12, aspect=Fraction(4, 3))
    turned = rotated(write(tmp_path / "plain.mp4", THREE, gop=12), tmp_path / "turned.mp4", 90)
    for method in ("copy", "encode"):
        for path, size in ((wide, (round(SIZE[1] * 4 / 3), SIZE[0])), (turned, (SIZE[0], SIZE[1]))):
            folder = tmp_path / f"{method}-{path.stem}"
            folder.mkdir()
            _, _, _, files = cut(path, folder, ClipConfig(min_seconds=0.3, method=method))
            shown = analyse(str(files[0]))[1]
            assert (shown.width, shown.height) == size, (method, path.name)


def test_an_edit_list_hides_its_frames(tmp_path):
    """Show from 0.25 s on: the hidden frames are decoded but neither counted, judged nor copied."""
    plain = write(tmp_path / "plain.mp4", THREE, gop=12, options={"sc_threshold": "0"})
    path = tmp_path / "edited.mp4"
    path.write_bytes(edited(plain.read_bytes(), 6))
    facts, analysis, spans, files = cut(path, tmp_path)
    assert len(analysis.pts) == 90
    frame = Fraction(1, 24) / Fraction(facts.time_base)
    first = analysis.pts[0]
    assert [int((hard - first) / frame) for hard in analysis.hard_cuts] == [24, 55]
    assert all(check(file, span, analysis) == "" for file, span in zip(files, spans, strict=True))
    assert [int((span.start - first) / frame) for span in spans][1:] == [30, 66]


def edited(content: bytes, frames: int) -> bytes:
    """Move the start of the one edit of an MP4 of 24 frames per second."""
    data = bytearray(content)
    at = data.index(b"elst") + 4
    assert data[at] == 0
    assert int.from_bytes(data[at + 4 : at + 8], "big") == 1
    media = int.from_bytes(data[at + 12 : at + 16], "big")
    length = int.from_bytes(data[at + 8 : at + 12], "big")
    mdhd = data.index(b"mdhd") + 4
    scale = int.from_bytes(data[mdhd + 12 : mdhd + 16], "big")
    mvhd = data.index(b"mvhd") + 4
    movie = int.from_bytes(data[mvhd + 12 : mvhd + 16], "big")
    data[at + 12 : at + 16] = (media + frames * scale // 24).to_bytes(4, "big")
    data[at + 8 : at + 12] = (length - frames * movie // 24).to_bytes(4, "big")
    return bytes(data)


def test_pictures_of_a_clip(tmp_path):
    path = write(tmp_path / "film.mp4", THREE)
    found = pictures(path, 640)
    assert [picture.shape for picture in found] == [(*SIZE, 3)] * 3
    for picture, number in zip(found, (0, 48, 95), strict=True):
        assert np.abs(picture[..., ::-1].astype(int) - THREE[number].astype(int)).mean() < 8
