"""Files made to harm: each is refused in one paragraph, runs nothing, and takes little memory and time."""

import io
import json
import os
import pickle
import resource
import shutil
import struct
import zipfile

import pytest
import tiny_pipelines as tiny
import torch
from safetensors.torch import load_file, save_file
from temporal_layouts import system_network
from test_original import motion_tensors, videocrafter_file
from tiny_svd import tiny_pipeline

from kineograph.checkpoints.load import load_checkpoint
from kineograph.cli import main
from kineograph.errors import WeightsError

GIGABYTE = 2**30


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """Load a path with `kineograph generate` (or `convert`) under a cap on memory; return what it says."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(path, *more, command="generate"):
        capfd.readouterr()
        words = ["generate", "a dog", "--model", str(path)]
        if command == "convert":
            words = ["convert", str(path), "-o", "out", "--to", "kineograph"]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert main([*words, *map(str, more)]) == 2
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        assert grown < GIGABYTE
        said = "\n".join(line for line in capfd.readouterr().err.splitlines() if not line.startswith("Licence"))
        assert "Traceback" not in said
        assert "defect of kineograph" not in said
        assert len(said.strip().splitlines()) == 1
        assert len(said) < 1200
        assert not list(work.iterdir())
        return said

    return run


@pytest.fixture
def folder(pipelines, tmp_path):
    """Copy a pipeline's folder; return it and a function that changes one of its JSON files."""
    shutil.copytree(pipelines("animatediff")[0], tmp_path / "m")

    def change(name, **values):
        file = tmp_path / "m" / name
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return tmp_path / "m", change


# --- safetensors ------------------------------------------------------------------------------------------------------


def header(**tensors):
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


HUGE = {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}
EMPTY = {"dtype": "F32", "shape": [2**40, 0], "data_offsets": [0, 0]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (struct.pack("<Q", 2**60) + b"{}", "not a readable safetensors file"),
        (header(x=HUGE), "not a readable safetensors file"),
        (header(x={**EMPTY, "data_offsets": [5, 3]}), "not a readable safetensors file"),
        (header(**{"model.diffusion_model.input_blocks.0.0.weight": EMPTY}), "without values"),
        (struct.pack("<Q", 100_000) + b"[" * 100_000, "not a readable safetensors file"),
    ],
    ids=["header of 2^60 bytes", "2^60 values", "offsets backwards", "no values", "nested header"],
)
def test_safetensors_headers(refused, tmp_path, content, words):
    (tmp_path / "evil.safetensors").write_bytes(content)
    assert words in refused(tmp_path / "evil.safetensors")


def test_truncated_in_every_part(refused, tmp_path, pipelines):
    tensors = tiny.stable_diffusion_file(pipelines("image_pipeline")[1])
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for length in (4, 8, 1000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "half.safetensors").write_bytes(whole[:length])
        assert "not a readable safetensors file" in refused(tmp_path / "half.safetensors")


# --- PyTorch files ----------------------------------------------------------------------------------------------------


def test_compressed_archives_are_not_unpacked(refused, tmp_path):
    file = io.BytesIO()
    torch.save({"state_dict": {"x": torch.zeros(2**22)}}, file)
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as out:
        for name in source.namelist():
            out.writestr(name, source.read(name))
    assert (tmp_path / "bomb.ckpt").stat().st_size < 100_000
    assert "unpacks to more than it is long" in refused(tmp_path / "bomb.ckpt")


def test_a_tensor_that_repeats_one_value_is_refused(refused, tmp_path):
    torch.save({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1).expand(2**40)}, tmp_path / "t.ckpt")
    assert "not stored whole" in refused(tmp_path / "t.ckpt")
    torch.save({"x": torch.zeros(2, 2).to_sparse()}, tmp_path / "s.ckpt")
    assert "not stored whole" in refused(tmp_path / "s.ckpt")


def test_a_storage_longer_than_the_file(refused, tmp_path):
    """The numbers in the pickle are changed, the bytes are not there."""
    file = io.BytesIO()
    torch.save({"input_blocks.0.0.weight": torch.zeros(7)}, file, _use_new_zipfile_serialization=False)
    content = file.getvalue()
    assert content.count(b"K\x07") >= 2
    (tmp_path / "long.ckpt").write_bytes(content.replace(b"K\x07", b"J\xff\xff\xff\x7f"))
    refused(tmp_path / "long.ckpt")


class Bomb:
    """Runs a command when a careless program unpickles it."""

    def __reduce__(self):
        return os.system, ("touch boom",)


def test_code_is_never_run_wherever_it_hides(refused, tmp_path, folder):
    root, _ = folder
    for name in ("evil.pt", "evil.bin", "evil.pth", "evil"):
        torch.save({"x": torch.zeros(1), "y": Bomb()}, tmp_path / name)
        assert "Python code" in refused(tmp_path / name)
        assert "Python code" in refused(tmp_path / name, command="convert")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / "plain.pkl")
    file = root / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file) | {"y": Bomb()}, file.with_suffix(".bin"))
    file.unlink()
    assert "Python code" in refused(root)


def test_a_file_that_holds_itself(refused, tmp_path):
    content = {}
    content["state_dict"] = content
    torch.save(content, tmp_path / "loop.ckpt")
    assert "RecursionError" in refused(tmp_path / "loop.ckpt")


# --- Weights of wrong shapes ------------------------------------------------------------------------------------------


def source(pipelines, name):
    """Return a file's weights, and whether it goes on a base."""
    _, pipe = pipelines("image_pipeline")
    if name == "stable diffusion":
        return tiny.stable_diffusion_file(pipe), False
    if name == "stable diffusion xl":
        return tiny.stable_diffusion_xl_file(pipelines("image_xl")[1]), False
    if name == "videocrafter":
        return videocrafter_file(pipe, system_network("videocrafter", "v1")), False
    return motion_tensors(system_network("animatediff", "v2")), True


def spoilt(tensors):
    """Yield the weights with all of them, and then single ones, bent out of shape."""
    yield {key: value.flatten()[:1].reshape(()) for key, value in tensors.items()}
    yield {key: value.flatten() for key, value in tensors.items()}
    for key in list(tensors)[:: max(1, len(tensors) // 3)]:
        yield tensors | {key: tensors[key].flatten()[:1].reshape(())}


@pytest.mark.parametrize("name", ["stable diffusion", "stable diffusion xl", "videocrafter", "motion module"])
def test_weights_of_wrong_shapes(tmp_path, pipelines, name):
    tensors, needs_base = source(pipelines, name)
    tiny.write_tokenizer(tmp_path / "tokenizer")
    used = {key: value for key, value in tensors.items() if not key.startswith(("betas", "model_ema", "denoiser"))}
    used = {key: value for key, value in used.items() if not key.endswith(("position_ids", "logit_scale", ".pe"))}
    for bent in spoilt(used):
        save_file({key: value.contiguous() for key, value in bent.items()}, tmp_path / "bent.safetensors")
        with pytest.raises(WeightsError):
            load_checkpoint(tmp_path / "bent.safetensors", pipelines("image_pipeline")[0] if needs_base else None)


def test_loras_of_wrong_shapes(refused, tmp_path, pipelines):
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    for down, up in (
        (torch.ones(()), torch.ones(())),
        (torch.ones(2, 32), torch.ones(32)),
        (torch.ones(3), torch.ones(2)),
    ):
        save_file({f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}, tmp_path / "l.safetensors")
        refused(pipelines("image_pipeline")[0], "--lora", tmp_path / "l.safetensors")
    pair = {f"{stem}.lora_down.weight": torch.ones(2, 32), f"{stem}.lora_up.weight": torch.ones(32, 2)}
    save_file(pair | {f"{stem}.alpha": torch.ones(3)}, tmp_path / "l.safetensors")
    refused(pipelines("image_pipeline")[0], "--lora", tmp_path / "l.safetensors")


# --- Folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b.safetensors", "..", "", 7, None])
def test_an_index_cannot_name_files_elsewhere(refused, folder, name):
    root, _ = folder
    file = root / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.move(file, root.parent / "passwd.safetensors")
    index = file.with_name(f"{file.name}.index.json")
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": name}}))
    said = refused(root)
    assert "outside its own folder" in said
    for broken in ({}, {"weight_map": []}, {"weight_map": {}}):
        index.write_text(json.dumps(broken))
        assert "names no files" in refused(root)


@pytest.mark.parametrize("kind", ["os.system", "Evil", "../evil", "StableDiffusionPipeline", 7, None])
def test_classes_that_are_named_are_not_imported(refused, folder, kind):
    root, change = folder
    (root / "evil.py").write_text("import os; os.system('touch boom')")
    kept = (root / "model_index.json").read_text()
    change("model_index.json", unet=["evil", "Evil"])
    assert "takes its unet from 'evil'" in refused(root)
    if kind in ("os.system", "../evil", 7, None):
        (root / "model_index.json").write_text(kept)
        change("model_index.json", _class_name=kind)
        assert "no name of a pipeline" in refused(root)
    (root / "model_index.json").write_text(kept)
    change("unet/config.json", _class_name=kind)
    assert "unet/config.json" in refused(root)
    change("unet/config.json", _class_name="UNetMotionModel")
    change("scheduler/scheduler_config.json", _class_name=kind)
    assert "scheduler class" in refused(root)


def test_code_beside_a_tokenizer_or_text_encoder_is_not_asked_for(refused, folder):
    root, change = folder
    for part in ("tokenizer", "text_encoder"):
        (root / part / "evil.py").write_text("import os; os.system('touch boom')")
    change("tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}, tokenizer_class="Evil")
    refused(root)
    change(
        "text_encoder/config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}, model_type="evil"
    )
    refused(root)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("unet/config.json", {"block_out_channels": [10**9, 10**9]}),
        ("unet/config.json", {"block_out_channels": [32000, 64000]}),
        ("unet/config.json", {"layers_per_block": 10**9}),
        ("unet/config.json", {"motion_max_seq_length": 10**9}),
        ("unet/config.json", {"down_block_types": ["DownBlockMotion"] * 10**5}),
        ("unet/config.json", {"block_out_channels": "many", "norm_num_groups": {}}),
        ("vae/config.json", {"block_out_channels": [10**6, 10**6]}),
        ("vae/config.json", {"layers_per_block": -1, "latent_channels": None}),
        ("text_encoder/config.json", {"hidden_size": 10**6, "num_attention_heads": 1}),
        ("text_encoder/config.json", {"num_hidden_layers": 10**8}),
        ("text_encoder/config.json", {"model_type": "llama", "hidden_size": 65536, "num_hidden_layers": 80}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}),
        ("scheduler/scheduler_config.json", {"beta_end": "many"}),
    ],
)
def test_absurd_sizes_are_not_built(refused, folder, file, change):
    root, edit = folder
    edit(file, **change)
    refused(root)


@pytest.mark.parametrize(
    "change",
    [
        {"height": "tall"},
        {"num_frames": 10**9},
        {"num_frames": -3},
        {"fps": None},
        {"noise": 4},
        {"data_scale": [1, 2, 3]},
        {"guidance_interval": [0.9, 0.1]},
        {"guidance_interval": [0.5]},
        {"draft_until": 1.5},
        {"draft_until": True},
    ],
)
def test_absurd_settings(refused, tmp_path, model_folder, change):
    shutil.copytree(model_folder, tmp_path / "m")
    file = tmp_path / "m" / "model_index.json"
    index = json.loads(file.read_text())
    index["kineograph"] |= change
    file.write_text(json.dumps(index))
    assert "model_index.json" in refused(tmp_path / "m")


@pytest.mark.parametrize("settings", [[], 7, {"fps": "many"}, {"height": -1}, {"depth": 3}, {"scheduler": "ddim"}])
def test_absurd_settings_beside_a_foreign_folder(refused, folder, settings):
    root, _ = folder
    (root / "kineograph.json").write_text(json.dumps({"settings": settings}))
    assert "kineograph.json" in refused(root)


@pytest.mark.parametrize(
    "plan",
    [None, [], {}, {"placements": 7}, {"placements": [{"at": "pair"}]}, {"placements": [[]] * 10**5}, {"depth": 10**9}],
)
def test_broken_plans(refused, tmp_path, model_folder, plan):
    shutil.copytree(model_folder, tmp_path / "m")
    file = tmp_path / "m" / "temporal.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"plan": plan}))
    refused(tmp_path / "m")


@pytest.mark.parametrize("content", ["", "[]", "7", "{", "[" * 10**5, "\x00", '{"_class_name": {"a": []}}'])
def test_broken_json(refused, folder, content):
    root, _ = folder
    for name in ("unet/config.json", "scheduler/scheduler_config.json", "model_index.json"):
        kept = (root / name).read_text()
        (root / name).write_text(content)
        refused(root)
        (root / name).write_text(kept)


def test_missing_parts(refused, folder):
    root, _ = folder
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.move(root / name, root.parent / name)
        assert "m" in refused(root)
        shutil.move(root.parent / name, root / name)


def test_image_to_video_folders_too(refused, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "svd")
    for name, change in (
        ("unet/config.json", {"block_out_channels": [10**9, 10**9]}),
        ("vae/config.json", {"block_out_channels": [60000, 60000]}),
        ("image_encoder/config.json", {"hidden_size": 65536, "num_hidden_layers": 400}),
        ("unet/config.json", {"block_out_channels": [64000, 64000], "num_attention_heads": [1, 1]}),
    ):
        file = tmp_path / "svd" / name
        kept = file.read_text()
        file.write_text(json.dumps(json.loads(kept) | change))
        refused(tmp_path / "svd")
        file.write_text(kept)
