"""Tiny model folders, written once."""

import sys
from pathlib import Path

import pytest
from diffusers.utils import logging

sys.path.append(str(Path(__file__).parent))  # `latents` serves several files
logging.set_verbosity_error()
logging.disable_progress_bar()


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory):
    """Write each pipeline once; return its folder and the pipeline itself."""
    import tiny_pipelines

    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = folder, getattr(tiny_pipelines, f"write_{name}")(folder)
        return made[name]

    return get
