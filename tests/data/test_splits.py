"""Validation finds its clips whatever a data set calls their split, and says when it finds none."""

import pytest

from kineograph.data.splits import held_out_sentence, held_out_split, train_split
from kineograph.errors import DataError


@pytest.mark.parametrize(
    ("splits", "chosen"),
    [
        (["train", "test"], "test"),
        (["train", "test", "validation"], "validation"),
        (["train", "Val"], "Val"),
        (["test", "held-out-combinations", "train"], "held-out-combinations"),
        (["train", "mine"], "mine"),
        (["train", "mine", "yours"], None),
        (["train"], None),
    ],
)
def test_the_split_to_validate_on_is_found(splits, chosen):
    assert held_out_split(splits) == chosen


def test_a_split_that_is_named_must_be_there():
    assert held_out_split(["train", "test", "mine"], "mine") == "mine"
    with pytest.raises(DataError, match=r"split for --held-out 'tset', did you mean 'test'\? Known: test, train"):
        held_out_split(["train", "test"], "tset")


def test_what_is_taken_is_said():
    assert held_out_sentence(["train"] * 3 + ["test"]) == (
        "trains on split 'train' (3 clips), validates on 'test' (1 clips)"
    )
    assert "there is no other split" in held_out_sentence(["train"])
    assert "a (1), b (2), name one with --held-out" in held_out_sentence(["train", "a", "b", "b"])
    assert [train_split(name) for name in ("Train", "training", "test", "train")] == ["train", "train", "test", "train"]
