"""From a base to a task: which temporal layers are trained, and what the model keeps of its training."""

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny_model, tiny_text

from kineograph.errors import DataError, InputError
from kineograph.models.latent_video import LatentVideoModel
from kineograph.training.data import DataConfig
from kineograph.training.recipes import VideoConfig, latent_video_task

SMALL = ("conv_dropout=0.0", "head_dim=8", "input_heads=2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from kineograph.data.synthetic import write_synthetic

    folder = tmp_path_factory.mktemp("shapes")
    write_synthetic(folder, count=5, seed=0, num_frames=6, size=16, fps=8, test_every=5)
    return DataConfig(data=folder, size=8, sample_fps=4.0, held_out="test", cache=folder / "cache")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video-model")
    model = tiny_model()
    LatentVideoModel(model.network, model.autoencoder, tiny_text(64), model.settings).save_pretrained(
        folder, torch.float32
    )
    return folder


def temporal(network):
    return {name: value for name, value in network.state_dict().items() if ".temporal." in name}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_temporal_layers_of_a_base_are_fresh_unless_they_are_to_be_kept(data, base):
    own = temporal(tiny_model().network)
    fresh = latent_video_task("modelscope", data, VideoConfig(num_frames=3, preset="tiny"), base)
    assert not same(temporal(fresh.network), own)
    assert fresh.notes[-1] == (
        f"temporal layers: fresh ones of modelscope in the image network of '{base}', whose own, of modelscope, are "
        "left out; --keep-temporal trains them further"
    )
    kept = latent_video_task("modelscope", data, VideoConfig(num_frames=3, keep_temporal=True), base)
    assert same(temporal(kept.network), own)
    assert kept.notes[-1] == f"temporal layers: those of '{base}' are trained further (--keep-temporal)"
    with pytest.raises(InputError, match="has those of modelscope, not those of 'lavie'"):
        latent_video_task("lavie", data, VideoConfig(num_frames=3, keep_temporal=True), base)


def test_the_model_keeps_the_size_and_the_rate_it_was_trained_at(data, base):
    task = latent_video_task("modelscope", data, VideoConfig(num_frames=3, keep_temporal=True), base)
    own = task.model.settings
    assert (own.height, own.width, own.num_frames, own.fps) == (8, 8, 3, 4.0)


def test_frames_that_no_clip_has_are_refused(data, base):
    with pytest.raises(DataError, match="a run of 4 frames at 4 fps keeps 0 of 4 clips.*--num-frames 3"):
        latent_video_task("modelscope", data, VideoConfig(num_frames=4, keep_temporal=True), base)
    task = latent_video_task(
        "modelscope", replace(data, sample_fps=20.0), VideoConfig(num_frames=9, keep_temporal=True), base
    )
    assert task.store.frames.spec.max_frames == 24
    assert replace(data, max_frames=None).frames_of_clips(33) == 33


def test_prompts_of_previews_can_be_given(data, base):
    task = latent_video_task(
        "modelscope", replace(data, prompts=("a cat",)), VideoConfig(num_frames=3, keep_temporal=True), base
    )
    assert task.preview_prompts == ("a cat",)
