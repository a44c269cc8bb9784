"""`kineograph generate` with a tiny model, as a user would run it."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from kineograph.cli import main
from kineograph.video import Video


def run(*words):
    return main(["generate", *map(str, words)])


def test_writes_a_clip_with_its_settings_and_prints_json(model_folder, tmp_path, capsys):
    file = tmp_path / "new" / "clip.mp4"
    words = ("--seed", 4, "--steps", 2, "--guidance-interval", 0.2, 1)
    assert run("a red dog", "-o", file, "--model", model_folder, *words, "--json") == 0
    (clip,) = json.loads(capsys.readouterr().out)["clips"]
    assert clip == {"file": str(file), "prompt": "a red dog", "seed": 4, "frames": 4, "fps": 8.0}
    video = Video.read(file)
    assert (len(video), video.metadata["seed"], video.metadata["num_inference_steps"]) == (4, 4, 2)
    assert list(video.metadata["guidance_interval"]) == [0.2, 1.0]


def test_same_seed_same_frames_and_underscored_flags(model_folder, tmp_path):
    for name in ("a", "b"):
        assert (
            run(
                "--prompt",
                "a dog",
                "--output",
                tmp_path / f"{name}.webp",
                "--model",
                model_folder,
                "--num_inference_steps",
                2,
            )
            == 0
        )
    a, b = (Video.read(tmp_path / f"{name}.webp").to_uint8() for name in ("a", "b"))
    assert (a == b).all()


def test_several_prompts_from_a_file_make_a_folder_and_a_sheet(model_folder, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text('a red dog\n\n{"prompt": "a blue cat", "seed": 9}\n')
    out, sheet = tmp_path / "out", tmp_path / "sheet.png"
    assert run("--prompts", prompts, "-o", out, "--model", model_folder, "--steps", 1, "--preview", sheet) == 0
    assert sorted(p.name for p in out.iterdir()) == ["000-a-red-dog.mp4", "001-a-blue-cat.mp4"]
    assert Video.read(out / "001-a-blue-cat.mp4").metadata["seed"] == 9
    assert sheet.read_bytes()[:4] == b"\x89PNG"
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert "sampling" in captured.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no prompt"),
        (("a dog", "--model", "emojy"), "There is no model 'emojy'"),
        (("a dog", "-o", "clip.mpg"), "'.mpg'"),
        (("--prompts", "absent.txt"), "absent.txt"),
        (("a dog", "--num-frame", "3"), "--num-frames"),
        (("a dog", "--num-frames", "many"), "--num-frames"),
        (("a dog", "--guidance-interval", "0.5"), "--guidance-interval"),
    ],
)
def test_bad_input_is_one_paragraph_and_status_2(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


FULL_DISK = """
import sys
from dataclasses import replace
from pathlib import Path
from kineograph.cli import main

disk, model = Path(sys.argv[1]), sys.argv[2]
(disk / "other").write_bytes(bytes(8192))
for name in sys.argv[3:]:
    status = main(["generate", "a dog", "--model", model, "--steps", "1", "-o", str(disk / name)])
    print(name, status, sorted(p.name for p in disk.rglob("*") if p.is_file()))
"""


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """Return a command prefix that runs a program with a file system of 8 kB mounted on a folder, and the folder."""
    folder = tmp_path_factory.mktemp("disk")
    mount = f'mount -t tmpfs -o size=8k none "{folder}" && exec "$@"'
    prefix = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let its users mount file systems of their own")
    return prefix, folder


def test_full_disk_is_an_error_and_leaves_nothing(model_folder, small_disk):
    prefix, folder = small_disk
    names = ["clip.mp4", "clip.webm", "clip.gif", "clip.webp", "frames"]
    command = [*prefix, sys.executable, "-c", FULL_DISK, folder, model_folder, *names]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"{name} 2 ['other']" for name in names], done.stderr
    assert done.stderr.count("disk is full") == len(names), done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def between_folder(tmp_path_factory):
    """A tiny interpolation model on disk."""
    import torch
    from tiny_svd import perturbed, tiny_pipeline

    from kineograph.models.image_to_video import ImageToVideoModel, widen_input
    from kineograph.sampling.image_to_video import load_image_to_video
    from kineograph.systems.svd_folder import save_stable_video_diffusion

    folder = tmp_path_factory.mktemp("between")
    tiny_pipeline().save_pretrained(folder / "picture")
    parts = load_image_to_video(folder / "picture", device="cpu").parts
    settings = replace(parts.settings, given="frames", num_frames=5)
    network = perturbed(widen_input(parts.network, 9))
    model = ImageToVideoModel(network, parts.autoencoder, parts.image_encoder, settings)
    save_stable_video_diffusion(model, folder / "frames", torch.float32)
    return folder / "frames"


def test_frames_between_those_of_a_clip(between_folder, model_folder, tmp_path, capsys):
    given, file = tmp_path / "given.webp", tmp_path / "smooth.webp"
    assert run("a red dog", "-o", given, "--model", model_folder, "--steps", 1, "--num-frames", 2) == 0
    capsys.readouterr()
    assert run("--between", given, "-o", file, "--model", between_folder, "--steps", 1, "--json") == 0
    (clip,) = json.loads(capsys.readouterr().out)["clips"]
    assert (clip["frames"], clip["fps"]) == (5, 32.0)
    assert len(Video.read(file)) == 5
    assert run("a dog", "--between", given, "-o", file, "--model", between_folder) == 2
    assert "With --between there is no words" in capsys.readouterr().err
    assert run("--between", given, "-o", file, "--model", model_folder) == 2
    assert "--between wants an interpolation model" in capsys.readouterr().err
    assert run("--image", given, "-o", file, "--model", between_folder, "--steps", 1) == 2
    assert "--between CLIP" in capsys.readouterr().err
