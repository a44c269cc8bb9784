"""Where a run may write: never over raw footage nor another data set, and over another run only when told to."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kineograph._text import read_json
from kineograph.curation import rows
from kineograph.curation.accounts import SUMMARY_FILE
from kineograph.curation.config import CurationConfig, scorer_fingerprints
from kineograph.curation.duplicates import DUPLICATES_FILE
from kineograph.curation.export import MANIFEST
from kineograph.curation.parts import place_text
from kineograph.curation.stretches import FOLDER as STRETCHES
from kineograph.errors import DataError, InputError

_FILES = (rows.CONFIG_FILE, rows.FILES_FILE, rows.LOG_FILE, rows.SKIPPED_FILE, SUMMARY_FILE, DUPLICATES_FILE, MANIFEST)
_FOLDERS = (rows.CLIPS, rows.STRIPS, rows.SELECTIONS, rows.TEMPORARY, STRETCHES, "parts")
_UNTOLD = ("limits",)
"""Parts of a configuration that change nothing in the results."""


def check(root: Path, out: Path, config: CurationConfig, *, resume: bool, overwrite: bool) -> None:
    """Make sure that a run may read here and write there.

    Args:
        root: Raw footage.
        out: The output folder.
        config: Of the run.
        resume: Whether results there are gone on with.
        overwrite: Whether what is there may go.

    Raises:
        InputError: It may not.
    """
    if not root.exists():
        raise InputError(f"There is no file or folder '{root}' to curate.")
    if resume and overwrite:
        raise InputError("--resume goes on with what is there and --overwrite starts anew: give one of them.")
    if out.resolve() == root.resolve():
        raise InputError(f"The output folder '{out}' is the raw folder itself. Name another one with -o.")
    if out.exists() and not out.is_dir():
        raise InputError(f"The output '{out}' is a file. Name a folder with -o.")
    there = [name for name in (*_FILES, *_FOLDERS) if (out / name).exists()]
    inside = next((name for name in there if root.resolve().is_relative_to((out / name).resolve())), None)
    if inside:
        raise InputError(f"The raw footage '{root}' lies in '{out / inside}', which a run writes. Name another folder.")
    before = configuration(out)
    if before is not None and not (resume or overwrite):
        raise InputError(
            f"'{out}' holds {_results(out)}{_difference(before, config)}. Add --resume to go on with it (only what "
            f"differs is computed), --overwrite to start anew, or name another folder."
        )
    if before is None and there and not overwrite:
        raise InputError(
            f"'{out}' holds {_contents(out, there)}, which a run would replace. Name another folder, or add "
            f"--overwrite to set it aside there."
        )


def configuration(out: Path) -> dict[str, Any] | None:
    """Return the configuration of a run's output folder; None where it is none."""
    try:
        content = read_json(out / rows.CONFIG_FILE)
    except DataError:
        return None
    return content if isinstance(content, dict) and "fingerprints" in content else None


def changes(before: dict[str, Any], config: CurationConfig) -> list[str]:
    """Name the fields in which a configuration differs from a stored one, such as `clips.crf 17 -> 20`."""
    old, new = (dict(_fields(content)) for content in (before, json.loads(json.dumps(config.to_json()))))
    told = (name for name in {**old, **new} if old.get(name) != new.get(name))
    return [f"{name} {_shown(old, name)} -> {_shown(new, name)}" for name in told]


def _shown(values: dict[str, Any], name: str) -> str:
    return json.dumps(values[name]) if name in values else "nothing"


def _fields(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if not prefix and name in ("fingerprints", "raw", *_UNTOLD):
            continue
        if isinstance(value, dict) and (value or not prefix):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _results(out: Path) -> str:
    """Say what a run left in its folder."""
    try:
        stored = read_json(out / SUMMARY_FILE)
        return f"a finished curation ({sum(stored['statuses'].values())} sources, {stored['clips']} clips)"
    except (DataError, KeyError):
        return "the results of a run that was not finished"


def _difference(before: dict[str, Any], config: CurationConfig) -> str:
    told = changes(before, config)
    more = f" and {len(told) - 4} more" if len(told) > 4 else ""
    return f" with another configuration ({', '.join(told[:4])}{more})" if told else " with the same configuration"


def _contents(out: Path, there: list[str]) -> str:
    """Say what another program left in a folder."""
    if MANIFEST in there:
        with (out / MANIFEST).open("rb") as file:
            count = sum(1 for line in file if line.strip())
        return f"another data set ({MANIFEST} with {count} clips)"
    return f"'{there[0]}', which no run wrote"


def clear(out: Path) -> str:
    """Make room for a new run: delete an earlier run's results; set aside what anything else wrote under these names.

    Returns:
        The folder with what was set aside; empty where nothing was.
    """
    there = [name for name in (*_FILES, *_FOLDERS) if (out / name).exists()]
    if configuration(out) is None and there:
        aside = next(place for n in itertools.count(1) if not (place := out / f"replaced-{n}").exists())
        aside.mkdir()
        for name in there:
            (out / name).rename(aside / name)
        return str(aside)
    for name in there:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink()
    return ""


def remember(out: Path, config: CurationConfig) -> list[str]:
    """Write the configuration and its fingerprints, by which the catalogue chooses parts.

    Returns:
        How it differs from the one of the run before, as `changes` gives it.
    """
    before = configuration(out)
    prints = {"config": config.fingerprint, "analysis": config.analysis_fingerprint}
    content = config.to_json() | {"fingerprints": {**prints, "scorers": scorer_fingerprints(config)}}
    place_text(out / rows.CONFIG_FILE, json.dumps(content, indent=2) + "\n")
    return changes(before, config) if before is not None else []
