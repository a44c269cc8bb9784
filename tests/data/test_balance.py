"""How often each clip is shown."""

import numpy as np
import pytest

from kineograph.data.balance import EvenDraw, even_shares
from kineograph.data.manifest import Clip
from kineograph.errors import DataError


def clip(name: str, **extra) -> Clip:
    return Clip(path=name, caption=name, fps=8, frames=1, width=8, height=8, split="train", extra=extra)


def test_a_kind_of_four_clips_gets_twice_the_share_of_a_kind_of_one():
    shares = even_shares([clip("apple", base="apple"), *(clip(f"man {i}", base="man") for i in range(4))], "base")
    np.testing.assert_allclose(shares, [1 / 3, *[1 / 6] * 4])
    assert even_shares([clip("a"), clip("b")], "split").tolist() == [0.5, 0.5]


def test_a_missing_field_is_named_with_those_there_are():
    with pytest.raises(DataError, match=r"'pear' has no field 'base' in the manifest, only: caption, emoji, "):
        even_shares([clip("apple", base="apple"), clip("pear", tones=[], emoji="x")], "base")


def test_rows_are_drawn_by_share():
    clips = [clip("apple", base="apple"), *(clip(f"man {i}", base="man") for i in range(4)), clip("pear", base="pear")]
    draw, choose = EvenDraw(np.arange(5), clips, "base"), np.random.default_rng(0)
    counts = np.bincount([draw(0, choose) for _ in range(3000)], minlength=6)
    np.testing.assert_allclose(counts / 3000, [1 / 3, *[1 / 6] * 4, 0], atol=0.03)
    again = np.random.default_rng(5).choice(np.arange(5), p=even_shares(clips[:5], "base"))  # numpy's own draw
    assert draw(0, np.random.default_rng(5)) == again


def test_without_a_field_a_row_is_itself_and_no_random_number_is_taken():
    choose = np.random.default_rng(0)
    assert EvenDraw(np.arange(5), [], "")(3, choose) == 3
    assert choose.random() == np.random.default_rng(0).random()
