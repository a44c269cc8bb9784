"""The packet index, against sequences written down by hand."""

import numpy as np
from films import shot, write

from kineograph.curation.keyframes import Index, frame_duration, index
from kineograph.curation.probe import footage


def by_hand(*packets):
    """Build an index from (pts, letter): capital letters are keyframes."""
    pts = np.array([p for p, _ in packets], np.int64)
    key = np.array([letter.isupper() for _, letter in packets])
    order = np.arange(len(pts), dtype=np.int64)
    return Index(pts, order, np.ones_like(pts), key, np.zeros(len(pts), bool), True)


# Decoding order of an open GOP: I0 P3 b1 b2 | I6 b4 b5 P9 b7 b8 | I12 b10 b11
OPEN = by_hand(
    *[(0, "I"), (3, "p"), (1, "b"), (2, "b"), (6, "I"), (4, "b"), (5, "b"), (9, "p"), (7, "b"), (8, "b")],
    *[(12, "I"), (10, "b"), (11, "b")],
)


def test_leading_pictures():
    assert OPEN.leading(0).tolist() == []
    assert OPEN.leading(4).tolist() == [5, 6]
    assert OPEN.leading(10).tolist() == [11, 12]


def test_a_copy_drops_leading_pictures_on_both_sides():
    chosen, end = OPEN.copy_range(5, 12)
    assert OPEN.pts[chosen].tolist() == [6, 9, 7, 8]
    assert end == 10
    chosen, end = OPEN.copy_range(0, 6)
    assert OPEN.pts[chosen].tolist() == [0, 3, 1, 2]
    assert end == 4


def test_a_copy_to_a_frame_ends_where_no_later_packet_is_shown_earlier():
    closed = by_hand((0, "I"), (3, "p"), (1, "b"), (2, "b"), (6, "p"), (4, "b"), (5, "b"), (7, "I"))
    chosen, end = closed.copy_range(0, 6, to_frame=True)
    assert closed.pts[chosen].tolist() == [0, 3, 1, 2]
    assert end == 4
    assert closed.copy_range(0, 6) is None  # no keyframe between 0 and 6 but the first
    chosen, end = closed.copy_range(0, 7)
    assert end == 7


def test_nothing_fits_without_a_keyframe():
    assert OPEN.copy_range(7, 12) is None
    assert OPEN.first_key(7, 13) == 12
    assert OPEN.first_key(7, 12) is None


def test_hidden_packets_are_no_starts():
    hidden = Index(OPEN.pts, OPEN.dts, OPEN.duration, OPEN.key, OPEN.pts < 6, True)
    assert hidden.keyframes.tolist() == [6, 12]
    chosen, _ = hidden.copy_range(0, 12)
    assert hidden.pts[chosen].min() == 6


def test_a_file_is_indexed_without_decoding(tmp_path):
    path = write(tmp_path / "film.mp4", shot(1, 50), gop=12)
    with footage(str(path)) as container:
        found = index(container, container.streams.video[0])
        assert not container.streams.video[0].codec_context.is_open
    assert len(found.pts) == 50
    assert found.keyframes.tolist() == [i * 512 for i in range(0, 50, 12)]
    assert (found.stamped, found.broken) == (True, "")


def test_the_last_frame_has_the_usual_duration():
    assert frame_duration(np.array([0, 40, 80, 200])) == 40
    assert frame_duration(np.array([7])) == 1
    assert frame_duration(np.array([0, 40]), 30) == 30


def test_the_first_packets_of_matroska_get_decoding_times(tmp_path):
    """It stores none, and FFmpeg leaves those of the first reordered packets open; the first keyframe must not go."""
    from films import shot, write

    x265 = "log-level=none:pools=1:frame-threads=1:keyint=12:min-keyint=12:bframes=3"
    path = write(tmp_path / "film.mkv", shot(1, 36), codec="libx265", options={"x265-params": x265})
    with footage(str(path)) as container:
        raw = [packet.dts for packet in container.demux(container.streams.video[0]) if packet.size]
    assert raw[0] is None, "the fixture has all its decoding times"
    with footage(str(path)) as container:
        found = index(container, container.streams.video[0])
    assert len(found.pts) == 36
    assert found.keyframes.tolist() == [0, 500, 1000]
    assert (np.diff(found.dts) > 0).all()
    assert (found.dts <= found.pts).all()
