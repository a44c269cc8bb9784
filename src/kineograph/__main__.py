"""`python -m kineograph`: the same program as the `kineograph` command."""

import sys

from kineograph.cli import main

if __name__ == "__main__":
    sys.exit(main())
