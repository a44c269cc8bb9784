"""What a run says of its data before it begins, and which clips it takes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kineograph.errors import DataError
from kineograph.training.data import DataConfig
from kineograph.training.diffusion import DiffusionTask
from kineograph.training.opening import about_data, preview_prompts, training_clips

from .conftest import make_store, tiny_diffusion_task


def said(store, held_out="test", **options):
    return "\n".join(about_data(store, held_out, **options))


def changed(store, **facts):
    return replace(store, clips=[replace(clip, **facts) for clip in store.clips])


def test_which_part_of_pictures_and_which_seconds_are_used_is_said(store):
    words = said(changed(store, width=64, height=36, frames=80))
    assert "the middle square, at 16x16 pixels; of 11 of 11 clips the sides are cut off, up to 44% of" in words
    assert "the first 3 s of each clip, 24 frames at 8 fps; 11 of 11 clips are longer, and their rest is not" in words
    assert "cut off" not in said(store)
    assert "longer" not in said(store)


def test_a_split_that_is_not_there_is_said_with_those_that_are(store):
    words = said(store, "held-out-combinations")
    assert "only on training clips, since there is no split 'held-out-combinations'" in words
    assert "train (9 clips), test (2 clips). Perhaps --held-out test?" in words
    assert "no split" not in said(store)


def test_missing_captions_are_said(store):
    assert "none of the 9 training clips has one" in said(changed(store, caption=" "), captions=True)
    store.clips[1] = replace(store.clips[1], caption="")
    assert "1 of 9 training clips have none" in said(store, captions=True)
    assert "captions" not in said(store)


def test_clips_that_cannot_be_read_are_said(store):
    assert "1 clips cannot be read and are left out, such as 'a.mp4': cut" in said(
        replace(store, failed={"a.mp4": "cut"})
    )


def short(store, counts):
    return replace(store, counts=np.array(counts), starts=np.arange(len(counts)) * 4)


def test_short_clips_are_left_out_and_counted(store):
    store = short(store, [4, 3, 2, 1, 4, 4, 4, 4, 4, 4, 3])
    assert training_clips(store, 4).tolist() == [0, 4, 5, 6, 7, 8]
    words = said(store, num_frames=4)
    assert (
        "a run of 4 frames at 8 fps keeps 6 of 9 clips; 2 dropped: shorter than 4 frames at 8 fps; 1 dropped" in words
    )
    assert "validation: the split 'test'; a run of 4 frames at 8 fps keeps 1 of 2 clips" in words


def test_a_run_without_long_enough_clips_is_refused(store):
    with pytest.raises(DataError, match="a run of 24 frames at 8 fps keeps 0 of 9 clips.*--num-frames 4"):
        training_clips(store, 24)
    with pytest.raises(DataError, match="no motion"):
        training_clips(short(store, [1] * 11), 2)
    with pytest.raises(DataError, match="no clip of the split 'train'.*'?test"):
        training_clips(changed(store, split="test"), 1)


def test_no_sample_shows_a_last_frame_twice(store):
    task = tiny_diffusion_task(num_frames=3, system="modelscope")
    frames = short(make_store(), [4, 3, 2, 1, 4, 4, 4, 4, 4, 4, 3])
    task = DiffusionTask(task.model, replace(task.store, frames=frames), task.captions, num_frames=3, held_out="test")
    for batch in (task.load([i], [seed]) for i in range(task.num_samples) for seed in range(4)):
        latents = batch["latents"][0]
        assert (latents[1:] != latents[:-1]).flatten(1).any(dim=1).all()


def test_previews_show_captions_of_the_data(store):
    assert preview_prompts(store, "test") == ("thing 9", "thing 10", "thing 0", "thing 3", "thing 5", "thing 8")
    assert preview_prompts(store, "", 2) == ("thing 0", "thing 8")
    assert preview_prompts(changed(store, caption=""), "test") == ()
    assert len(preview_prompts(changed(store, caption="the same"), "test")) == 1


def test_validation_finds_its_split_whatever_it_is_called(store):
    """A data set of others has `test` or `val` where the emoji have `held-out-combinations`."""
    data = DataConfig(data=Path("unused"))
    assert data.validated(store) == "test"
    assert "validation: the split 'test'" in said(store, data.validated(store))
    with pytest.raises(DataError, match="did you mean 'test'"):
        replace(data, held_out="tset").validated(store)
    assert data.validated(changed(store, split="train")) == "held-out-combinations"
