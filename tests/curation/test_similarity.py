"""CLIP and the aesthetic head are loaded from their published layouts and give what the reference gives."""

import json

import numpy as np
import pytest
import torch
from fabricated import caption_rows, picture
from safetensors.torch import save_file
from torch import nn

from kineograph.curation.captions import Standin
from kineograph.curation.similarity import (
    ClipSimilarity,
    StandinSimilarity,
    colour_agreement,
    from_spec,
    load_head,
    looks_of,
    prepare,
)
from kineograph.errors import InputError, WeightsError

WIDTH = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny CLIP with random weights and a tokenizer of single letters, in transformers' layout."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    place = tmp_path_factory.mktemp("clip")
    letters = [chr(i) for i in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (place / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(place / "vocab.json"), str(place / "merges.txt"), model_max_length=16).save_pretrained(place)
    shared = {"hidden_size": WIDTH, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = {**shared, "vocab_size": len(words), "max_position_embeddings": 16, "eos_token_id": len(words) - 1}
    vision = {**shared, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(place)
    return place


class PublishedMlp(nn.Module):
    """The layers of improved-aesthetic-predictor's `simple_inference.py`."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(768, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )


def test_scores_are_those_of_transformers(folder, tmp_path):
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    head = nn.Linear(768, 1)  # LAION-AI/aesthetic-predictor
    torch.save(head.state_dict(), tmp_path / "sa_0_4_vit_l_14_linear.pth")
    strip, text = picture(4, 90, 160), "a red ball"
    scorer = ClipSimilarity(folder, tmp_path / "sa_0_4_vit_l_14_linear.pth")
    got = scorer.score(strip, {"caption": text, "captions": None})
    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pixels = processor(list(strip), return_tensors="pt")["pixel_values"]
    tokens = CLIPTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        pictures = nn.functional.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        words = nn.functional.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
        assert got["clip_similarity"] == pytest.approx(float((pictures @ words.T).mean()), rel=1e-4)
        assert got["aesthetic"] == pytest.approx(float(head(pictures).mean()), rel=1e-4)
    other = scorer.score(strip, {"caption": "zzz"})["clip_similarity"]
    assert abs(other - got["clip_similarity"]) > 1e-4
    assert scorer.score(picture(5), {"caption": text})["clip_similarity"] != got["clip_similarity"]


@pytest.mark.parametrize("size", [(90, 160), (160, 90), (33, 47), (64, 64)])
def test_pictures_are_prepared_as_the_reference_does(size):
    from transformers import CLIPImageProcessorPil

    strip = picture(1, *size)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    expected = processor(list(strip), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(prepare(strip, 32), expected, rtol=0, atol=1e-5)


def test_the_main_caption_counts_and_no_caption_is_null(folder):
    scorer = ClipSimilarity(folder)
    strip = picture(2)
    by_captions = scorer.score(strip, {"caption": "x", "captions": caption_rows(3)})
    assert by_captions == scorer.score(strip, {"caption": "coca says 3"})
    assert by_captions["aesthetic"] is None
    assert scorer.score(strip, {"caption": ""})["clip_similarity"] is None
    long = scorer.score(strip, {"caption": "word " * 100})
    assert -1 <= long["clip_similarity"] <= 1


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_the_mlp_head_is_what_its_layers_give(tmp_path, form):
    torch.manual_seed(1)
    mlp = PublishedMlp().eval()
    file = tmp_path / f"sac+logos+ava1-l14-linearMSE.{form}"
    torch.save(mlp.state_dict(), file) if form == "pth" else save_file(mlp.state_dict(), file)
    assert sorted(mlp.state_dict())[0] == "layers.0.bias"
    weight, bias = load_head(file, 768)
    x = torch.randn(5, 768)
    torch.testing.assert_close(x @ weight + bias, mlp.layers(x)[:, 0], rtol=1e-4, atol=1e-5)


def test_other_weights_are_refused(folder, tmp_path):
    save_file(nn.Linear(512, 1).state_dict(), tmp_path / "b32.safetensors")
    with pytest.raises(WeightsError, match=r"maps 512 numbers to 1, but this CLIP's embeddings have\s+768"):
        ClipSimilarity(folder, tmp_path / "b32.safetensors").score(picture(1), {})
    save_file({"encoder.weight": torch.zeros(1, 768)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"no LAION aesthetic head: its keys are encoder\.weight"):
        load_head(tmp_path / "other.safetensors", 768)
    (tmp_path / "broken.pth").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        load_head(tmp_path / "broken.pth", 768)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds one list, not weights by name"):
        load_head(tmp_path / "list.pth", 768)
    with pytest.raises(WeightsError, match=r"no config\.json"):
        ClipSimilarity(tmp_path)
    with pytest.raises(WeightsError, match="no aesthetic head"):
        ClipSimilarity(folder, tmp_path / "none.pth")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match="cannot be loaded as CLIP"):
        ClipSimilarity(tmp_path).score(picture(1), {})


def test_the_fingerprint_is_that_of_the_weights(folder, tmp_path):
    save_file({"weight": torch.zeros(1, 768), "bias": torch.zeros(1)}, tmp_path / "a.safetensors")
    save_file({"weight": torch.ones(1, 768), "bias": torch.zeros(1)}, tmp_path / "b.safetensors")
    prints = {
        ClipSimilarity(folder, head).fingerprint
        for head in (None, tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    }
    assert len(prints) == 3
    assert ClipSimilarity(folder).fingerprint in prints


def test_stand_ins_are_named_as_such():
    scorer = StandinSimilarity()
    assert all(column.endswith("_standin") for column in scorer.columns)
    got = scorer.score(picture(1), {"caption": "a thing"})
    assert got["clip_similarity_standin"] is None
    assert 0 < got["aesthetic_standin"] < 1
    flat = np.full((90, 160, 3), 30, np.uint8)
    assert looks_of(flat) < looks_of(picture(1)[0])


def test_colour_words_are_checked_against_the_frames():
    red, blue = (np.full((40, 40, 3), colour, np.uint8) for colour in ((200, 20, 20), (20, 40, 210)))
    strip = np.stack([red, red, blue])
    assert colour_agreement(strip[:2], "A red house.") == 1.0
    assert colour_agreement(strip, "A red house.") == pytest.approx(2 / 3)
    assert colour_agreement(strip, "a green and blue bird") == pytest.approx(0.5**0.5 / 3)
    assert colour_agreement(strip, "bright") == 0.0
    assert colour_agreement(np.full_like(strip, 250), "bright") == 1.0
    assert colour_agreement(strip, "a bird sings") is None


def test_the_stand_in_tells_pictures_apart_whose_captions_it_made_itself():
    """A caption names the two colours that cover most; how much they cover is not the same for all pictures."""
    clips = [picture(seed) for seed in range(4)]
    clips.append(
        np.stack([np.full((40, 40, 3), colour, np.uint8) for colour in ((200, 20, 20), (90,) * 3, (20, 40, 210))])
    )
    texts = [Standin("frame").caption(strip, {}, []) for strip in clips]
    found = [colour_agreement(strip, text) for strip, text in zip(clips, texts, strict=True)]
    assert len({round(value, 6) for value in found}) == len(clips)
    assert all(0 < value < 1 for value in found)


def test_specs(folder):
    assert isinstance(from_spec("standin"), StandinSimilarity)
    assert isinstance(from_spec(f"clip:{folder}"), ClipSimilarity)
    with pytest.raises(InputError, match="Unknown similarity 'clap', did you mean 'clip'"):
        from_spec("clap:x")
    with pytest.raises(InputError, match="clip:FOLDER"):
        from_spec("clip")
