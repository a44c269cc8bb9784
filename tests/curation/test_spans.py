"""Which stretches become clips: where a copy would lose much before a keyframe, the exact shot is encoded."""

from dataclasses import replace
from fractions import Fraction

import pytest
from films import join, open_gop, shot, write
from test_clipping import THREE, assert_same_frames, cut

from kineograph.curation.config import ClipConfig
from kineograph.curation.spans import shots
from kineograph.errors import InputError

AUTO = ClipConfig(min_seconds=0.3, crf=0)


def placed(facts, spans):
    """Return method, first frame and end of each span, in frames of 1/24 s."""
    frame = Fraction(1, 24) / Fraction(facts.time_base)
    return [(span.method, round(span.start / frame), round(span.end / frame)) for span in spans]


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """Three shots, 0 to 30 to 61 to 96, with keyframes at 0, 12, 24, ..., none of them because of a cut."""
    return write(tmp_path_factory.mktemp("f") / "a.mp4", THREE, gop=12, options={"sc_threshold": "0"})


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The same with one keyframe in all."""
    return write(tmp_path_factory.mktemp("f") / "b.mp4", THREE, gop=200, options={"sc_threshold": "0"})


def test_every_frame_of_every_shot_survives(single, tmp_path):
    """Of one keyframe for three shots a copy makes one clip, or none; nothing is lost without need."""
    facts, _, spans, files = cut(single, tmp_path, AUTO)
    assert placed(facts, spans) == [("copy", 0, 30), ("encode", 30, 61), ("encode", 61, 96)]
    assert_same_frames(single, spans, files)
    copied = cut(single, tmp_path, replace(AUTO, method="copy"))[2]
    assert sum(span.length for span in copied) < sum(span.length for span in spans) / 3


def test_a_shot_is_copied_where_that_loses_little(sparse, tmp_path):
    facts, _, spans, files = cut(sparse, tmp_path, AUTO)
    assert placed(facts, spans) == [("copy", 0, 30), ("encode", 30, 61), ("encode", 61, 96)]
    assert_same_frames(sparse, spans, files)
    loose = replace(AUTO, loss_share=0.25, loss_seconds=1.0, loss_in_all=1.0)
    assert placed(facts, cut(sparse, tmp_path, loose)[2]) == [("copy", 0, 30), ("copy", 36, 61), ("encode", 61, 96)]


def test_seconds_bound_the_loss_of_a_long_shot(sparse, tmp_path):
    loose = replace(AUTO, loss_share=0.5, loss_seconds=0.3, loss_in_all=1.0)
    facts, _, spans, _ = cut(sparse, tmp_path, loose)
    assert placed(facts, spans) == [("copy", 0, 30), ("copy", 36, 61), ("encode", 61, 96)]


def test_a_film_s_copies_share_one_bound(sparse, tmp_path):
    """6 and 11 of 96 frames would be lost: with 10 % in all the larger loss is mended, with 5 % both."""
    loose = replace(AUTO, loss_share=1.0, loss_seconds=9.0)
    some, none = (cut(sparse, tmp_path, replace(loose, loss_in_all=share))[2] for share in (0.1, 0.05))
    assert [span.method for span in some] == ["copy", "copy", "encode"]
    assert [span.method for span in none] == ["copy", "encode", "encode"]


def test_copies_may_be_told_to_end_at_keyframes(sparse, tmp_path):
    """30 is no keyframe, and 24 loses too much."""
    _, _, spans, _ = cut(sparse, tmp_path, replace(AUTO, end="keyframe"))
    assert [span.method for span in spans] == ["encode"] * 3


def test_of_a_long_shot_only_the_ends_are_encoded(tmp_path):
    """Keyframes at 0, 12, ...; the second shot is 18 to 138 and the clips at most a second and a half."""
    film = join(shot(1, 18), shot(2, 120, pan=(0.5, 0)))
    path = write(tmp_path / "long.mp4", film, gop=12, options={"sc_threshold": "0"})
    facts, _, spans, files = cut(path, tmp_path, replace(AUTO, max_seconds=1.5, loss_share=0.01))
    found = placed(facts, spans)
    assert [name for name, _, _ in found] == ["copy", "encode", "encode", "copy", "encode", "encode"]
    assert [start for _, start, _ in found[1:]] == [end for _, _, end in found[:-1]]
    assert found[-1][2] == 138
    assert_same_frames(path, spans, files)


def test_open_groups_of_pictures_may_lose_their_leading_pictures(tmp_path):
    """Two frames of 96, which are under 3 % of all shots; the others are met exactly."""
    path = open_gop(tmp_path / "open.mp4", THREE, gop=15)
    facts, analysis, spans, files = cut(path, tmp_path, AUTO)
    assert placed(facts, spans) == [("copy", 0, 28), ("copy", 30, 61), ("encode", 61, 96)]
    assert len(shots(analysis)) == 3
    assert_same_frames(path, spans, files)


def test_pieces_too_short_when_equal_are_the_longest_ones(tmp_path):
    """A shot of 1.25 s in pieces of exactly half a second: two, not three too short ones."""
    path = write(tmp_path / "film.mp4", shot(3, 30), gop=60)
    _, _, spans, _ = cut(path, tmp_path, ClipConfig("encode", min_seconds=0.5, max_seconds=0.5, crf=10))
    assert len(spans) == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"loss_share": 1.5}, "loss_share"),
        ({"loss_in_all": -0.1}, "loss_in_all"),
        ({"loss_seconds": -1.0}, "loss_seconds"),
        ({"min_seconds": 5.0, "max_seconds": 4.0}, "max_seconds"),
        ({"min_seconds": 0.0}, "above 0"),
        ({"crf": 99}, "51"),
        ({"preset": "veryfats"}, "veryfast"),
        ({"verify_every": -1}, "never"),
    ],
)
def test_impossible_values_are_named(wrong, said):
    with pytest.raises(InputError, match=said):
        ClipConfig(**wrong)
