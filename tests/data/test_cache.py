"""The cache: one process builds while others wait, what a killed one left goes, what is broken is made again."""

import threading
import time

import pytest

from kineograph.data.cache import INDEX, kept, opened, read_index, sample, write_index
from kineograph.errors import ResourceError


def build(folder, content=b"content"):
    folder.mkdir(parents=True)
    (folder / "data").write_bytes(content)
    write_index(folder, {"count": 3})


def lost(place):
    (place / "data").unlink()


def cut(place):
    (place / "data").write_bytes(b"cont")


def zeroed(place):
    (place / "data").write_bytes(b"\0" * 7)


def empty_index(place):
    (place / INDEX).write_text("")


def other_index(place):
    (place / INDEX).write_text((place / INDEX).read_text().replace("3", "4"))


def a_file(place):
    (place / "data").unlink()
    (place / INDEX).unlink()
    place.rmdir()
    place.write_text("")


@pytest.mark.parametrize("harm", [lost, cut, zeroed, empty_index, other_index, a_file])
def test_what_is_broken_is_made_again(harm, tmp_path):
    place = tmp_path / "kind" / "key"
    opened(place, build)
    harm(place)
    assert read_index(place) is None
    assert opened(place, build)["count"] == 3
    assert (place / "data").read_bytes() == b"content"
    assert [path.name for path in place.parent.iterdir()] == ["key"]


def test_what_is_whole_is_not_made_again(tmp_path):
    opened(tmp_path / "key", build)
    opened(tmp_path / "key", lambda part: pytest.fail("made again"))


def test_several_at_once_make_it_once(tmp_path):
    made, waited = [], []

    def slowly(part):
        made.append(part)
        time.sleep(0.3)
        build(part)

    def one():
        opened(tmp_path / "key", slowly, lambda *words: waited.append(words))

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert waited
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_what_a_killed_process_left_goes(tmp_path):
    left = tmp_path / ".part-key-99999"
    left.mkdir()
    (left / "data").write_bytes(b"half")
    (tmp_path / ".lock-key").write_text("")
    opened(tmp_path / "key", build)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    def full(part):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ResourceError, match="disk is full.*--cache"):
        kept(tmp_path / "key", lambda place: place.exists(), full)
    assert list(tmp_path.iterdir()) == []


def test_a_sample_sees_the_ends_and_the_length(tmp_path):
    file = tmp_path / "large"
    file.write_bytes(b"a" * 10_000_000)
    first = sample(file)
    for place in (0, 9_999_999, 5_000_000):
        with file.open("r+b") as stream:
            stream.seek(max(0, place - 200_000))
            stream.write(b"\0" * min(400_000, 10_000_000 - max(0, place - 200_000)))
        assert sample(file) != first
        file.write_bytes(b"a" * 10_000_000)
    file.write_bytes(b"a" * 9_999_999)
    assert sample(file) != first
