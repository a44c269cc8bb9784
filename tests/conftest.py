"""Shared fixtures: fixed seeds, one thread for linear algebra, no network."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # `tiny_models` serves several folders

from tiny_models import tiny_model

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A complete tiny text-to-video model on disk."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tiny_model().save_pretrained(folder, torch.float32)
    return folder
