"""Image checkpoints in one file: the same parts as in the folder; names checked against diffusers' own converter."""

import pytest
import tiny_pipelines as tiny
import torch
from safetensors.torch import save_file

import kineograph as kg
from kineograph.checkpoints import clip_text, shapes
from kineograph.checkpoints.ldm import load_image_file, unet_keys
from kineograph.checkpoints.single_files import read_single
from kineograph.errors import WeightsError


@pytest.fixture
def write(tmp_path):
    """Write a single file beside CLIP's words."""

    def written(tensors, name="sd.safetensors"):
        tiny.write_tokenizer(tmp_path / "tokenizer")
        file = tmp_path / name
        tensors = {key: value.contiguous() for key, value in tensors.items()}
        save_file(tensors, file) if file.suffix == ".safetensors" else torch.save({"state_dict": tensors}, file)
        return file

    return written


def same(ours, theirs):
    return sorted(ours) == sorted(theirs) and all(torch.equal(ours[key], value) for key, value in theirs.items())


@pytest.mark.parametrize("name", ["sd.safetensors", "sd.ckpt"])
def test_a_file_of_stable_diffusion_1_holds_what_its_folder_holds(pipelines, write, name):
    folder, pipe = pipelines("image_pipeline")
    file = write(tiny.stable_diffusion_file(pipe), name)
    image, whole = load_image_file(read_single(file)), kg.load(folder, device="cpu").parts
    assert same(image.unet.state_dict(), whole.network.unet.state_dict())
    assert same(image.autoencoder.vae.state_dict(), whole.autoencoder.vae.state_dict())
    assert image.scheduler["prediction_type"] == "epsilon"
    assert image.unet.config["attention_head_dim"] == 8
    config = whole.text.model.config
    assert image.text.model.config.num_hidden_layers == config.num_hidden_layers
    config.num_attention_heads = image.text.model.config.num_attention_heads
    torch.testing.assert_close(image.text(["a dog"]), whole.text(["a dog"]))


def test_a_file_of_stable_diffusion_2_drops_the_layer_that_is_never_run(pipelines, write):
    _, pipe = pipelines("image_pipeline")
    unet = tiny.tiny_image_unet(
        block_out_channels=(64, 128), attention_head_dim=(1, 2), use_linear_projection=True, cross_attention_dim=32
    )
    text = pipe.text_encoder
    tensors = tiny.under(tiny.UNET, tiny.ldm_unet(unet)) | tiny.under(tiny.VAE, tiny.ldm_vae(pipe.vae))
    file = write(tensors | tiny.under(tiny.OPEN_TEXT, tiny.open_clip_text(text)))
    image = load_image_file(read_single(file))
    assert (image.unet.config["use_linear_projection"], image.scheduler["prediction_type"]) == (True, "v_prediction")
    assert list(image.unet.config["attention_head_dim"]) == [1, 2]
    assert same(tiny.clip_weights(image.text.model), tiny.clip_weights(text))
    assert image.text.model.config.hidden_act == "gelu"
    assert image.text.tokenizer("a", padding="max_length", max_length=5)["input_ids"][-1] == 0
    assert same(image.unet.state_dict(), unet.state_dict())


PUBLISHED = {
    "block_out_channels": (32, 32, 64, 64),
    "layers_per_block": 2,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
}


def test_names_are_those_that_diffusers_own_converter_reads():
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    unet, vae = tiny.tiny_image_unet(**PUBLISHED), tiny.tiny_vae()
    theirs = tiny.ldm_unet(unet)
    assert shapes.ldm_levels(theirs) == {key: PUBLISHED[key] for key in shapes.ldm_levels(theirs)}
    assert same(convert_ldm_unet_checkpoint(tiny.under(tiny.UNET, theirs), dict(unet.config)), unet.state_dict())
    read = convert_ldm_vae_checkpoint(tiny.under(tiny.VAE, tiny.ldm_vae(vae)), dict(vae.config))
    assert sorted(read) == sorted(vae.state_dict())
    assert all(torch.equal(read[key].flatten(), value.flatten()) for key, value in vae.state_dict().items())


def test_unknown_weights_are_listed(pipelines, write):
    _, pipe = pipelines("image_pipeline")
    tensors = tiny.stable_diffusion_file(pipe)
    with pytest.raises(WeightsError, match=r"1 of its \d+ weights are unknown there, such as strange\.weight"):
        kg.load(write(tensors | {"strange.weight": torch.zeros(2)}))
    with pytest.raises(WeightsError, match=r"input_blocks\.77\.0\.weight"):
        kg.load(write(tensors | {f"{tiny.UNET}input_blocks.77.0.weight": torch.zeros(2)}))
    tensors.pop(f"{tiny.UNET}out.2.bias")
    with pytest.raises(WeightsError, match=r"1 key is missing \(model\.diffusion_model\.out\.2\.bias\)"):
        kg.load(write(tensors))


def test_reading_sizes_off_a_file_that_lacks_its_first_layer(pipelines, write):
    _, pipe = pipelines("image_pipeline")
    tensors = tiny.stable_diffusion_file(pipe)
    tensors.pop(f"{tiny.UNET}input_blocks.0.0.weight")
    with pytest.raises(WeightsError, match=r"no weight 'model\.diffusion_model\.input_blocks\.0\.0\.weight'"):
        kg.load(write(tensors))


def test_words_are_found_beside_the_file_or_in_open_clip_or_the_message_says_where(pipelines, tmp_path, monkeypatch):
    import gzip
    from types import SimpleNamespace

    letters = clip_text.byte_letters()
    merges = ["#version: 0.2", "a b</w>", *(f"{one} {two}" for one in letters for two in letters)]
    (tmp_path / "oc").mkdir()
    (tmp_path / "oc" / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress("\n".join(merges).encode()))
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path / "oc")])
    monkeypatch.setattr(clip_text.importlib.util, "find_spec", lambda name: found)
    words = clip_text.find_tokenizer(tmp_path / "sd.ckpt")
    assert len(words) == 49408
    assert words("ab")["input_ids"] == [49406, 512, 49407]
    monkeypatch.setattr(clip_text.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(clip_text, "CLIP_ON_THE_HUB", str(tmp_path / "gone"))
    with pytest.raises(WeightsError, match=r"vocab\.json.*open_clip_torch"):
        clip_text.find_tokenizer(tmp_path / "sd.ckpt")


def test_the_map_is_one_to_one():
    unet = tiny.tiny_image_unet(**PUBLISHED)
    keys = unet_keys(unet.config)
    assert same(keys.to_ours(keys.to_theirs(unet.state_dict())), unet.state_dict())
