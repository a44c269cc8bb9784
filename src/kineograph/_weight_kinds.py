"""What a file in the place of weights is, told from its first bytes: the endings of names do not count.

Weights are read from safetensors and from PyTorch's two layouts. Everything else that people give in their place, such
as the page of a failed download, a pointer of Git LFS or an archive, is named as what it is, with the way to the file
itself.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from pathlib import Path
from typing import Literal

Layout = Literal["safetensors", "zip", "legacy", ""]
"""Layouts of weights: safetensors, PyTorch's archive (since 1.6), its older stream, or none of them."""

HEAD = 1024
"""Bytes that are looked at; the last mark, a tape archive's, stands at 257."""
LONGEST_HEADER = 100_000_000
"""Bytes of the longest header that safetensors allows (`MAX_HEADER_SIZE` in its `tensor.rs`)."""
LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How PyTorch's older files begin, after the pickle's protocol: `MAGIC_NUMBER` of `torch/serialization.py`, pickled."""

UNPACK = "Unpack it and give the file or folder inside"
CONVERT = "Ask for the safetensors version"
SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\x1f\x8b", "a gzip archive", UNPACK),
    (0, b"BZh", "a bzip2 archive", UNPACK),
    (0, b"\xfd7zXZ\x00", "an xz archive", UNPACK),
    (0, b"(\xb5/\xfd", "a Zstandard archive", UNPACK),
    (0, b'\x04"M\x18', "an LZ4 archive", UNPACK),
    (0, b"7z\xbc\xaf'\x1c", "a 7-Zip archive", UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
    (0, b"PK\x05\x06", "an empty zip archive", "Download it again"),
    (0, b"GGUF", "a GGUF file, quantised weights for llama.cpp and its kin", CONVERT),
    (0, b"lmgg", "a GGML file, quantised weights for llama.cpp and its kin", CONVERT),
    (0, b"tjgg", "a GGML file, quantised weights for llama.cpp and its kin", CONVERT),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it", CONVERT),
    (4, b"TFL3", "a TensorFlow Lite model", CONVERT),
    (0, b"\x93NUMPY", "a single NumPy array", CONVERT),
    (0, b"\x89PNG\r\n\x1a\n", "a picture (PNG)", "Pictures are given with --image"),
    (0, b"\xff\xd8\xff", "a picture (JPEG)", "Pictures are given with --image"),
    (0, b"GIF8", "a picture (GIF)", "Pictures are given with --image"),
    (8, b"WEBP", "a picture (WebP)", "Pictures are given with --image"),
    (0, b"II*\x00", "a picture (TIFF)", "Pictures are given with --image"),
    (0, b"MM\x00*", "a picture (TIFF)", "Pictures are given with --image"),
    (0, b"BM", "a picture (BMP)", "Pictures are given with --image"),
    (8, b"AVI ", "a film (AVI)", "Give a file of weights"),
    (4, b"ftyp", "a film or picture (MP4, MOV, HEIC or AVIF)", "Give a file of weights"),
    (0, b"\x1a\x45\xdf\xa3", "a film (Matroska or WebM)", "Give a file of weights"),
    (0, b"%PDF", "a PDF document", "Give a file of weights"),
    (0, b"SQLite format 3\x00", "an SQLite database", "Give a file of weights"),
    (0, b"\x7fELF", "a program", "Give a file of weights"),
    (0, b"MZ", "a program", "Give a file of weights"),
)
"""Place and bytes by which a kind of file is known, what it is called, and what to do."""
PATTERNS = (
    (re.compile(rb"\x08[\x01-\x1f](?:\x12[\x00-\x7f][ -~]|:)"), "an ONNX model"),
    (re.compile(rb"[\x81-\x8f](?:[\xa1-\xbf]|\xd9.)[ -~]"), "a msgpack file, as Flax writes it"),
)
"""How kinds without a mark begin.

ONNX: its version, then the name of what wrote it or the graph (onnx.proto, fields 1, 2 and 7). Msgpack: a map whose
first key is a text (github.com/msgpack/msgpack, spec.md).
"""
TEXT_PICKLE = re.compile(rb"(?:\(?[dl]p?\d*|\(?c[\w.]+)\n")
"""How a pickle of protocol 0 begins, which is text."""


def layout_of(path: Path) -> Layout:
    """Return the layout of weights that a file has, whatever it is called."""
    start = head(path)
    if is_safetensors(start):
        return "safetensors"
    if start.startswith(b"PK\x03\x04"):
        return "zip" if _foreign_zip(path) == "" else ""
    return "legacy" if _is_legacy(start) else ""


def head(path: Path) -> bytes:
    """Return a file's first bytes."""
    with path.open("rb") as stream:
        return stream.read(HEAD)


def is_safetensors(start: bytes) -> bool:
    """Say whether a file that starts so is safetensors: the length of a JSON object, then the object."""
    return len(start) > 8 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] <= LONGEST_HEADER


def _is_legacy(start: bytes) -> bool:
    """Say whether a file that starts so is of PyTorch's older layout, also where it is cut within the first bytes."""
    magic = start[2 : 2 + len(LEGACY_MAGIC)]
    return start[:1] == b"\x80" and len(magic) > 0 and LEGACY_MAGIC.startswith(magic)


def what_it_is(path: Path) -> str:
    """Say what a file is that holds no weights which are read here, and what to do; empty where that is not known.

    Returns:
        Such as `"it is an HTML page ... Download the file itself"`, for the middle of a sentence's end.
    """
    start = head(path)
    if not start:
        return "it is empty (0 bytes). Download it again"
    if start[:4] == b"PK\x03\x04":
        return _foreign_zip(path)
    text = _decoded(start)
    for place, mark, name, fix in SIGNATURES:
        if start[place : place + len(mark)] == mark and (text is None or len(mark) > 3):
            return f"it is {name}. {fix}"
    if start[:1] == b"\x80" and start[1:2] <= b"\x05" and not _is_legacy(start):
        return f"it is {PICKLE}"
    for pattern, name in PATTERNS:
        if pattern.match(start):
            return f"it is {name}. {CONVERT}"
    if not start.strip(b"\0"):
        return "it begins with zeros only, as a download that never finished does. Download it again"
    return "" if text is None else _text_kind(path, start, text)


PICKLE = (
    "a Python pickle that PyTorch did not write, which can be read only by running what it says. Ask for the "
    "safetensors version, or for one that torch.save wrote"
)


def _text_kind(path: Path, start: bytes, text: str) -> str:
    """Say what kind of text a file is."""
    plain = text.lstrip("\ufeff \t\r\n")
    quoted = f"that begins with '{(plain.splitlines() or [''])[0][:40]}'"
    lower = plain.lower()
    if lower.startswith("version https://git-lfs"):
        return _pointer(plain)
    if "/annex/objects/" in lower[:200]:
        return "it is a pointer of git-annex, fetch the file itself with `git annex get`"
    if lower.startswith(("<!doctype html", "<html", "<head", "<body")):
        return f"it is an HTML page {quoted}, as a failed or refused download leaves. Download the file itself"
    if lower.startswith("<"):
        return f"it is an XML document {quoted}, as a failed or refused download leaves. Download the file itself"
    if TEXT_PICKLE.match(start):
        return f"it is {PICKLE}"
    if lower.startswith(("{", "[")):
        return _json_kind(path, quoted)
    return f"it is a text file {quoted}, perhaps a failed download. Download the file itself"


def _decoded(start: bytes) -> str | None:
    """Return text in UTF-8 or UTF-16 with its mark, perhaps cut within a letter, or None for bytes that are no text."""
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = start[: len(start) // 2 * 2].decode("utf-16", errors="replace")
    else:
        text = start.decode("utf-8", errors="ignore")
        if not text or len(text.encode()) < len(start) - 3:
            return None
    return None if any(ord(letter) < 32 and letter not in "\t\r\n\f" for letter in text) else text


def _pointer(text: str) -> str:
    size = re.search(r"^size (\d+)", text, re.MULTILINE)
    stands = f" that stands for {int(size[1]):,} bytes" if size else ""
    return f"it is a Git LFS pointer{stands}, fetch the file itself with `git lfs pull`"


def _json_kind(path: Path, quoted: str) -> str:
    """Say what JSON instead of weights is: an index of shards names where the weights are."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig")) if path.stat().st_size < LONGEST_HEADER else None
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and "weight_map" in content:
        return "it is the index of weights in several files. Give the folder that holds it and them"
    return f"it is a JSON file {quoted}, a configuration or a server's answer. Give the file of weights"


# --- Archives ---------------------------------------------------------------------------------------------------------


def _foreign_zip(path: Path) -> str:
    """Say what a zip archive is that PyTorch did not write; empty where it did, also where it is cut."""
    if not zipfile.is_zipfile(path):
        first = first_entry(path)[0]
        cut = f"it is a zip archive that is cut or damaged ({path.stat().st_size:,} bytes are there). Download it again"
        return "" if _is_of_torch(first) else cut
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "it is a zip archive that is damaged. Download it again"
    if any("/code/" in name for name in names) and any(name.endswith("constants.pkl") for name in names):
        return "it is a TorchScript program, not weights alone. Ask for its state dict"
    if any(name.endswith("/data.pkl") for name in names):
        return ""
    if names and all(name.endswith(".npy") for name in names):
        return f"{NPZ} (.npz). {CONVERT}"
    inside = ", ".join(f"'{name}'" for name in names[:3])
    return f"it is a zip archive{f' of {inside}' if inside else ''}. {UNPACK}"


def is_npz(path: Path) -> bool:
    """Say whether a file is an archive of NumPy arrays, as `numpy.savez` writes it."""
    return head(path).startswith(b"PK\x03\x04") and what_it_is(path).startswith(NPZ)


NPZ = "it is an archive of NumPy arrays"


def _is_of_torch(name: str) -> bool:
    """Say whether PyTorch's archives have an entry of this name."""
    ends = ("/data.pkl", "/.format_version", "/.storage_alignment", "/byteorder", "/version")
    return name.endswith(ends) or "/data/" in name


def first_entry(path: Path) -> tuple[str, int]:
    """Return the name of an archive's first entry, and where its bytes begin (APPNOTE.TXT 6.3.10, section 4.3.7)."""
    start = head(path)
    if len(start) < 30:
        return "", len(start)
    name, extra = struct.unpack("<HH", start[26:30])
    return start[30 : 30 + name].decode("utf-8", errors="replace"), 30 + name + extra


# --- Cut files --------------------------------------------------------------------------------------------------------


def cut_safetensors(path: Path) -> str:
    """Say by how much a safetensors file is shorter than its header declares; empty where it is not.

    A file that is longer is said to be too long.
    """
    size = path.stat().st_size
    if size < 9:
        return f"it is cut: {size} bytes are there, and the length of its header alone takes 8. Download it again"
    with path.open("rb") as stream:
        length = struct.unpack("<Q", stream.read(8))[0]
        if length > LONGEST_HEADER:
            return ""
        text = stream.read(length)
    if len(text) < length:
        return f"it is cut: {size:,} bytes are there, and its header alone takes {8 + length:,}. Download it again"
    return _against_header(size, 8 + length, text)


def _against_header(size: int, begin: int, text: bytes) -> str:
    """Compare a file's size with what the header says of its tensors."""
    try:
        entries = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        declared = begin + max(ends, default=0)
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return ""
    if size < declared:
        return f"it is cut: {size:,} bytes are there, and its header declares {declared:,}. Download it again"
    if size > declared:
        return f"it is {size:,} bytes long, and its header declares {declared:,}. Download it again"
    return ""
