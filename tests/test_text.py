"""Text is read the same wherever people write it: marks, line ends, encodings, and errors that name the place."""

import contextlib
import json
import os
import threading
from pathlib import Path

import pytest

from kineograph._text import read_json, read_json_lines, read_lines, read_table, read_text, read_words
from kineograph.cli._prompts import read_prompts
from kineograph.curation import lists, sources
from kineograph.curation.config import read_config
from kineograph.data.importers import import_data
from kineograph.data.manifest import Clip, clip_to_dict, read_manifest
from kineograph.errors import DataError, InputError, KineographError
from kineograph.metrics import clips, evalcrafter
from kineograph.models.weights import read_json as read_configuration
from kineograph.video import Video

ENCODINGS = {
    "plain": "utf-8",
    "utf-8": "utf-8-sig",
    "utf-16le": "utf-16",
    "utf-16be": "utf-16-be",
    "utf-32": "utf-32",
}
WORDS = "a juggling man\nun café\n"


def written(path: Path, text: str, encoding: str = "utf-8", ends: str = "\n") -> Path:
    """Write a text with a byte order mark where the encoding has one."""
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path.write_bytes((mark + text.replace("\n", ends)).encode(encoding))
    return path


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS.keys())
def test_marks_and_line_ends_are_no_part_of_the_text(tmp_path, encoding, ends):
    file = written(tmp_path / "a.txt", WORDS, encoding, ends)
    assert read_text(file) == WORDS
    assert list(read_lines(file)) == [(1, "a juggling man"), (2, "un café")]
    assert read_words(file) == ["a juggling man", "un café"]


def test_lines_are_those_of_editors(tmp_path):
    file = written(tmp_path / "a.txt", "one\u2028still one\x0cand on\n\n\ufeffthree")
    assert list(read_lines(file)) == [(1, "one\u2028still one\x0cand on"), (2, ""), (3, "three")]
    assert read_words(file) == ["one\u2028still one\x0cand on", "three"]


@pytest.mark.parametrize("read", [read_text, lambda file: [*read_lines(file)], lambda file: [*read_table(file)[1]]])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"one\r\ntwo\r\ncaf\xe9\r\n", r"a\.txt:3: not UTF-8 text: byte 0xE9 at offset 13 .*WINDOWS-1252"),
        (b"one\rcaf\xe9 ol\xe9\r", r"a\.txt:2: .*0xE9 at offset 7"),
        ("one\ntwo\n".encode("utf-16-le"), r"a\.txt:1: a NUL character.*looks like UTF-16 .*-f UTF-16LE"),
        ("one\ntwo\n".encode("utf-16-be"), r"a\.txt:1: a NUL character.*-f UTF-16BE"),
        ("né\ntwo\n".encode("utf-16-le"), r"looks like UTF-16 .*-f UTF-16LE"),
        ("one\ntwo".encode("utf-16")[:-1], r"a\.txt:2: not UTF-16 text.*cut short"),
        (b"one\ntwo\n\0\0\1", r"a\.txt:\d: a NUL character.*binary"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", r"a\.txt:1: not UTF-8 text: byte 0x89 at offset 0 .*binary"),
    ],
)
def test_what_is_no_text_is_named_with_its_place(tmp_path, read, content, words):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read(tmp_path / "a.txt")


def test_what_cannot_be_opened_is_an_error_of_the_callers_kind(tmp_path):
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="cannot be read"):
            read_text(place, InputError)


@pytest.mark.parametrize(
    ("content", "fails"), [(b"\xef\xbb\xbfa cat\r\n", False), (b"caf\xe9\n", True), (b"a\0", True)]
)
def test_a_pipe_is_read_once(tmp_path, content, fails):
    """As `--prompts <(command)` gives it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    with pytest.raises(DataError, match="pipe") if fails else contextlib.nullcontext():
        assert read_words(pipe) == ["a cat"]
    writer.join()


def test_json_errors_count_lines(tmp_path):
    written(tmp_path / "a.json", '{\n"a": 1,\n"b"\n}', "utf-16")
    with pytest.raises(DataError, match=r"a\.json:4: not valid JSON .* at column 1"):
        read_json(tmp_path / "a.json")
    written(tmp_path / "a.jsonl", '{"a": 1}\r\n\r\n{"b": }\r\n')
    with pytest.raises(DataError, match=r"a\.jsonl:3: not valid JSON"):
        list(read_json_lines(tmp_path / "a.jsonl"))
    for hostile in ("[" * 100_000, "1" * 5000):
        with pytest.raises(DataError, match=r"a\.json:1: not valid JSON"):
            read_json(written(tmp_path / "a.json", hostile))


def test_tables_count_lines_as_editors_do(tmp_path):
    file = written(tmp_path / "a.csv", '\nname,text\na,"one\ntwo"\n\nb,three\n', ends="\r\n")
    columns, rows = read_table(file)
    assert columns == ["name", "text"]
    assert list(rows) == [(3, {"name": "a", "text": "one\ntwo"}), (6, {"name": "b", "text": "three"})]
    for text, words in (
        ('a,b\n"1\n2",3\nx\n', r"a\.csv:4: the row has 1 cells, not the 2 columns"),
        ('a,b\n"1\n2",3\n"4,5\n6,7\n', r"a\.csv:4: the row that begins here is not well formed: unexpected end"),
        ("a,b,a\n1,2,3\n", r"a\.csv:1: two columns are named 'a'"),
    ):
        with pytest.raises(DataError, match=words):
            list(read_table(written(tmp_path / "a.csv", text))[1])


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t"), ("a.tsv", ",")])
def test_tables_are_separated_as_their_first_line_is(tmp_path, name, delimiter):
    text = f"name{delimiter}text\na{delimiter}one\n"
    assert list(read_table(written(tmp_path / name, text, "utf-16"))[1]) == [(2, {"name": "a", "text": "one"})]


# Every reader of files that people write -------------------------------------------------------------------------

ROW = json.dumps(clip_to_dict(Clip("a.mkv", "un café", 8.0, 2, 16, 16)), ensure_ascii=False)
HDVILA = '{"video_id": "a", "url": "", "clip": [{"clip_id": "a.0", "span": ["00:00:00.000", "00:00:01.000"]}]}'


def imported(file: Path) -> str:
    """Import the folder of a file; give the first caption."""
    import_data(file.parent, overwrite=True)
    return read_manifest(file.parent)[0].caption


READERS = {
    "prompts": ("p.txt", "un café\n", lambda file: read_prompts(file)[0][0]),
    "prompts with seeds": ("p.txt", '{"prompt": "un café", "seed": 3}\n', lambda file: read_prompts(file)[0][0]),
    "manifest": ("manifest.jsonl", ROW + "\n", lambda file: read_manifest(file)[0].caption),
    "caption": ("a.txt", "un café\n", imported),
    "sidecar": ("a.txt", "un café\n", lambda file: sources.text(str(file.with_suffix(".mkv")), None)[0]),
    "table": ("t.csv", 'path,text\na.mkv,"un\ncafé"\n', lambda file: _of_table(file)),
    "tab table": ("t.tsv", "path\ttext\na.mkv\tun café\n", lambda file: _of_table(file)),
    "lines": ("prompts.txt", "un café\n", lambda file: _of_lines(file)),
    "webvid": ("w.csv", "videoid,name\na,un café\n", lambda file: lists.read(file).sources[0].caption),
    "hd-vila": ("h.jsonl", HDVILA + "\n", lambda file: lists.read(file).sources[0].identifier and "un café"),
    "evaluated prompts": ("p.txt", "un café\n", lambda file: clips._read_prompts(file)[0]),
    "prompt object": ("p.json", '{"a": "un café"}', lambda file: clips._read_prompts(file)["a"]),
    "prompt rows": ("p.jsonl", '{"name": "a", "prompt": "un café"}\n', lambda file: clips._read_prompts(file)["a"]),
    "evalcrafter": ("p.txt", "un café\n", lambda file: _of_evalcrafter(file)),
    "curation": ("c.json", '{"clips": {"method": "encode"}}', lambda file: read_config(file) and "un café"),
    "model": ("config.json", '{"name": "un café"}', lambda file: read_configuration(file)["name"]),
}


def _of_table(file: Path) -> str:
    import_data(file, overwrite=True)
    return read_manifest(file.parent)[0].caption


def _of_lines(file: Path) -> str:
    (file.parent / "videos.txt").write_bytes(file.read_bytes()[:0] + b"\xef\xbb\xbfa.mkv\r\n")
    return imported(file)


def _of_evalcrafter(file: Path) -> str:
    metadata = written(file.parent / "metadata.json", '{"0000": {"attributes": {}}}', "utf-16", "\r\n")
    return evalcrafter.read_prompts(file, metadata)[0].text


@pytest.fixture(scope="session")
def film(tmp_path_factory) -> bytes:
    """A clip of two frames."""
    import torch

    return Video(torch.zeros(2, 3, 16, 16), fps=8).save(tmp_path_factory.mktemp("film") / "a.mkv").read_bytes()


@pytest.mark.parametrize(("encoding", "ends"), [("utf-8-sig", "\r\n"), ("utf-16", "\n"), ("utf-16-be", "\r")])
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_takes_every_unicode_encoding(tmp_path, film, reader, encoding, ends):
    name, text, read = READERS[reader]
    (tmp_path / "a.mkv").write_bytes(film)
    assert read(written(tmp_path / name, text, encoding, ends)) == "un café"


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_names_the_byte_that_is_not_unicode(tmp_path, film, reader):
    name, text, read = READERS[reader]
    (tmp_path / "a.mkv").write_bytes(film)
    wrong = text.replace("é", "\xe9") if "é" in text else text.replace("{", '{"é": 1, ', 1)
    file = tmp_path / name
    file.write_bytes(wrong.encode("latin-1"))
    with pytest.raises(KineographError, match=rf"{name}:\d+: not UTF-8 text: byte 0xE9"):
        read(file)
