"""`kineograph generate`: clips from prompts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from kineograph._targets import SUFFIXES, ending, is_folder
from kineograph.cli._output import emit, progress, say
from kineograph.cli._outputs import check_free, check_place, claimed
from kineograph.cli._prompts import check_word, read_prompts, slug
from kineograph.errors import InputError

if TYPE_CHECKING:
    from kineograph.sampling.image_to_video import ImageToVideo
    from kineograph.sampling.known import Known
    from kineograph.sampling.picture_and_text import PictureAndText
    from kineograph.video import Video

DEFAULT_FILE = Path("clip.mp4")


@dataclass(frozen=True, kw_only=True)
class Args:
    """Make a clip from a prompt: kineograph generate "a juggling man" -o clip.mp4."""

    words: Annotated[Positional[tuple[str, ...]], arg(metavar="PROMPT")] = ()
    """What to show; several prompts make several clips."""
    prompt: str | None = None
    """The same as a flag (default: the words above)."""
    prompts: Path | None = None
    """File with one prompt per line, or JSON lines with `prompt` and, if wanted, `seed` (default: none)."""
    image: Path | None = None
    """Picture to start at or to show, in place of a prompt or beside it, as the model wants (default: none)."""
    between: Path | None = None
    """Clip whose frames others are made between, for interpolation models (default: none)."""
    negative_prompt: str = ""
    """What to steer away from."""
    output: Annotated[str, arg(aliases=("-o",))] = ""
    """File to write (.mp4, .mov, .webm, .mkv, .gif, .webp, .apng; .png for a single picture), or a folder for several
    clips: a name without ending or with a slash behind it (default: clip.mp4, and where that is taken clip-2.mp4,
    clip-3.mp4 and so on)."""
    overwrite: bool = False
    """Replace files of --output and --preview that exist."""
    model: str = "emoji"
    """Bundled name, a model folder of this library or of diffusers, a motion module, or an original checkpoint file."""
    base: str | None = None
    """Image model for a --model that holds only temporal layers: a folder, a single file or a bundled name, whose own
    temporal layers are left out (default: none)."""
    lora: Annotated[tuple[str, ...], UseAppendAction] = ()
    """LoRA, a file or a folder as diffusers or peft save it: PATH or PATH:strength; may be given several times."""
    system: str = ""
    """Training-free system that gives time to the image network: text2video_zero (default: the model's own layers)."""
    preset: str = ""
    """Which of its system's published networks --model is, where the file does not say it: v1, v2 or v3 for motion
    modules, published (14 frames) or xt (25) for Stable Video Diffusion (default: told from it)."""
    seed: int = 0
    """First seed; clip i takes seed + i."""
    num_frames: int | None = None
    """Frames; 1 makes a picture (default: as trained)."""
    height: int | None = None
    """Pixels (default: as trained)."""
    width: int | None = None
    """Pixels (default: as trained)."""
    num_inference_steps: Annotated[int | None, arg(aliases=("--steps",))] = None
    """Steps of the sampler (default: the model's)."""
    guidance_scale: float | None = None
    """Classifier-free guidance; 1 is none (default: the model's). Refused where the model's draft takes all steps in
    which it would act."""
    guidance_interval: Annotated[tuple[float, float] | None, arg(metavar="LOW HIGH")] = None
    """Shares of time, 0 (clean) to 1 (noise), between which guidance acts; steps outside cost half (default: the
    model's)."""
    draft_until: float | None = None
    """Share of time down to which the model's draft, if it has one, takes the steps instead of the network; 1: nowhere
    (default: the model's)."""
    sampler: str | None = None
    """ddim, ddpm, dpm++, unipc, heun, euler-ancestral or scheduler, the checkpoint's own (default: the model's)."""
    fps: float | None = None
    """Frames per second, fractions too (default: as trained)."""
    motion_bucket_id: int | None = None
    """Amount of motion, 0 to 255, for models that start from a picture and are told it, such as Stable Video Diffusion
    (default: the model's)."""
    noise_aug_strength: float | None = None
    """Deviation of the noise added to the picture, for the same models; more leaves them more freedom (default: the
    model's)."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic; auto takes bf16 where the hardware has it."""
    preview: Path | None = None
    """PNG file for a contact sheet: a row for each clip, of eight of its frames at most, evenly spaced; the clip itself
    has them all (default: none)."""
    json: bool = False
    """Print the result as one JSON document."""


HINTS = {
    "--size": "--width N --height N",
    "--resolution": "--width N --height N",
    "--frames": "--num-frames",
    "--length": "--num-frames",
    "--cfg": "--guidance-scale",
    "--cfg-scale": "--guidance-scale",
    "--scale": "--guidance-scale",
    "--scheduler": "--sampler",
    "--negative": "--negative-prompt",
    "--checkpoint": "--model",
    "--ckpt": "--model",
    "--weights": "--model",
    "--dtype": "--precision",
    "--force": "--overwrite",
    "--lr": "kineograph train --learning-rate",
}
"""Flags that people type for ours."""


def run(args: Args) -> int:
    """Generate and save the clips."""
    if args.image is not None:
        return _run_on_picture(args, args.image)
    if args.between is not None:
        return _run_between(args, args.between)
    _refuse(args, FOR_ONE_PICTURE, "a prompt alone", "it is for models that start from a picture")
    told = _checked(args)
    if told.starts == "picture":
        raise InputError(f"'{args.model}' makes clips from a picture, not from words: give it one, --image photo.png.")
    prompts, seeds = _prompts(args)
    files = _files(args.output, prompts)
    _check_files(args, files, told.num_frames)

    from kineograph.sampling.generate import load_text_to_video

    model = load_text_to_video(args.model, base=args.base, lora=args.lora, system=args.system, preset=args.preset)
    _check_loaded(args, model.settings, files)
    steps = args.num_inference_steps or model.settings.num_inference_steps
    made = []
    with _steps(len(prompts), steps) as callback:
        for prompt, seed, file in zip(prompts, seeds, files, strict=True):
            video = model.generate(
                prompt,
                negative_prompt=args.negative_prompt,
                seed=seed,
                num_frames=args.num_frames,
                height=args.height,
                width=args.width,
                num_inference_steps=args.num_inference_steps,
                guidance_scale=args.guidance_scale,
                guidance_interval=args.guidance_interval,
                draft_until=args.draft_until,
                sampler=args.sampler,
                fps=args.fps,
                precision=args.precision,
                callback=callback,
            )
            made.append(Made(_saved(video, file, args), video, prompt, {"prompt": prompt, "seed": seed}))
    return _tell(made, args)


@dataclass(frozen=True)
class Made:
    """A clip that was made: where it lies, its frames, its label on the contact sheet and what it was made from."""

    file: Path
    video: Video
    label: str
    source: dict[str, Any]


FOR_ONE_PROMPT = ("words", "prompt", "negative_prompt")
"""Arguments that mean nothing to a model that starts from a picture alone."""
FOR_PROMPTS = (*FOR_ONE_PROMPT, "prompts", "sampler", "system", "guidance_interval", "draft_until")
"""Arguments of models that start from prompts."""
OTHER_KINDS = ("prompts", "sampler", "system", "guidance_interval", "draft_until")
"""Arguments that mean nothing to a model that is given a picture, with a prompt or without."""
FOR_ONE_PICTURE = ("motion_bucket_id", "noise_aug_strength")
"""Arguments of models that start from a picture alone."""
WISHES = (
    *("num_frames", "height", "width", "num_inference_steps", "guidance_scale", "guidance_interval", "draft_until"),
    *("sampler", "fps", "seed"),
)
"""Arguments that are checked before anything is loaded."""


def _checked(args: Args) -> Known:
    """Check what can be checked before anything heavy is loaded, and return what is known of the model.

    Raises:
        KineographError: Names the flag that cannot be met.
    """
    from kineograph.checkpoints.lora_path import split_scale
    from kineograph.sampling import places, wishes
    from kineograph.sampling.known import check_wishes, known

    if args.system:
        wishes.check_system(args.system)
    path = places.here(args.model)
    if args.base is not None:
        places.base_here(args.base)
    for given in args.lora:
        split_scale(given)
    for flag, file in (("--image", args.image), ("--between", args.between)):
        if file is not None and not file.exists():
            raise InputError(f"{flag} '{file}' does not exist.")
    told = known(path, args.model, args.system)
    check_wishes(told, {name: getattr(args, name) for name in WISHES})
    return told


def _check_files(args: Args, files: list[Path], frames: int | None) -> None:
    """Check what will be written, before anything is sampled.

    Raises:
        InputError: A file exists or cannot be written, or its type does not hold a clip.
    """
    _check_holds(args, files, frames)
    if args.output:
        check_free(files, "--output", args.overwrite)
    else:
        check_place(DEFAULT_FILE.parent, "--output")
    if args.preview is None:
        return
    if args.preview.suffix.lower() != ".png":
        raise InputError(f"--preview writes a PNG picture: name it so, '{args.preview.with_suffix('.png')}'.")
    if args.preview in files:
        raise InputError(f"--output and --preview both name '{args.preview}'; give the sheet another name.")
    check_free([args.preview], "--preview", args.overwrite)


def _check_holds(args: Args, files: list[Path], trained: int | None) -> None:
    """Refuse a file for one picture where there is a clip."""
    frames = args.num_frames or trained
    stills = [file for file in files if file.suffix.lower() == ".png"]
    if stills and frames is not None and frames > 1:
        raise InputError(
            f"--output '{stills[0]}' holds one picture, and the clip has {frames}. Take .apng, .webp or .gif; for a "
            f"single picture --num-frames 1, for a sheet of frames --preview {stills[0]}."
        )


def _check_loaded(args: Args, own: Any, files: list[Path]) -> None:
    """Check and say what only a loaded model tells."""
    from kineograph.sampling.wishes import makes_pictures, strange_size

    _check_holds(args, files, own.num_frames)
    if own.num_frames == 1 and args.num_frames is None:
        say(f"Note: {makes_pictures(args.model)}")
    if warning := strange_size(args.height or own.height, args.width or own.width, own):
        say(f"Warning: {warning}")


def _run_on_picture(args: Args, image: Path) -> int:
    """Generate and save one clip from a picture, and from a prompt where the model takes both.

    Raises:
        InputError: The model wants prompts alone, or a flag is given that it does not take.
    """
    _refuse(args, (*OTHER_KINDS, "between"), "--image", "a picture makes one clip, in the model's own way")
    told = _checked(args)
    if told.starts == "prompt":
        raise _from_prompts(args)
    (file,) = _files(args.output, ["clip"])
    _check_files(args, [file], told.num_frames)

    from kineograph.sampling.generate import Model, load

    model = load(args.model, base=args.base, lora=args.lora, preset=args.preset)
    if isinstance(model, Model):
        raise _from_prompts(args)
    _check_loaded(args, model.settings, [file])
    with _steps(1, args.num_inference_steps or model.settings.num_inference_steps) as callback:
        video = _from_picture(model, args, image, callback)
    return _tell([Made(_saved(video, file, args), video, image.name, {"image": str(image), "seed": args.seed})], args)


FOR_PICTURES = ("num_frames", "height", "width", "guidance_scale", "fps", "noise_aug_strength")
"""Arguments that mean nothing where frames are made between given ones."""


def _run_between(args: Args, clip: Path) -> int:
    """Make the frames between those of a clip and save it.

    Raises:
        InputError: The model is of another kind, or a flag is given that has no meaning here.
    """
    _refuse(args, (*FOR_PROMPTS, *FOR_PICTURES), "--between", "the clip and the model decide it")
    if _checked(args).starts in ("prompt", "both"):
        raise _from_prompts(args)
    (file,) = _files(args.output, ["clip"])
    _check_files(args, [file], 2)

    from kineograph.sampling.generate import load
    from kineograph.sampling.image_to_video import ImageToVideo
    from kineograph.video import Video

    given, model = Video.read(clip), load(args.model, base=args.base, lora=args.lora, preset=args.preset)
    if not isinstance(model, ImageToVideo):
        raise _from_prompts(args)
    with _steps(len(given) - 1, args.num_inference_steps or model.settings.num_inference_steps) as callback:
        video = model.interpolate(
            given,
            seed=args.seed,
            num_inference_steps=args.num_inference_steps,
            motion_bucket_id=args.motion_bucket_id,
            precision=args.precision,
            callback=callback,
        )
    return _tell([Made(_saved(video, file, args), video, clip.name, {"clip": str(clip), "seed": args.seed})], args)


def _from_prompts(args: Args) -> InputError:
    """Return the error for a model of prompts that is given a picture or a clip."""
    if args.between is not None:
        return InputError(f"'{args.model}' makes clips from prompts; --between wants an interpolation model.")
    return InputError(f"'{args.model}' makes clips from prompts; leave --image out, or take an image-to-video model.")


def _refuse(args: Args, names: tuple[str, ...], beside: str, why: str) -> None:
    """Refuse arguments that have no meaning beside another one."""
    given = [name for name in names if getattr(args, name) not in (None, "", ())]
    if given:
        called = f"The prompt '{args.words[0]}'" if given[0] == "words" else f"--{given[0].replace('_', '-')}"
        raise InputError(f"{called} has no place beside {beside}: {why}.")


def _saved(video: Video, wanted: Path, args: Args) -> Path:
    """Save a clip under its name and return it, or the next free one where somebody took it meanwhile."""
    with claimed(wanted, args.overwrite and bool(args.output)) as file:
        video.save(file)
    if args.output and file != wanted:
        say(f"'{wanted}' was made by another program meanwhile; the clip is '{file}'.")
    return file


def _tell(made: list[Made], args: Args) -> int:
    """Write the contact sheet where that is wanted, and say what was made."""
    if args.preview is not None:
        _sheet(made, args.preview, args.overwrite)
    clips = [{"file": str(one.file), **one.source, "frames": len(one.video), "fps": one.video.fps} for one in made]
    emit({"clips": clips}, lambda: "\n".join(str(one.file) for one in made), args.json)
    return 0


def _from_picture(model: PictureAndText | ImageToVideo, args: Args, image: Path, callback: Any) -> Any:
    """Return the clip that a model makes from a picture."""
    from kineograph.sampling.image_to_video import ImageToVideo

    common = {name: getattr(args, name) for name in ("seed", "num_frames", "height", "width", "precision", "fps")}
    common |= {"num_inference_steps": args.num_inference_steps, "callback": callback}
    if isinstance(model, ImageToVideo):
        _refuse(args, FOR_ONE_PROMPT, "--image with this model", "the picture takes its place")
        numbers = {name: getattr(args, name) for name in FOR_ONE_PICTURE}
        return model.generate(image, max_guidance_scale=args.guidance_scale, **numbers, **common)
    _refuse(args, FOR_ONE_PICTURE, "this model", "it is not told that")
    prompts, _ = _prompts(args)
    if len(prompts) != 1:
        raise InputError(f"With --image there is one prompt, not {len(prompts)}.")
    negative, scale = args.negative_prompt, args.guidance_scale
    return model.generate(prompts[0], image, negative_prompt=negative, guidance_scale=scale, **common)


def _prompts(args: Args) -> tuple[list[str], list[int]]:
    """Collect the prompts and their seeds.

    Raises:
        InputError: There is none, or the prompt file cannot be read.
    """
    for word in args.words:
        check_word(word)
    rows: list[tuple[str, int | None]] = [(word, None) for word in args.words]
    rows += [(args.prompt, None)] if args.prompt is not None else []
    rows += read_prompts(args.prompts) if args.prompts is not None else []
    if not rows or any(not prompt.strip() for prompt, _ in rows):
        raise InputError('There is no prompt. Say what to show, such as: kineograph generate "a juggling man"')
    seeds = [args.seed + i if seed is None else seed for i, (_, seed) in enumerate(rows)]
    return [prompt for prompt, _ in rows], seeds


def _files(output: str, prompts: list[str]) -> list[Path]:
    """Return one file per prompt: the named file, or numbered ones in a folder; the default name for each without."""
    if not output:
        return [DEFAULT_FILE] * len(prompts)
    path, suffix = Path(output), ending(output, SUFFIXES, "--output")
    if not suffix or is_folder(output):
        return [path / f"{i:03d}-{slug(prompt)}.mp4" for i, prompt in enumerate(prompts)]
    if len(prompts) == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{i:03d}{path.suffix}") for i in range(len(prompts))]


@contextmanager
def _steps(clips: int, steps: int) -> Iterator[Any]:
    """Yield a sampler callback that drives one progress bar over all clips.

    A sampler that takes more steps than it was asked for, since it makes a frame before the others, moves the bar by
    smaller parts.
    """
    state = {"clip": -1}
    with progress("sampling", total=clips * steps) as report:

        def callback(step: Any) -> None:
            state["clip"] += step.i == 0
            note = f"clip {state['clip'] + 1} of {clips}" if clips > 1 else ""
            report(int((state["clip"] + (step.i + 1) / step.num_steps) * steps + 1e-6), note)

        yield callback


ON_A_SHEET = 8
"""Frames of a clip that a contact sheet shows."""


def _sheet(made: list[Made], file: Path, overwrite: bool) -> None:
    """Write the contact sheet under a temporary name, then rename it."""
    from kineograph.video import contact_sheet

    labels = [
        f"{one.label} ({ON_A_SHEET} of {len(one.video)} frames)" if len(one.video) > ON_A_SHEET else one.label
        for one in made
    ]
    with claimed(file, overwrite) as target:
        part = target.with_name(f".{target.name}.part")
        sheet = contact_sheet([one.video for one in made], labels=labels, frames_per_row=ON_A_SHEET)
        sheet.save(part, format="PNG")
        part.replace(target)
