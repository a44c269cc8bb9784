"""The bundled model: complete, small enough, unchanged, and able to make a picture and a clip."""

import hashlib

import pytest
import torch

import kineograph as kg
from kineograph.sampling.generate import BUNDLED

FOLDER = BUNDLED / "emoji"
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def model():
    return kg.load("emoji")


def test_files_are_those_of_the_checksums():
    lines = [line.split(maxsplit=1) for line in (FOLDER / "SHA256SUMS").read_text().splitlines()]
    weights = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.safetensors")}
    assert weights <= {name.strip() for _, name in lines}
    for digest, name in lines:
        assert hashlib.sha256((FOLDER / name.strip()).read_bytes()).hexdigest() == digest, name


def test_sizes_stay_within_the_limits():
    sizes = {path: path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()}
    assert max(sizes.values()) < 95 * MEGABYTE
    assert sum(sizes.values()) < 150 * MEGABYTE


def test_one_frame_and_a_clip_have_pictures_in_them(model):
    picture = model.generate("red apple", seed=1, num_frames=1, num_inference_steps=8)
    clip = model.generate("red apple", seed=1, num_frames=2, num_inference_steps=4)
    assert picture.frames.shape == (1, 3, 128, 128)
    assert clip.frames.shape == (2, 3, 128, 128)
    border = torch.cat([picture.frames[..., :4, :].flatten(), picture.frames[..., -4:, :].flatten()])
    assert border.mean() > 0.8  # the ground is white
    centre = picture.frames[0, :, 48:80, 48:80]
    assert centre[0].mean() > centre[1].mean() + 0.2  # and the apple is red


def test_prompts_matter(model):
    apple, tree = (
        model.generate(prompt, seed=1, num_frames=1, num_inference_steps=8).frames for prompt in ("red apple", "tree")
    )
    assert (apple - tree).abs().mean() > 0.05


def test_card_names_licence_data_and_limits():
    card = (FOLDER / "README.md").read_text()
    for word in ("Licence", "MIT", "Apache-2.0", "Limits", "arXiv"):
        assert word in card
