"""The catalogue: Parquet parts are the truth, and DuckDB in memory answers questions about them.

No database file exists, so nothing is ever locked, stale or half written. Only what is committed is seen: clips count
when their source's own part names them `ok` under the same configuration, and one scorer's values come from one
fingerprint, because two versions of a score must not be compared.

Tables: `sources`, `clips`, one `scores_<scorer>` per scorer, `duplicates`; and `scored`, which is the clips with all
score columns beside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kineograph._text import read_json
from kineograph.curation import rows
from kineograph.errors import DataError, InputError, require, unknown


class Catalogue:
    """Questions to an output folder of `kineograph curate`; use it as a context manager.

    Attributes:
        out: The folder.
        scorers: Fingerprint in use, by scorer.

    Raises:
        DataError: The folder holds no finished source.
        MissingExtraError: DuckDB or pyarrow is not installed.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = Path(out)
        self._database = require("duckdb", "curation").connect()
        sources = _newest(_parts(self.out / rows.PARTS_OF_SOURCES), _configured(self.out, "config"))
        if not sources:
            raise DataError(
                f"There is nothing to look up in '{self.out}': it holds no finished source. Run `kineograph curate "
                f"RAW -o {self.out}` first."
            )
        self._load("sources", sources.values(), rows.schema(rows.SourceRow))
        self._load("clips", self._clip_parts(sources), rows.schema(rows.ClipRow))
        self.scorers = self._load_scores(set(sources))
        self._load_duplicates()

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def query(self, sql: str, parameters: Iterable[Any] = ()) -> list[dict[str, Any]]:
        """Run SQL (DuckDB's) and return one dict per row.

        Raises:
            InputError: DuckDB refuses the statement.
        """
        try:
            result = self._database.execute(sql, list(parameters))
        except require("duckdb", "curation").Error as error:
            raise InputError(f"The catalogue cannot answer '{sql}': {str(error).splitlines()[0]}") from error
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def sources(self) -> list[dict[str, Any]]:
        """Return the rows of all sources, by path."""
        return self.query("SELECT * FROM sources ORDER BY path, source_id")

    def clips(self, ids: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Return the clips with all score columns, by source path and start.

        Args:
            ids: Only these clips; None is all.

        Raises:
            DataError: An id is not in the catalogue.
        """
        found = self.query("SELECT * FROM scored ORDER BY source_path, start_pts, clip_id")
        if ids is None:
            return found
        wanted = set(ids)
        if missing := wanted - {row["clip_id"] for row in found}:
            raise DataError(
                f"{len(missing)} of {len(wanted)} clips are not in '{self.out}', such as {min(missing)}: their source "
                f"was removed or cut anew."
            )
        return [row for row in found if row["clip_id"] in wanted]

    def columns(self) -> dict[str, str]:
        """Return DuckDB's type of every column of `scored`, by name."""
        return {row["column_name"]: row["column_type"] for row in self.query("DESCRIBE scored")}

    def axes(self) -> list[str]:
        """Return the columns of `scored` that hold numbers."""
        numbers = ("DOUBLE", "FLOAT", "BIGINT", "INTEGER", "HUGEINT")
        return [name for name, kind in self.columns().items() if kind in numbers]

    def ids(self) -> np.ndarray:
        """Return all clip ids in order, shape (clips,)."""
        found = self._database.execute("SELECT clip_id FROM scored ORDER BY clip_id").fetchnumpy()
        return np.ma.filled(found["clip_id"], "").astype(np.str_)

    def axis(self, name: str) -> np.ndarray:
        """Return one number per clip, in the order of `ids`; NaN where the clip has none.

        Raises:
            InputError: There is no such column, or it does not hold numbers.
        """
        if name not in self.axes():
            raise unknown("axis", name, self.axes())
        found = self._database.execute(f'SELECT "{name}"::DOUBLE AS value FROM scored ORDER BY clip_id').fetchnumpy()
        return np.ma.filled(np.ma.asarray(found["value"], np.float64), np.nan)

    # Loading ----------------------------------------------------------------------------------------------------

    def _load(self, table: str, files: Iterable[Path], schema: Any) -> None:
        """Make a table of Parquet files; of none, an empty one with the schema's columns."""
        self._database.register("_empty", schema.empty_table())
        self._database.execute(f'CREATE TABLE "{table}" AS SELECT * FROM _empty')
        names = sorted(map(str, files))
        if names:
            listed = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
            source = f"read_parquet([{listed}], union_by_name = true)"
            try:
                self._database.execute(f'INSERT INTO "{table}" BY NAME SELECT * FROM {source}')
            except require("duckdb", "curation").Error as error:
                raise DataError(f"The parts of '{table}' in '{self.out}' cannot be read: {error}") from error
        self._database.unregister("_empty")

    def _clip_parts(self, sources: dict[str, Path]) -> list[Path]:
        # A truncated film counts as failed and still has the clips of its good part.
        having = self.query("SELECT source_id FROM sources WHERE status = ? OR clips > 0", [rows.OK])
        ok = {row["source_id"] for row in having}
        parts = []
        for source_id in sorted(ok & set(sources)):
            part = self.out / rows.PARTS_OF_CLIPS / sources[source_id].name
            if not part.is_file():
                raise DataError(
                    f"'{self.out}' says that source {source_id} is done, but its clips ({part.name}) are gone. Delete "
                    f"{sources[source_id]} and run `kineograph curate` again."
                )
            parts.append(part)
        return parts

    def _load_scores(self, sources: set[str]) -> dict[str, str]:
        """Load every scorer's table and the joined view; return the fingerprints."""
        folder, used, view, taken = self.out / rows.PARTS_OF_SCORES, {}, "SELECT * FROM clips", {"source_id"}
        taken |= set(rows.schema(rows.ClipRow).names)
        for place in sorted(folder.iterdir()) if folder.is_dir() else ():
            fingerprint, files = _one_fingerprint(_parts(place), _configured(self.out, "scorers", place.name), sources)
            if not fingerprint:
                continue
            used[place.name], table = fingerprint, f"scores_{place.name}"
            self._load(table, files, require("pyarrow.parquet", "curation").read_schema(files[0]))
            fresh = [row["name"] for row in self.query(f"PRAGMA table_info('{table}')") if row["name"] not in taken]
            taken |= set(fresh)
            chosen = ", ".join(["clip_id", *(f'"{name}"' for name in fresh)])
            view = f'SELECT * FROM ({view}) LEFT JOIN (SELECT {chosen} FROM "{table}") USING (clip_id)'
        self._view = view
        return used

    def _load_duplicates(self) -> None:
        from kineograph.curation.duplicates import DUPLICATES_FILE

        file = self.out / DUPLICATES_FILE
        if file.is_file():
            self._load("duplicates", [file], require("pyarrow.parquet", "curation").read_schema(file))
            some = "SELECT clip_id, duplicate_of FROM duplicates"
            self._view = f"SELECT * FROM ({self._view}) LEFT JOIN ({some}) USING (clip_id)"
        self._database.execute(f"CREATE VIEW scored AS {self._view}")


_PART = re.compile(r"([0-9a-zA-Z_-]+)\.([0-9a-zA-Z_-]+)\.parquet")


def _parts(folder: Path) -> list[tuple[str, str, Path]]:
    """List `(source_id, fingerprint, file)` of the parts in a folder; other files are none of ours."""
    if not folder.is_dir():
        return []
    found = ((_PART.fullmatch(file.name), file) for file in sorted(folder.iterdir()))
    return [(match[1], match[2], file) for match, file in found if match]


def _newest(parts: list[tuple[str, str, Path]], wanted: str | None) -> dict[str, Path]:
    """Choose one part per source: those of the wanted configuration if there are any, else each one written last.

    A folder whose configuration was changed and whose run was interrupted holds parts of both; clips cut and measured
    by different rules are no population.
    """
    if any(fingerprint == wanted for _, fingerprint, _ in parts):
        return {source_id: file for source_id, fingerprint, file in parts if fingerprint == wanted}
    chosen: dict[str, Path] = {}
    for source_id, _, file in sorted(parts, key=lambda part: part[2].stat().st_mtime_ns):
        chosen[source_id] = file
    return chosen


def _one_fingerprint(
    parts: list[tuple[str, str, Path]], wanted: str | None, sources: set[str]
) -> tuple[str, list[Path]]:
    """Choose one fingerprint for a scorer, the configured one or the one written last, and its files."""
    if not parts:
        return "", []
    last = max(parts, key=lambda part: part[2].stat().st_mtime_ns)[1]
    use = wanted if any(fingerprint == wanted for _, fingerprint, _ in parts) else last
    return str(use), [file for source_id, fingerprint, file in parts if fingerprint == use and source_id in sources]


def _configured(out: Path, *keys: str) -> str | None:
    """Return a fingerprint that `config.json` names under `fingerprints`, if it does."""
    try:
        found = read_json(out / rows.CONFIG_FILE)
    except DataError:
        return None
    for key in ("fingerprints", *keys):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, str) else None
