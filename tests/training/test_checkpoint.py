"""Checkpoints: every byte is verified, the newest whole one is taken, and one is whole at any moment."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from kineograph.errors import DataError, InputError, ResourceError, WeightsError
from kineograph.training import checkpoint
from kineograph.training.loop import Trainer

from .conftest import tiny_diffusion_task
from .test_loop import assert_same, config, run, weights

FILES = ("weights.safetensors", "optimizer.safetensors", "ema.safetensors", "state.json", "index.json")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run with checkpoints of steps 4 and 6."""
    folder = tmp_path_factory.mktemp("run")
    run(folder)
    return folder


@pytest.fixture
def copied(done, tmp_path):
    return Path(shutil.copytree(done, tmp_path / "run"))


def lost(file):
    file.unlink()


def emptied(file):
    file.write_bytes(b"")


def cut(file):
    file.write_bytes(file.read_bytes()[:-7])


def flipped(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("harm", [lost, emptied, cut, flipped])
@pytest.mark.parametrize("name", FILES)
def test_each_damage_is_named_and_the_newest_whole_one_is_taken(harm, name, copied):
    harm(checkpoint.checkpoint_dir(copied, 6) / name)
    said = []
    assert checkpoint.latest(copied, said.append).name == "step-00000004"
    assert len(said) == 1
    assert f"step-00000006/{name}'" in said[0]
    assert "step-00000004" in said[0]


def test_each_byte_of_the_index_counts(done):
    checkpoint_ = checkpoint.latest(done)
    index = checkpoint_ / "index.json"
    given = index.read_bytes()
    try:
        for place in range(0, len(given), 7):
            index.write_bytes(given[:place] + bytes([given[place] ^ 1]) + given[place + 1 :])
            assert checkpoint.damage(checkpoint_), place
    finally:
        index.write_bytes(given)
    assert checkpoint.damage(checkpoint_) is None


def test_a_run_goes_on_from_the_newest_whole_checkpoint_bit_for_bit(done, copied, capsys):
    emptied(checkpoint.checkpoint_dir(copied, 6) / "state.json")
    run(copied, resume=True, checkpoints_total_limit=1)
    assert_same(weights(done), weights(copied))
    assert "step-00000006/state.json' is empty" in capsys.readouterr().err
    kept = sorted(path.name for path in (copied / "checkpoints").glob("*step*"))
    assert kept == ["damaged-step-00000006", "step-00000006"]


def test_all_damaged_is_an_error_that_names_each(copied):
    lost(checkpoint.checkpoint_dir(copied, 6) / "optimizer.safetensors")
    cut(checkpoint.checkpoint_dir(copied, 4) / "weights.safetensors")
    with pytest.raises(WeightsError, match=r"step-00000006/optimizer.*is missing.*step-00000004/weights.*is cut"):
        run(copied, resume=True)
    assert len(checkpoint.checkpoints(copied)) == 2


def save(run, step, keep=1):
    return checkpoint.save(run, step, {"weights": {"a": torch.full((3,), float(step))}}, {"config": {}}, keep)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", [1, 2])
def test_at_any_moment_one_checkpoint_is_whole(step, tmp_path, monkeypatch):
    """Killed at the n-th call that renames or deletes, while the only checkpoint is replaced or followed."""
    rename, rmtree = Path.rename, shutil.rmtree
    for n in range(1, 30):
        where, calls = tmp_path / f"{step}-{n}", []
        save(where, 1)

        def counted(do, *args, calls=calls, n=n, **options):
            calls.append(do)
            if len(calls) == n:
                raise Killed
            return do(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", lambda *a, counted=counted: counted(rename, *a))
            patch.setattr(shutil, "rmtree", lambda *a, counted=counted, **o: counted(rmtree, *a, **o))
            try:
                save(where, step)
                survived = True
            except Killed:
                survived = False
        assert checkpoint.damage(checkpoint.latest(where)) is None
        if survived:
            assert n > 3
            assert [path.name for path in (where / "checkpoints").iterdir()] == [f"step-{step:08d}"]
            return
        save(where, step)  # the next process sweeps up
        assert [path.name for path in (where / "checkpoints").iterdir()] == [f"step-{step:08d}"]
    raise AssertionError("never came to its end")


def test_newer_damaged_checkpoints_do_not_push_the_whole_ones_out(tmp_path):
    for step in (1, 2, 9):
        save(tmp_path, step, keep=5)
    save(tmp_path, 3, keep=2)
    assert [path.name[-1] for path in checkpoint.checkpoints(tmp_path)] == ["2", "3", "9"]


def older(folder):
    """Make a checkpoint one of before there was an index."""
    (folder / "index.json").unlink()
    state = json.loads((folder / "state.json").read_text())
    for name in ("settings", "part", "loss"):
        del state[name]
    (folder / "state.json").write_text(json.dumps(state | {"format": 1}))


def test_checkpoints_of_before_the_index_still_resume(done, copied):
    shutil.rmtree(checkpoint.checkpoint_dir(copied, 6))
    older(checkpoint.checkpoint_dir(copied, 4))
    run(copied, resume=True)
    assert_same(weights(done), weights(copied))


@pytest.mark.parametrize("name", FILES[:4])
@pytest.mark.parametrize("harm", [lost, cut])
def test_what_can_be_seen_without_an_index_is_seen(harm, name, copied):
    older(checkpoint.checkpoint_dir(copied, 6))
    harm(checkpoint.checkpoint_dir(copied, 6) / name)
    assert checkpoint.latest(copied).name == "step-00000004"


@pytest.mark.parametrize("stem", ["weights", "optimizer", "state", "index"])
def test_a_full_disk_is_said_and_leaves_the_last_one_whole(stem, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    save(tmp_path, 1)
    write_text, save_file = Path.write_text, checkpoint.save_file

    def text(path, *args, **options):
        if path.stem == stem:
            raise OSError(28, "No space left on device")
        return write_text(path, *args, **options)

    def tensors(named, file):
        if Path(file).stem == stem:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save_file(named, file)

    monkeypatch.setattr(Path, "write_text", text)
    monkeypatch.setattr(checkpoint, "save_file", tensors)
    parts = {"weights": {"a": torch.zeros(3)}, "optimizer": {"b": torch.zeros(3)}}
    with pytest.raises(ResourceError, match="checkpoint of step 2 could not be written.*No space left.*--resume"):
        checkpoint.save(tmp_path, 2, parts, {}, keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert checkpoint.damage(checkpoint.latest(tmp_path)) is None


# What a resumed run shares with the run before ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_batch_size": 5}, "--train-batch-size is 5 and was 4"),
        ({"seed": 1}, "--seed is 1 and was 0"),
        ({"ema_halflife_samples": 0}, "--ema-halflife-samples is 0 and was 20000"),
    ],
)
def test_settings_that_a_run_keeps_are_refused_by_name(changes, said, done):
    with pytest.raises(InputError, match=f"{said}.*--init-from"):
        Trainer(tiny_diffusion_task(), config(done, resume=True, **changes))


def with_other_autoencoder(task):
    next(task.model.autoencoder.vae.encoder.parameters()).data += 1
    return task


def other_data(task):
    task.store.frames.clips.pop()
    return task


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (lambda: other_data(tiny_diffusion_task()), "--data is 10 clips .* and was 11 clips"),
        (lambda: with_other_autoencoder(tiny_diffusion_task()), "--base is autoencoder .* and was autoencoder"),
    ],
)
def test_another_task_is_refused_by_name(task, said, done):
    with pytest.raises(InputError, match=said):
        Trainer(task(), config(done, resume=True))


def test_another_optimizer_is_refused(copied):
    from kineograph.checkpoints import whole

    newest = checkpoint.latest(copied)
    state = json.loads((newest / "state.json").read_text())
    state["settings"]["optimizer"] = "Lion"
    (newest / "state.json").write_text(json.dumps(state))
    whole.write_index(newest)
    with pytest.raises(InputError, match="--optimizer is AdamW and was Lion"):
        Trainer(tiny_diffusion_task(), config(copied, resume=True))


def test_what_may_change_is_said(copied, capsys):
    run(copied, resume=True, max_train_steps=7, learning_rate=5e-4)
    assert "Changed on resume: --learning-rate is 0.0005 and was 0.001." in capsys.readouterr().err


def test_averages_begin_anew_where_the_run_had_none(tmp_path, capsys):
    run(tmp_path, max_train_steps=2, ema_halflife_samples=0)
    trainer = Trainer(tiny_diffusion_task(), config(tmp_path, resume=True))
    assert_same(trainer.ema.shadow, weights(tmp_path, 2))
    trainer.log.close()
    assert any("averages begin anew" in line for line in trainer.opening)


# The end of a run ---------------------------------------------------------------------------------------------------


def test_a_finished_run_says_so_and_does_nothing(copied, capsys):
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*.safetensors")}
    _, result = run(copied, resume=True)
    assert (result.step, result.stopped) == (6, "already finished")
    assert result.loss > 0
    assert set(result.validation) >= {"train_mean"}
    assert "is finished: 6 of 6 steps" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*.safetensors")} == before


def test_the_model_comes_first_and_what_is_done_is_not_repeated(tmp_path, capsys):
    did = []

    def trainer(**changes):
        made = Trainer(tiny_diffusion_task(), config(tmp_path, max_train_steps=2, **changes))
        made.task.export = lambda directory: did.append("model")
        made.task.validate = lambda: did.append("validation") or {"loss": 1.0}
        made.task.preview = lambda directory: did.append("previews")
        return made

    first = trainer()
    first.task.validate = lambda: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(9)
    assert first.run().stopped == "signal SIGTERM"
    second = trainer(resume=True)
    second.task.validate = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    assert second.run().stopped == "signal SIGINT"
    assert did == ["model"]
    assert "--resume does the rest" in capsys.readouterr().err
    result = trainer(resume=True).run()
    assert (did, result.stopped, result.validation) == (["model", "validation", "previews"], "finished", {"loss": 1.0})
    assert trainer(resume=True).run().stopped == "already finished"
    assert len(did) == 3


def test_the_end_is_done_again_after_more_steps(copied):
    """Also where they lead to the same step as before, from an older checkpoint."""
    lost(checkpoint.checkpoint_dir(copied, 6) / "state.json")
    trainer = Trainer(tiny_diffusion_task(), config(copied, resume=True, learning_rate=1e-4))
    did = []
    trainer.task.export = lambda directory: did.append("model")
    trainer.task.validate = lambda: did.append("validation") or {}
    trainer.task.preview = lambda directory: did.append("previews")
    assert trainer.run().stopped == "finished"
    assert did == ["model", "validation", "previews"]


def test_each_part_of_the_end_can_be_left_out(tmp_path):
    trainer = Trainer(
        tiny_diffusion_task(),
        config(tmp_path, max_train_steps=1, no_export=True, no_validation=True, no_preview=True),
    )
    assert trainer.run().validation == {}
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "metrics.jsonl", "checkpoints"}


def test_validation_and_previews_show_how_far_they_are(tmp_path):
    from contextlib import contextmanager

    told = []

    @contextmanager
    def stages():
        yield lambda *words: told.append(words)

    trainer = Trainer(tiny_diffusion_task(), config(tmp_path, max_train_steps=1), stages)
    trainer.task.export = lambda directory: None
    trainer.run()
    assert [words for words in told if words[0] == words[1]] == [(10, 10, "validation"), (20, 20, "previews")]


def a_model(folder):
    (folder / "model").mkdir()


def a_data_set(folder):
    (folder / "manifest.jsonl").write_text("")


def a_network(folder):
    (folder / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')


@pytest.mark.parametrize("given", [a_model, a_data_set, a_network])
def test_what_is_no_run_is_not_overwritten(given, tmp_path):
    given(tmp_path)
    before = {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")}
    with pytest.raises(DataError, match="not overwritten; choose another --output-dir"):
        Trainer(tiny_diffusion_task(), config(tmp_path))
    assert {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(tmp_path):
    for _ in range(2):
        Trainer(tiny_diffusion_task(), config(tmp_path)).log.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ema_halflife_samples", -1),
        ("lr_warmup_steps", -1),
        ("weight_decay", float("nan")),
        ("preview_steps", -1),
        ("validation_steps", -1),
        ("max_grad_norm", 0),
        ("max_minutes", 0),
        ("learning_rate", float("inf")),
        ("adam_betas", (1.0, 0.9)),
    ],
)
def test_settings_without_a_meaning_are_refused_by_flag(name, value, tmp_path):
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')}"):
        config(tmp_path, **{name: value})
