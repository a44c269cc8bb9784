"""Other words for emoji."""

import json
import re

import pytest

from kineograph.data import emoji_words
from kineograph.errors import DataError
from tests.data.test_emoji import write_keywords


def test_keywords_are_plain_words_without_the_name(tmp_path):
    table = {"👍": ["thumbs_up", "yes", "+1", "ok", "well_done", "yes", "NASA"], "🤹‍♂️": ["man_juggling"]}
    write_keywords(tmp_path, table)
    words = emoji_words.read_keywords(tmp_path / f"emojilib-{emoji_words.VERSION}.tgz")
    assert words == {"👍": ["yes", "well done"], "🤹‍♂": []}
    assert emoji_words.bare("👍🏿") == "👍"


def test_name_has_half_the_weight_and_the_tone_stays():
    rows = emoji_words.phrasings("man juggling dark skin tone", ["balance", "skill", "juggler"])
    assert [row["text"] for row in rows] == [
        "man juggling dark skin tone",
        "a dark-skinned juggling man",
        "balance skill with dark skin",
        "juggler with dark skin",
        "man juggling, balance with dark skin",
    ]
    assert rows[0]["weight"] == 0.5
    assert sum(row["weight"] for row in rows) == pytest.approx(1)


def test_two_tones_and_names_without_keywords_stay_as_they_are():
    name = "people holding hands dark skin tone, light skin tone"
    assert [row["text"] for row in emoji_words.phrasings(name, [])] == [name, f"a {name}"]
    assert emoji_words.phrasings("a cat", []) == [{"text": "a cat", "weight": 1.0}]
    assert json.dumps(emoji_words.phrasings("red apple", ["fruit"]))


def test_another_archive_is_refused(tmp_path):
    path = tmp_path / "emojilib-4.0.3.tgz"
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match=re.escape(str(path))):
        emoji_words.read_keywords(path)
