"""Which files of a folder hold the weights."""

import json

import pytest
import torch
from safetensors.torch import save_file

from kineograph.errors import WeightsError
from kineograph.models.weight_files import find_files
from kineograph.models.weights import current_names, read_folder


def touch(folder, *names):
    for name in names:
        (folder / name).write_text(json.dumps({"weight_map": {"x": "model-a.bin"}}) if "index" in name else "")
    (folder / "model-a.bin").write_text("")


@pytest.mark.parametrize(
    ("names", "taken", "said"),
    [
        (["model.safetensors"], "model.safetensors", ""),
        (["model.fp16.safetensors"], "model.fp16.safetensors", ""),
        (["pytorch_model.bin"], "pytorch_model.bin", ""),
        (["pytorch_model.fp16.bin"], "pytorch_model.fp16.bin", ""),
        (["model.non_ema.safetensors"], "model.non_ema.safetensors", ""),
        (["model.safetensors.index.json"], "model-a.bin", ""),
        (["model.safetensors.index.fp16.json"], "model-a.bin", ""),
        (["model.fp16.safetensors.index.json"], "model-a.bin", ""),
        (["pytorch_model.bin.index.json"], "model-a.bin", ""),
        (["model.fp16.safetensors", "model.safetensors"], "model.safetensors", "(full precision), not model.fp16"),
        (["model.fp16.safetensors", "pytorch_model.bin"], "pytorch_model.bin", "(full precision), not model.fp16"),
        (["model.bf16.safetensors", "model.fp16.safetensors"], "model.fp16.safetensors", "(fp16), not model.bf16"),
        (["model.safetensors", "model.non_ema.safetensors"], "model.safetensors", "not model.non_ema.safetensors"),
        (["model.safetensors", "pytorch_model.bin"], "model.safetensors", "not pytorch_model.bin"),
    ],
)
def test_full_precision_then_safetensors_then_one_file(tmp_path, capsys, names, taken, said):
    touch(tmp_path, *names)
    assert [path.name for path in find_files(tmp_path, "model")] == [taken]
    err = capsys.readouterr().err
    assert said in err
    assert bool(err) == bool(said)


def test_shards_with_and_without_their_index(tmp_path):
    for n, name in enumerate("ab"):
        save_file({name: torch.ones(1)}, tmp_path / f"diffusion_pytorch_model.fp16-0000{n + 1}-of-00002.safetensors")
    assert sorted(read_folder(tmp_path)) == ["a", "b"]
    (tmp_path / "diffusion_pytorch_model.fp16-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match="2 files, of which 'diffusion_pytorch_model.fp16-00002-of-00002"):
        read_folder(tmp_path)
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "gone.safetensors"}}))
    with pytest.raises(WeightsError, match="names 'gone.safetensors', which is not beside it"):
        read_folder(tmp_path)


def test_weights_of_other_programs_are_named(tmp_path):
    (tmp_path / "flax_model.msgpack").write_text("")
    with pytest.raises(WeightsError, match=r"no pytorch_model\.bin; flax_model\.msgpack is for another program"):
        find_files(tmp_path, "model")


def test_old_names_of_attention_in_autoencoders():
    stem = "decoder.mid_block.attentions.0."
    old = {f"{stem}{name}.weight": torch.zeros(1) for name in ("query", "key", "value", "proj_attn")}
    assert sorted(current_names(old)) == [f"{stem}to_{name}.weight" for name in ("k", "out.0", "q", "v")]
