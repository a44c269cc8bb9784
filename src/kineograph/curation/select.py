"""Which clips to keep: rules per axis, frozen as numbers together with the population they were computed on.

A rule is a line such as `motion_mean>=p25` (at or above the 25th percentile of all clips), `text_area<=0.07` or
`duplicate_of is none`. Percentiles are those of the whole population on that axis alone, not of what an earlier rule
left, as in the threshold study of Stable Video Diffusion (arXiv:2311.15127, sec. 3.3 and app. E.2.2). A selection is
stored with the numbers that came out, a hash of the population they came from, and the ids that were kept, so that it
means the same after more clips arrive. Nothing is deleted, and raw scores stay.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kineograph._text import read_json
from kineograph.curation.catalogue import Catalogue
from kineograph.curation.parts import place, place_text
from kineograph.curation.rows import SELECTIONS
from kineograph.errors import DataError, InputError, require, unknown

Operator = Literal[">=", "<=", "is none"]
NONE: Operator = "is none"

PRESETS: dict[str, tuple[str, ...]] = {
    "svd": ("motion_mean>=p25", "aesthetic>=p25", "clip_similarity>=p50", "text_area<=p75"),
    "svd-f": ("motion_mean>=p25", "aesthetic>=p25", "clip_similarity>=p50", "text_area<=0.07"),
    "svd-standin": ("motion_mean>=p25", "aesthetic_standin>=p25", "clip_similarity_standin>=p50", "text_area<=p75"),
}
"""Published rules. `svd`: what the votes of SVD's study chose (app. E.2.2: motion 25 %, aesthetics 25 %, CLIP 50 %, the
25 % with most text). `svd-f`: the same with text as an area of at most 7 %, as the final LVD-F states it (app. C); the
paper gives both. `svd-standin`: the rules of `svd` on the offline stand-ins, which are not SVD's scores."""

GIVEN_BY = {
    **dict.fromkeys(
        ("clip_similarity", "aesthetic"),
        "--similarity clip:FOLDER,HEAD, with a CLIP model and LAION's aesthetic head in files of yours (--captions, "
        "too, for clip_similarity). Without weights, --similarity standin measures clip_similarity_standin and "
        "aesthetic_standin, by which the preset svd-standin selects",
    ),
    **dict.fromkeys(
        ("clip_similarity_standin", "aesthetic_standin"),
        "--similarity standin; clip_similarity_standin wants captions too (--captions)",
    ),
    "text_area": 'the scorer "text_area" of the configuration, which is on unless it says otherwise',
    "overlay": 'the scorer "overlay" of the configuration, which is on unless it says otherwise',
}
"""What measures an axis: flags of `kineograph curate RAW -o OUT --resume`."""

_ALSO_CALLED = {
    **dict.fromkeys(("motion", "flow", "movement"), "motion_mean"),
    **dict.fromkeys(("text", "ocr", "letters"), "text_area"),
    **dict.fromkeys(("marks", "mark", "watermark", "logo"), "overlay"),
    **dict.fromkeys(("similarity", "clip"), "clip_similarity"),
    **dict.fromkeys(("aesthetics", "beauty"), "aesthetic"),
    **dict.fromkeys(("length", "seconds"), "duration"),
    **dict.fromkeys(("duplicate", "duplicates", "copies"), "duplicate_of"),
}
"""Words for axes that are not their names."""

_RULE = re.compile(r"\s*([A-Za-z_]\w*)\s*(>=|<=)\s*(p?)([-+0-9.eE]+)\s*")
_NONE_RULE = re.compile(r"\s*([A-Za-z_]\w*)\s+is\s+none\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Rule:
    """One condition on one axis.

    Attributes:
        axis: Column of the catalogue.
        operator: `">="`, `"<="` or `"is none"`.
        value: Number, or percentile from 0 to 100; 0 for `"is none"`.
        percentile: Whether `value` is a percentile.
    """

    axis: str
    operator: Operator
    value: float = 0.0
    percentile: bool = False

    def __str__(self) -> str:
        if self.operator == NONE:
            return f"{self.axis} is none"
        return f"{self.axis}{self.operator}{'p' if self.percentile else ''}{self.value:g}"


def parse_rule(text: str) -> Rule:
    """Read a rule such as `"motion_mean>=p25"`.

    Raises:
        InputError: It is no rule, or its percentile is not from 0 to 100.
    """
    if match := _NONE_RULE.fullmatch(text):
        return Rule(match[1], NONE)
    match = _RULE.fullmatch(text)
    try:
        axis, operator, mark, number = match.groups() if match else ("", "", "", "")
        rule = Rule(axis, ">=" if operator == ">=" else "<=", float(number), mark == "p")
    except ValueError:
        raise InputError(
            f"'{text}' is no rule. Write AXIS>=NUMBER, AXIS<=NUMBER, AXIS>=pPERCENTILE, AXIS<=pPERCENTILE or "
            f"AXIS is none; for instance motion_mean>=p25 text_area<=0.07. Presets: {', '.join(PRESETS)}."
        ) from None
    if not np.isfinite(rule.value) or (rule.percentile and not 0 <= rule.value <= 100):
        raise InputError(f"'{text}': a percentile is from 0 to 100 and a threshold is finite.")
    return rule


def parse_rules(rules: str | Sequence[str | Rule]) -> list[Rule]:
    """Read rules or presets: a preset's name, one rule, or a list of both.

    Raises:
        InputError: An entry is neither, or there is none.
    """
    found: list[Rule] = []
    for entry in [rules] if isinstance(rules, str) else rules:
        if isinstance(entry, Rule):
            found.append(entry)
        elif entry in PRESETS:
            found += [parse_rule(line) for line in PRESETS[entry]]
        elif re.fullmatch(r"[\w-]+", entry):
            raise unknown("preset", entry, PRESETS)
        else:
            found.append(parse_rule(entry))
    if not found:
        raise InputError(f"A selection needs at least one rule or preset. Presets: {', '.join(PRESETS)}.")
    return found


@dataclass(frozen=True)
class Frozen:
    """A rule with its number, and what it did.

    Attributes:
        axis: Column of the catalogue.
        operator: `">="`, `"<="` or `"is none"`.
        threshold: The number; 0 for `"is none"`.
        rule: What was asked for, such as `"motion_mean>=p25"`.
        drops: Clips that fail this rule, with or without the others.
        drops_alone: Clips that fail this rule only.
        missing: Clips without a value on this axis; they fail it, and are counted in `drops`.
        lost: Clips that fail this rule and none before it; with `Selection.kept`, these are the population.
        lost_seconds: Their length.
        constant: Whether all clips have one and the same value, by which no percentile can choose.
    """

    axis: str
    operator: Operator
    threshold: float
    rule: str
    drops: int
    drops_alone: int
    missing: int
    lost: int = 0
    lost_seconds: float = 0.0
    constant: bool = False

    def passes(self, values: np.ndarray) -> np.ndarray:
        """Tell which values the rule lets through; NaN fails, except for `"is none"`, which wants it."""
        if self.operator == NONE:
            return np.isnan(values)
        with np.errstate(invalid="ignore"):
            return values >= self.threshold if self.operator == ">=" else values <= self.threshold


@dataclass(frozen=True)
class Selection:
    """What rules kept of a population.

    Attributes:
        name: Of the selection; its files are `selections/<name>.json` and `.parquet`.
        rules: Frozen, in the order given.
        population: Clips that the rules were applied to.
        population_hash: SHA-256 of their ids and their values on the rules' axes.
        kept: Clips kept.
        kept_hash: SHA-256 of the ids kept.
        seconds: Length of all clips.
        kept_seconds: Length of those kept.
    """

    name: str
    rules: list[Frozen]
    population: int
    population_hash: str
    kept: int
    kept_hash: str
    seconds: float
    kept_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Give the selection as plain JSON values."""
        return asdict(self)

    def summary(self) -> str:
        """Give the selection in words: a line for the whole and one per rule."""
        share = self.kept / self.population if self.population else 0.0
        lines = [
            f"'{self.name}' keeps {self.kept} of {self.population} clips ({share:.1%}), "
            f"{self.kept_seconds:.0f} of {self.seconds:.0f} s"
        ]
        for one in self.rules:
            number = "" if one.operator == NONE else f" = {one.threshold:.4g}"
            lacking = f", {one.missing} of them without a value" if one.missing and one.operator != NONE else ""
            lines.append(f"  {one.rule}{number}: drops {one.drops}{lacking}; {one.drops_alone} by this rule alone")
            lines[-1] += f"; {one.lost_seconds:.1f} s lost here" if one.lost else ""
            if one.constant:
                lines.append(f"  every clip has the same value of '{one.axis}', so '{one.rule}' cannot choose")
        return "\n".join(lines)


def run(out: str | Path, rules: str | Sequence[str | Rule], name: str = "default") -> Selection:
    """Select clips of an output folder, and store the selection there.

    Args:
        out: Folder that `kineograph curate` wrote.
        rules: Rules and presets, see `parse_rules`.
        name: Of the selection; an older one of this name is replaced.

    Raises:
        InputError: A rule is malformed, or names an axis that is not there.
        DataError: An axis has no value at all, or the rules keep nothing.
    """
    parsed = parse_rules(rules)
    with Catalogue(out) as catalogue:
        axes = {rule.axis: _values(catalogue, rule) for rule in parsed}
        return _selected(Path(out), _name(name), catalogue, [_freeze(rule, axes[rule.axis]) for rule in parsed], axes)


def apply(out: str | Path, name: str, new_name: str | None = None) -> Selection:
    """Apply a stored selection's frozen numbers to the clips there are now.

    Args:
        out: Folder that `kineograph curate` wrote.
        name: Of the stored selection.
        new_name: Under which to store the result; None replaces the old one.
    """
    stored = load(out, name)
    with Catalogue(out) as catalogue:
        axes = {rule.axis: values_of(catalogue, rule.axis) for rule in stored.rules}
        return _selected(Path(out), _name(new_name or name), catalogue, stored.rules, axes)


def load(out: str | Path, name: str = "default") -> Selection:
    """Read a stored selection.

    Raises:
        DataError: There is none of that name, or its file is damaged.
    """
    file = Path(out) / SELECTIONS / f"{_name(name)}.json"
    if not file.is_file():
        raise unknown("selection", name, stored(out), DataError)
    try:
        found = read_json(file)
        return Selection(**{**found, "rules": [Frozen(**rule) for rule in found["rules"]]})
    except (TypeError, KeyError) as error:
        raise DataError(f"'{file}' is not a selection: {error}. Select anew.") from error


def stored(out: str | Path) -> list[str]:
    """List the names of the stored selections."""
    folder = Path(out) / SELECTIONS
    return sorted(file.stem for file in folder.glob("*.json")) if folder.is_dir() else []


def kept(out: str | Path, name: str = "default") -> list[str]:
    """Return the clip ids that a stored selection kept, in order.

    Raises:
        DataError: The list is gone, or does not fit the selection.
    """
    selection, file = load(out, name), Path(out) / SELECTIONS / f"{name}.parquet"
    if not file.is_file():
        raise DataError(f"'{file}' is gone. Select anew, or apply the stored numbers.")
    table = require("pyarrow.parquet", "curation").read_table(file, columns=["clip_id", "kept"])
    ids = table.filter(table["kept"])["clip_id"].to_pylist()
    if _hash_ids(ids) != selection.kept_hash:
        raise DataError(f"'{file}' does not fit '{name}.json'. Select anew.")
    return ids


def _values(catalogue: Catalogue, rule: Rule) -> np.ndarray:
    """Return the values on a rule's axis.

    Raises:
        InputError: There is no such axis; the message names the one that was meant.
        DataError: The axis was not measured; the message names what measures it.
    """
    axis, known = rule.axis, {*catalogue.columns(), "duplicate_of"}
    if axis not in known and axis in GIVEN_BY:
        raise DataError(f"'{axis}' was not measured on the clips of '{catalogue.out}'. It comes from {GIVEN_BY[axis]}.")
    meant = _ALSO_CALLED.get(axis.lower())
    if axis not in known and meant:
        like = (name for name in catalogue.axes() if name.startswith(f"{axis.lower()}_") and name != meant)
        others = sorted(name for name in like if not name.endswith("_fps"))
        also = f" (or {', '.join(others)})" if others else ""
        raise InputError(f"There is no axis '{axis}'. Write '{replace(rule, axis=meant)}'{also}.")
    return values_of(catalogue, axis)


def values_of(catalogue: Catalogue, axis: str) -> np.ndarray:
    """Return a column's numbers; of a text column, 0 where it holds something and NaN where it is null."""
    kind = catalogue.columns().get(axis)
    if kind == "VARCHAR":
        some = catalogue.query(f'SELECT "{axis}" IS NULL AS none FROM scored ORDER BY clip_id')
        return np.where([row["none"] for row in some], np.nan, 0.0)
    if kind is None and axis == "duplicate_of":
        raise DataError("Duplicates have not been looked for: run duplicates.find(OUT) first.")
    return catalogue.axis(axis)


def threshold(rule: Rule, values: np.ndarray) -> float:
    """Turn a rule into its number: a percentile (linear between values) of those that have one, or as it stands.

    Raises:
        DataError: No clip has a value.
    """
    known = values[~np.isnan(values)]
    if rule.operator == NONE or not rule.percentile:
        return rule.value
    if not len(known):
        how = GIVEN_BY.get(rule.axis, "the scorer that is named like it")
        raise DataError(f"No clip has a value of '{rule.axis}', so it has no percentiles. It comes from {how}.")
    return float(np.percentile(known, rule.value))


def _freeze(rule: Rule, values: np.ndarray) -> Frozen:
    known = values[~np.isnan(values)]
    constant = rule.percentile and len(known) > 1 and not np.ptp(known)
    missing = len(values) - len(known)
    return Frozen(rule.axis, rule.operator, threshold(rule, values), str(rule), 0, 0, missing, constant=bool(constant))


def _selected(
    out: Path, name: str, catalogue: Catalogue, rules: list[Frozen], axes: dict[str, np.ndarray]
) -> Selection:
    """Apply frozen rules to all clips, and write selection and ids."""
    ids, seconds = catalogue.ids(), catalogue.axis("duration")
    passed = np.array([rule.passes(axes[rule.axis]) for rule in rules]).reshape(len(rules), len(ids))
    keep = np.asarray(passed.all(0))
    failures = (~passed).sum(0)
    first = np.where(passed.all(0), -1, (~passed).argmax(0)) if rules else np.full(len(ids), -1)
    counted = [
        replace(
            rule,
            drops=int((~ok).sum()),
            drops_alone=int((~ok & (failures == 1)).sum()),
            missing=int(np.isnan(axes[rule.axis]).sum()),
            lost=int((first == number).sum()),
            lost_seconds=float(seconds[first == number].sum()),
        )
        for number, (rule, ok) in enumerate(zip(rules, passed, strict=True))
    ]
    if not keep.any():
        strict = max(counted, key=lambda one: one.drops)
        raise DataError(
            f"These rules keep none of {len(ids)} clips; '{strict.rule}' alone drops {strict.drops}. Loosen them."
        )
    selection = Selection(
        name=name,
        rules=counted,
        population=len(ids),
        population_hash=_hash_population(ids, axes),
        kept=int(keep.sum()),
        kept_hash=_hash_ids(ids[keep].tolist()),
        seconds=float(seconds.sum()),
        kept_seconds=float(seconds[keep].sum()),
    )
    _store(out, selection, ids, keep, passed)
    return selection


def _store(out: Path, selection: Selection, ids: np.ndarray, keep: np.ndarray, passed: np.ndarray) -> None:
    folder, pa = out / SELECTIONS, require("pyarrow", "curation")
    patterns, which = np.unique(passed.T, axis=0, return_inverse=True)
    reasons = [[rule.rule for rule, ok in zip(selection.rules, row, strict=True) if not ok] for row in patterns]
    failed = pa.array(reasons, pa.list_(pa.string())).take(pa.array(which.ravel()))
    table = pa.table({"clip_id": pa.array(ids.tolist(), pa.string()), "kept": pa.array(keep), "failed": failed})
    write = require("pyarrow.parquet", "curation").write_table
    place(folder / f"{selection.name}.parquet", lambda target: write(table, target))
    place_text(folder / f"{selection.name}.json", json.dumps(selection.to_json(), indent=2) + "\n")


def _name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise InputError(f"'{name}' is no name for a selection: letters, digits, dot, underscore and hyphen.")
    return name


def _hash_ids(ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def _hash_population(ids: np.ndarray, axes: dict[str, np.ndarray]) -> str:
    """Hash ids and values; NaN has one writing, and so has zero."""
    digest = hashlib.sha256("\n".join(ids.tolist()).encode())
    for axis in sorted(axes):
        values = np.where(np.isnan(axes[axis]), np.nan, axes[axis] + 0.0)
        digest.update(axis.encode() + b"\0" + values.astype("<f8").tobytes())
    return digest.hexdigest()
