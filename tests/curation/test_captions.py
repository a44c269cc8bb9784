"""Captioners run on models in their published layouts; all captions are kept with their weights."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from fabricated import picture
from test_endpoint import Server, said, server  # noqa: F401 - a fixture

from kineograph.curation import captions
from kineograph.curation.captions import Captions, Standin, from_specs, standin_captions
from kineograph.errors import InputError, MissingExtraError, WeightsError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]", "<s>", "</s>"]
WORDS += ["a", "the", "red", "blue", "ball", "runs", "house", "man", "video", "of", "with", "and", "moves", "-", ":"]


def tokenizer(place):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    words = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", **words)
    made.save_pretrained(place)
    return made


def image_settings(place, kind="BlipImageProcessor"):
    settings = {"image_processor_type": kind, "do_resize": True, "size": {"height": 32, "width": 32}}
    settings |= {"do_normalize": True, "do_rescale": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (place / "preprocessor_config.json").write_text(json.dumps(settings))


def shaken(model):
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    from transformers import BlipConfig, BlipForConditionalGeneration

    place = tmp_path_factory.mktemp("m") / "blip-tiny"
    shared = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**shared, "vocab_size": len(WORDS), "max_position_embeddings": 80, "bos_token_id": 4, "sep_token_id": 3}
    text |= {"eos_token_id": 3, "pad_token_id": 0, "encoder_hidden_size": 32}
    config = BlipConfig(text_config=text, vision_config={**shared, "image_size": 32, "patch_size": 8})
    shaken(BlipForConditionalGeneration(config)).save_pretrained(place)
    tokenizer(place)
    image_settings(place)
    return place


@pytest.fixture(scope="module")
def blip2(tmp_path_factory):
    from transformers import Blip2Config, Blip2ForConditionalGeneration, OPTConfig

    place = tmp_path_factory.mktemp("m") / "video-blip-tiny"
    shared = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 2}
    opt = OPTConfig(
        vocab_size=len(WORDS) + 1,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        word_embed_proj_dim=32,
        pad_token_id=0,
        bos_token_id=5,
        eos_token_id=6,
    )
    config = Blip2Config(
        vision_config={**shared, "image_size": 32, "patch_size": 16},
        qformer_config={**shared, "vocab_size": 30, "encoder_hidden_size": 32, "cross_attention_frequency": 1},
        text_config=opt.to_dict(),
        num_query_tokens=4,
        image_token_index=len(WORDS),
    )
    shaken(Blip2ForConditionalGeneration(config)).save_pretrained(place)
    tokenizer(place)
    image_settings(place)
    return place


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    from transformers import LlamaConfig, LlamaForCausalLM

    place = tmp_path_factory.mktemp("m") / "llama-tiny"
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=5,
        eos_token_id=6,
    )
    shaken(LlamaForCausalLM(config)).save_pretrained(place)
    tokenizer(place)
    return place


def test_image_model_on_the_middle_frame(blip):
    from transformers import BlipForConditionalGeneration

    captioner = captions.ImageCaptioner(blip)
    strip = picture(3, 48, 64)
    text = captioner.caption(strip, {}, [])
    model = BlipForConditionalGeneration.from_pretrained(blip).eval()
    from PIL import Image

    pixels = np.asarray(Image.fromarray(strip[1]).resize((32, 32), Image.Resampling.BICUBIC)) / 255
    pixels = torch.tensor((pixels - 0.5) / 0.25, dtype=torch.float32).permute(2, 0, 1)[None]
    tokens = model.generate(pixel_values=pixels, max_new_tokens=captions.MAX_TOKENS, do_sample=False)
    assert text == tokenizer(blip).decode(tokens[0], skip_special_tokens=True).strip()
    assert text
    assert captioner.name == "blip-tiny"
    assert captioner.caption(strip[[0, 1, 1]], {}, []) == text  # the other frames do not matter
    others = {captioner.caption(picture(n, 48, 64), {}, []) for n in range(6)}
    assert len(others) > 1


def test_video_blip_attends_to_the_patches_of_all_frames(blip2):
    from transformers import Blip2ForConditionalGeneration

    captioner = captions.VideoBlip(blip2)
    model, _, processor = captioner._parts
    plain = Blip2ForConditionalGeneration.from_pretrained(blip2).eval()
    strip = picture(2, 48, 64)
    pixels = processor(list(strip), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        joined = model.vision_model(pixels[None]).last_hidden_state
        apart = plain.vision_model(pixels).last_hidden_state
    torch.testing.assert_close(joined, apart.reshape(1, -1, apart.shape[-1]))
    text = captioner.caption(strip, {}, [])
    assert text == captioner.caption(strip, {}, ["ignored"])
    with torch.no_grad():
        queries = plain.query_tokens
        seen = plain.qformer(query_embeds=queries, encoder_hidden_states=joined).last_hidden_state
        one = plain.qformer(query_embeds=queries, encoder_hidden_states=apart[:1]).last_hidden_state
        features = model.get_image_features(pixel_values=pixels[None]).pooler_output
    torch.testing.assert_close(features, plain.language_projection(seen))
    assert (seen - one).abs().max() > 1e-3
    assert set(plain.state_dict()) == set(model.state_dict())


def test_a_language_model_merges_what_was_said(language):
    summary = captions.LocalSummary(language)
    strip = picture(1)
    assert summary.caption(strip, {}, ["a ball"]) == ""
    assert summary.caption(strip, {}, ["a ball", "a ball"]) == ""
    text = summary.caption(strip, {}, ["a red ball", "a man runs"])
    assert text
    assert not text.startswith("Two")
    assert text != summary.caption(strip, {}, ["the house", "a video moves"])
    assert captions.summary_prompt(["x", "", "y"]).endswith("- x\n- y\n")


class Coca:
    """Behaves as open_clip's CoCa: logits of every position of the text, for one that it has in mind."""

    pad_id = 0

    def __init__(self, spoken):
        self.spoken = spoken

    def eval(self):
        return self

    def _encode_image(self, picture):
        return "latent", picture

    def __call__(self, picture, text, image_latent, image_embs, output_labels):
        assert (image_latent, output_labels) == ("latent", False)
        assert image_embs is picture
        assert text[0, 0] == captions.COCA_START
        logits = torch.zeros(1, text.shape[1], 49408)
        logits[0, -1, self.spoken[text.shape[1] - 1]] = 2
        logits[0, -1, 7] = 1
        return {"logits": logits}


def test_coca_says_the_most_probable_words_until_the_end():
    end = captions.COCA_END
    picture = torch.zeros(1, 3, 4, 4)
    assert captions.greedy_coca(Coca([11, 12, 13, 14, 15, end]), picture) == [11, 12, 13, 14, 15]
    assert captions.greedy_coca(Coca([11, end, 13, 14, 0, 16]), picture) == [11, 7, 13, 14]  # not before five tokens
    assert len(captions.greedy_coca(Coca([9] * 40), picture)) == 28


def test_coca_is_loaded_as_open_clip_does(tmp_path, monkeypatch):
    class OpenClip:
        made = None

        @classmethod
        def create_model_and_transforms(cls, name, pretrained, device):
            cls.made = name, pretrained, device
            return Coca([1, 2, 3, 4, captions.COCA_END]), None, lambda image: torch.zeros(3, 4, 5) + image.width

        @staticmethod
        def decode(tokens):
            return f" {tokens.tolist()} "

    (tmp_path / "coca.bin").write_bytes(b"weights")
    coca = captions.Coca(tmp_path / "coca.bin")
    if importlib.util.find_spec("open_clip") is None:
        with pytest.raises(MissingExtraError, match="pip install open-clip-torch"):
            coca.caption(picture(1), {}, [])
    monkeypatch.setattr(captions, "_open_clip", lambda: OpenClip)
    assert coca.caption(picture(1), {}, []) == "[1, 2, 3, 4]"
    assert OpenClip.made == ("coca_ViT-L-14", str(tmp_path / "coca.bin"), "cpu")
    with pytest.raises(WeightsError, match="no CoCa weights"):
        captions.Coca(tmp_path / "none").caption(picture(1), {}, [])


def test_endpoints_are_shown_the_right_frames(server):  # noqa: F811
    server.answers = [said("a ball"), said("a ball rolls"), said("A ball rolls.")]
    url = f"{server.url}#vlm"
    made = from_specs([f"endpoint:{url}", f"endpoint-video:{url}", f"summary:{url}"]).score(picture(1), {})
    assert made["captions"] == [
        {"text": "a ball", "captioner": "vlm", "weight": 0.5},
        {"text": "a ball rolls", "captioner": "vlm", "weight": 0.25},
        {"text": "A ball rolls.", "captioner": "summary by vlm", "weight": 0.25},
    ]
    contents = [body["messages"][0]["content"] for _, _, body in server.asked]
    assert [len(one) for one in contents[:2]] == [2, 4]
    assert contents[2].endswith("- a ball\n- a ball rolls\n")
    middle = contents[0][1]["image_url"]["url"]
    assert middle == contents[1][2]["image_url"]["url"]
    assert middle != contents[1][1]["image_url"]["url"]


def test_stand_ins_say_what_they_are_and_see():
    night = np.full((3, 40, 60, 3), (10, 10, 60), np.uint8)
    made = standin_captions().score(night, {"motion_mean": 0.05})["captions"]
    assert [one["captioner"] for one in made] == ["standin-frame", "standin-video", "standin-summary"]
    assert [one["weight"] for one in made] == [0.5, 0.25, 0.25]
    assert [one["text"] for one in made] == [
        "a dark picture, almost all blue",
        "a video with fast movement",
        "a dark video, almost all blue, with fast movement",
    ]
    day = night.copy()
    day[:, :, :30] = (250, 250, 250)
    day[2] = 255 - day[0]
    assert Standin("summary").caption(day, {"motion_mean": float("nan")}, []) == (
        "an evenly lit video, white and blue, whose picture changes"
    )
    assert Standin("video").caption(night, {}, []) == "a video whose picture stays"


def test_weights_and_fingerprints():
    two = Captions([Standin("frame"), Standin("video")])
    assert two.weights == [0.5, 0.5]
    prints = {
        two.fingerprint,
        Captions([Standin("frame"), Standin("video")], (0.3, 0.7)).fingerprint,
        Captions([Standin("video"), Standin("frame")]).fingerprint,
    }
    assert len(prints) == 3
    for weights in ((1.0,), (0.5, 0.6), (1.5, -0.5)):
        with pytest.raises(InputError, match="sum to 1"):
            Captions([Standin("frame"), Standin("video")], weights)
    with pytest.raises(InputError, match="at least one captioner"):
        Captions([])


def test_arrow_knows_the_column():
    from kineograph.curation.rows import schema_of

    assert str(schema_of(Captions.columns).field("captions").type).startswith("list<")


def test_specs(blip):
    made = from_specs([f"image:{blip}", f"video-blip:{blip}", f"summary:{blip}", "coca:/x/coca.bin"])
    kinds = [type(one).__name__ for one in made.captioners]
    assert kinds == ["ImageCaptioner", "VideoBlip", "LocalSummary", "Coca"]
    assert from_specs(["standin"]).fingerprint == standin_captions().fingerprint
    with pytest.raises(InputError, match="did you mean 'coca'"):
        from_specs(["coka:x"])
    with pytest.raises(InputError, match="is incomplete: coca:FILE"):
        from_specs(["coca"])
    with pytest.raises(InputError, match="names no model"):
        from_specs(["endpoint:http://localhost:8000/v1"])


def test_folders_that_are_no_models(tmp_path):
    for one in (captions.ImageCaptioner(tmp_path), captions.VideoBlip(tmp_path), captions.LocalSummary(tmp_path)):
        with pytest.raises(WeightsError, match="cannot be loaded for captions"):
            one.caption(picture(1), {}, ["a", "b"])


def test_a_file_s_name_is_its_caption_unless_one_came_with_it():
    [captioner] = from_specs(["file-name"]).captioners
    told = {"source_path": "below/a_red-car.on 02 the.road.mp4", "caption": ""}
    assert captioner.caption(np.zeros((3, 4, 4, 3), np.uint8), told, []) == "a red car on the road"
    assert captioner.caption(np.zeros((3, 4, 4, 3), np.uint8), {**told, "caption": "a lorry"}, []) == "a lorry"
    with pytest.raises(InputError, match="file-name"):
        from_specs(["filename"])
