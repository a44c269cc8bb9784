"""Shared fixtures: fixed seeds, one thread for linear algebra, no network; which tests ask for bfloat16."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # `tiny_models` serves several folders

from tiny_models import tiny_model

from kineograph import devices

torch.set_num_threads(1)


def pytest_configure(config):
    """Write down which tests ask for bfloat16; `make test-bf16` gives them the other answer."""
    if record := os.environ.get("KINEOGRAPH_BF16_ASKED"):
        answer, file = devices._bf16_switch, Path(record).resolve()  # tests change the working directory
        devices._bf16_switch = lambda: _noted(file) or answer()


def _noted(record: Path) -> None:
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    with record.open("a", encoding="utf-8") as file:  # one short write: workers append side by side
        file.write(f"{test}\n" if test else "")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A complete tiny text-to-video model on disk."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tiny_model().save_pretrained(folder, torch.float32)
    return folder
