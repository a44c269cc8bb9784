"""The loop: interrupted equals uninterrupted, any number of processes and micro-batches gives the same weights."""

import functools
import json
import operator
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kineograph.errors import DataError, InputError, KineographError, WeightsError
from kineograph.training import checkpoint
from kineograph.training.config import TrainConfig, learning_rate_at
from kineograph.training.loop import Trainer, sanity

from .conftest import tiny_diffusion_task
from .test_draft import tiny_draft_task

HERE = Path(__file__).parent


def config(directory, **changes):
    base = TrainConfig(
        output_dir=directory,
        max_train_steps=6,
        train_batch_size=4,
        learning_rate=1e-3,
        lr_warmup_steps=2,
        mixed_precision="no",
        checkpointing_steps=2,
        log_steps=2,
    )
    return replace(base, **changes)


def run(directory, task=None, **changes):
    trainer = Trainer(task or tiny_diffusion_task(), config(directory, **changes))
    trainer.preview = lambda: None  # sampling is tested in test_diffusion
    trainer.task.export = lambda directory: None
    return trainer, trainer.run()


def weights(directory, step=6, stem="weights"):
    return load_file(checkpoint.checkpoint_dir(directory, step) / f"{stem}.safetensors")


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def assert_same_up_to_rounding(a, b):
    """Compare what training changed: Adam blows rounding up where a gradient is zero by symmetry, so not each value."""
    start = dict(tiny_diffusion_task().network.named_parameters())
    apart = torch.stack([(a[name] - b[name]).norm() for name in a]).norm()
    moved = torch.stack([(a[name] - start[name]).norm() for name in a]).norm()
    assert apart < 0.02 * moved, (apart / moved).item()


def test_resumed_run_equals_uninterrupted_bit_for_bit(tmp_path):
    run(tmp_path / "whole", lr_schedule="cosine")
    first = Trainer(tiny_diffusion_task(), config(tmp_path / "cut", lr_schedule="cosine"))
    first.task.export = first.preview = lambda *_: None
    data = first._data()
    for _ in range(4):
        first._train_step(next(data)[0])
        first._maintain()  # a checkpoint after steps 2 and 4
    first._train_step(next(data)[0])  # the work of step 5 is lost, as if the process were killed here
    data.close()
    first.log.close()
    run(tmp_path / "cut", lr_schedule="cosine", resume=True)
    for stem in ("weights", "ema", "optimizer"):
        assert_same(weights(tmp_path / "whole", stem=stem), weights(tmp_path / "cut", stem=stem))


def test_what_the_data_said_survives_with_the_weights(tmp_path):
    """Names and components are computed when a task is built; another machine may compute them a little otherwise."""
    task = tiny_draft_task()
    task.start_from_data()
    task.network.basis.mul_(-1)
    wanted = {name: value.clone() for name, value in task.network.named_buffers()}
    run(tmp_path, task, max_train_steps=2)
    again = tiny_draft_task()
    again.start_from_data()
    Trainer(again, config(tmp_path, max_train_steps=2, resume=True)).log.close()
    assert wanted
    for name, value in again.network.named_buffers():
        assert torch.equal(value, wanted[name]), name


def test_runs_of_two_precisions_fit_into_one_process(tmp_path):
    first, _ = run(tmp_path / "a", max_train_steps=1, mixed_precision="bf16")
    second, _ = run(tmp_path / "b", max_train_steps=1, mixed_precision="no")
    assert (first.config.mixed_precision, second.accelerator.mixed_precision) == ("bf16", "no")


def test_micro_batches_give_the_same_step(tmp_path):
    run(tmp_path / "a", max_train_steps=2)
    run(tmp_path / "b", max_train_steps=2, micro_batch_size=1)
    assert_same_up_to_rounding(weights(tmp_path / "a", 2), weights(tmp_path / "b", 2))


def test_uneven_epochs_see_every_sample_once():
    from kineograph.training.batches import batch_indices

    steps = [batch_indices(step, 9, 4, seed=3) for step in range(6)]
    assert [len(s) for s in steps] == [4, 4, 1, 4, 4, 1]
    assert (
        sorted(functools.reduce(operator.iadd, steps[:3], []))
        == sorted(functools.reduce(operator.iadd, steps[3:], []))
        == list(range(9))
    )
    assert steps[:3] != steps[3:]


def test_shares_of_two_processes_make_the_same_batch():
    from kineograph.training.batches import share

    whole = share(2, 9, 4, 0)
    parts = [share(2, 9, 4, 0, rank, 2) for rank in range(2)]
    assert parts[0].indices == whole.indices
    assert parts[0].seeds == whole.seeds
    assert parts[1].weights == [0.0]
    assert parts[1].global_count == 1


@pytest.mark.slow
def test_two_gloo_processes_equal_one(tmp_path):
    _distributed(tmp_path)


def _distributed(tmp_path):
    """9 training samples in batches of 4: the last batch of an epoch has one sample for two processes."""
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(HERE.parent)!r})
        import torch
        torch.set_num_threads(1)
        from pathlib import Path
        from training.test_loop import run
        run(Path(sys.argv[1]), max_train_steps=4)
        """)
    )
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    single = [sys.executable, str(script), str(tmp_path / "one")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29713"]
    double = [*launch, str(script), str(tmp_path / "two")]
    for command in (single, double):
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    assert_same_up_to_rounding(weights(tmp_path / "one", 4), weights(tmp_path / "two", 4))
    losses = [
        [
            json.loads(line)["loss"]
            for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()
            if '"loss"' in line
        ]
        for n in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_killed_run_keeps_its_last_checkpoint(tmp_path):
    """SIGKILL in the middle of writing: the directory that was being written does not count."""
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(HERE.parent)!r})
        import torch
        from pathlib import Path
        from kineograph.training import checkpoint
        from training.test_loop import run
        save, count = checkpoint._write_parts, [0]
        def slow(part, tensors, state):
            count[0] += 1
            if count[0] == 2:
                (part / "weights.safetensors").write_bytes(b"half")
                print("writing", flush=True)
                time.sleep(60)
            save(part, tensors, state)
        checkpoint._write_parts = slow
        run(Path({str(tmp_path / "run")!r}))
        """)
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=env, text=True) as process:
        assert process.stdout.readline().strip() == "writing"
        process.send_signal(signal.SIGKILL)
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "run")] == ["step-00000002"]
    run(tmp_path / "run", resume=True)
    run(tmp_path / "whole")
    assert_same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_sigterm_stops_cleanly_with_a_checkpoint(tmp_path):
    trainer = Trainer(tiny_diffusion_task(), config(tmp_path, max_train_steps=1000, checkpointing_steps=1000))
    step = trainer._train_step

    def signalled(batches):
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
        return step(batches)

    trainer._train_step = signalled
    result = trainer.run()
    assert result.stopped == "signal SIGTERM"
    assert checkpoint.latest(tmp_path).name == f"step-{result.step:08d}"


def test_checkpoints_rotate(tmp_path):
    run(tmp_path, checkpoints_total_limit=2)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-00000004", "step-00000006"]


def test_a_second_run_does_not_overwrite_the_first(tmp_path):
    run(tmp_path, max_train_steps=2)
    with pytest.raises(DataError, match="--resume"):
        Trainer(tiny_diffusion_task(), config(tmp_path))


def test_resume_without_checkpoint_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no checkpoint"):
        Trainer(tiny_diffusion_task(), config(tmp_path, resume=True))


def test_damaged_checkpoint_is_an_error(tmp_path):
    run(tmp_path, max_train_steps=2)
    (checkpoint.latest(tmp_path) / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="weights.safetensors"):
        Trainer(tiny_diffusion_task(), config(tmp_path, resume=True))


def test_nan_names_the_phase_and_keeps_the_checkpoint(tmp_path):
    trainer = Trainer(tiny_diffusion_task(), config(tmp_path))
    trainer.task.loss = lambda network, batch, seeds: torch.full((len(seeds),), float("nan"), requires_grad=True)
    with pytest.raises(KineographError, match="loss of step 1"):
        trainer.run()
    assert checkpoint.checkpoints(tmp_path) == []


def test_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    from kineograph.errors import ResourceError

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(ResourceError, match="No space left"):
        checkpoint.save(tmp_path, 1, {"weights": {"a": torch.zeros(1)}}, {}, keep=1)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_ema_has_the_half_life_it_says():
    from kineograph.training.ema import EMA

    parameter = torch.nn.Parameter(torch.zeros(1))
    ema = EMA({"p": parameter}, halflife_samples=1000)
    parameter.data.fill_(1.0)
    for _ in range(100):  # 100 steps of 10 samples: one half-life
        ema.update(batch=10, samples_seen=10**9)
    assert ema.shadow["p"].item() == pytest.approx(0.5, abs=1e-4)
    with ema.applied():
        assert parameter.item() == pytest.approx(0.5, abs=1e-4)
    assert parameter.item() == 1.0


def test_learning_rate_warms_up_and_falls_to_zero(tmp_path):
    setting = config(tmp_path, max_train_steps=100, lr_warmup_steps=10, lr_schedule="cosine", learning_rate=1.0)
    rates = [learning_rate_at(setting, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) < 1.0
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert learning_rate_at(replace(setting, lr_schedule="constant"), 99) == 1.0


def test_sanity_overfits_one_sample_and_sees_a_broken_network(tmp_path):
    task = tiny_diffusion_task()
    assert sanity(task, config(tmp_path, learning_rate=2e-3))["passed"]
    broken = tiny_diffusion_task()
    broken.network.requires_grad_(False)
    broken.network.unet.conv_out.bias.requires_grad_(True)
    assert not sanity(broken, config(tmp_path))["passed"]


@pytest.mark.parametrize("field", ["max_train_steps", "train_batch_size", "learning_rate"])
def test_bad_settings_are_named_by_their_flag(tmp_path, field):
    with pytest.raises(InputError, match=field.replace("_", "-")):
        config(tmp_path, **{field: 0})
    with pytest.raises(InputError, match="--init-from"):
        config(tmp_path, resume=True, init_from=tmp_path)
