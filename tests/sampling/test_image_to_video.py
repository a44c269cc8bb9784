"""From a picture to a clip: files, sizes, seeds, errors."""

import pytest
import torch
from tiny_svd import photo, tiny_pipeline

from kineograph.errors import InputError, MediaError, WeightsError
from kineograph.sampling.image_to_video import centre_box, load_image_to_video, prepare_picture
from kineograph.video import Video

SMALL = {"height": 16, "width": 24, "num_frames": 3, "num_inference_steps": 2, "precision": "fp32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("svd")
    tiny_pipeline().save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def model(folder):
    return load_image_to_video(folder, device="cpu")


def test_a_seed_is_a_clip(model, tmp_path):
    photo().save(tmp_path / "photo.png")
    clip = model.generate(tmp_path / "photo.png", seed=4, **SMALL)
    assert clip.frames.shape == (3, 3, 16, 24)
    assert torch.equal(clip.frames, model.generate(photo(), seed=4, **SMALL).frames)
    assert not torch.equal(clip.frames, model.generate(photo(), seed=5, **SMALL).frames)
    assert clip.metadata["seed"] == 4
    assert clip.metadata["motion_bucket_id"] == 127
    assert clip.fps == 7
    steps = []
    other = model.generate(photo(), callback=steps.append, seed=4, fps=7.5, **SMALL)
    assert other.fps == other.metadata["fps"] == 7.5
    assert not torch.equal(other.frames, clip.frames)  # the network is told the fraction too
    assert [step.i for step in steps] == [0, 1]


def test_defaults_are_those_of_the_folder(model):
    assert model.settings.num_frames == 4
    assert (model.settings.height, model.settings.width) == (16, 16)
    assert model.settings.wave_channels == 8


def test_pictures_of_every_kind_are_the_same_picture(tmp_path):
    picture = photo(24, 16)
    pixels = prepare_picture(picture, 16, 24)[0]
    assert torch.equal(prepare_picture(pixels[0], 16, 24)[0], pixels)
    assert torch.equal(prepare_picture(Video(pixels, 1.0), 16, 24)[0], pixels)
    transparent = picture.convert("RGBA")
    transparent.putalpha(0)
    assert torch.equal(prepare_picture(transparent, 16, 24)[0], torch.ones(1, 3, 16, 24))


def test_other_proportions_are_cut_at_the_centre():
    assert centre_box(100, 50, 10, 10) == (25, 0, 75, 50)
    assert centre_box(50, 100, 20, 10) == (0, 37, 50, 62)
    assert centre_box(1024, 576, 1024, 576) == (0, 0, 1024, 576)
    small, original = prepare_picture(photo(100, 40), 16, 16)
    assert small.shape == (1, 3, 16, 16)
    assert original.shape == (1, 3, 40, 40)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"image": None}, InputError, "starts from a picture"),
        ({"image": 3}, InputError, "not a int"),
        ({"image": torch.zeros(1, 3, 8, 8)}, InputError, r"\(3, height, width\)"),
        ({"image": "nowhere.png"}, MediaError, "nowhere.png"),
        ({"num_frames": 17}, InputError, "--num-frames must be from 1 to 16, not 17"),
        ({"num_inference_steps": 0}, InputError, "--num-inference-steps"),
        ({"seed": -1}, InputError, "--seed"),
        ({"height": 17}, InputError, "--height 17 is not a multiple of 2"),
        ({"fps": 0}, InputError, "--fps"),
        ({"motion_bucket_id": 300}, InputError, "--motion-bucket-id must be from 0 to 255, not 300"),
        ({"max_guidance_scale": 101}, InputError, "--guidance-scale"),
    ],
)
def test_wrong_use_is_one_clear_sentence(model, changes, error, words):
    with pytest.raises(error, match=words):
        model.generate(**{"image": photo(), **SMALL, **changes})


def test_other_folders_are_refused(tmp_path, model_folder):
    with pytest.raises(WeightsError, match="cannot be read"):
        load_image_to_video(tmp_path)
    with pytest.raises(WeightsError, match="not a StableVideoDiffusionPipeline"):
        load_image_to_video(model_folder)
