"""Captions as tokens."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kineograph.data.manifest import Clip
from kineograph.training.captions import encode_captions

CLIP = Clip(path="a.mp4", caption="a cat", fps=8, frames=2, width=8, height=8)
ROWS = [{"text": "a cat", "weight": 0.5}, {"text": "kitty", "weight": 0.25}, {"text": "pet", "weight": 0.25}]


def lengths(texts):
    """Stand for a text encoder: each text's length, as one token."""
    return torch.tensor([[[float(len(text))]] for text in texts])


def test_each_distinct_text_is_encoded_once():
    asked = []

    def encode(texts):
        asked.extend(texts)
        return lengths(texts)

    tokens = encode_captions(encode, [CLIP, replace(CLIP, extra={"captions": ROWS}), CLIP], batch=2)
    assert sorted(asked) == ["a cat", "kitty", "pet"]
    assert tokens.tokens.dtype == np.float16
    assert [tokens.first(clip).item() for clip in range(3)] == [5, 5, 5]


def test_captions_are_kept_from_run_to_run(tmp_path):
    clips = [replace(CLIP, extra={"captions": ROWS})]
    first = encode_captions(lengths, clips, batch=2, kept=tmp_path, fingerprint="one")

    def never(texts):
        raise AssertionError(f"encoded again: {texts}")

    again = encode_captions(never, clips, kept=tmp_path, fingerprint="one")
    assert np.array_equal(first.tokens, again.tokens)
    assert again.tokens.dtype == np.float16
    assert again.texts == first.texts
    assert again.draw(0, np.random.default_rng(0)) == first.draw(0, np.random.default_rng(0))
    with pytest.raises(AssertionError, match="encoded again"):
        encode_captions(never, clips, kept=tmp_path, fingerprint="another encoder")


def test_captions_cut_short_leave_nothing(tmp_path):
    def stops(texts):
        if texts[0] == "kitty":
            raise KeyboardInterrupt
        return lengths(texts)

    clips = [replace(CLIP, extra={"captions": ROWS})]
    with pytest.raises(KeyboardInterrupt):
        encode_captions(stops, clips, batch=1, kept=tmp_path, fingerprint="one")
    assert not list(tmp_path.iterdir())
    assert len(encode_captions(lengths, clips, kept=tmp_path, fingerprint="one").tokens) == 3


def truncated(content):
    return content[:-9]


def zeroed(content):
    return content[:60] + b"\0" * (len(content) - 60)


@pytest.mark.parametrize("harm", [truncated, zeroed, lambda content: b"", lambda content: b"no array"])
def test_broken_captions_are_encoded_again(harm, tmp_path):
    clips = [replace(CLIP, extra={"captions": ROWS})]
    first = encode_captions(lengths, clips, kept=tmp_path, fingerprint="one")
    wanted = np.array(first.tokens)
    (file,) = tmp_path.iterdir()
    file.write_bytes(harm(file.read_bytes()))
    assert np.array_equal(encode_captions(lengths, clips, kept=tmp_path, fingerprint="one").tokens, wanted)
    assert len(list(tmp_path.iterdir())) == 1


def test_captions_are_drawn_by_weight():
    tokens = encode_captions(lengths, [replace(CLIP, extra={"captions": [ROWS[0], ROWS[2]]})])
    choose = np.random.default_rng(0)
    drawn = np.array([tokens.draw(0, choose).item() for _ in range(3000)])
    assert set(drawn) == {5.0, 3.0}
    assert abs((drawn == 5).mean() - 2 / 3) < 0.03


def test_one_caption_takes_no_random_number():
    choose = np.random.default_rng(0)
    encode_captions(lengths, [CLIP]).draw(0, choose)
    assert choose.bit_generator.state == np.random.default_rng(0).bit_generator.state
