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


def test_words_of_few_emoji_come_first_and_those_of_many_are_left_out():
    everywhere = {f"{i}": ["animal", "pet"] if i < 3 else ["animal"] for i in range(emoji_words.COMMON)}
    table = {**everywhere, "🐰": ["animal", "pet", "bunny"]}
    assert emoji_words.telling(table)["🐰"] == ["bunny", "pet"]
    assert emoji_words.telling({"🐰": list("abcdefgh")})["🐰"] == list("abcdef")


def test_name_weighs_most_and_the_tone_stays():
    rows = emoji_words.phrasings("man juggling dark skin tone", ["balance", "skill", "juggler"])
    assert [row["text"] for row in rows] == [
        "man juggling dark skin tone",
        "a dark-skinned juggling man",
        "balance with dark skin",
        "balance skill with dark skin",
        "juggler with dark skin",
        "balance juggling with dark skin",
        "skill juggling with dark skin",
        "juggler juggling with dark skin",
        "man juggling, balance with dark skin",
        "man juggling, skill with dark skin",
    ]
    assert rows[0]["weight"] == emoji_words.NAME_WEIGHT
    assert sum(row["weight"] for row in rows) == pytest.approx(1)


def test_two_tones_and_names_without_keywords_stay_as_they_are():
    name = "people holding hands dark skin tone, light skin tone"
    assert [row["text"] for row in emoji_words.phrasings(name, [])] == [name, f"a {name}"]
    assert emoji_words.phrasings("a cat", []) == [{"text": "a cat", "weight": 1.0}]
    assert json.dumps(emoji_words.phrasings("red apple", ["fruit"]))
    assert emoji_words.phrasings("Red apple", ["apple"]) == emoji_words.phrasings("Red apple", [])


def test_another_archive_is_refused(tmp_path):
    path = tmp_path / "emojilib-4.0.3.tgz"
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match=re.escape(str(path))):
        emoji_words.read_keywords(path)
