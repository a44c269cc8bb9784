"""What `kg.load(FILE).generate()` does without flags is what the authors' scripts do: process, timesteps, guidance.

Numbers are closed forms of the authors' code; docs/systems/parity.md records whole runs of that code beside ours.
"""

import math

import pytest
import tiny_pipelines as tiny
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from latents import difference, options
from safetensors.torch import save_file
from temporal_layouts import modelscope_network, system_network
from test_original import motion_tensors, videocrafter_file, written

import kineograph as kg
from kineograph.checkpoints.networks import key_map
from kineograph.diffusion.scheduler_fields import EDM_V
from kineograph.errors import WeightsError
from kineograph.models.latent_video import draw_noise
from kineograph.sampling.generate import sample_latents
from kineograph.systems import systems
from kineograph.systems.lavie import LaVieConfig


def shares(start, end, curve):
    """Return alphas_cumprod of betas that rise linearly, or whose square roots do."""
    power = 0.5 if curve == "scaled_linear" else 1.0
    betas = torch.linspace(start**power, end**power, 1000, dtype=torch.float64) ** (1 / power)
    return torch.cumprod(1 - betas, 0)


def walk(model, steps):
    """Return the timesteps that the network is told, the shares of data there and at the end, and the noise ratios."""
    levels = model.parts.plan.levels(steps)
    return list(levels.t[:-1]), torch.tensor(levels.alpha, dtype=torch.float64) ** 2, levels


@pytest.fixture(scope="module")
def bases(pipelines, tmp_path_factory):
    """One image model in three forms: a folder with PNDM's configuration, one with DDIM's, a single file."""
    folder = tmp_path_factory.mktemp("bases")
    published = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipe = tiny.write_image_pipeline(folder / "pndm", scheduler=published)
    tiny.write_tokenizer(folder / "tokenizer")
    tensors = {key: value.contiguous() for key, value in tiny.stable_diffusion_file(pipe).items()}
    save_file(tensors, folder / "sd.safetensors")
    return {"pndm": folder / "pndm", "ddim": pipelines("image_pipeline")[0], "file": folder / "sd.safetensors"}


def lavie_file(tmp_path, **changes):
    network = system_network("lavie", "published")
    theirs = systems()["lavie"].key_maps["original"](network.config).to_theirs(network.unet.state_dict())
    return written(tmp_path, theirs | changes, "lavie_base.pt", "ema")


def test_lavie_walks_as_ddpm_of_its_time(bases, tmp_path):
    """base/pipelines/sample.py with diffusers 0.16.0: no offset, from 980 to 0, the last step onto clean data."""
    model = kg.load(lavie_file(tmp_path), base=bases["pndm"], device="cpu")
    own, table = model.settings, shares(1e-4, 0.02, "linear")
    assert (own.sampler, own.num_inference_steps, own.guidance_scale) == ("scheduler", 50, 7.5)
    assert (own.num_frames, own.height, own.width, own.fps) == (16, 320, 512, 8.0)
    for steps in (50, 10):
        timesteps, alphas, _ = walk(model, steps)
        assert timesteps == list(range(1000 - 1000 // steps, -1, -1000 // steps))
        torch.testing.assert_close(alphas, torch.cat([table[[int(t) for t in timesteps]], torch.ones(1).double()]))
    assert model.parts.plan.fields["variance_type"] == "fixed_small"
    assert not model.parts.plan.fields["clip_sample"]


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_animatediff_samples_as_its_authors_whatever_the_base_says(bases, tmp_path, version):
    """scripts/animate.py: DDIM on the linear betas, 961 to 1, and then onto clean data."""
    file = written(tmp_path, motion_tensors(system_network("animatediff", version)), "mm.ckpt", None)
    given = bases if version == "v3" else {"pndm": bases["pndm"]}
    models = [kg.load(file, base=base, device="cpu") for base in given.values()]
    model, table = models[0], shares(0.00085, 0.012, "linear")
    assert all(other.settings.scheduler == model.settings.scheduler for other in models)
    timesteps, alphas, _ = walk(model, 25)
    assert timesteps == list(range(961, 0, -40))
    torch.testing.assert_close(alphas, torch.cat([table[[int(t) for t in timesteps]], torch.ones(1).double()]))
    own = model.settings
    assert (own.sampler, own.num_inference_steps, own.guidance_scale, own.eta) == ("scheduler", 25, 8.0, 0.0)
    assert model.settings.scheduler["_class_name"] == "DDIMScheduler"


def test_animatediff_keeps_what_a_base_predicts(tmp_path):
    folder = tmp_path / "v"
    tiny.write_image_pipeline(folder, scheduler=tiny.stable_diffusion_scheduler(prediction_type="v_prediction"))
    file = written(tmp_path, motion_tensors(system_network("animatediff", "v3")), "mm.ckpt", None)
    assert kg.load(file, base=folder, device="cpu").settings.scheduler["prediction_type"] == "v_prediction"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers' schedulers
def test_animatediff_on_xl_has_a_process_of_its_own(pipelines, tmp_path):
    """scripts/animate.py of the branch `sdxl`: Euler, sigma from 60.8, which a base's schedule never reaches."""
    network = systems()["animatediff"].build("sdxl", tiny.tiny_xl_unet())
    file = written(tmp_path, motion_tensors(network), "mm_sdxl.ckpt", None)
    model = kg.load(file, base=pipelines("image_xl")[0], device="cpu")
    theirs = EulerDiscreteScheduler(
        timestep_spacing="leading",
        steps_offset=1,
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.020,
        beta_schedule="scaled_linear",
    )
    theirs.set_timesteps(100)
    _, _, levels = walk(model, 100)
    assert theirs.sigmas[0] > 60
    torch.testing.assert_close(torch.tensor(levels.sigma), theirs.sigmas.float(), rtol=1e-4, atol=0)
    assert math.isclose(model.parts.plan.start_scale(levels), float(theirs.init_noise_sigma), rel_tol=1e-4)
    own = model.settings
    assert (own.num_inference_steps, own.guidance_scale, own.num_frames) == (100, 8.5, 16)


def test_modelscope_and_videocrafter_end_at_timestep_0(bases, pipelines, tmp_path):
    """Uniform timesteps plus one, the last step to the cleanest level, not to clean data; VideoCrafter with eta 1."""
    network = modelscope_network()
    theirs = systems()["modelscope"].key_maps["original"](network.config).to_theirs(network.unet.state_dict())
    first = kg.load(written(tmp_path, theirs, "ms.pth", None), base=bases["pndm"], device="cpu")
    assert (first.settings.guidance_scale, first.settings.eta, first.settings.height) == (9.0, 0.0, 256)
    pipe, table = pipelines("image_pipeline")[1], shares(0.00085, 0.012, "scaled_linear")
    expected = {"v1": ((320, 512), None), "v1-1024": ((576, 1024), (0.3, 400)), "v2": ((320, 512), (0.7, 400))}
    models = [first]
    for version, (size, scale) in expected.items():
        tensors = videocrafter_file(pipe, system_network("videocrafter", version))
        model = kg.load(written(tmp_path, tensors, f"{version}.ckpt"), device="cpu")
        own = model.settings
        assert ((own.height, own.width), own.data_scale) == (size, scale)
        assert (own.guidance_scale, own.eta, own.num_inference_steps, own.num_frames) == (12.0, 1.0, 50, 16)
        models.append(model)
    for model in models:
        timesteps, alphas, levels = walk(model, 50)
        assert timesteps == list(range(981, 0, -20))
        last = 1.0 if levels.data_scale is None else levels.data_scale[-1] ** 2
        torch.testing.assert_close(alphas[-1], table[0] * last)


def test_text2video_zero_equals_the_pipeline_of_diffusers(bases, pipelines, monkeypatch):
    """DDIM with the timesteps and the end of the base's scheduler, whatever its class."""
    import importlib

    from diffusers import TextToVideoZeroPipeline

    module = importlib.import_module(TextToVideoZeroPipeline.__module__)
    model = kg.load(bases["pndm"], system="text2video_zero", device="cpu")
    wishes = options(steps=10, num_frames=3, height=16, width=16, sampler="ddim")
    with torch.no_grad():
        found = sample_latents(model.parts, ["a red dog"], [4], wishes, None)[0]
    noise = draw_noise(model.settings, (3, 4, 8, 8), [4])[0]
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: noise[1:])
    image = pipelines("image_pipeline")[1]
    pipe = TextToVideoZeroPipeline(
        **{name: getattr(image, name) for name in ("vae", "text_encoder", "tokenizer")},
        unet=tiny.tiny_image_unet(),
        # model.py makes DDIM of any scheduler; published configurations say that nothing is clipped
        scheduler=DDIMScheduler.from_pretrained(bases["pndm"] / "scheduler", clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    names = ("height", "width", "num_inference_steps", "guidance_scale", "negative_prompt")
    with pytest.warns(UserWarning, match="grid"):
        theirs = pipe(
            "a red dog",
            video_length=3,
            latents=noise[:1].clone(),
            output_type="latent",
            t0=8,  # of ten steps what 44 and 47 are of fifty: after none and after one
            t1=9,
            **{name: wishes[name] for name in names},
        ).images
    assert difference(found, torch.as_tensor(theirs)) < 1e-5


def test_stable_video_diffusions_process_is_on_its_card():
    for preset, ends in {"published": (1.0, 2.5, 14, 25), "xt": (1.5, 3.0, 25, 30)}.items():
        system = systems()["stable_video_diffusion"]
        _, sampling = system.settled(preset)
        assert (sampling.first_guidance, sampling.guidance, sampling.frames, sampling.steps) == ends
        assert system.scheduler(preset) == EDM_V


# --- LaVie's rates of rotation ----------------------------------------------------------------------------------------


def wide_lavie(rates=None):
    """Return a network of LaVie's kind whose heads are as wide as what is rotated."""
    one = {"block_out_channels": (256,), "down_block_types": ("CrossAttnDownBlock2D",)}
    config = LaVieConfig(rates=rates)
    unet = tiny.tiny_image_unet(**one, up_block_types=("CrossAttnUpBlock2D",))
    return tiny.perturbed(lambda: systems()["lavie"].build(config, unet), 8)


def test_lavies_own_rates_of_rotation_are_used_and_written_back(bases, tmp_path):
    rates = tuple((0.9**n) for n in range(16))
    network = wide_lavie(rates)
    theirs = key_map(systems()["lavie"], network, "original").to_theirs(network.unet.state_dict())
    tables = [value for key, value in theirs.items() if key.endswith("rotary_emb.freqs")]
    assert len(tables) > 1
    assert all(torch.equal(table, torch.tensor(rates)) for table in tables)
    model = kg.load(written(tmp_path, theirs, "lavie.pt", "ema"), base=bases["pndm"], device="cpu")
    read, x, context = model.parts.network, torch.randn(1, 3, 4, 8, 8), torch.randn(1, 5, 32)
    with torch.no_grad():
        torch.testing.assert_close(read(x, 400, context), network(x, 400, context), rtol=0, atol=1e-5)
        assert difference(read(x, 400, context), wide_lavie()(x, 400, context)) > 1e-3
    model.parts.save_pretrained(tmp_path / "saved", torch.float32)
    again = kg.load(tmp_path / "saved", device="cpu").parts.network
    assert again.plan == read.plan
    back = key_map(systems()["lavie"], again, "original").to_theirs(again.unet.state_dict())
    assert sorted(back) == sorted(theirs)
    assert all(torch.equal(back[key], value) for key, value in theirs.items())
    key = next(key for key in theirs if key.endswith("rotary_emb.freqs"))
    with pytest.raises(WeightsError, match="several rates of rotation"):
        kg.load(written(tmp_path, theirs | {key: tables[0] / 2}, "other.pt", "ema"), base=bases["pndm"], device="cpu")
