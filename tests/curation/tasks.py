"""Tasks for children, well and badly behaved."""

import ctypes
import errno
import os
import subprocess
import sys
import time
from pathlib import Path


def work(item, alive):
    """Do what the item says."""
    match item["what"]:
        case "pid":
            return {"pid": os.getpid()}
        case "pandas":
            import pyarrow

            table = pyarrow.Table.from_pylist([{"a": 1}])
            return {"rows": table.num_rows, "pandas": "pandas" in sys.modules}
        case "print":
            print("noise on standard output")
            os.write(1, b"more noise\n")
            return {"printed": True}
        case "crash":
            print("last words", file=sys.stderr, flush=True)
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "raise":
            raise ValueError("no good")
        case "hang":
            time.sleep(3600)
        case "eat":
            hoard = []
            while True:
                hoard.append(os.urandom(1 << 20) * 16)
        case "slow":
            while True:
                alive(item["film"])
                time.sleep(0.05)
        case "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        case "grandchild":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
            Path(item["marker"]).write_text(str(child.pid))
            time.sleep(3600)
        case "once":
            if not Path(item["marker"]).exists():
                Path(item["marker"]).touch()
                os.abort()
            return {}
    raise AssertionError(item)
