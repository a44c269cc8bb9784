"""What a reader of files has to say and that is no error: one line on stderr, like the licences."""

from __future__ import annotations

import sys


def notice(line: str) -> None:
    """Say one sentence on stderr."""
    sys.stderr.write(f"{line}\n")
