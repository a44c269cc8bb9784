"""Other words for an emoji, so that a model trained on Unicode names also knows "sobbing" and "kitty".

The keywords are those of the npm package `emojilib` (MIT), which gathers CLDR's annotations and what people type into
emoji pickers. From an emoji's name, skin tone and keywords `phrasings` makes a few captions with training weights.
Words that few emoji carry come first, and those of more than `COMMON` are left out: "animal nature" is the caption of
more than a hundred.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections import Counter
from pathlib import Path

from kineograph.errors import DataError

PACKAGE, VERSION = "emojilib", "4.0.3"
NAME_WEIGHT = 0.4
"""Share of samples that show the Unicode name; SVD gives its best captioner half."""
KEYWORDS = 6
"""Of an emoji at most, the rarest."""
COMMON = 60
"""A word of more emoji than this says nothing ("nature", "flag", "female")."""
_MODIFIERS = re.compile("[\U0001f3fb-\U0001f3ff\ufe0f]")
_ORDINARY = re.compile(r"[a-z][a-z' -]{2,}")
_PERSON_ACTING = re.compile(r"^(man|woman|person) (\w+ing)\b(.*)$")
_TONE_ORDER = re.compile(r"^(?P<base>.+?),? (?P<tone>(?:medium-)?(?:light|dark)|medium) skin tone$")


def read_keywords(archive: Path) -> dict[str, list[str]]:
    """Read the keywords of every emoji, the rarest first, by its characters without skin tone and variation selectors.

    Args:
        archive: `emojilib-4.0.3.tgz` as `npm pack` gives it.

    Raises:
        DataError: The archive is incomplete or holds no keyword table.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            member = tar.extractfile("package/dist/emoji-en-US.json")
            assert member is not None
            table = json.load(member)
    except (tarfile.TarError, EOFError, OSError, KeyError, AssertionError, ValueError) as error:
        raise DataError(
            f"'{archive}' is not the npm archive of {PACKAGE} ({error}). Delete it and run the command again."
        ) from error
    return telling({bare(characters): _usable(words) for characters, words in table.items()})


def telling(table: dict[str, list[str]]) -> dict[str, list[str]]:
    """Keep of every emoji the words that tell it from others, the rarest first, `KEYWORDS` at most."""
    carried = Counter(word for words in table.values() for word in words)
    rarest_first = {characters: sorted(words, key=carried.__getitem__) for characters, words in table.items()}
    return {
        characters: [word for word in words if carried[word] <= COMMON][:KEYWORDS]
        for characters, words in rarest_first.items()
    }


def bare(characters: str) -> str:
    """Drop skin tones and variation selectors."""
    return _MODIFIERS.sub("", characters)


def _usable(words: list[str]) -> list[str]:
    """Keep plain lower-case words, without repeats and without the name itself, which comes first."""
    spoken = [word.replace("_", " ").replace("\xa0", " ").strip() for word in words[1:]]
    return [word for word in dict.fromkeys(spoken) if _ORDINARY.fullmatch(word)]


def phrasings(caption: str, keywords: list[str]) -> list[dict[str, object]]:
    """Return captions with training weights: the name first, then other wordings and keywords.

    Args:
        caption: The Unicode name in words ("man juggling dark skin tone").
        keywords: Of the emoji, the most telling first, possibly none.

    Returns:
        Objects `{"text", "weight"}`; the weights sum to 1.
    """
    base, tone = _parts(caption)
    named = base.lower().split()
    keywords = [word for word in keywords if not set(word.split()) <= set(named)]
    others = [_toned(wording, tone) for wording in _wordings(base) if wording != caption]
    others += [_toned(text, tone) for text in _keyword_texts(base, keywords)]
    others = [text for text in dict.fromkeys(others) if text != caption]
    if not others:
        return [{"text": caption, "weight": 1.0}]
    share = (1 - NAME_WEIGHT) / len(others)
    return [{"text": caption, "weight": NAME_WEIGHT}, *({"text": text, "weight": share} for text in others)]


def _parts(caption: str) -> tuple[str, str]:
    """Split a name with one skin tone into base and tone; others have no tone."""
    found = _TONE_ORDER.match(caption)
    if found is None or "skin tone" in found["base"]:
        return caption, ""
    return found["base"], found["tone"]


def _wordings(base: str) -> list[str]:
    """Return other orders of the same words: "man juggling" is also "a juggling man"."""
    acting = _PERSON_ACTING.match(base)
    if acting is None or acting[3].strip():
        return [f"a {base}"] if not base.startswith(("a ", "the ")) else []
    return [f"a {acting[2]} {acting[1]}"]


def _keyword_texts(base: str, keywords: list[str]) -> list[str]:
    """Return keywords alone, two by two, in place of the name's first words, and beside the name."""
    pairs = [" ".join(keywords[i : i + 2]) for i in range(0, len(keywords), 2)]
    return [*keywords[:1], *pairs, *_renamed(base, keywords[:3]), *(f"{base}, {word}" for word in keywords[:2])]


def _renamed(base: str, keywords: list[str]) -> list[str]:
    """Let keywords stand for all but the last word: "rabbit face" is also "bunny face"."""
    *first, last = base.split()
    return [f"{word} {last}" for word in keywords if last not in word.split()] if first else []


def _toned(text: str, tone: str) -> str:
    """Add the skin tone the way people say it."""
    if not tone:
        return text
    return re.sub(r"^a ", f"a {tone}-skinned ", text) if text.startswith("a ") else f"{text} with {tone} skin"
