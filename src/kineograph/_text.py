"""Read text that people and other programs wrote: one answer to encodings, line ends and what is no text.

A byte order mark decides between UTF-8, UTF-16 and UTF-32, and is no part of the text. Without one, text is UTF-8.
Other encodings are never guessed, since a wrong guess puts wrong letters into captions: the error names the file, the
line and the byte. Lines end with a line feed, a carriage return or both, and with nothing else, as in editors: the
separators that `str.splitlines` knows besides (U+2028, form feed) stay inside their line. A file with NUL characters is
no text.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from kineograph.errors import DataError, KineographError

_MARKS = {  # the longer mark first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_MARK = "\ufeff"
_HEAD = 512
_LONGEST_CELL = 1 << 24
"""Characters of a table's cell at most; Panda-70M's lists of captions exceed Python's default of 131,072."""


def read_text(path: str | Path, error: type[KineographError] = DataError) -> str:
    """Read a text file whole; every line ends with a line feed.

    Args:
        path: The file.
        error: Class of the errors.

    Raises:
        KineographError: The file cannot be read, or is no text in a Unicode encoding.
    """
    with _opened(Path(path), error) as file:
        text = file.read().replace("\n" + _MARK, "\n").removeprefix(_MARK)
    if "\0" in text:
        raise _no_text(Path(path), text.count("\n", 0, text.index("\0")) + 1, error)
    return text


def read_lines(path: str | Path, error: type[KineographError] = DataError) -> Iterator[tuple[int, str]]:
    """Yield `(number from 1, line without its end)`, empty lines too; a large file is never in memory as a whole.

    Raises:
        KineographError: As `read_text`; of a bad line when it is reached.
    """
    with _opened(Path(path), error) as file:
        for number, line in enumerate(file, 1):
            if "\0" in line:
                raise _no_text(Path(path), number, error)
            yield number, line.removesuffix("\n").removeprefix(_MARK)


def read_words(path: str | Path, error: type[KineographError] = DataError) -> list[str]:
    """Read a list with one entry per line, without empty lines and the spaces around entries."""
    return [line.strip() for _, line in read_lines(path, error) if line.strip()]


def read_json(path: str | Path, error: type[KineographError] = DataError) -> Any:
    """Read a JSON file.

    Raises:
        KineographError: It cannot be read, is no text or no JSON; the message names the line.
    """
    return parse_json(read_text(path, error), str(path), error)


def read_json_lines(path: str | Path, error: type[KineographError] = DataError) -> Iterator[tuple[int, Any]]:
    """Yield `(line number, value)` of a file with one JSON value per line; empty lines are passed over.

    Raises:
        KineographError: As `read_json`, when the line is reached.
    """
    for number, line in read_lines(path, error):
        if line.strip():
            yield number, parse_json(line, str(path), error, number)


def parse_json(text: str, where: str, error: type[KineographError] = DataError, line: int = 1) -> Any:
    """Parse JSON.

    Args:
        text: The JSON.
        where: The file's name.
        error: Class of the error.
        line: Number of the text's first line in the file.

    Raises:
        KineographError: It is no JSON, or nested too deeply; the message begins with `where:line:`.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as wrong:
        at = f"{where}:{line + wrong.lineno - 1}"
        raise error(f"{at}: not valid JSON ({wrong.msg} at column {wrong.colno}).") from wrong
    except (ValueError, RecursionError) as wrong:  # a number of thousands of digits; brackets within brackets
        raise error(f"{where}:{line}: not valid JSON ({wrong}).") from wrong


def read_table(
    path: str | Path, error: type[KineographError] = DataError, delimiter: str | None = None
) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """Read a CSV or TSV table with a first line of column names.

    Args:
        path: The file.
        error: Class of the errors.
        delimiter: Character between cells; None takes a tab for `.tsv`, and else what the first line has: commas, or
            where there is none, semicolons or tabs, as spreadsheets write them.

    Returns:
        The column names, and an iterator of `(line on which the row begins, column to cell)`, counted as editors do:
        a line break inside a quoted cell counts.

    Raises:
        KineographError: The file cannot be read, is no text or has a column twice; of a row that has not all cells,
            or whose quotes do not close, when it is reached.
    """
    path = Path(path)
    rows = _records(path, error, delimiter or _delimiter(path, error))
    columns = next(rows, (1, []))[1]
    if twice := next((name for name in columns if name and columns.count(name) > 1), None):
        raise error(f"{path}:1: two columns are named '{twice}'. Rename one of them.")
    return columns, _named(path, columns, rows, error)


def _named(
    path: Path, columns: list[str], rows: Iterator[tuple[int, list[str]]], error: type[KineographError]
) -> Iterator[tuple[int, dict[str, str]]]:
    for line, cells in rows:
        if len(cells) != len(columns):
            raise error(
                f"{path}:{line}: the row has {len(cells)} cells, not the {len(columns)} columns of the first line. "
                f"A cell with a comma must stand in double quotes."
            )
        yield line, dict(zip(columns, cells, strict=True))


def _delimiter(path: Path, error: type[KineographError]) -> str:
    header = next(read_lines(path, error), (1, ""))[1]
    order = "\t,;" if path.suffix.lower() == ".tsv" else ",;\t"
    return next((character for character in order if character in header), order[0])


def _records(path: Path, error: type[KineographError], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each row begins, and its cells; empty lines are passed over."""
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader((f"{line}\n" for _, line in read_lines(path, error)), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as wrong:
            raise error(f"{path}:{line}: the row that begins here is not well formed: {wrong}.") from wrong
        if cells:
            yield line, cells


# ----------------------------------------------------------------------------------------------------------- encodings


@contextlib.contextmanager
def _opened(path: Path, error: type[KineographError]) -> Iterator[IO[str]]:
    """Open a text file in the encoding that its mark says; say where it is none while it is read."""
    encoding = "utf-8"
    try:
        with path.open("rb") as raw:  # opened once: a pipe, such as `<(command)`, can be read once only
            encoding = _encoding(raw.peek(4))
            with io.TextIOWrapper(raw, encoding=encoding) as file:
                yield file
    except UnicodeError as wrong:  # of UTF-16 cut in the middle of a character, too
        raise _not_unicode(path, encoding, error) from wrong
    except OSError as wrong:
        raise error(f"'{path}' cannot be read: {wrong.strerror or wrong}.") from wrong


def _encoding(head: bytes) -> str:
    return next((name for mark, name in _MARKS.items() if head.startswith(mark)), "utf-8")


def _not_unicode(path: Path, encoding: str, error: type[KineographError]) -> KineographError:
    """Find the first byte that does not belong, and say so."""
    if not path.is_file():
        return error(f"'{path}' is not {encoding.removesuffix('-sig').upper()} text.")
    line, offset, byte = _first_wrong(path, encoding)
    name = encoding.removesuffix("-sig").upper()
    why = f"{path}:{line}: not {name} text: byte 0x{byte:02X} at offset {offset} does not belong."
    return error(f"{why} {_advice(path, encoding)}")


def _first_wrong(path: Path, encoding: str) -> tuple[int, int, int]:
    """Return the line (from 1), the offset and the value of the first byte that cannot be decoded."""
    line, offset = 1, 0
    with path.open("rb") as file:
        for part in file if encoding.startswith("utf-8") else [file.read()]:
            try:
                part.decode(encoding.removesuffix("-sig"))
            except UnicodeDecodeError as wrong:
                before = part[: wrong.start].decode(encoding, errors="ignore")
                return line + _ends(before), offset + wrong.start, part[wrong.start]
            line, offset = line + _ends(part.decode(encoding)), offset + len(part)
    return line, offset, 0


def _ends(text: str) -> int:
    return text.count("\r") + text.count("\n") - text.count("\r\n")


def _no_text(path: Path, line: int, error: type[KineographError]) -> KineographError:
    return error(f"{path}:{line}: a NUL character, which no text has. {_advice(path, 'utf-8')}")


def _advice(path: Path, encoding: str) -> str:
    """Say what the file may be instead, by its first bytes, and how to mend it."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if encoding not in ("utf-8", "utf-8-sig"):
        return "It is damaged or cut short: write it again, best as UTF-8."
    for name, zeros in (("UTF-16LE", head[1::2]), ("UTF-16BE", head[::2])):
        if zeros.count(0) > len(zeros) / 2:
            return f"It looks like UTF-16 without a byte order mark; convert it: {_iconv(name, path)}"
    if 0 in head:
        return "It is a binary file."
    return f"If it comes from Windows, convert it: {_iconv('WINDOWS-1252', path)}, or save it as UTF-8 in an editor."


def _iconv(encoding: str, path: Path) -> str:
    return f"iconv -f {encoding} -t UTF-8 '{path.name}' > 'utf8-{path.name}'"
