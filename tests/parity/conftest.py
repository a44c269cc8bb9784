"""Make `tiny.py` importable by the parity tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "temporal"))
