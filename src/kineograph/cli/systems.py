"""`kineograph systems`: the registry of published systems; run as a module, it writes the table of a Markdown file."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from kineograph.cli._output import emit, markdown, table
from kineograph.errors import InputError

if TYPE_CHECKING:
    from kineograph.systems.card import System

BEGIN, END = "<!-- registry: begin (written by `make readme`) -->", "<!-- registry: end -->"
WORDS = {"tested": "equal, tested here", "compared": "equal, compared once", "paper": "from the paper"}
"""A card's evidence in the tables; `kineograph.systems.card.EVIDENCE` says it in full."""


@dataclass(frozen=True)
class Args:
    """List the published systems, or show one: paper, licences, what it adds, presets, how to cite it."""

    action: Positional[Literal["list", "show"]] = "list"
    """What to do."""

    name: Annotated[Positional[str], arg(metavar="NAME")] = ""
    """The system to show, as `kineograph systems` lists it; only with `show`."""

    json: bool = False
    """Print one JSON document instead of text."""


def run(args: Args) -> int:
    """Print the registry or one system."""
    from kineograph.systems import systems

    registry = systems()
    if args.action == "show":
        if not args.name:
            raise InputError(f"Name the system to show. Known: {', '.join(registry)}.")
        system = registry.find(args.name)
        emit(describe(system), lambda: _page(system), args.json)
        return 0
    if args.name:
        raise InputError(f"`systems list` takes no name. To show one: kineograph systems show {args.name}")
    found = list(registry.values())
    emit([describe(system) for system in found], lambda: _list(found), args.json)
    return 0


def describe(system: System) -> dict[str, Any]:
    """Return a system's card, presets and weight layouts as plain data."""
    presets = {name: dataclasses.asdict(preset) for name, preset in system.presets.items()}
    return {
        "name": system.name,
        **dataclasses.asdict(system.card),
        "presets": presets,
        "key_maps": list(system.key_maps),
        "bibtex": bibtex(system),
    }


def bibtex(system: System) -> str:
    """Return a BibTeX entry made from the card."""
    card = system.card
    fields = {
        "title": f"{{{card.title}}}",
        "author": _authors(card.authors),
        "year": str(card.year),
    }
    if card.arxiv:
        fields |= {"eprint": card.arxiv, "archivePrefix": "arXiv"}
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@misc{{{system.name},\n{body}\n}}"


def _authors(names: str) -> str:
    """Turn `A, B et al.` into BibTeX's `A and B and others`."""
    listed = names.rstrip(". ").removesuffix(" et al")
    return " and ".join(
        [*(name.strip() for name in listed.split(",")), *(["others"] if listed != names.rstrip(". ") else [])]
    )


def registry_table() -> str:
    """Return the registry as a Markdown table, for the README."""
    from kineograph.systems import systems

    rows = [(f"`{s.name}`", _paper(s), _words(s.card.adds), WORDS[s.card.evidence]) for s in systems().values()]
    return markdown(rows, ("name", "paper", "what it adds to an image model", "evidence"))


def with_registry_table(text: str) -> str:
    """Return a Markdown text with the table between its two marks renewed.

    Raises:
        InputError: The text lacks the marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(
            f"The text has no place for the registry table: put '{BEGIN}' and '{END}' on lines of their own."
        )
    return f"{before}{BEGIN}\n{registry_table()}\n{END}{after}"


def _paper(system: System) -> str:
    card = system.card
    title = f"[{card.title}](https://arxiv.org/abs/{card.arxiv})" if card.arxiv else card.title
    return f"{title}, {card.authors.rstrip('.')}. {card.year}"


def _words(sentences: tuple[str, ...]) -> str:
    return " ".join(sentence.rstrip(".") + "." for sentence in sentences)


def _list(found: list[System]) -> str:
    from kineograph.systems.card import EVIDENCE

    rows = [(s.name, s.card.year, s.card.arxiv or "-", s.card.evidence, ", ".join(s.presets)) for s in found]
    lines = [table(rows, ("name", "year", "arXiv", "evidence", "presets")), ""]
    lines += [textwrap.fill(f"{word}: {meaning}", 100, subsequent_indent="  ") for word, meaning in EVIDENCE.items()]
    return "\n".join([*lines, "More about one: kineograph systems show NAME"])


def _page(system: System) -> str:
    return "\n".join(_page_lines(system))


def _page_lines(system: System) -> Iterator[str]:
    from kineograph.systems.card import EVIDENCE

    card = system.card
    yield f"{system.name}: {card.title}"
    yield f"{card.authors.rstrip('.')}. {card.year}{f', arXiv:{card.arxiv}' if card.arxiv else ''}"
    yield ""
    yield f"code      {card.code or 'none published'} ({card.code_license or 'no licence stated'})"
    yield f"weights   {card.weights_license or 'none released'}"
    yield textwrap.fill(f"evidence  {EVIDENCE[card.evidence]}", 100, subsequent_indent=" " * 10)
    yield f"layouts   {', '.join(system.key_maps) or 'diffusers only'}"
    yield from _section("Adds to an image model", card.adds)
    yield from _section("Differs from the paper", card.differs)
    yield from _section("Presets", tuple(_preset_line(name, preset) for name, preset in system.presets.items()))
    yield f"\nCite:\n{bibtex(system)}"


def _section(title: str, items: tuple[str, ...]) -> Iterator[str]:
    if items:
        yield f"\n{title}:"
    for item in items:
        yield textwrap.fill(item, 100, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False)


def _preset_line(name: str, preset: Any) -> str:
    values = ", ".join(f"{field.name}={getattr(preset, field.name)!r}" for field in dataclasses.fields(preset))
    return f"{name}: {values}"


def _rewrite(path: Path) -> None:
    """Renew the table of a Markdown file under a temporary name, then rename it."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(with_registry_table(path.read_text()))
    part.replace(path)


if __name__ == "__main__":
    _rewrite(Path(sys.argv[1]))
