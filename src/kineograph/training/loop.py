"""The training loop, one for every stage: what differs between stages is the task it is given."""

from __future__ import annotations

import json
import math
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kineograph.checkpoints.run import MODEL_INDEX, START
from kineograph.errors import DataError, InputError, KineographError
from kineograph.training import checkpoint
from kineograph.training.batches import Share, prefetch, share
from kineograph.training.config import SANITY_RATIO, SANITY_STEPS, TrainConfig, learning_rate_at
from kineograph.training.ema import EMA
from kineograph.training.ending import Ending
from kineograph.training.log import Meter, RunLog, progress_line
from kineograph.training.parameters import constants, load_weights, trainable
from kineograph.training.replace import discard, disk_trouble, new_folder, write_whole
from kineograph.training.resume import fingerprint, frozen, settings, settle
from kineograph.training.task import Progress, Task, tracked


@dataclass(frozen=True)
class RunResult:
    """How a run ended: steps done, last loss, why it stopped (or `FINISHED_BEFORE`), and what validation said."""

    step: int
    loss: float
    stopped: str
    validation: dict[str, float]


FINISHED_BEFORE = "already finished"
"""Why a run stopped that was finished when it was resumed."""
Stages = Callable[[], AbstractContextManager[Progress | None]]
"""Opens the display of long things that are not steps, such as validation."""


def precision(wish: str) -> str:
    """Turn `"auto"` into bf16 where the hardware computes in it, else into full precision."""
    if wish != "auto":
        return wish
    from kineograph.devices import has_bf16

    return "bf16" if has_bf16() else "no"


class Trainer:
    """One run of one task. `run()` trains; everything that must survive a kill is in the checkpoints.

    Args:
        task: The stage.
        config: Its settings.
        stages: Shows how far validation and previews are; None: nothing does.

    Raises:
        DataError: The run directory already holds a run and neither resume nor another directory was asked for.
        InputError: A resumed run is given settings that are not its own.
        WeightsError: A resumed run has no checkpoint that is whole.
    """

    def __init__(self, task: Task, config: TrainConfig, stages: Stages | None = None) -> None:
        torch.set_flush_denormal(True)  # vanishing gradients of fresh networks are several times slower without
        self.task, self.config, self.run_dir = task, config, Path(config.output_dir)
        self.stages: Stages = stages or nullcontext
        self.accelerator = accelerated(config)
        self.parameters = trainable(task.network)
        self._check_directory()
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=config.learning_rate,
            betas=config.adam_betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        task.network.to(self.accelerator.device)
        self.network = self.accelerator.prepare_model(task.network)
        self.ema = EMA(self.parameters, config.ema_halflife_samples) if config.ema_halflife_samples > 0 else None
        self.step, self.samples_seen, self.loss, self.stop_reason = 0, 0, float("nan"), ""
        self._trained = False
        self.settings = self._settings()
        self.opening = [*task.notes, *(self._resume() if config.resume else [])]
        self._record()
        self.log = RunLog(self.run_dir, self.accelerator.is_main_process, config.tensorboard)

    # The run ----------------------------------------------------------------------------------------------------

    def run(self) -> RunResult:
        """Train to the last step, or until the time is over or a signal asks to stop; then do what ends a run."""
        try:
            for line in self.opening:
                self.log.say(line)
            return self._end() if self._train() else self._stopped()
        finally:
            self.log.close()

    def _train(self) -> bool:
        """Train; say whether the run's end is reached, by the last step or by the clock."""
        self._trained = not self.config.resume or self.step < self.config.max_train_steps
        if not self._trained:
            return True
        if self.accelerator.is_main_process:
            Ending(self.run_dir, self.step).forget()
        self.log.say(self.describe())
        with self._signals():
            self._steps()
            self.save()
        return not self.stop_reason.startswith("signal")

    def _steps(self) -> None:
        """Train until there is a reason to stop."""
        config, meter, began = self.config, Meter(), time.monotonic()
        for batches, waited in self._data():
            self.loss, grad_norm = self._train_step(batches)
            meter.add(batches[0][0].global_count, waited, self.loss)
            if self.step % config.log_steps == 0 or self.step == config.max_train_steps:
                self._tell(meter, grad_norm)
            self._maintain()
            if config.max_minutes is not None and time.monotonic() - began > 60 * config.max_minutes:
                self.stop_reason = "time is over"
            if self.stop_reason:
                return

    def _stopped(self) -> RunResult:
        """Say how a run that a signal stopped goes on."""
        here = checkpoint.checkpoint_dir(self.run_dir, self.step)
        self.log.say(
            f"Stopped by {self.stop_reason} after step {self.step}. Continue with --resume; make a model of it with "
            f"--resume --export; look at it with kineograph generate --model {here}"
        )
        return RunResult(self.step, self.loss, self.stop_reason, {})

    def _data(self) -> Iterator[tuple[list[tuple[Share, dict[str, Tensor]]], float]]:
        """Yield each step's micro-batches and the seconds spent waiting for them."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes

        def load(step: int) -> list[tuple[Share, dict[str, Tensor]]]:
            mine = share(step, self.task.num_samples, self.config.train_batch_size, self.config.seed, rank, world)
            return [
                (part, self.task.load(part.indices, part.seeds)) for part in mine.micro(self.config.micro_batch_size)
            ]

        batches = prefetch(range(self.step, self.config.max_train_steps), load)
        while True:
            asked = time.perf_counter()
            item = next(batches, None)
            if item is None:
                return
            yield item, time.perf_counter() - asked

    def _train_step(self, batches: list[tuple[Share, dict[str, Tensor]]]) -> tuple[float, float]:
        """Run forward, backward and the optimizer; return the mean loss and the gradient norm."""
        self.task.network.train()
        total = torch.zeros((), device=self.accelerator.device)
        for i, (part, batch) in enumerate(batches):
            last = i == len(batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.network):
                torch.manual_seed(part.seeds[0])  # whatever the network draws itself (dropout) follows the step too
                loss = self._loss(part, batch)
                self.accelerator.backward(loss * self.accelerator.num_processes)
            total += loss.detach()
        mean = self._number(self.accelerator.reduce(total, "sum"))
        self._guard(mean, "loss")
        norm = self._number(self.accelerator.clip_grad_norm_(list(self.parameters.values()), self.config.max_grad_norm))
        self._guard(norm, "gradient")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.config, self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.samples_seen += batches[0][0].global_count
        if self.ema is not None:
            self.ema.update(batches[0][0].global_count, self.samples_seen)
        return mean, norm

    def _loss(self, part: Share, batch: dict[str, Tensor]) -> Tensor:
        """Return this micro-batch's part of the global mean."""
        device = self.accelerator.device
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        with self.accelerator.autocast():
            losses = self.task.loss(self.network, batch, part.seeds)
        return (losses.float() * torch.tensor(part.weights, device=device)).sum() / part.global_count

    @staticmethod
    def _number(value: Any) -> float:
        """Return a zero-dimensional tensor as a number."""
        return float(value)

    def _guard(self, value: float, phase: str) -> None:
        if value != value or value in (float("inf"), float("-inf")):
            raise KineographError(
                f"The {phase} of step {self.step + 1} is {value} (task {self.task.name}, precision "
                f"{self.accelerator.mixed_precision}, learning rate {learning_rate_at(self.config, self.step):.2e}). "
                "The last checkpoint is untouched. Try a lower --learning-rate or --mixed-precision no, then --resume."
            )

    # Once in a while --------------------------------------------------------------------------------------------

    def _maintain(self) -> None:
        """Checkpoint, validate and preview when their turn has come."""
        config = self.config
        if self.step % config.checkpointing_steps == 0 and self.step < config.max_train_steps:
            self.save()
        if config.validation_steps and self.step % config.validation_steps == 0 and self.step < config.max_train_steps:
            self.validate()
        if config.preview_steps and self.step % config.preview_steps == 0 and self.step < config.max_train_steps:
            self.preview()

    def _tell(self, meter: Meter, grad_norm: float) -> None:
        rates = meter.rates(self.config.max_train_steps - self.step)
        lr = learning_rate_at(self.config, self.step - 1)
        self.log.say(progress_line(self.step, self.config.max_train_steps, rates, lr, grad_norm))
        self.log.write(self.step, samples=self.samples_seen, lr=lr, grad_norm=grad_norm, **rates)
        meter.reset()

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Averaged weights, evaluation mode, no gradients, the run's precision."""
        self.task.network.eval()
        with self.ema.applied() if self.ema else nullcontext(), torch.no_grad(), self.accelerator.autocast():
            yield
        self.task.network.train()

    def validate(self) -> dict[str, float]:
        """Measure and log the validation losses of the averaged weights."""
        with self._inference(), self._shown():
            values = self.task.validate()
        self.log.say("validation  " + "  ".join(f"{name} {value:.4f}" for name, value in values.items()))
        self.log.write(self.step, **{f"validation/{name}": value for name, value in values.items()})
        return values

    def preview(self) -> None:
        """Draw the task's pictures into `previews/step-…`."""
        if self.accelerator.is_main_process:
            directory = self.run_dir / "previews" / f"step-{self.step:08d}"
            with disk_trouble(f"'{directory}' could not be written"), self._inference(), self._shown():
                directory.mkdir(parents=True, exist_ok=True)
                self.task.preview(directory)
        self.accelerator.wait_for_everyone()

    def export(self) -> None:
        """Write the model of the averaged weights to `model/`, all at once."""
        folder = self.run_dir / "model"
        if self.accelerator.is_main_process:
            self._write_model(folder)
            discard(self.run_dir / "checkpoints" / START)
            self.log.say(f"The model of step {self.step} is in {folder}")
        self.accelerator.wait_for_everyone()

    def write_start(self) -> None:
        """Write the model as it is beside the checkpoints, which hold what trains: with it they can be sampled.

        It goes when there is `model/`, which serves as well; a stage that writes no such model writes none here.
        """
        folder = self.run_dir / "checkpoints" / START
        if not self.task.part or not self.accelerator.is_main_process:
            return
        places = (folder, self.run_dir / "model") if self.config.resume else ()
        if not any((place / MODEL_INDEX).is_file() for place in places):
            self._write_model(folder)

    def _write_model(self, folder: Path) -> None:
        """Write the model of the averaged weights, all at once."""
        trouble = disk_trouble(f"The model could not be written to '{folder}'")
        with trouble, self._inference(), new_folder(folder) as part:
            self.task.export(part)

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """Show how far the task is."""
        with self.stages() as told:
            self.task.progress = told
            try:
                yield
            finally:
                self.task.progress = None

    def save(self) -> None:
        """Write a checkpoint (main process; the weights are equal on all)."""
        if self.accelerator.is_main_process:
            tensors = {"weights": dict(self.parameters), "optimizer": checkpoint.optimizer_tensors(self.optimizer)}
            if self.ema is not None:
                tensors["ema"] = self.ema.shadow
            if own := constants(self.task.network):
                tensors["constants"] = own
            state = {
                "samples_seen": self.samples_seen,
                "task": self.task.name,
                "part": self.task.part,
                "loss": self.loss if math.isfinite(self.loss) else None,
                "config": self.config.to_dict(),
                "settings": self.settings,
            }
            checkpoint.save(self.run_dir, self.step, tensors, state, self.config.checkpoints_total_limit)
        self.accelerator.wait_for_everyone()

    def _end(self) -> RunResult:
        """Do what ends a run and is not done yet: the model first, so that nothing after it can cost it."""
        ending = Ending(self.run_dir, self.step)
        left = self._left(ending)
        if not left and not self._trained:
            self.log.say(
                f"The run in '{self.run_dir}' is finished: {self.step} of {self.config.max_train_steps} steps are "
                "done, and all that follows. For more steps give a higher --max-train-steps."
            )
            return RunResult(self.step, self.loss, FINISHED_BEFORE, ending.done.get("validation") or {})
        try:
            with self._signals(at_once=True):
                for name, work in left.items():
                    value = work()
                    if self.accelerator.is_main_process:
                        ending.note(name, value)
        except KeyboardInterrupt:
            self.stop_reason = self.stop_reason or f"signal {signal.SIGINT.name}"
            self.log.say(f"Interrupted. Done: {', '.join(ending.done) or 'nothing yet'}; --resume does the rest.")
        return RunResult(self.step, self.loss, self.stop_reason or "finished", ending.done.get("validation") or {})

    def _left(self, ending: Ending) -> dict[str, Callable[[], Any]]:
        """Return what is wanted at the end and is not done, in order."""
        config = self.config
        wanted: dict[str, tuple[bool, Callable[[], Any]]] = {
            "model": (not config.no_export, self.export),
            "validation": (not config.no_validation, self.validate),
            "previews": (not config.no_preview, self.preview),
        }
        done = set(ending.done) - (set() if (self.run_dir / "model").is_dir() else {"model"})
        return {name: work for name, (wish, work) in wanted.items() if wish and name not in done}

    # The beginning and the end of a process -----------------------------------------------------------------------

    def describe(self) -> str:
        """Return what the run is about to do, in one line."""
        wanted, everything = (
            sum(p.numel() for p in self.parameters.values()),
            sum(p.numel() for p in self.task.network.parameters()),
        )
        return (
            f"{self.task.name}: trainable {wanted / 1e6:.1f} M of {everything / 1e6:.1f} M parameters, "
            f"{self.task.num_samples} samples, batch {self.config.train_batch_size}, precision "
            f"{self.accelerator.mixed_precision}, {self.accelerator.num_processes} process(es), from step {self.step}"
        )

    def _check_directory(self) -> None:
        """Refuse to overwrite another run, or anything else that bears a name of ours."""
        if self.config.resume:
            return
        if checkpoint.checkpoints(self.run_dir):
            raise DataError(
                f"'{self.run_dir}' already holds a run. Continue it with --resume, or choose another --output-dir."
            )
        held = {"model": "a model", MODEL_INDEX: "a model", "manifest.jsonl": "a data set"}
        held |= {} if _is_record(self.run_dir / "config.json") else {"config.json": "something else"}
        found = [what for name, what in held.items() if (self.run_dir / name).exists()]
        if found:
            raise DataError(
                f"'{self.run_dir}' holds {found[0]}, which is not overwritten; choose another --output-dir."
            )

    def _record(self) -> None:
        """Write down what the run is."""
        if self.accelerator.is_main_process:
            record = {"task": self.task.name, "config": self.config.to_dict(), "settings": self.settings}
            record |= {"command": sys.argv, "versions": versions()}
            file = self.run_dir / "config.json"
            with disk_trouble(f"'{file}' could not be written"):
                self.run_dir.mkdir(parents=True, exist_ok=True)
                write_whole(file, json.dumps(record, indent=1, default=str) + "\n")
        self.accelerator.wait_for_everyone()

    def _settings(self) -> dict[str, Any]:
        """Return what a resumed run is compared by."""
        facts = {**self.task.made, **self.task.facts(), "optimizer": type(self.optimizer).__name__}
        if base := fingerprint(frozen(self.task.network)):
            facts["base"] = ", ".join([*([facts["base"]] if "base" in facts else []), f"frozen weights {base}"])
        return settings(self.config.to_dict(), facts)

    def _resume(self) -> list[str]:
        """Take over the newest whole checkpoint; return what there is to say about it."""
        lines: list[str] = []
        path = checkpoint.latest(self.run_dir, lines.append)
        state = checkpoint.load_state(path)
        if state["task"] != self.task.name:
            raise InputError(f"'{path}' is a checkpoint of '{state['task']}', not of '{self.task.name}'.")
        before = settings(state.get("config", {}), {}) | state.get("settings", {})
        lines += settle(before, self.settings, self.run_dir)
        self._restore(path, state)
        if self.accelerator.is_main_process:
            checkpoint.set_aside(self.run_dir, path)
        self.accelerator.wait_for_everyone()
        return lines

    def _restore(self, path: Path, state: Mapping[str, Any]) -> None:
        """Take over everything a checkpoint holds; averages that it lacks begin at its weights."""
        load_weights(self.parameters, checkpoint.load(path, "weights"), str(path))
        if stored := checkpoint.load(path, "constants"):
            load_weights(constants(self.task.network), stored, str(path))
        checkpoint.load_optimizer(self.optimizer, checkpoint.load(path, "optimizer"), str(path))
        if self.ema is not None:
            self.ema.load(checkpoint.load(path, "ema") or checkpoint.load(path, "weights"))
        self.step, self.samples_seen = state["step"], state["samples_seen"]
        self.loss = float("nan") if state.get("loss") is None else float(state["loss"])

    @contextmanager
    def _signals(self, at_once: bool = False) -> Iterator[None]:
        """Let SIGTERM and SIGINT end the run after the current step, or what is done here at once."""

        def ask(number: int, _frame: object) -> None:
            self.stop_reason = f"signal {signal.Signals(number).name}"
            if at_once:
                raise KeyboardInterrupt

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _is_record(file: Path) -> bool:
    """Say whether a file is what a run wrote down of itself."""
    try:
        return {"task", "config", "versions"} <= json.loads(file.read_bytes()).keys()
    except (OSError, ValueError, AttributeError):
        return False


def versions() -> dict[str, str]:
    """Return the versions that matter for reproducing a run."""
    import importlib.metadata as metadata

    names = ("kineograph", "torch", "diffusers", "transformers", "accelerate", "safetensors")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def accelerated(config: TrainConfig) -> Any:
    """Return where and in what precision a run computes."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    from kineograph.devices import on_cpu

    AcceleratorState._reset_state()  # or a second run in one process would keep the first one's precision
    return Accelerator(mixed_precision=precision(config.mixed_precision), cpu=on_cpu())


def sanity(task: Task, config: TrainConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Overfit the first sample and say whether the loss falls as it must.

    The same sample, timesteps and noise are used in every step, so a correctly wired network halves its loss within
    `SANITY_STEPS` steps; one that does not has a fault in its data, conditioning or gradients.

    Args:
        task: The stage; computed on the device and in the precision of a run.
        config: Of the run.
        progress: Called with `(done, total, what)`.

    Returns:
        `{"passed", "first_loss", "last_loss", "steps"}`.
    """
    accelerator, parameters = accelerated(config), trainable(task.network)
    task.network.to(accelerator.device)
    optimizer = torch.optim.AdamW(parameters.values(), lr=max(config.learning_rate, 3e-4))
    seeds, losses = [config.seed], []
    batch = {name: tensor.to(accelerator.device) for name, tensor in task.load([0], seeds).items()}
    task.network.train()
    for _ in tracked(range(SANITY_STEPS), progress, "sanity check"):
        with accelerator.autocast():
            loss = task.loss(task.network, batch, seeds).float().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {
        "passed": losses[-1] < SANITY_RATIO * losses[0],
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "steps": SANITY_STEPS,
    }
