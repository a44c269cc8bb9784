"""`kineograph train`: an autoencoder, a latent image model, or any system of the registry on top of one."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from kineograph.cli._output import emit, plain, say, stages
from kineograph.errors import InputError, unknown
from kineograph.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Args:
    """Train one stage: `autoencoder`, then `latent-image`, then a system of the registry such as `modelscope`."""

    stage: Annotated[Positional[str], arg(metavar="STAGE")]
    """autoencoder, latent-image, draft (for a model's noisiest steps), decoder (of a model), or a system (see
    `kineograph systems`)."""
    data: Path
    """Data-set folder with manifest.jsonl."""
    train: OmitArgPrefixes[TrainConfig]
    base: Path | None = None
    """What to build on: the autoencoder's run for latent-image; the model of a draft or decoder; for a system a model
    (a run, a folder, a file or a bundled name) whose image network is taken (see --keep-temporal); for autoencoder, one
    whose decoder is trained further (default: none, a fresh autoencoder)."""
    keep_temporal: bool = False
    """Train the temporal layers of --base further, if they are of the same system, instead of fresh ones."""
    size: int = 128
    """Edge of the training frames, in pixels: the middle square of each picture, what lies beside it is cut off."""
    sample_fps: float = 8.0
    """Frames per second taken of each clip."""
    max_frames: int | None = None
    """Frames taken from the start of each clip, at most; what comes later is not used (default: 24, or --num-frames if
    that is more)."""
    background: str = "white"
    """Colour under transparent frames."""
    held_out: str = "held-out-combinations"
    """Split that validation looks at beside training clips; where a data set has none of this name, the default is what
    it calls it: validation, val, test or the only other one."""
    validation_prompt: UseAppendAction[tuple[str, ...]] = ()
    """Prompt of the previews; may be given several times (default: captions of the data set)."""
    balance: str = ""
    """Field of the manifest whose values are shown more evenly: a value of n clips gets sqrt(n) times the samples of a
    value of one clip, such as `base` of the emoji (default: every clip alike)."""
    cache: Path | None = None
    """Folder for decoded frames and latents (default: $KINEOGRAPH_CACHE, or ~/.cache/kineograph)."""
    num_frames: int | None = None
    """Frames per training clip, for a system; shorter clips are left out (default: 16; stable_video_diffusion: as
    published)."""
    train_all: bool = False
    """Train the image network as well, for a system (stable_video_diffusion always does)."""
    image_share: float | None = None
    """Share of samples that are independent pictures, for a system (default: 0)."""
    noise: str | None = None
    """Noise across frames, for a system: iid, mixed or progressive (default: iid)."""
    noise_alpha: float | None = None
    """Strength of the shared noise, for a system (default: 1)."""
    preset: str | None = None
    """Preset of the system; for stable_video_diffusion the stage: text, published (from a picture), xt or interpolation
    (default: its first)."""
    set: tuple[str, ...] = ()
    """Fields of the system's configuration to change, as name=value; for draft: frames, width, blocks, prototypes,
    components, blur, kind, contrast, until; for decoder: perceptual, drafts, kind."""
    caption_dropout: float = 0.1
    """Share of samples trained without their caption."""
    timestep_shift: float | None = None
    """Trains noisy levels more often (3: half of all samples in the noisiest quarter) or less (below 1), for
    latent-image and systems (default: 1, all alike)."""
    channels: tuple[int, ...] = ()
    """Width of each level of a fresh autoencoder or image network (default: the bundled model's)."""
    latent_channels: int | None = None
    """Channels of a fresh autoencoder's latents (default: 8)."""
    patch: int | None = None
    """Pixel blocks folded into channels by the autoencoder (default: 2)."""
    json: bool = False
    """Print the result as one JSON document."""


HINTS = {
    "--lr": "--learning-rate",
    "--steps": "--max-train-steps",
    "--batch-size": "--train-batch-size",
    "--output": "--output-dir",
    "-o": "--output-dir",
    "--fps": "--sample-fps",
    "--frames": "--num-frames",
    "--prompt": "--validation-prompt",
    "--epochs": "--max-train-steps",
    "--dataset": "--data",
    "--model": "--base",
    "--resume-from-checkpoint": "--resume",
}
"""Flags that people type for ours."""
SET_STAGES = ("draft", "decoder")
VIDEO_ONLY = ("num_frames", "image_share", "noise", "noise_alpha", "preset")
SYSTEM_FLAGS = (*VIDEO_ONLY, "train_all", "keep_temporal", "set", "caption_dropout", "timestep_shift")


def run(args: Args) -> int:
    """Run, resume, dry-run or sanity-check a stage."""
    from kineograph.training.recipes import IMAGE_STAGES

    args = _check(args, IMAGE_STAGES)
    if args.train.dry_run:
        resolved = plain(_resolved(args, IMAGE_STAGES))
        emit(resolved, lambda: json.dumps(resolved, indent=2, ensure_ascii=False), args.json)
        return 0
    import torch

    torch.manual_seed(args.train.seed)
    with stages() as progress:
        task = _task(args, progress)
    if args.train.sanity:
        return _sanity(task, args)
    from kineograph.training.loop import Trainer

    trainer = Trainer(task, args.train, stages)
    if args.train.export:
        return _export(trainer, args)
    trainer.write_start()
    result = trainer.run()
    emit(asdict(result) | {"run": str(args.train.output_dir)}, lambda: _summary(result, args), args.json)
    return 0 if not result.stopped.startswith("signal") else 130


def _export(trainer: Any, args: Args) -> int:
    """Write the model of the newest checkpoint."""
    trainer.export()
    trainer.log.close()
    folder = args.train.output_dir / "model"
    emit({"step": trainer.step, "model": folder, "run": args.train.output_dir}, str(folder), args.json)
    return 0


def _check(args: Args, image_stages: tuple[str, ...]) -> Args:
    """Refuse flags that the stage would ignore, and bases that are missing; return the stage by its own name."""
    if args.stage not in image_stages:
        args = replace(args, stage=_system(args.stage, image_stages))
    else:
        given = [name for name in VIDEO_ONLY if getattr(args, name) is not None]
        given += [name for name in ("train_all", "keep_temporal") if getattr(args, name)]
        if given or (args.set and args.stage not in SET_STAGES):
            name = (given or ["set"])[0].replace("_", "-")
            raise InputError(f"--{name} is for systems; the stage '{args.stage}' trains on single frames.")
    if args.stage == "autoencoder" and args.base is not None:
        given = [name for name in ("patch", "latent_channels") if getattr(args, name) is not None]
        if given or args.channels:
            name = (given or ["channels"])[0].replace("_", "-")
            raise InputError(f"--{name} is for a fresh autoencoder; the one of --base keeps its size.")
    if args.stage != "autoencoder" and args.base is None:
        what = "the autoencoder's run directory" if args.stage == "latent-image" else "an image model's run directory"
        raise InputError(f"'{args.stage}' builds on a trained stage: give {what} as --base.")
    if args.stage in SET_STAGES and (args.channels or args.train.gradient_checkpointing):
        name = "channels" if args.channels else "gradient-checkpointing"
        instead = "--set width=896 blocks=2 sizes it" if args.stage == "draft" else "the one of --base keeps its size"
        raise InputError(f"--{name} has no place with '{args.stage}', a small network: {instead}.")
    if args.stage in ("autoencoder", *SET_STAGES) and args.timestep_shift is not None:
        raise InputError(f"--timestep-shift is for latent-image and systems; '{args.stage}' has no timesteps.")
    for name in ("latent_channels", "patch"):
        if args.stage != "autoencoder" and getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is the autoencoder's; later stages take it from --base.")
    _check_size(args)
    return args


def _check_size(args: Args) -> None:
    """Refuse a size that does not fit the autoencoder, before any clip is read.

    Raises:
        InputError: Names the nearest sizes that fit.
    """
    from kineograph.models.sizes import check_side
    from kineograph.sampling.known import factor_of

    if args.base is not None:
        factor = factor_of(_part(args.base, "vae")) or 1
    else:
        own = _config(args)
        factor = own.patch * 2 ** (len(own.channels) - 1)
    check_side("--size", args.size, factor)


def _system(name: str, image_stages: tuple[str, ...]) -> str:
    """Return the registry's name of a system, for whatever of its names somebody typed."""
    from kineograph.systems import systems

    try:
        return systems().find(name).name
    except InputError:
        raise unknown("stage", name, [*image_stages, *systems()]) from None


def _resolved(args: Args, image_stages: tuple[str, ...]) -> dict[str, Any]:
    """Return what a run with these words would do: each setting that has a meaning for the stage, with its value."""
    from kineograph.data.cache import default_cache
    from kineograph.training import recipes
    from kineograph.training.data import DataConfig
    from kineograph.training.loop import precision

    config = _config(args) if args.stage in image_stages else recipes.resolved_video(args.stage, _config(args))
    frames = config.num_frames if isinstance(config, recipes.VideoConfig) else 1
    taken = DataConfig(data=args.data, max_frames=args.max_frames).frames_of_clips(frames or 1)
    shared = ("data", "base", "size", "sample_fps", "background", "held_out", "balance", "validation_prompt")
    values = {name: getattr(args, name) for name in shared}
    values |= {"max_frames": taken, "cache": args.cache or default_cache()}
    train = asdict(args.train) | {"mixed_precision": precision(args.train.mixed_precision)}
    train["micro_batch_size"] = args.train.micro_batch_size or args.train.train_batch_size
    train = {name: value for name, value in train.items() if value is not None}
    values = {name: value for name, value in (values | asdict(config)).items() if value not in (None, ())}
    return {"stage": args.stage, **values, "train": train}


def _config(args: Args) -> Any:
    """Return the stage's own configuration."""
    from kineograph.training import recipes

    if args.stage in SET_STAGES:
        kind = recipes.DraftConfig if args.stage == "draft" else recipes.DecoderConfig
        return recipes.overridden(kind(), args.set)
    config, names = {
        "autoencoder": (recipes.AutoencoderConfig(), ("patch", "channels", "latent_channels")),
        "latent-image": (recipes.ImageConfig(), ("channels", "caption_dropout", "timestep_shift")),
    }.get(args.stage, (recipes.VideoConfig(), SYSTEM_FLAGS))
    return _changed(config, args, *names)


def _task(args: Args, progress: Any) -> Any:
    """Build the stage's task."""
    from kineograph.training import recipes
    from kineograph.training.data import DataConfig
    from kineograph.training.initial import start_from

    data = DataConfig(
        data=args.data,
        size=args.size,
        sample_fps=args.sample_fps,
        max_frames=args.max_frames,
        background=args.background,
        held_out=args.held_out,
        balance=args.balance,
        prompts=args.validation_prompt,
        cache=args.cache,
    )
    config = _config(args)
    if args.stage == "autoencoder":
        base = None if args.base is None else _part(args.base, "vae")
        task = recipes.autoencoder_task(data, config, progress, base)
    elif args.stage == "latent-image":
        task = recipes.latent_image_task(data, config, _part(args.base, "vae"), progress)
    elif args.stage == "draft":
        task = recipes.draft_task(data, config, _part(args.base, ""), progress)
    elif args.stage == "decoder":
        task = recipes.decoder_task(data, config, _part(args.base, ""), _distance(config.perceptual), progress)
    else:
        task = recipes.latent_video_task(args.stage, data, config, _part(args.base, ""), progress)
    if args.train.init_from is not None:
        start_from(task, args.train.init_from)
    if args.train.gradient_checkpointing:
        recipes.checkpoint_gradients(task.network)
    return task


def _distance(weight: Any) -> Any:
    """Return the perceptual distance, or None if it would weigh nothing."""
    from kineograph.metrics.features.perceptual import PerceptualDistance

    return PerceptualDistance() if weight else None


def _changed(config: Any, args: Args, *names: str) -> Any:
    """Return a configuration with the flags that were given."""
    given = {name: getattr(args, name) for name in names}
    return replace(config, **{name: value for name, value in given.items() if value not in (None, ())})


def _part(base: Path | None, name: str) -> Path:
    """Return a part of a run directory, model folder or bundled model: a run holds its model in `model/`.

    Raises:
        InputError: The run was stopped before it had one.
    """
    from kineograph.sampling.places import bundled, find

    assert base is not None
    if name and (base / "checkpoints").is_dir() and not (base / "model").is_dir():
        raise InputError(f"The run '{base}' has no model yet: finish it, or add --resume --export to its command.")
    folder = base / "model" if (base / "model").is_dir() else find(base) if str(base) in bundled() else base
    return folder / name if name and (folder / name).is_dir() else folder


def _sanity(task: Any, args: Args) -> int:
    """Overfit one sample and report."""
    from kineograph.training.loop import sanity

    for line in task.notes:
        say(line)
    with stages() as progress:
        result = sanity(task, args.train, progress)
    verdict = "passed" if result["passed"] else "FAILED: the loss did not halve; check data, conditioning and gradients"
    text = f"Sanity check {verdict}: loss {result['first_loss']:.4f} -> {result['last_loss']:.4f} in {result['steps']} steps."  # noqa: E501
    emit(result, text, args.json)
    return 0 if result["passed"] else 1


def _summary(result: Any, args: Args) -> str:
    values = "  ".join(f"{name} {value:.4f}" for name, value in result.validation.items())
    loss = f"; last loss {result.loss:.4f}" if math.isfinite(result.loss) else ""
    return f"{result.stopped} after step {result.step}{loss}  {values}".rstrip() + f"\n{args.train.output_dir}"
