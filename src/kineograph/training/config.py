"""What a training run is told: one frozen dataclass, the same for every stage."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from kineograph.errors import InputError

SANITY_STEPS = 150
SANITY_RATIO = 0.5  # overfitting one clip must at least halve the loss, else something is wired wrongly


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one run. Counts are in optimizer steps unless the name says otherwise."""

    output_dir: Path
    """Run directory: config, metrics, previews and checkpoints."""
    max_train_steps: int = 1000
    """Optimizer steps in all (a resumed run continues to this number)."""
    train_batch_size: int = 16
    """Samples per optimizer step over all processes (images, or clips)."""
    micro_batch_size: int | None = None
    """Samples per forward pass; smaller saves memory by gradient accumulation (default: the whole share)."""
    learning_rate: float = 1e-4
    """Peak learning rate of AdamW."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: constant, or a half cosine that ends at zero."""
    lr_warmup_steps: int = 100
    """Steps of linear warm-up."""
    weight_decay: float = 0.01
    """Decoupled weight decay of AdamW."""
    adam_betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of AdamW's moments."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    ema_halflife_samples: float = 20_000
    """Half-life of the averaged weights, in samples; 0 switches averaging off."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Autocast type; auto takes bf16 where the hardware has it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    seed: int = 0
    """Seed of the weights, the order of the data and the noise."""
    log_steps: int = 20
    """Steps between progress lines."""
    checkpointing_steps: int = 500
    """Steps between checkpoints; one is written at the end as well."""
    checkpoints_total_limit: int = 2
    """Checkpoints kept (the newest)."""
    preview_steps: int = 0
    """Steps between previews (contact sheets and clips); 0 makes one at the end."""
    validation_steps: int = 0
    """Steps between validations; 0 validates at the end."""
    max_minutes: float | None = None
    """Stop cleanly, with a checkpoint, after this many minutes (default: no limit)."""
    no_export: bool = False
    """Write no model/ at the end (later: --resume, or --resume --export)."""
    no_validation: bool = False
    """Do not validate at the end."""
    no_preview: bool = False
    """Make no previews at the end."""
    resume: bool = False
    """Continue the run in output_dir from its newest whole checkpoint, with optimizer, averages and data order; if all
    steps are done, do what is left of its end."""
    export: bool = False
    """With --resume: write model/ from the newest checkpoint and stop, whatever steps are left."""
    init_from: Path | None = None
    """Start from the weights of another run, a model folder or a bundled model (emoji); all else starts anew (default:
    fresh weights)."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""
    sanity: bool = False
    """Overfit one sample for 150 steps and say whether the loss falls as it must."""
    tensorboard: bool = False
    """Write TensorBoard events beside the JSON lines."""

    def __post_init__(self) -> None:
        for name in (
            "max_train_steps",
            "train_batch_size",
            "log_steps",
            "checkpointing_steps",
            "checkpoints_total_limit",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}.")
        for name in ("ema_halflife_samples", "lr_warmup_steps", "weight_decay", "preview_steps", "validation_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"--{name.replace('_', '-')} must be a number from 0 up, not {getattr(self, name)}.")
        for name in ("learning_rate", "max_grad_norm", "max_minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"--{name.replace('_', '-')} must be above 0, not {value}.")
        if not all(0 <= beta < 1 for beta in self.adam_betas):
            raise InputError(f"--adam-betas must be from 0 to below 1, not {self.adam_betas}.")
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise InputError(f"--micro-batch-size must be at least 1, not {self.micro_batch_size}.")
        if self.export and not self.resume:
            raise InputError("--export writes the model of a run that is there: give --resume with it.")
        if self.resume and self.init_from is not None:
            raise InputError(
                "--resume continues a run and --init-from starts a new one from other weights: give one of them."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


def learning_rate_at(config: TrainConfig, step: int) -> float:
    """Return the learning rate of optimizer step `step` (from 0)."""
    warm = min(1.0, (step + 1) / max(1, config.lr_warmup_steps))
    if config.lr_schedule == "constant":
        return config.learning_rate * warm
    done = min(1.0, step / max(1, config.max_train_steps))
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * done))
