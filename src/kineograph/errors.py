"""One family of user errors.

Every error that a user can cause derives from `KineographError`; the command line prints its message as one paragraph
and exits with status 2. A message says what was given, what is allowed, and the nearest fix. Programmer errors stay
`AssertionError` or `TypeError`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class KineographError(Exception):
    """Base of all errors that a user can cause and mend."""


class InputError(KineographError, ValueError):
    """A value, flag, prompt or configuration field that is not allowed."""


class MediaError(KineographError, ValueError):
    """A video or image file that cannot be read or written."""


class DataError(KineographError, ValueError):
    """A data set, manifest or cache that is missing, malformed or inconsistent."""


class WeightsError(KineographError, ValueError):
    """A checkpoint whose keys, shapes, values or format do not fit."""


class ResourceError(KineographError, RuntimeError):
    """The machine lacks something: disk space, memory, a program."""


class MissingExtraError(KineographError, ImportError):
    """An optional dependency is not installed; the message holds the command that installs it."""


BEGINNING = 0.95
"""What a word counts that begins as the given one does, beside one that is it as a whole."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return `", did you mean 'x'?"` for the closest allowed word, or a full stop.

    Words are close as a whole or by their beginning, whatever their case and whether written with `-` or `_`: `euler_a`
    is near `euler-ancestral`.
    """
    words = [str(word) for word in allowed]
    best = max(words, key=lambda word: _likeness(str(given), word), default="")
    return f", did you mean '{best}'?" if words and _likeness(str(given), best) >= 0.5 else "."


def _likeness(given: str, word: str) -> float:
    """Return how much two words are alike, 0 to 1."""
    one, other = (text.lower().replace("_", "-") for text in (given, word))
    ratio = lambda text: difflib.SequenceMatcher(None, one, text).ratio()
    beginning = ratio(other[: len(one)]) if len(one) > 2 else 0.0
    return max(ratio(other), BEGINNING * beginning)


def unknown(
    what: str, given: object, allowed: Iterable[str], error: type[KineographError] = InputError
) -> KineographError:
    """Build the error for a word outside a fixed list.

    Args:
        what: The thing named, in the user's words, such as `"system"` or `"--spacing"`.
        given: What the user wrote.
        allowed: The words that would have been right.
        error: The class of the error to build.

    Returns:
        The error, for the caller to raise.
    """
    words = sorted(str(word) for word in allowed)
    return error(f"Unknown {what} '{given}'{nearest(str(given), words)} Known: {', '.join(words)}.")


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module, or say which extra installs it.

    Args:
        module: Importable name, such as `"emoji"`.
        extra: The extra of this package that brings it.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise MissingExtraError(
            f"This needs the package '{module}', which is not installed. "
            f'Install it with: pip install "kineograph[{extra}]"'
        ) from error
