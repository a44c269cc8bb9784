"""A stage that a file can break: what a decoder's bug does, without needing the bug."""

import os
import signal
import time

from kineograph.curation import pipeline


def process(content, alive):
    """Crash, hang or eat memory as the file says; otherwise work."""
    with open(content["path"], "rb") as file:  # noqa: PTH123
        word = file.read(8)
    if word.startswith(b"CRASH"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if word.startswith(b"HANG"):
        time.sleep(3600)
    if word.startswith(b"GLUTTON"):
        hoard = []
        while True:
            hoard.append(bytearray(os.urandom(1 << 20)) * 32)
            time.sleep(0.005)
    return pipeline.process(content, alive)


def stretch(content, alive):
    """Crash in every stretch that is not the first."""
    if content["stretch"]["preceding"] is not None:
        os.kill(os.getpid(), signal.SIGSEGV)
    return pipeline.stretch(content, alive)
