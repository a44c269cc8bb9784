"""What tests of whole runs share: a quick configuration, and everything that a run must give again."""

from pathlib import Path

from kineograph.curation.config import from_json

QUICK = from_json({"clips": {"min_seconds": 0.5}, "scorers": {}, "motion": {"algorithm": "dis"}})


def tree(out: Path) -> dict[str, bytes]:
    """Return the content of everything that a run must give again: not its log, lock and leftovers."""
    skipped = {"log.jsonl", ".lock"}
    files = (p for p in sorted(out.rglob("*")) if p.is_file() and p.name not in skipped)
    return {str(p.relative_to(out)): p.read_bytes() for p in files if "tmp" not in p.relative_to(out).parts[:1]}
