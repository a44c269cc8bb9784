"""The training loop, one for every stage: what differs between stages is the task it is given."""

from __future__ import annotations

import json
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kineograph.errors import DataError, InputError, KineographError, WeightsError
from kineograph.training import checkpoint
from kineograph.training.batches import Share, prefetch, share
from kineograph.training.config import SANITY_RATIO, SANITY_STEPS, TrainConfig, learning_rate_at
from kineograph.training.ema import EMA
from kineograph.training.log import Meter, RunLog, progress_line


class Task(Protocol):
    """What a stage brings to the loop."""

    name: str
    network: nn.Module
    num_samples: int

    def load(self, indices: list[int], seeds: list[int]) -> dict[str, Tensor]:
        """Return the data of some samples, choices (such as the frame) by seed; runs in a thread."""
        ...

    def loss(self, network: Callable[..., Any], batch: dict[str, Tensor], seeds: list[int]) -> Tensor:
        """Return one loss per sample, (samples,); all randomness comes from the seeds."""
        ...

    def validate(self) -> dict[str, float]:
        """Measure at fixed samples, noise levels and seeds."""
        ...

    def preview(self, directory: Path) -> None:
        """Draw pictures with fixed seeds."""
        ...

    def export(self, directory: Path) -> None:
        """Write an inference-ready model folder."""
        ...


@dataclass(frozen=True)
class RunResult:
    """How a run ended: steps done, last loss, why it stopped, and what validation said."""

    step: int
    loss: float
    stopped: str
    validation: dict[str, float]


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that want gradients, by name."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def constants(network: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that are stored with the weights, by name: what the data say and no step changes."""
    known = dict(network.named_parameters())
    return {name: value for name, value in network.state_dict().items() if name not in known}


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

    Raises:
        DataError: The run directory already holds a run and neither resume nor another directory was asked for.
    """

    def __init__(self, task: Task, config: TrainConfig) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        from kineograph.devices import on_cpu

        torch.set_flush_denormal(True)  # vanishing gradients of fresh networks are several times slower without
        self.task, self.config, self.run_dir = task, config, Path(config.output_dir)
        AcceleratorState._reset_state()  # or a second run in one process would keep the first one's precision
        self.accelerator = Accelerator(mixed_precision=precision(config.mixed_precision), cpu=on_cpu())
        self.parameters = trainable(task.network)
        self._claim_directory()
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
        self.step, self.samples_seen, self.stop_reason = 0, 0, ""
        if config.resume:
            self._restore(checkpoint.latest(self.run_dir))
        self.log = RunLog(self.run_dir, self.accelerator.is_main_process, config.tensorboard)

    # The run ----------------------------------------------------------------------------------------------------

    def run(self) -> RunResult:
        """Train to the last step, or until the time is over or a signal asks to stop."""
        try:
            return self._run()
        finally:
            self.log.close()

    def _run(self) -> RunResult:
        config, meter, loss, began = self.config, Meter(), float("nan"), time.monotonic()
        self.log.say(self.describe())
        with self._signals():
            for batches, waited in self._data():
                loss, grad_norm = self._train_step(batches)
                meter.add(batches[0][0].global_count, waited, loss)
                if self.step % config.log_steps == 0 or self.step == config.max_train_steps:
                    self._tell(meter, grad_norm)
                self._maintain()
                if config.max_minutes is not None and time.monotonic() - began > 60 * config.max_minutes:
                    self.stop_reason = "time is over"
                if self.stop_reason:
                    break
        validation = self._finish()
        return RunResult(self.step, loss, self.stop_reason or "finished", validation)

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
        with self._inference():
            values = self.task.validate()
        self.log.say("validation  " + "  ".join(f"{name} {value:.4f}" for name, value in values.items()))
        self.log.write(self.step, **{f"validation/{name}": value for name, value in values.items()})
        return values

    def preview(self) -> None:
        """Draw the task's pictures into `previews/step-…`."""
        if self.accelerator.is_main_process:
            directory = self.run_dir / "previews" / f"step-{self.step:08d}"
            directory.mkdir(parents=True, exist_ok=True)
            with self._inference():
                self.task.preview(directory)
        self.accelerator.wait_for_everyone()

    def save(self) -> None:
        """Write a checkpoint (main process; the weights are equal on all)."""
        if self.accelerator.is_main_process:
            tensors = {"weights": dict(self.parameters), "optimizer": checkpoint.optimizer_tensors(self.optimizer)}
            if self.ema is not None:
                tensors["ema"] = self.ema.shadow
            if own := constants(self.task.network):
                tensors["constants"] = own
            state = {"samples_seen": self.samples_seen, "task": self.task.name, "config": self.config.to_dict()}
            checkpoint.save(self.run_dir, self.step, tensors, state, self.config.checkpoints_total_limit)
        self.accelerator.wait_for_everyone()

    def _finish(self) -> dict[str, float]:
        """Save; if the run came to its end, also validate, preview and export."""
        self.save()
        if self.stop_reason.startswith("signal"):
            self.log.say(f"Stopped by {self.stop_reason} after step {self.step}; continue with --resume.")
            return {}
        values = self.validate()
        self.preview()
        if self.accelerator.is_main_process:
            with self._inference():
                self.task.export(self.run_dir / "model")
        self.accelerator.wait_for_everyone()
        return values

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

    def _claim_directory(self) -> None:
        """Refuse to overwrite another run; record what this one is."""
        if not self.config.resume and checkpoint.checkpoints(self.run_dir):
            raise DataError(
                f"'{self.run_dir}' already holds a run. Continue it with --resume, or choose another --output-dir."
            )
        if not self.accelerator.is_main_process:
            self.accelerator.wait_for_everyone()
            return
        self.run_dir.mkdir(parents=True, exist_ok=True)
        record = {"task": self.task.name, "config": self.config.to_dict(), "command": sys.argv, "versions": versions()}
        (self.run_dir / "config.json").write_text(json.dumps(record, indent=1, default=str) + "\n")
        self.accelerator.wait_for_everyone()

    def _restore(self, path: Path) -> None:
        """Take over everything a checkpoint holds."""
        state = checkpoint.load_state(path)
        if state["task"] != self.task.name:
            raise InputError(f"'{path}' is a checkpoint of '{state['task']}', not of '{self.task.name}'.")
        load_weights(self.parameters, checkpoint.load(path, "weights"), str(path))
        if stored := checkpoint.load(path, "constants"):
            load_weights(constants(self.task.network), stored, str(path))
        checkpoint.load_optimizer(self.optimizer, checkpoint.load(path, "optimizer"))
        if self.ema is not None:
            self.ema.load(checkpoint.load(path, "ema"))
        self.step, self.samples_seen = state["step"], state["samples_seen"]

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT end the run after the current step."""

        def ask(number: int, _frame: object) -> None:
            self.stop_reason = f"signal {signal.Signals(number).name}"

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def load_weights(parameters: Mapping[str, Tensor], tensors: dict[str, Tensor], where: str) -> None:
    """Copy saved weights into parameters of the same names.

    Raises:
        WeightsError: Names or shapes differ, or a value is not finite.
    """
    from kineograph.models.weights import check_finite, check_keys

    check_keys(parameters.keys(), tensors.keys(), where)
    check_finite(tensors, where)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != tensors[name].shape:
                given, wanted = tuple(tensors[name].shape), tuple(parameter.shape)
                raise WeightsError(
                    f"'{name}' in '{where}' has shape {given}; the network to be trained wants {wanted}."
                )
            parameter.copy_(tensors[name])


def versions() -> dict[str, str]:
    """Return the versions that matter for reproducing a run."""
    import importlib.metadata as metadata

    names = ("kineograph", "torch", "diffusers", "transformers", "accelerate", "safetensors")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def sanity(task: Task, config: TrainConfig) -> dict[str, Any]:
    """Overfit the first sample and say whether the loss falls as it must.

    The same sample, timesteps and noise are used in every step, so a correctly wired network halves its loss within
    `SANITY_STEPS` steps; one that does not has a fault in its data, conditioning or gradients.

    Returns:
        `{"passed", "first_loss", "last_loss", "steps"}`.
    """
    parameters = trainable(task.network)
    optimizer = torch.optim.AdamW(parameters.values(), lr=max(config.learning_rate, 3e-4))
    batch, seeds, losses = task.load([0], [config.seed]), [config.seed], []
    enabled = precision(config.mixed_precision) == "bf16"
    task.network.train()
    for _ in range(SANITY_STEPS):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
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
