"""Things that are made from a data set once and kept: built under a lock, renamed when whole, made again when broken.

Several runs may ask for the same thing at once: one makes it, the others wait. A lock ends with its process, so a
killed run holds nobody up and what it left is swept away by the next.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from kineograph.errors import ResourceError

Progress = Callable[[int, "int | None", str], None]
INDEX = "index.json"
_BLOCK, _BLOCKS = 1 << 16, 64  # of a large file so much is looked at when it is opened: 4 MB, within milliseconds
_WAIT = 0.1  # seconds between two looks at a lock


def default_cache() -> Path:
    """Return the folder for caches: `$KINEOGRAPH_CACHE`, or `~/.cache/kineograph`."""
    return Path(os.environ.get("KINEOGRAPH_CACHE") or Path.home() / ".cache" / "kineograph")


def kept(
    place: Path, whole: Callable[[Path], bool], build: Callable[[Path], None], progress: Progress | None = None
) -> Path:
    """Return a file or folder of the cache, made first if it is not there or not whole.

    Args:
        place: Its path; the name is a key of all that decides the content.
        whole: Says whether what is at a path is complete and undamaged.
        build: Makes it at the path it is given, which is free.
        progress: Called with `(seconds, None, what)` while another process makes it.

    Raises:
        ResourceError: The disk is full; nothing is left of what was begun.
    """
    if not whole(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place, progress) as alone:
            if not whole(place):
                _make(place, build, alone)
    return place


def opened(folder: Path, build: Callable[[Path], None], progress: Progress | None = None) -> dict[str, Any]:
    """Return the index of a folder of the cache, made first if need be; see `kept`. `build` ends with `write_index`."""
    found: dict[str, Any] = {}

    def whole(place: Path) -> bool:
        found.update(read_index(place) or {})
        return bool(found)

    kept(folder, whole, build, progress)
    return found if found or whole(folder) else {}


def _make(place: Path, build: Callable[[Path], None], alone: bool) -> None:
    """Build under a private name and rename; what was there is broken and goes."""
    if alone:
        for left in place.parent.glob(f".part-{place.name}*"):
            _delete(left)
    part = place.with_name(f".part-{place.name}-{os.getpid()}")
    _delete(part)
    try:
        build(part)
        _delete(place)
        part.rename(place)
    except OSError as error:
        _delete(part)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"The disk is full: the cache '{place}' could not be written. Free some space, or give another folder "
                "with --cache or $KINEOGRAPH_CACHE."
            ) from error
        raise
    except BaseException:
        _delete(part)
        raise


def _delete(path: Path) -> None:
    """Delete a file or a folder; a folder loses its index first, so that a half of it is never taken for whole."""
    if path.is_dir():
        (path / INDEX).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(place: Path, progress: Progress | None) -> Iterator[bool]:
    """Let one process at a time make a place; yields whether that could be had (some network disks have no locks)."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield False
        return
    file, began = place.with_name(f".lock-{place.name}"), time.monotonic()
    while True:
        handle = file.open("w")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _names(file, handle):
                break
        except BlockingIOError:
            time.sleep(_WAIT)
            if progress:
                progress(int(time.monotonic() - began), None, "seconds of waiting for another run to make the cache")
        except OSError:
            handle.close()
            yield False
            return
        handle.close()
    try:
        yield True
    finally:
        file.unlink(missing_ok=True)
        handle.close()


def _names(file: Path, handle: IO[str]) -> bool:
    """Say whether a lock's file still bears its name: its last holder deletes it."""
    with suppress(FileNotFoundError):
        return os.path.samestat(file.stat(), os.fstat(handle.fileno()))
    return False


def sample(file: Path, end: int | None = None) -> str:
    """Return a hash of blocks spread evenly over a file's first `end` bytes (None: all), its first and last among them.

    It shows what a crash of a machine leaves, such as a file of the right length full of zeros, without reading all.
    """
    size = file.stat().st_size if end is None else end
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        for start in sorted({max(0, size - _BLOCK) * i // (_BLOCKS - 1) for i in range(_BLOCKS)}):
            stream.seek(start)
            digest.update(stream.read(min(_BLOCK, size - start)))
    return digest.hexdigest()


def write_index(folder: Path, body: dict[str, Any]) -> None:
    """Write what a folder of the cache holds, last, with the sizes and samples of its files."""
    files = {file.name: sample(file) for file in sorted(folder.iterdir())}
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    text = json.dumps({"files": files, **body})
    with (folder / INDEX).open("w", encoding="utf-8") as out:
        out.write(json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest()}) + "\n" + text)
        out.flush()
        os.fsync(out.fileno())


def read_index(folder: Path) -> dict[str, Any] | None:
    """Return what `write_index` wrote, or None if anything of it is missing or not as it was."""
    try:
        head, _, text = (folder / INDEX).read_text(encoding="utf-8").partition("\n")
        body = json.loads(text)
        same = json.loads(head)["sha256"] == hashlib.sha256(text.encode()).hexdigest()
        same = same and all(sample(folder / name) == wanted for name, wanted in body["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return body if same else None
