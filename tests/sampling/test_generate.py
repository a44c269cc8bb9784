"""Generation: a seed is a clip, one frame is the image, bad wishes are refused in the words of the flags."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model

from kineograph.errors import InputError, KineographError, WeightsError
from kineograph.models.draft import DraftNetwork
from kineograph.sampling.generate import BUNDLED, SAMPLERS, Model, find, find_base, load, with_system


@pytest.fixture(scope="module")
def model():
    return Model(tiny_model())


def test_a_seed_is_a_clip_in_any_batch_bit_for_bit(model):
    prompts = ["a red dog", "a man juggling", "a blue cat"]
    together = model.generate(prompts, seed=[7, 8, 9])
    for prompt, seed, clip in zip(prompts, (7, 8, 9), together, strict=True):
        assert torch.equal(model.generate(prompt, seed=seed).frames, clip.frames)
    assert torch.equal(model.generate(prompts[1:], seed=8)[1].frames, together[2].frames)
    assert not torch.equal(model.generate("a red dog", seed=8).frames, together[0].frames)


def test_one_frame_is_the_image_model(model):
    image = Model(tiny_model(system=None))
    image.parts.network.unet.load_state_dict(
        {k: v for k, v in model.parts.network.unet.state_dict().items() if ".temporal." not in k}
    )
    picture = model.generate("a red dog", seed=3, num_frames=1, precision="fp32")
    image.parts.autoencoder.load_state_dict(model.parts.autoencoder.state_dict())
    image.parts.text.load_state_dict(model.parts.text.state_dict())
    expected = image.generate("a red dog", seed=3, num_frames=1, precision="fp32")
    assert len(picture) == 1
    torch.testing.assert_close(picture.frames, expected.frames)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_every_sampler_gives_finite_clips_twice_the_same(model, sampler):
    one, two = (model.generate("a dog", seed=1, sampler=sampler, num_inference_steps=4) for _ in range(2))
    assert torch.isfinite(one.frames).all()
    assert torch.equal(one.frames, two.frames)


def test_settings_travel_with_the_clip(model, tmp_path):
    clip = model.generate("a dog", seed=5, num_inference_steps=2, guidance_scale=2.0, negative_prompt="cat")
    clip.save(tmp_path / "clip.mp4")
    from kineograph.video import Video

    read = Video.read(tmp_path / "clip.mp4").metadata
    assert (read["prompt"], read["seed"], read["guidance_scale"], read["negative_prompt"]) == ("a dog", 5, 2.0, "cat")
    assert read["model"] == "tiny"


def test_guidance_acts_within_its_interval_and_costs_nothing_outside(model, monkeypatch):
    told, calls = {"seed": 3, "num_inference_steps": 4, "sampler": "ddim", "guidance_scale": 5.0}, []
    run = lambda **more: model.generate("a dog", **{**told, **more}).frames
    assert torch.equal(run(guidance_interval=(0.0, 1.0)), run())
    assert torch.equal(run(guidance_interval=(0.0, 0.0), guidance_scale=None), run(guidance_scale=1.0))
    forward = type(model.parts.network).forward
    monkeypatch.setattr(
        type(model.parts.network), "forward", lambda *a, **k: calls.append(len(a[1])) or forward(*a, **k)
    )
    half = run(guidance_interval=(0.5, 1.0))
    assert sum(calls) == 2 + 2 + 1 + 1  # two of four steps are in the upper half of time
    assert not torch.equal(half, run())


def test_draft_takes_the_noisiest_steps(monkeypatch):
    told = {"seed": 3, "num_inference_steps": 4, "sampler": "ddim", "guidance_scale": 1.0, "precision": "fp32"}
    times, model = [], Model(tiny_model())
    plain = model.generate("a dog", **told).frames
    torch.manual_seed(0)
    model.parts.draft = DraftNetwork(32, (4, 4, 4), 4, width=16, prototypes=8, components=64).eval()
    torch.nn.init.normal_(model.parts.draft.leave.weight)
    assert torch.equal(model.generate("a dog", **told).frames, plain)  # the settings do not ask for it
    forward = type(model.parts.network).forward
    monkeypatch.setattr(
        type(model.parts.network), "forward", lambda *a, **k: times.append(int(a[2])) or forward(*a, **k)
    )
    half = model.generate("a dog", draft_until=0.5, **told)
    assert times == [249]
    assert half.metadata["draft_until"] == 0.5
    assert not torch.equal(half.frames, plain)
    model.generate("a dog", draft_until=0.5, height=24, width=32, **told)  # the draft is resized
    alone = model.generate("a dog", draft_until=0.0, **{**told, "seed": 9})
    assert len(times) == 2
    clip = model.parts.draft.clip(model.parts.text(["a dog"]), 4)
    torch.testing.assert_close(alone.frames, model.parts.autoencoder.decode(clip)[0].float().clamp(-1, 1))


def drafted_model():
    """A tiny model whose draft takes the steps of the noisier half."""
    model = Model(tiny_model())
    torch.manual_seed(0)
    model.parts.draft = DraftNetwork(32, (4, 4, 4), 4, width=16, prototypes=8, components=64).eval()
    torch.nn.init.normal_(model.parts.draft.leave.weight)
    model.parts.settings = replace(model.parts.settings, draft_until=0.5, guidance_interval=(0.6, 1.0))
    return model


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"guidance_scale": 9.0}, r"--guidance-scale would change no pixel: .*draft takes the steps above 0.5"),
        ({"negative_prompt": "a cat"}, r"--negative-prompt would change no pixel: .*--draft-until 1 .*--guidance-int"),
        ({"guidance_interval": (0.7, 1.0)}, "--guidance-interval would change no pixel"),
        ({"negative_prompt": "a cat", "guidance_scale": 1.0}, "guidance is off at --guidance-scale 1"),
        (
            {"guidance_interval": (0.01, 0.02), "guidance_scale": 3.0, "draft_until": 1.0},
            "none of the 4 steps lies",
        ),
    ],
)
def test_guidance_that_would_change_no_pixel_is_refused(wish, words):
    with pytest.raises(InputError, match=words):
        drafted_model().generate("a dog", num_inference_steps=4, **wish)


def test_the_record_of_a_clip_has_no_guidance_that_did_nothing():
    model, told = drafted_model(), {"seed": 3, "num_inference_steps": 4, "sampler": "ddim"}
    plain = model.generate("a dog", **told)
    assert plain.metadata["guidance_scale"] == 1.0
    assert "guidance_interval" not in plain.metadata
    assert torch.equal(plain.frames, model.generate("a dog", **told, guidance_scale=1.0).frames)
    acting = ({"guidance_interval": (0.0, 1.0)}, {"draft_until": 1.0})
    for wish in acting:  # the two ways out that the refusal names
        weak, strong = (model.generate("a dog", **told, **wish, guidance_scale=scale) for scale in (2.0, 9.0))
        assert strong.metadata["guidance_scale"] == 9.0
        assert not torch.equal(weak.frames, strong.frames)


def test_a_training_free_system_moves_the_draft_of_the_first_frame(model_folder):
    """The draft stands in the noisiest steps of all frames, further along in each; its own motion does not."""
    model = drafted_model()
    model.parts = with_system(model.parts, "text2video_zero")
    assert (model.settings.num_frames, model.settings.fps, model.settings.draft_until) == (8, 4.0, 0.5)
    steps = []
    told = {"seed": 3, "num_frames": 4, "num_inference_steps": 6, "height": 64, "width": 64, "precision": "fp32"}
    clip = model.generate("a dog", draft_until=0.0, callback=steps.append, **told).frames
    assert not torch.equal(clip[3], clip[0])
    assert [step.i for step in steps] == list(range(steps[0].num_steps))
    still = model.parts.draft_of(model.parts.text(["a dog"]), 0.0, (1, 4, 16, 16))
    torch.testing.assert_close(clip[:1], model.parts.autoencoder.decode(still)[0].float())
    assert not torch.equal(clip, model.generate("a dog", draft_until=1.0, **told).frames)


def test_frame_rates_are_kept_as_given(model):
    assert model.generate("a dog", num_frames=2, num_inference_steps=1, fps=7.5).fps == 7.5
    with pytest.raises(InputError, match=r"--fps .* more than 0, not 0\."):
        model.generate("a dog", fps=0)


def test_an_image_model_says_what_gives_it_time():
    image = Model(tiny_model(system=None))
    image.parts.settings = replace(image.parts.settings, num_frames=1)
    with pytest.raises(InputError, match=r"--num-frames 8: 'tiny' is an image model.*--system text2video_zero.*--base"):
        image.generate("a dog", num_frames=8)


def test_sizes_frames_and_callback(model):
    seen = []
    clip = model.generate("a dog", num_frames=2, height=24, width=16, num_inference_steps=3, callback=seen.append)
    assert clip.frames.shape == (2, 3, 24, 16)
    assert [step.i for step in seen] == [0, 1, 2]


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"num_frames": 0}, "--num-frames"),
        ({"num_frames": 17}, "--num-frames"),
        ({"num_inference_steps": 1001}, "--num-inference-steps"),
        ({"guidance_scale": -1.0}, "--guidance-scale"),
        ({"guidance_interval": (0.8, 0.2)}, "--guidance-interval"),
        ({"guidance_interval": (0.0, 1.5)}, "--guidance-interval"),
        ({"draft_until": 1.2}, "--draft-until"),
        ({"draft_until": 0.5}, "has no draft"),
        ({"sampler": "dimm"}, "did you mean 'ddim'"),
        ({"sampler": "euler_a"}, "did you mean 'euler-ancestral'"),
        ({"sampler": "eular"}, "did you mean 'euler-ancestral'"),
        ({"fps": -1.0}, "--fps"),
        ({"height": 0}, "--height must be at least 4"),
        ({"seed": -1}, "--seed"),
        ({"seed": [1, 2]}, "one per prompt"),
        ({"height": 17}, "--height"),
        ({"precision": "fp8"}, "--precision"),
    ],
)
def test_bad_wishes_are_refused_by_flag(model, wish, words):
    with pytest.raises(InputError, match=words):
        model.generate("a dog", **wish)


def test_empty_prompt_is_refused(model):
    with pytest.raises(InputError, match="no prompt"):
        model.generate("  ")


def test_nan_weights_never_become_black_frames():
    broken = Model(tiny_model())
    broken.parts.network.unet.conv_out.bias.data[0] = float("nan")
    with pytest.raises(KineographError, match="denoiser"):
        broken.generate("a dog")


def test_models_on_the_hub_are_found_by_owner_and_name(model_folder, tmp_path, monkeypatch):
    asked = {}

    def snapshot(name, **options):
        asked.update(options, name=name)
        if name != "owner/tiny-model":
            raise OSError("no network\nmore")
        return str(model_folder)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert load("owner/tiny-model", device="cpu").settings.name == "tiny"
    assert not any(pattern.endswith((".bin", ".ckpt", ".py", ".pt")) for pattern in asked["allow_patterns"])
    with pytest.raises(WeightsError, match=r"no folder 'owner/other'.*Hub: no network\."):
        load("owner/other")
    assert find_base("owner/tiny-model") == model_folder
    with pytest.raises(WeightsError, match="--base: there is no file or folder"):
        find_base(tmp_path / "gone")


def test_unknown_model_names_the_known_ones(tmp_path):
    with pytest.raises(WeightsError, match=r"model_index\.json"):
        load(tmp_path)
    with pytest.raises(WeightsError, match="emojy"):
        load("emojy")


def test_training_free_system_moves_the_pictures_of_an_image_model(model_folder):
    model = load(model_folder, system="text2video_zero")
    assert model.settings.name.startswith("text2video_zero on")
    clip = model.generate("a cat", seed=3, num_frames=4, num_inference_steps=6)
    assert clip.frames.shape[0] == 4
    assert (clip.frames[1:] != clip.frames[:-1]).any(dim=(1, 2, 3)).all()
    again = model.generate(["a dog", "a cat"], seed=[1, 3], num_frames=4, num_inference_steps=6)[1]
    assert torch.equal(again.frames, clip.frames)
    assert len(model.generate("a cat", num_frames=1, num_inference_steps=2)) == 1


def test_a_system_with_a_sampler_of_its_own_refuses_another(model_folder):
    """It would be ignored; a single picture is sampled as the image model is."""
    model = load(model_folder, system="text2video_zero")
    with pytest.raises(InputError, match=r"--sampler heun has no place with --system text2video_zero.*ddim inside"):
        model.generate("a cat", num_frames=2, num_inference_steps=2, sampler="heun")
    assert len(model.generate("a cat", num_frames=1, num_inference_steps=2, sampler="heun")) == 1


def test_a_system_that_needs_training_is_refused(model_folder):
    with pytest.raises(InputError, match=r"--system modelscope needs trained .*Training-free: text2video_zero"):
        load(model_folder, system="modelscope")
    with pytest.raises(InputError, match="did you mean 'text2video_zero'"):
        load(model_folder, system="text2video-zer")


def test_a_data_set_does_not_hide_the_bundled_model_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emoji").mkdir()
    assert find("emoji") == BUNDLED / "emoji"
    (tmp_path / "emoji" / "model_index.json").write_text("{}")
    assert find("emoji") == Path("emoji")
