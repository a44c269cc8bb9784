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
        (("mine.png",), "Is this a picture? --image mine.png"),
        (("mine.mp4",), "--between"),
        (("prompts.txt",), "--prompts prompts.txt"),
        (("a dog", "-o", "o.png"), "holds one picture, and the clip has 16"),
        (("a dog", "-o", "out.mpg"), "a folder ends in a slash: 'out.mpg/'"),
        (("a dog", "--preview", "sheet.jpg"), "'sheet.png'"),
        (("a dog", "-o", "a.png", "--num-frames", "1", "--preview", "a.png"), "both name 'a.png'"),
        (("a dog", "--image", "gone.png"), "--image 'gone.png' does not exist"),
        (("--image", "there.png"), "makes clips from prompts; leave --image out"),
        (("--between", "there.png"), "--between wants an interpolation model"),
        (("a dog", "--motion-bucket-id", "3"), "models that start from a picture"),
        (("a dog", "--system", "modelscope"), "Training-free: text2video_zero"),
        (("a dog", "--lora", "gone.safetensors"), "--lora: there is no file"),
        (("a dog", "--base", "gone"), "--base: there is no file or folder 'gone'"),
        (("a dog", "--num-frames", "500"), "from 1 to 64"),
        (("a dog", "--sampler", "euler_a"), "did you mean 'euler-ancestral'"),
    ],
)
def test_bad_input_is_one_paragraph_and_status_2(words, said, capsys, tmp_path, monkeypatch):
    """Nothing is loaded for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kineograph.sampling.generate.load", None)
    (tmp_path / "there.png").touch()
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["there.png"]


def test_clips_are_replaced_only_on_demand(model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ("--model", model_folder, "--steps", 1, "--num-frames", 2)
    for _ in range(2):
        assert run("a dog", "a cat", *words) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip-2.mp4", "clip-3.mp4", "clip-4.mp4", "clip.mp4"]
    assert capsys.readouterr().out.split() == ["clip.mp4", "clip-2.mp4", "clip-3.mp4", "clip-4.mp4"]
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    sheet = ("--preview", "sheet.png")
    assert run("a dog", *words, "-o", "clip.mp4") == 2
    assert "'clip.mp4' exists already. Give another name, or --overwrite" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert run("a dog", *words, "-o", "clip.mp4", "--seed", 5, *sheet, "--overwrite") == 0
    assert (tmp_path / "clip.mp4").read_bytes() != before["clip.mp4"]
    assert run("a dog", *words, "-o", "new.mp4", *sheet) == 2
    assert "--preview 'sheet.png' exists already" in capsys.readouterr().err


def test_folders_with_dots_and_pictures(model_folder, tmp_path, capsys):
    words = ("--model", model_folder, "--steps", 1)
    assert run("a dog", *words, "-o", f"{tmp_path}/out_v1.5/") == 0
    assert (tmp_path / "out_v1.5" / "000-a-dog.mp4").is_file()
    assert run("a dog", *words, "-o", tmp_path / "one.png", "--num-frames", 1) == 0
    assert Video.read(tmp_path / "one.png").height == 16
    capsys.readouterr()
    assert run("a dog", *words, "-o", tmp_path / "wide.mp4", "--width", 32, "--height", 12) == 0
    assert "tiny was trained at 16x16 pixels; at 32x12" in capsys.readouterr().err


def test_an_image_model_says_that_it_makes_a_picture_and_what_gives_it_time(tmp_path, capsys):
    import torch
    from tiny_models import tiny_model

    image = tiny_model(system=None)
    image.settings = replace(image.settings, num_frames=1)
    image.save_pretrained(tmp_path / "image", torch.float32)
    words = ("--model", tmp_path / "image", "--steps", 1)
    assert run("a dog", *words, "-o", tmp_path / "a.png") == 0
    assert "is an image model and makes single pictures" in capsys.readouterr().err
    assert run("a dog", *words, "-o", tmp_path / "a.mp4", "--num-frames", 8) == 2
    assert "--system text2video_zero" in capsys.readouterr().err
    assert run("a dog", *words, "-o", tmp_path / "a.mp4", "--num-frames", 8, "--system", "text2video_zero") == 0


def test_progress_ends_where_it_says_with_every_system(model_folder, tmp_path, capsys):
    words = ("--model", model_folder, "--system", "text2video_zero", "--steps", 6, "-o", tmp_path / "o", "--json")
    assert run("a dog", "a cat", *words) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("sampling: 12/12 steps")
    assert [clip["frames"] for clip in json.loads(captured.out)["clips"]] == [8, 8]


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
    assert "The prompt 'a dog' has no place beside --between" in capsys.readouterr().err
    assert run("--between", given, "-o", file, "--model", between_folder) == 2
    assert "exists already" in capsys.readouterr().err
    assert run("--between", given, "-o", file, "--model", model_folder, "--overwrite") == 2
    assert "--between wants an interpolation model" in capsys.readouterr().err
    assert run("--image", given, "-o", file, "--model", between_folder, "--steps", 1, "--overwrite") == 2
    assert "--between CLIP" in capsys.readouterr().err
