"""`kineograph generate`: clips from prompts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from kineograph._text import parse_json, read_lines
from kineograph.cli._output import emit, progress
from kineograph.errors import InputError

if TYPE_CHECKING:
    from kineograph.sampling.image_to_video import ImageToVideo
    from kineograph.sampling.picture_and_text import PictureAndText

SUFFIXES = (".mp4", ".webm", ".gif", ".webp", ".mkv", ".png", ".apng")


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
    output: Annotated[Path, arg(aliases=("-o",))] = Path("clip.mp4")
    """File to write (.mp4, .webm, .gif, .webp, .mkv), or a folder for several clips."""
    model: str = "emoji"
    """Bundled name, a model folder of this library or of diffusers, a motion module, or an original checkpoint file."""
    base: str | None = None
    """Image model for a --model that holds only temporal layers: a folder, a single file or a bundled name, whose own
    temporal layers are left out (default: none)."""
    lora: Annotated[tuple[str, ...], UseAppendAction] = ()
    """LoRA file, PATH or PATH:scale; may be given several times."""
    system: str = ""
    """Training-free system that gives time to the image network: text2video_zero (default: the model's own layers)."""
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
    """Classifier-free guidance; 1 is none (default: the model's)."""
    guidance_interval: Annotated[tuple[float, float] | None, arg(metavar="LOW HIGH")] = None
    """Shares of time, 0 (clean) to 1 (noise), between which guidance acts; steps outside cost half (default: the
    model's)."""
    draft_until: float | None = None
    """Share of time down to which the model's draft, if it has one, takes the steps instead of the network; 1: nowhere
    (default: the model's)."""
    sampler: str | None = None
    """ddim, ddpm, dpm++, unipc, heun, euler-ancestral or scheduler, the checkpoint's own (default: the model's)."""
    fps: float | None = None
    """Frames per second (default: as trained)."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic; auto takes bf16 where the hardware has it."""
    preview: Path | None = None
    """PNG file for a contact sheet of all clips (default: none)."""
    json: bool = False
    """Print the result as one JSON document."""


def run(args: Args) -> int:
    """Generate and save the clips."""
    if args.image is not None:
        return _run_on_picture(args, args.image)
    if args.between is not None:
        return _run_between(args, args.between)
    prompts, seeds = _prompts(args)
    files = _files(args.output, prompts)

    from kineograph.sampling.generate import load_text_to_video

    model = load_text_to_video(args.model, base=args.base, lora=args.lora, system=args.system)
    videos = []
    steps = args.num_inference_steps or model.settings.num_inference_steps
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
            file.parent.mkdir(parents=True, exist_ok=True)
            video.save(file)
            videos.append(video)
    if args.preview is not None:
        _sheet(videos, prompts, args.preview)
    made = [
        {"file": str(file), "prompt": prompt, "seed": seed, "frames": len(video), "fps": video.fps}
        for file, prompt, seed, video in zip(files, prompts, seeds, videos, strict=True)
    ]
    emit({"clips": made}, lambda: "\n".join(str(file) for file in files), args.json)
    return 0


FOR_ONE_PROMPT = ("words", "prompt", "negative_prompt")
"""Arguments that mean nothing to a model that starts from a picture alone."""
FOR_PROMPTS = (*FOR_ONE_PROMPT, "prompts", "sampler", "system", "guidance_interval", "draft_until")
"""Arguments of models that start from prompts."""
OTHER_KINDS = ("prompts", "sampler", "system", "guidance_interval", "draft_until")
"""Arguments that mean nothing to a model that is given a picture, with a prompt or without."""


def _run_on_picture(args: Args, image: Path) -> int:
    """Generate and save one clip from a picture, and from a prompt where the model takes both.

    Raises:
        InputError: The model wants prompts alone, or a flag is given that it does not take.
    """
    _refuse(args, (*OTHER_KINDS, "between"), "--image", "a picture makes one clip, in the model's own way")
    (file,) = _files(args.output, ["clip"])

    from kineograph.sampling.generate import Model, load

    model = load(args.model, base=args.base, lora=args.lora)
    if isinstance(model, Model):
        raise InputError(
            f"'{args.model}' makes clips from prompts; leave --image out, or take an image-to-video model."
        )
    with _steps(1, args.num_inference_steps or model.settings.num_inference_steps) as callback:
        video = _from_picture(model, args, image, callback)
    return _save(video, file, {"image": image}, args)


FOR_PICTURES = ("num_frames", "height", "width", "guidance_scale", "fps")
"""Arguments that mean nothing where frames are made between given ones."""


def _run_between(args: Args, clip: Path) -> int:
    """Make the frames between those of a clip and save it.

    Raises:
        InputError: The model is of another kind, or a flag is given that has no meaning here.
    """
    _refuse(args, (*FOR_PROMPTS, *FOR_PICTURES), "--between", "the clip and the model decide it")
    (file,) = _files(args.output, ["clip"])

    from kineograph.sampling.generate import load
    from kineograph.sampling.image_to_video import ImageToVideo
    from kineograph.video import Video

    model, given = load(args.model, base=args.base, lora=args.lora), Video.read(clip)
    if not isinstance(model, ImageToVideo):
        raise InputError(f"'{args.model}' makes clips from prompts; --between wants an interpolation model.")
    with _steps(len(given) - 1, args.num_inference_steps or model.settings.num_inference_steps) as callback:
        video = model.interpolate(
            given,
            seed=args.seed,
            num_inference_steps=args.num_inference_steps,
            precision=args.precision,
            callback=callback,
        )
    return _save(video, file, {"clip": clip}, args)


def _refuse(args: Args, names: tuple[str, ...], beside: str, why: str) -> None:
    """Refuse flags that have no meaning beside another one."""
    given = [name for name in names if getattr(args, name) not in (None, "", ())]
    if given:
        raise InputError(f"With {beside} there is no {given[0].replace('_', '-')}: {why}.")


def _save(video: Any, file: Path, source: dict[str, Path], args: Args) -> int:
    """Save one clip, and its contact sheet where that is wanted, and say so."""
    file.parent.mkdir(parents=True, exist_ok=True)
    video.save(file)
    ((kind, path),) = source.items()
    if args.preview is not None:
        _sheet([video], [path.name], args.preview)
    made = {"file": str(file), kind: str(path), "seed": args.seed, "frames": len(video), "fps": video.fps}
    emit({"clips": [made]}, str(file), args.json)
    return 0


def _from_picture(model: PictureAndText | ImageToVideo, args: Args, image: Path, callback: Any) -> Any:
    """Return the clip that a model makes from a picture."""
    from kineograph.sampling.image_to_video import ImageToVideo

    common = {name: getattr(args, name) for name in ("seed", "num_frames", "height", "width", "precision")}
    common |= {"num_inference_steps": args.num_inference_steps, "callback": callback}
    fps = None if args.fps is None else round(args.fps)
    if isinstance(model, ImageToVideo):
        _refuse(args, FOR_ONE_PROMPT, "--image", "the picture takes its place")
        return model.generate(image, max_guidance_scale=args.guidance_scale, fps=fps, **common)
    prompts, _ = _prompts(args)
    if len(prompts) != 1:
        raise InputError(f"With --image there is one prompt, not {len(prompts)}.")
    negative, scale = args.negative_prompt, args.guidance_scale
    return model.generate(prompts[0], image, negative_prompt=negative, guidance_scale=scale, fps=fps, **common)


def _prompts(args: Args) -> tuple[list[str], list[int]]:
    """Collect the prompts and their seeds.

    Raises:
        InputError: There is none, or the prompt file cannot be read.
    """
    rows: list[tuple[str, int | None]] = [(word, None) for word in args.words]
    rows += [(args.prompt, None)] if args.prompt is not None else []
    rows += read_prompts(args.prompts) if args.prompts is not None else []
    if not rows or any(not prompt.strip() for prompt, _ in rows):
        raise InputError('There is no prompt. Say what to show, such as: kineograph generate "a juggling man"')
    seeds = [args.seed + i if seed is None else seed for i, (_, seed) in enumerate(rows)]
    return [prompt for prompt, _ in rows], seeds


def read_prompts(file: Path) -> list[tuple[str, int | None]]:
    """Read prompts, one per line; a line that begins with `{` is JSON with `prompt` and perhaps `seed`.

    Raises:
        InputError: No such file, no text, or a bad line.
    """
    lines = ((number, line.strip()) for number, line in read_lines(file, InputError))
    found = [_prompt_of(line, file, number) for number, line in lines if line]
    if not found:
        raise InputError(f"--prompts {file} holds no prompt.")
    return found


def _prompt_of(line: str, file: Path, number: int) -> tuple[str, int | None]:
    if not line.startswith("{"):
        return line, None
    row = parse_json(line, str(file), InputError, number)
    try:
        return str(row["prompt"]), None if row.get("seed") is None else int(row["seed"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{file}:{number}: expected text or {{"prompt": "...", "seed": 0}} ({error}).') from error


def _files(output: Path, prompts: list[str]) -> list[Path]:
    """Return one file per prompt: the named file, or numbered ones in a folder."""
    if output.suffix and output.suffix.lower() not in SUFFIXES:
        raise InputError(f"--output '{output}' has an unknown type '{output.suffix}'. Known: {', '.join(SUFFIXES)}.")
    if len(prompts) == 1 and output.suffix:
        return [output]
    if output.suffix:
        return [output.with_name(f"{output.stem}-{i:03d}{output.suffix}") for i in range(len(prompts))]
    return [output / f"{i:03d}-{slug(prompt)}.mp4" for i, prompt in enumerate(prompts)]


def slug(prompt: str) -> str:
    """Return the first words of a prompt as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40] or "clip"


@contextmanager
def _steps(clips: int, steps: int) -> Iterator[Any]:
    """Yield a sampler callback that drives one progress bar over all clips."""
    state = {"clip": -1}
    with progress("sampling", total=clips * steps) as report:

        def callback(step: Any) -> None:
            state["clip"] += step.i == 0
            note = f"clip {state['clip'] + 1} of {clips}" if clips > 1 else ""
            report(state["clip"] * step.num_steps + step.i + 1, note)

        yield callback


def _sheet(videos: list[Any], prompts: list[str], file: Path) -> None:
    """Write the contact sheet under a temporary name, then rename it."""
    from kineograph.video import contact_sheet

    part = file.with_name(f".{file.name}.part")
    contact_sheet(videos, labels=prompts).save(part, format="PNG")
    part.replace(file)
