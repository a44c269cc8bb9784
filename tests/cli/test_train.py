"""`kineograph train`: the three stages end to end on a synthetic data set, with resume and bad input."""

import json
import shutil

import pytest
import torch
from tiny_models import tiny_text

from kineograph.cli import main
from kineograph.video import Video


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from kineograph.data.synthetic import write_synthetic

    folder = tmp_path_factory.mktemp("shapes")
    write_synthetic(folder, count=6, seed=0, num_frames=6, size=16, fps=8)
    return folder


def run(*words):
    return main(["train", *map(str, words)])


SMALL = ("--size", 16, "--max-train-steps", 2, "--train-batch-size", 2, "--channels", 32, 32)


def test_three_stages_end_in_a_model_that_generates(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KINEOGRAPH_CACHE", str(tmp_path / "cache"))
    tiny_text(32).save_pretrained(tmp_path / "minilm")
    monkeypatch.setattr("kineograph.training.recipes.minilm_folder", lambda: tmp_path / "minilm")
    autoencoder, image, video = (tmp_path / name for name in ("ae", "image", "video"))
    assert run("autoencoder", "--data", data, "--output-dir", autoencoder, *SMALL, "--latent-channels", 4) == 0
    again = ("--base", autoencoder, "--output-dir", tmp_path / "ae2", "--size", 16)
    assert run("autoencoder", "--data", data, *again, "--max-train-steps", 1, "--train-batch-size", 2) == 0
    assert run("latent-image", "--data", data, "--base", autoencoder, "--output-dir", image, *SMALL) == 0
    stage = ("modelscope", "--data", data, "--base", image, "--output-dir", video, "--size", 16, "--num-frames", 4)
    options = (
        "--max-train-steps",
        2,
        "--train-batch-size",
        2,
        "--set",
        "conv_dropout=0.0",
        "head_dim=8",
        "input_heads=2",
        "--timestep-shift",
        3,
    )
    capsys.readouterr()
    assert run(*stage, *options, "--image-share", 0.3, "--noise", "mixed", "--balance", "kind", "--json") == 2
    assert "has no field 'kind' in the manifest" in capsys.readouterr().err
    assert run(*stage, *options, "--image-share", 0.3, "--noise", "mixed", "--balance", "caption", "--json") == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["step"] == 2
    assert "trainable" in captured.err
    assert {p.name for p in video.iterdir()} == {"config.json", "metrics.jsonl", "checkpoints", "previews", "model"}
    index = json.loads((video / "model" / "model_index.json").read_text())["kineograph"]
    assert (index["system"], index["noise"], index["num_frames"]) == ("modelscope", "mixed", 4)
    assert (
        main(
            ["generate", "a red circle", "--model", str(video / "model"), "-o", str(tmp_path / "c.mp4"), "--steps", "2"]
        )
        == 0
    )
    drafted = tmp_path / "drafted"
    few = ("--size", 16, "--max-train-steps", 2, "--train-batch-size", 2)
    words = ("--base", video, "--output-dir", drafted, *few, "--set", "width=16", "until=0.5", "--balance", "kind")
    capsys.readouterr()
    assert run("draft", "--data", data, *words) == 2
    assert "has no field 'kind'" in capsys.readouterr().err
    assert run("draft", "--data", data, *words[:-2]) == 0
    assert run("draft", "--data", data, *words[:-3], "blur=0.5", "--init-from", video / "model") == 2
    assert "has no draft to start from" in capsys.readouterr().err
    again = ("draft", "--data", data, "--base", drafted, "--init-from", drafted, "--output-dir", tmp_path / "again")
    assert run(*again, *few, "--set", "width=8") == 2
    assert "keeps its size" in capsys.readouterr().err
    assert run(*again, *few) == 0
    made = ["generate", "a red circle", "--model", str(tmp_path / "again" / "model"), "-o", str(tmp_path / "d.mp4")]
    assert main([*made, "--steps", "2"]) == 0
    assert Video.read(tmp_path / "d.mp4").metadata["draft_until"] == 0.4
    decoder = ("decoder", "--data", data, *few, "--set", "perceptual=0")
    assert run(*decoder, "drafts=0.5", "--base", video, "--output-dir", tmp_path / "e") == 2
    assert "is for a model with a draft" in capsys.readouterr().err
    assert run(*decoder, "drafts=0.5", "--base", drafted, "--output-dir", tmp_path / "e", "--json") == 0
    assert set(json.loads(capsys.readouterr().out)["validation"]) == {"psnr"}
    assert (tmp_path / "e" / "model" / "draft").is_dir()
    assert (tmp_path / "e" / "previews" / "step-00000002" / "reconstruction.png").is_file()
    assert run(*stage, "--max-train-steps", 3, *options[2:], "--image-share", 0.3, "--noise", "mixed", "--resume") == 0
    lines = [json.loads(line) for line in (video / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines} == {2, 3}
    said = capsys.readouterr().err
    assert "the middle square, at 16x16 pixels" in said
    assert "the first 3 s of each clip, 24 frames at 8 fps" in said
    assert "no split 'held-out-combinations'" in said
    assert "temporal layers: fresh ones of modelscope in the image network of" in said
    assert (index["height"], index["width"], index["fps"]) == (16, 16, 8.0)
    export = ("--resume", "--export", "--image-share", 0.3, "--noise", "mixed")
    assert run(*stage, "--max-train-steps", 3, *options[2:], *export, "--train-batch-size", 3) == 2
    assert "--train-batch-size is 3 and was 2" in capsys.readouterr().err
    assert run(*stage, "--max-train-steps", 3, *options[2:], *export, "--preset", "tiny") == 2
    assert "--preset is tiny and was published" in capsys.readouterr().err
    shutil.rmtree(video / "model")
    checkpoint = video / "checkpoints" / "step-00000003"
    sample = ("generate", "a red circle", "--model", checkpoint, "-o", tmp_path / "s.mp4", "--steps", 2)
    assert main([str(word) for word in sample]) == 2
    assert "--resume --export" in capsys.readouterr().err
    assert run(*stage, "--max-train-steps", 9, *options[2:], *export) == 0
    assert main([str(word) for word in sample]) == 0
    by_model = ("generate", "a red circle", "--model", video / "model", "-o", tmp_path / "m.mp4", "--steps", 2)
    assert main([str(word) for word in by_model]) == 0
    assert torch.equal(Video.read(tmp_path / "s.mp4").frames, Video.read(tmp_path / "m.mp4").frames)


def test_a_stopped_run_as_base_is_said(tmp_path, capsys):
    (tmp_path / "stopped" / "checkpoints").mkdir(parents=True)
    words = ("latent-image", "--base", tmp_path / "stopped", "--data", tmp_path, "--output-dir", tmp_path / "run")
    assert run(*words) == 2
    assert "has no model yet: finish it, or add --resume --export" in capsys.readouterr().err


def test_dry_run_prints_the_resolved_configuration_and_writes_nothing(tmp_path, capsys):
    assert run("autoencoder", "--data", tmp_path, "--output-dir", tmp_path / "run", "--dry-run", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["train"]["max_train_steps"] == 1000
    assert shown["channels"] == [32, 64, 128]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("latent-image", "--base", "x"), {"channels": [128, 256, 256], "caption_dropout": 0.1, "max_frames": 24}),
        (
            ("modelscope", "--base", "x"),
            {"num_frames": 16, "noise": "iid", "timestep_shift": 1.0, "keep_temporal": False},
        ),
        (
            ("svd", "--base", "x", "--preset", "xt"),
            {"stage": "stable_video_diffusion", "num_frames": 25, "max_frames": 25},
        ),
        (("draft", "--base", "x", "--set", "blur=0.5"), {"blur": 0.5, "frames": 16}),
        (("decoder", "--base", "x", "--max-frames", 4), {"perceptual": 0.1, "max_frames": 4}),
    ],
)
def test_dry_run_shows_values_and_no_null(words, found, tmp_path, capsys):
    assert run(*words, "--data", tmp_path, "--output-dir", tmp_path / "run", "--dry-run", "--json") == 0
    text = capsys.readouterr().out
    assert "null" not in text
    shown = json.loads(text)
    assert found.items() <= shown.items()
    assert shown["train"]["micro_batch_size"] == 16
    assert shown["train"]["mixed_precision"] in ("no", "bf16")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("modelscop",), "modelscope"),
        (("autoencoder", "--num-frames", "8"), "--num-frames is for systems"),
        (("autoencoder", "--balance", "base"), "--balance is for text-to-image and text-to-video stages"),
        (("stable-video-diffusion", "--base", ".", "--balance", "base"), "not for 'stable_video_diffusion'"),
        (("autoencoder", "--timestep-shift", 3), "--timestep-shift is for latent-image and systems"),
        (("stable-video-diffusion", "--base", ".", "--timestep-shift", 3), "--timestep-shift has no meaning"),
        (("draft", "--base", "x", "--timestep-shift", 3), "'draft' has no timesteps"),
        (("draft", "--base", "x", "--channels", 8), "--channels has no place with 'draft'"),
        (("draft", "--base", "x", "--gradient-checkpointing"), "--gradient-checkpointing has no place"),
        (("draft", "--base", "x", "--num-frames", 8), "--num-frames is for systems"),
        (("draft",), "--base"),
        (("decoder",), "--base"),
        (("decoder", "--base", "x", "--channels", 8), "--channels has no place with 'decoder'"),
        (("decoder", "--base", "x", "--timestep-shift", 3), "'decoder' has no timesteps"),
        (("decoder", "--base", "emoji", "--set", "noise=1"), "noise"),
        (("autoencoder", "--base", "x"), "'x' is no"),
        (("autoencoder", "--base", "x", "--patch", "2"), "--patch is for a fresh autoencoder"),
        (("latent-image",), "--base"),
        (("modelscope", "--base", "x", "--patch", "2"), "--patch is the autoencoder's"),
        (("autoencoder", "--max-train-steps", "0"), "--max-train-steps"),
        (("autoencoder", "--learning_rat", "1"), "--learning-rate"),
        (("autoencoder",), "no data set"),
        (("autoencoder", "--lr", "1e-3"), "did you mean '--learning-rate'"),
        (("autoencoder", "--validation-prompt", "a cat"), "--validation-prompt is for stages that draw from prompts"),
        (("autoencoder", "--keep-temporal"), "--keep-temporal is for systems"),
        (("autoencoder", "--export"), "--resume"),
        (("svd", "--base", "emoji"), "no data set"),
        (("lavie", "--base", "emoji", "--num-frames", "0"), "--num-frames must be at least 2"),
        (("lavie", "--base", "emoji", "--num-frames", "9", "--max-frames", "8"), "--max-frames is 8"),
        (("lavie", "--base", "emoji", "--validation-prompt", " "), "--validation-prompt is empty"),
        (("lavie", "--base", "emoji", "--size", "65"), "65 is not a multiple of"),
        (("lavie", "--base", "emoji", "--keep-temporal"), "has those of modelscope, not those of 'lavie'"),
        (("modelscope", "--base", "emoji", "--keep-temporal", "--preset", "tiny"), "leave out --preset"),
    ],
)
def test_bad_input_is_one_paragraph_and_status_2(words, said, tmp_path, capsys):
    assert run(*words, "--data", tmp_path / "absent", "--output-dir", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert said.lower() in error.lower()
    assert "Traceback" not in error


def test_sanity_overfits_one_clip_and_says_so(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KINEOGRAPH_CACHE", str(tmp_path / "cache"))
    assert run("autoencoder", "--data", data, "--output-dir", tmp_path / "run", *SMALL, "--sanity", "--json") == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
