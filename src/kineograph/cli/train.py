"""`kineograph train`: an autoencoder, a latent image model, or any system of the registry on top of one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from kineograph.cli._output import emit, stages
from kineograph.errors import InputError
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
    """What to build on: the autoencoder's run for latent-image; the model of a draft or decoder; for a system an image
    model (a run, a folder, a file or a bundled name, whose image network is taken) or the system's own, to train
    further; for autoencoder, one whose decoder is trained further (default: none, a fresh autoencoder)."""
    size: int = 128
    """Edge of the square training frames, in pixels."""
    sample_fps: float = 8.0
    """Frames per second taken of each clip."""
    max_frames: int = 24
    """Frames taken of each clip, at most."""
    background: str = "white"
    """Colour under transparent frames."""
    held_out: str = "held-out-combinations"
    """Split that validation looks at beside training clips."""
    balance: str = ""
    """Field of the manifest whose values are shown more evenly: a value of n clips gets sqrt(n) times the samples of a
    value of one clip, such as `base` of the emoji (default: every clip alike)."""
    cache: Path | None = None
    """Folder for decoded frames and latents (default: $KINEOGRAPH_CACHE, or ~/.cache/kineograph)."""
    num_frames: int | None = None
    """Frames per training clip, for a system (default: 16; stable_video_diffusion: as published)."""
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


SET_STAGES = ("draft", "decoder")
VIDEO_ONLY = ("num_frames", "image_share", "noise", "noise_alpha", "preset")


def run(args: Args) -> int:
    """Run, resume, dry-run or sanity-check a stage."""
    from kineograph.training.recipes import IMAGE_STAGES

    _check(args, IMAGE_STAGES)
    if args.train.dry_run:
        resolved = {"stage": args.stage, **asdict(args)}
        emit(
            json.loads(json.dumps(resolved, default=str)),
            lambda: json.dumps(resolved, indent=2, default=str),
            args.json,
        )
        return 0
    import torch

    torch.manual_seed(args.train.seed)
    with stages() as progress:
        task = _task(args, progress)
    if args.train.sanity:
        return _sanity(task, args)
    from kineograph.training.loop import Trainer

    result = Trainer(task, args.train).run()
    emit(asdict(result) | {"run": str(args.train.output_dir)}, lambda: _summary(result, args), args.json)
    return 0 if not result.stopped.startswith("signal") else 130


def _check(args: Args, image_stages: tuple[str, ...]) -> None:
    """Refuse flags that the stage would ignore, and bases that are missing."""
    if args.stage not in image_stages:
        from kineograph.systems import systems

        known = list(systems())
        if args.stage.lower().replace("-", "_") not in known:
            from kineograph.errors import unknown

            raise unknown("stage", args.stage, [*image_stages, *known])
    else:
        given = [name for name in VIDEO_ONLY if getattr(args, name) is not None] + ["train_all"] * args.train_all
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
        cache=args.cache,
    )
    if args.stage == "autoencoder":
        config = _changed(recipes.AutoencoderConfig(), args, "patch", "channels", "latent_channels")
        base = None if args.base is None else _part(args.base, "vae")
        task = recipes.autoencoder_task(data, config, progress, base)
    elif args.stage == "latent-image":
        config = _changed(recipes.ImageConfig(), args, "channels", "caption_dropout", "timestep_shift")
        task = recipes.latent_image_task(data, config, _part(args.base, "vae"), progress)
    elif args.stage == "draft":
        config = recipes.overridden(recipes.DraftConfig(), args.set)
        task = recipes.draft_task(data, config, _part(args.base, ""), progress)
    elif args.stage == "decoder":
        config = recipes.overridden(recipes.DecoderConfig(), args.set)
        task = recipes.decoder_task(data, config, _part(args.base, ""), _distance(config.perceptual), progress)
    else:
        names = (*VIDEO_ONLY, "train_all", "set", "caption_dropout", "timestep_shift")
        config = _changed(recipes.VideoConfig(), args, *names)
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
    """Return a part of a run directory, model folder or bundled model: a run holds its model in `model/`."""
    from kineograph.sampling.generate import bundled, find

    assert base is not None
    folder = base / "model" if (base / "model").is_dir() else find(base) if str(base) in bundled() else base
    return folder / name if name and (folder / name).is_dir() else folder


def _sanity(task: Any, args: Args) -> int:
    """Overfit one sample and report."""
    from kineograph.training.loop import sanity

    result = sanity(task, args.train)
    verdict = "passed" if result["passed"] else "FAILED: the loss did not halve; check data, conditioning and gradients"
    text = f"Sanity check {verdict}: loss {result['first_loss']:.4f} -> {result['last_loss']:.4f} in {result['steps']} steps."  # noqa: E501
    emit(result, text, args.json)
    return 0 if result["passed"] else 1


def _summary(result: Any, args: Args) -> str:
    values = "  ".join(f"{name} {value:.4f}" for name, value in result.validation.items())
    return f"{result.stopped} after step {result.step}; last loss {result.loss:.4f}  {values}\n{args.train.output_dir}"
