"""How often each clip is shown."""

import numpy as np
import pytest

from kineograph.data.balance import even_shares
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
