"""Make `flags.py` importable by the tests of the command line."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
