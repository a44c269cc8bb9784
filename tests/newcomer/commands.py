"""The commands that README and docs show, as a reader would type them, and how a test makes them quick."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\s*(?:\$ )?((?:kineograph|python|make|pip) .*)$")


def name_of(page: Path) -> str:
    """Return a page's path from the root."""
    return page.relative_to(ROOT).as_posix()


def commands_of(page: Path) -> list[str]:
    """Return the commands of a page's code blocks, fenced or indented, comments left out and long lines joined."""
    text = page.read_text()
    fenced = [block for language, block in FENCE.findall(text) if language not in ("python", "json")]
    indented = re.findall(r"^    .*$", FENCE.sub("", text), flags=re.MULTILINE)
    lines = "\n".join([*fenced, *indented]).replace("\\\n", " ").splitlines()
    found = [match[1] for line in lines if (match := COMMAND.match(line))]
    return [re.sub(r"\s+", " ", re.sub(r"\s+# .*", "", command)).strip() for command in found]


FILES = (".ckpt", ".safetensors", "-xt", "-1.7b/", "FOLDER_OR_FILE", "PATH")
"""How the published models of the pages are called."""

SHORT = {
    "generate": {"--steps": "2"},
    "train": {"--max-train-steps": "1", "--train-batch-size": "2"},
    "bench": {"--quick": None, "--parts": "startup"},
}
"""What a test adds to a verb, or puts in place of a value, so that a command takes seconds."""


SMALL = {"--height": "64", "--width": "64", "--num-frames": "4"}
"""What a published model is asked for besides, whose stand-in has published settings and tiny weights."""


MORE = {"kineograph convert mm_sd_v15_v2.ckpt": ["--base", "realistic.safetensors"]}
"""What a stand-in must be told, where the published file is known by its size."""


def short(command: str) -> list[str]:
    """Return the words of a `kineograph` command, with less work for the same code."""
    words = shlex.split(command)[1:]
    published = words[0] == "generate" and any(word.endswith(FILES) for word in words)
    words += next((more for start, more in MORE.items() if command.startswith(start)), [])
    for flag, value in {**SHORT.get(words[0], {}), **(SMALL if published else {})}.items():
        words = replaced(words, flag, value)
    return words


def replaced(words: list[str], flag: str, value: str | None) -> list[str]:
    """Put a value behind a flag, whether the words hold it or not."""
    if flag in words and value is not None:
        at = words.index(flag)
        return [*words[: at + 1], value, *words[at + 2 :]]
    return [*words, flag] if value is None else [*words, flag, value]
