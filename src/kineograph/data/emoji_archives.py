"""The npm packages of the animated emoji: downloaded once, and read without unpacking."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from kineograph.data import emoji_words
from kineograph.errors import DataError, ResourceError

PACKAGES = tuple(f"@lobehub/fluent-emoji-anim-{part}" for part in (1, 2, 3, 4))
VERSION = "1.0.0"  # the published version of all four packages; pinned so that the data set is the same everywhere
VERSIONS = dict.fromkeys(PACKAGES, VERSION) | {emoji_words.PACKAGE: emoji_words.VERSION}


def archive_name(package: str) -> str:
    """Return the file name that `npm pack` gives a package."""
    return f"{package.lstrip('@').replace('/', '-')}-{VERSIONS[package]}.tgz"


def npm_pack(package: str, directory: Path) -> Path:
    """Download one package's archive with the user's `npm`; an archive that is already there is kept.

    Args:
        package: npm name.
        directory: Where the archive goes.

    Returns:
        The archive.

    Raises:
        ResourceError: There is no `npm`, or it failed.
    """
    target = directory / archive_name(package)
    if target.is_file():
        return target
    npm = shutil.which("npm")
    if npm is None:
        raise ResourceError(
            "The emoji come from npm packages and this machine has no `npm`. Install it (Debian: apt-get install npm), "
            f"or run `npm pack {package}@{VERSIONS[package]}` elsewhere for each of {', '.join(VERSIONS)} and pass the "
            "folder as --archives."
        )
    staging = directory / f".npm-{target.stem}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    result = subprocess.run(
        [npm, "pack", f"{package}@{VERSIONS[package]}", "--pack-destination", str(staging)],
        capture_output=True,
        text=True,
        check=False,
    )
    packed = sorted(staging.glob("*.tgz"))
    if result.returncode or not packed:
        problem = (result.stderr.strip() or "no output")[-500:]
        raise ResourceError(f"`npm pack {package}@{VERSIONS[package]}` failed: {problem}")
    packed[0].replace(target)
    staging.rmdir()
    return target


def iterate_archive(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield `(stem, file content)` of each WebP of an archive.

    Raises:
        DataError: The file is no readable gzipped tar (for example an interrupted download).
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.isfile() and member.name.endswith(".webp"):
                    content = tar.extractfile(member)
                    assert content is not None
                    yield Path(member.name).stem, content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(
            f"'{archive}' is not a complete npm archive ({error}). Delete it and run the command again."
        ) from error


def archive_files(
    store: Path, *, download: bool, progress: Callable[[int, int | None, str], None] | None
) -> list[Path]:
    """Return the archives, downloading them if allowed: the four with pictures, then the one with keywords."""
    store.mkdir(parents=True, exist_ok=True)
    files = []
    for number, package in enumerate(VERSIONS):
        if progress:
            progress(number, len(VERSIONS), f"archive {package}")
        file = store / archive_name(package)
        if not file.is_file() and not download:
            raise DataError(f"'{store}' lacks {file.name}. Get it with: npm pack {package}@{VERSIONS[package]}")
        files.append(npm_pack(package, store))
    return files


def contents(archives: Iterable[Path], wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yield `(stem, content)` of the wanted files, each once, and read no further than they reach."""
    left = set(wanted)
    for archive in archives:
        for stem, content in iterate_archive(archive) if left else ():
            if stem in left:
                left.remove(stem)
                yield stem, content
            if not left:
                break


def is_animated(webp: bytes) -> bool:
    """Read the animation flag of a WebP file's extended header (RFC 9649, section 2.7)."""
    return webp[12:16] == b"VP8X" and len(webp) > 20 and bool(webp[20] & 2)
