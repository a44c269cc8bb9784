"""OpenCLIP's cleaning of texts: pairs made by open_clip 3.3.0 with ftfy 6.3.1.

python -c "from open_clip.tokenizer import _clean_lower as c; print([c(text) for text in TEXTS])"
"""

import sys

import pytest
import tiny_pipelines as tiny
import torch

from kineograph.errors import MissingExtraError
from kineograph.models.open_clip_text import cleaned
from kineograph.models.text import TextEncoder

PLAIN = {
    "A  Cat and a dog ": "a cat and a dog",
    "don't DON'T we've 12 'S": "don't don't we've 12 's",
    "": "",
}
ODD = {
    "A  CAT\tand\n a dog ": "a cat and a dog",
    "it\u2019s a \u201cdog\u201d": 'it\'s a "dog"',
    "&amp;": "&",
    "a &amp;amp; b": "a & b",
    "a &amp;amp;amp; b": "a & b",
    "a < b &amp;amp;amp; c": "a < b &amp; c",
    "&lt;b&gt; I&#39;m &hearts; you": "<b> i'm \u2665 you",
    "na\u00efve CAFE\u0301": "na\u00efve caf\u00e9",
    "\U0001f431 emoji \U0001f469\u200d\U0001f680": "\U0001f431 emoji \U0001f469\u200d\U0001f680",
    "\ufb01re": "fire",
    "\uff26\uff55\uff4c\uff4c\u3000width": "full width",
    "s\u00c3\u00bc\u00c3\u009f": "s\u00fc\u00df",
    "\u0130 \u03a3\u038a\u03a3\u03a5\u03a6\u039f\u03a3": "i\u0307 \u03c3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2",
    "\u2026\u2014\u2013": "\u2026\u2014\u2013",
    "a\x1b[31mred\x1b[0m": "ared",
    "\ufeffmark": "mark",
}


@pytest.fixture
def encoders(tmp_path):
    tokenizer, words = tiny.write_tokenizer(tmp_path / "a", 40)
    other, _ = tiny.write_tokenizer(tmp_path / "b", 40)
    other.pad_token = "!"
    model = tiny.tiny_clip(words)
    return [TextEncoder(model, each, 40, pooled_first=False, masked=False) for each in (other, tokenizer)]


def test_plain_texts_need_no_ftfy(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    assert {text: cleaned(text) for text in PLAIN} == PLAIN
    with pytest.raises(MissingExtraError, match="pip install ftfy"):
        cleaned("a \u201cdog\u201d")


@pytest.mark.parametrize("text", ODD)
def test_texts_are_cleaned_as_open_clip_does(text):
    pytest.importorskip("ftfy")
    assert cleaned(text) == ODD[text]


def test_only_open_clips_tokenizers_clean(encoders):
    pytest.importorskip("ftfy")
    ours, plain = encoders
    texts, expected = ["it\u2019s &amp;amp; a \u201cDog\u201d"], ['it\'s & a "dog"']
    assert torch.equal(ours.token_ids(texts), ours.token_ids(expected))
    assert not torch.equal(plain.token_ids(texts), plain.token_ids(expected))  # as transformers has it
    assert ours.fingerprint() != plain.fingerprint()


def test_texts_that_are_cut_are_quoted_as_they_are_encoded(encoders):
    pytest.importorskip("ftfy")
    with pytest.warns(UserWarning, match="left out: '&"):
        encoders[0].token_ids(["a" * 38 + " &amp;"])
