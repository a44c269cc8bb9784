"""Make `tiny.py` importable by the tests of systems."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "temporal"))
