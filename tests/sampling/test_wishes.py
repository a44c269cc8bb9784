"""What is refused before a model is loaded, from what its JSON files say."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from kineograph.errors import InputError
from kineograph.models import image_to_video_folder, picture
from kineograph.sampling import wishes
from kineograph.sampling.generate import SAMPLERS
from kineograph.sampling.known import RESAMPLER, STARTS, Known, check_wishes, known
from kineograph.sampling.places import find
from kineograph.systems import svd_folder


def test_the_names_of_samplers_are_those_there_are():
    assert set(wishes.SAMPLER_NAMES) == set(SAMPLERS)


def test_what_tells_kinds_apart_is_what_folders_are_written_with():
    assert RESAMPLER == picture.RESAMPLER
    assert {image_to_video_folder.CLASS, svd_folder.PIPELINE} <= set(STARTS)


def test_what_a_folder_says_of_its_model(model_folder, tmp_path):
    told = known(model_folder, "x")
    assert told == Known(name="tiny", num_frames=4, factor=4, num_timesteps=1000, draft=False, starts="prompt")
    assert known(model_folder, "x", "text2video_zero").num_frames == 8
    assert known(tmp_path / "file.ckpt", "file.ckpt") == Known(name="file.ckpt")


def test_a_plain_image_network_is_an_image_model(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (tmp_path / "unet" / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    assert known(tmp_path, "x").num_frames == 1
    with pytest.raises(InputError, match="--system text2video_zero"):
        check_wishes(known(tmp_path, "x"), {"num_frames": 8})
    (tmp_path / "motion_adapter").mkdir()
    assert known(tmp_path, "x").num_frames is None


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"num_frames": 17}, "--num-frames must be from 1 to 16"),
        ({"num_inference_steps": 1001}, "--num-inference-steps"),
        ({"height": 18}, "take 16 or 20"),
        ({"width": 0}, "--width must be at least 4"),
        ({"sampler": "euler_a"}, "euler-ancestral"),
        ({"guidance_interval": (0.8, 0.2)}, "--guidance-interval"),
        ({"draft_until": 0.5}, "'tiny' has no draft"),
        ({"fps": float("nan")}, "--fps"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_wishes_are_refused_before_loading(model_folder, wish, words):
    with pytest.raises(InputError, match=words):
        check_wishes(known(model_folder, "x"), wish)


def test_a_run_means_its_model(model_folder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(model_folder)
    assert find(tmp_path / "run") == tmp_path / "run" / "model"


@pytest.mark.parametrize(
    ("size", "warned"), [((128, 128), False), ((112, 144), False), ((96, 160), True), ((256, 256), True)]
)
def test_sizes_far_from_the_trained_one_are_warned_of(size, warned):
    own = SimpleNamespace(name="emoji", height=128, width=128)
    assert bool(wishes.strange_size(*size, own)) == warned


CHECK = """
import sys
import kineograph.cli.generate as command

command._checked(command.Args(lora=(f"{sys.executable}:0.5",), sampler="heun", num_frames=8))
command._check_files(command.Args(), [command.DEFAULT_FILE], 16)
sys.exit("torch" in sys.modules)
"""


def test_checking_needs_no_torch(tmp_path):
    assert subprocess.run([sys.executable, "-c", CHECK], check=False, cwd=tmp_path).returncode == 0
