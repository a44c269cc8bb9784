"""Stable Video Diffusion from an image model: its three stages, each on the one before, and what they cannot do."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import smooth_image_model

from kineograph.errors import InputError, WeightsError
from kineograph.models.image_to_video import training_augmentation
from kineograph.sampling.generate import Model, load
from kineograph.sampling.image_to_video import ImageToVideo
from kineograph.systems import systems
from kineograph.training import checkpoint
from kineograph.training.config import TrainConfig
from kineograph.training.data import DataConfig
from kineograph.training.image_to_video import MotionBuckets
from kineograph.training.loop import Trainer, sanity
from kineograph.training.recipes import VideoConfig, latent_video_task

SYSTEM = "stable_video_diffusion"
SMALL = ("head_dim=8",)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from kineograph.data.synthetic import write_synthetic

    folder = tmp_path_factory.mktemp("shapes")
    write_synthetic(folder, count=6, seed=0, num_frames=8, size=16, fps=8, test_every=3)
    return DataConfig(data=folder, size=16, held_out="test", cache=folder / "cache")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image-model")
    smooth_image_model().save_pretrained(folder, torch.float32)
    return folder


def stage(preset, data, base, **changes):
    torch.manual_seed(0)
    config = VideoConfig(**({"num_frames": 3, "preset": preset, "caption_dropout": 0.0} | changes))
    return latent_video_task(SYSTEM, data, config, base)


def first_loss(task, sigma=1.0):
    with torch.no_grad():
        batch = task.load([0, 1], [5, 6])
        return task.error(task.network, batch, torch.full((2,), sigma), [5, 6])


@pytest.fixture(scope="module")
def text_run(data, base, tmp_path_factory):
    """The exported model of a text stage, one step in."""
    task = stage("text", data, base, set=SMALL)
    folder = tmp_path_factory.mktemp("text-run")
    task.export(folder)
    return folder


@pytest.mark.parametrize("preset", ["text", "published", "interpolation"])
def test_before_the_first_step_every_stage_is_the_image_model(preset, data, base):
    task = stage(preset, data, base, set=SMALL)
    task.network.eval()
    image, batch = smooth_image_model(), task.load([0, 1], [5, 6])
    told = task.source.condition(batch, [5, 6]).context
    found = first_loss(task)
    with torch.no_grad():
        from kineograph.diffusion.noise import iid
        from kineograph.diffusion.parameterization import training_target

        latents = batch["latents"]
        noise = iid(tuple(latents.shape[1:]), [5, 6])
        alpha = sigma = torch.full((2,), 0.5**0.5)
        at = image.plan.schedule.timestep_at(1.0)
        out = image.network(0.5**0.5 * (latents + noise), at, told)
        target = training_target("v", latents, noise, alpha, sigma)
        expected = (out - target).square().flatten(1).mean(1)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)


def test_each_stage_builds_on_the_one_before(data, text_run, tmp_path):
    text = load(text_run, device="cpu")
    assert isinstance(text, Model)
    clip = text.generate("a red dog", num_frames=3, num_inference_steps=2, precision="fp32")
    assert clip.frames.shape == (3, 3, 16, 16)
    with pytest.raises(InputError, match="--sampler scheduler"):
        text.generate("a red dog", num_frames=3, num_inference_steps=2, sampler="ddim")
    picture = stage("published", data, text_run)
    assert picture.network.network.config["in_channels"] == 8
    torch.testing.assert_close(
        picture.network.network.state_dict()["unet.down_blocks.0.resnets.0.temporal.enter.weight"],
        text.parts.network.state_dict()["unet.down_blocks.0.resnets.0.temporal.enter.weight"],
    )
    picture.export(tmp_path / "picture")
    with pytest.raises(WeightsError, match="is a whole model that starts from pictures; --base has no place on it"):
        load(tmp_path / "picture", base=text_run)
    moving = load(tmp_path / "picture", device="cpu")
    assert isinstance(moving, ImageToVideo)
    made = moving.generate(clip, num_frames=3, num_inference_steps=2, precision="fp32")
    assert made.frames.shape == (3, 3, 16, 16)
    between = stage("interpolation", data, tmp_path / "picture")
    between.export(tmp_path / "between")
    smooth = load(tmp_path / "between", device="cpu").interpolate(clip, between=2, num_inference_steps=2)
    assert (len(smooth), smooth.fps) == (7, 3 * clip.fps)
    with pytest.raises(InputError, match="--between"):
        load(tmp_path / "between", device="cpu").generate(clip)
    with pytest.raises(InputError, match="from a picture, not the frames"):
        moving.interpolate(clip)
    with pytest.raises(InputError, match="cannot go back"):
        stage("text", data, tmp_path / "picture")


def test_training_prepares_the_picture_as_sampling_does(data, base):
    """The same picture, seed and numbers give the same condition to the network in training and in sampling."""
    from kineograph.diffusion.noise import mix_seed
    from kineograph.sampling.image_to_video import picture_condition
    from kineograph.training.batches import generators, rand

    task = stage("published", data, base, set=SMALL)
    batch = task.load([1], [77])
    trained = task.source.condition(batch, [77])
    strength = training_augmentation(rand(generators([mix_seed(77, 9)]))).item()
    options = {
        "height": 16,
        "width": 16,
        "num_frames": 3,
        "fps": batch["fps"].item(),
        "motion_bucket_id": batch["motion"].item(),
        "noise_aug_strength": strength,
    }
    sampled = picture_condition(task.source.model, batch["picture"][0], 77, options)
    for name in ("context", "latents", "codes"):
        torch.testing.assert_close(getattr(trained, name), getattr(sampled, name), msg=name)


def test_what_is_given_between_frames_is_the_ends(data, base):
    task = stage("interpolation", data, base, set=SMALL)
    batch = task.load([0], [3])
    told = task.source.condition(batch, [3])
    assert told.latents.shape[2] == 5
    torch.testing.assert_close(told.latents[0, [0, -1], :4], batch["latents"][0, [0, -1]])
    assert not told.latents[0, 1:-1].any()
    assert told.codes[0, 2] == 0


def test_one_clip_can_be_overfitted(data, base, tmp_path, monkeypatch):
    monkeypatch.setattr("kineograph.training.loop.SANITY_STEPS", 12)
    task = stage("published", data, base, set=SMALL)
    config = TrainConfig(output_dir=tmp_path, learning_rate=4e-3, mixed_precision="no")
    result = sanity(task, config)
    assert result["passed"], result


def test_resumed_run_equals_uninterrupted_bit_for_bit(data, base, tmp_path):
    def trainer(directory, **changes):
        task = stage("published", data, base, set=SMALL, caption_dropout=0.5)
        task.validate, task.preview, task.export = dict, lambda _: None, lambda _: None
        settings = {"max_train_steps": 3, "train_batch_size": 2, "mixed_precision": "no", "lr_warmup_steps": 1}
        return Trainer(task, replace(TrainConfig(output_dir=tmp_path / directory, **settings), **changes))

    trainer("whole").run()
    trainer("cut", max_train_steps=2).run()
    trainer("cut", resume=True).run()
    for stem in ("weights", "ema", "optimizer"):
        whole, cut = (
            load_file(checkpoint.checkpoint_dir(tmp_path / n, 3) / f"{stem}.safetensors") for n in ("whole", "cut")
        )
        assert all(torch.equal(whole[name], cut[name]) for name in whole), stem


@pytest.mark.parametrize("preset", ["text", "published"])
def test_a_checkpoint_of_a_stage_is_its_model(preset, data, base, tmp_path):
    task = stage(preset, data, base, set=SMALL)
    settings = TrainConfig(output_dir=tmp_path, max_train_steps=1, train_batch_size=2, mixed_precision="no")
    trainer = Trainer(task, settings)
    trainer.write_start()
    trainer._train()
    trainer.log.close()
    found = load(checkpoint.latest(tmp_path), device="cpu").parts.network.state_dict()
    averaged = trainer.ema.shadow
    assert all(torch.equal(found[name.removeprefix("network.")], value) for name, value in averaged.items())


def test_what_a_stage_begins_with_is_said_and_its_size_kept(data, base, text_run):
    assert stage("published", data, base, set=SMALL).notes[-1].startswith("temporal layers: fresh")
    task = stage("published", replace(data, size=8), text_run)
    assert "of the stage 'text', are trained further" in task.notes[-1]
    assert (task.source.model.settings.height, task.source.model.settings.fps) == (8, 8)
    assert stage("text", replace(data, size=8), text_run).source.model.settings.height == 8


def test_previews_and_validation_of_each_stage(data, base, tmp_path):
    for preset, found in (("published", "sheet.png"), ("interpolation", "sheet.png")):
        task = stage(preset, data, base, set=SMALL)
        task.network.eval()
        (tmp_path / preset).mkdir()
        task.test_clips = task.test_clips[:1]
        task.clips = task.clips[:1]
        with torch.no_grad():
            values = task.validate()
            task.preview(tmp_path / preset)
        assert {"train_sigma1", "held_out_sigma10", "held_out_mean"} <= set(values)
        assert (tmp_path / preset / found).is_file()
        assert list((tmp_path / preset).glob("*.mp4"))


def test_frame_rate_and_motion_are_those_of_the_window(data, base):
    task = stage("text", data, base, set=SMALL, num_frames=2)
    batch = task.load([0] * 40, list(range(40)))
    assert {round(fps, 3) for fps in batch["fps"].tolist()} == {8.0, 4.0, 2.667}
    faster = batch["motion"][batch["fps"] < 4].mean()
    assert faster > batch["motion"][batch["fps"] == 8].mean()


def test_buckets_are_ranks():
    buckets = MotionBuckets([0.0, 1.0, 2.0, 3.0])
    still, moving = torch.zeros(3, 1, 1, 1).numpy(), torch.arange(3.0).view(3, 1, 1, 1).numpy()
    assert (buckets(still), buckets(moving), buckets(9 * moving)) == (64, 128, 255)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"noise": "mixed"}, "--noise has no meaning"),
        ({"image_share": 0.5}, "--image-share has no meaning"),
        ({"num_frames": 1}, "--num-frames must be at least 2"),
        ({"preset": "interpolation", "num_frames": 2}, "--num-frames must be at least 3"),
        ({"preset": "publish"}, "published"),
    ],
)
def test_wrong_settings_are_named(changes, said, data, base):
    with pytest.raises(InputError, match=said):
        stage(**({"preset": "published", "data": data, "base": base, "set": SMALL} | changes))


def test_settings_of_a_trained_network_are_not_changed(data, text_run):
    with pytest.raises(InputError, match="--set"):
        stage("published", data, text_run, set=SMALL)


def test_every_preset_has_a_stage():
    from kineograph.systems.stable_video_diffusion import STAGE_OF, STAGES

    assert set(STAGE_OF) == set(systems()[SYSTEM].presets)
    assert set(STAGE_OF.values()) <= set(STAGES)
