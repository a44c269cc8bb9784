"""Give every design of time the same image model and the same time: `python docs/systems/league.py --data DATASET`.

For each trainable system of the registry: how many parameters are trained, steps and minutes, the loss on held-out
clips before and after, seconds per clip, and a strip of frames at a fixed prompt and seed. Two rows need no training:
the image model on each frame by itself, and Text2Video-Zero. Writes `league.json`, `league.md` and `league/*.webp`
beside this file after every system. A killed league goes on where it was: finished systems are kept, the one that was
in training resumes from its newest checkpoint with the time it has left; `--fresh` starts anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from kineograph.models.latent_video import LatentVideoModel
from kineograph.models.video_unet import VideoUNet
from kineograph.models.weights import write_json, write_text
from kineograph.sampling.generate import Model, load, open_model, with_system
from kineograph.sampling.image_to_video import ImageToVideo
from kineograph.systems import systems
from kineograph.temporal.inflate import strip
from kineograph.training import checkpoint
from kineograph.training.captions import CaptionTokens
from kineograph.training.config import TrainConfig
from kineograph.training.data import DataConfig
from kineograph.training.loop import Trainer
from kineograph.training.recipes import VideoConfig, latent_video_task
from kineograph.video import Video, contact_sheet

HERE = Path(__file__).parent
PICTURES = HERE / "league"
RECORD, PAGE = HERE / "league.json", HERE / "league.md"
HELD_OUT_CLIPS = 6
PROMPT, SEED, STEPS = "loudly crying face", 1, 20
EDGE = 64  # pixels of a frame in a strip
SAVE_SECONDS = 20.0  # of training between checkpoints, what a kill loses at most
EVERY_STEP = 10**9
NOISE_ALPHA = 2.0
"""How strongly frames share their noise (PYoCo's mixed prior). With independent noise so short a training shows nothing
but flicker."""
NOT_TRAINED = ("image model", "text2video_zero")


@dataclass(frozen=True)
class Entry:
    """How a system enters the league.

    Attributes:
        system: Name in the registry.
        preset: Which of its configurations; "" is its first.
        set: Changed settings, so that it fits a small image model; the widths follow from that.
        levels: Noise levels at which it is validated: timesteps, or sigmas for continuous processes. Both pairs have
            the same ratios of noise to data, and in both v is predicted.
        learning_rate: Lower where trained weights are changed; in so few steps fresh layers at 5e-4 do not find back.
        noise: Prior across frames; Stable Video Diffusion has a process of its own, with independent noise.
    """

    system: str
    preset: str = ""
    set: tuple[str, ...] = ()
    levels: tuple[float, ...] = (300, 700)
    learning_rate: float = 1e-4
    noise: str = "mixed"


SIGMAS = (0.52, 1.99)  # ratios of noise to data of the cosine schedule at timesteps 300 and 700
ENTRIES = {
    "modelscope": Entry("modelscope", set=("conv_dropout=0.0", "single_frame=skip")),
    "zeroscope": Entry("zeroscope", set=("conv_dropout=0.0", "single_frame=skip")),
    "animatediff v1": Entry("animatediff", "v1"),
    "animatediff v2": Entry("animatediff", "v2"),
    "animatediff v3": Entry("animatediff", "v3"),
    "align_your_latents": Entry("align_your_latents"),
    "stable_video_diffusion, text": Entry(
        "stable_video_diffusion", "text", levels=SIGMAS, learning_rate=1e-5, noise="iid"
    ),
    "stable_video_diffusion, picture": Entry(
        "stable_video_diffusion", "published", levels=SIGMAS, learning_rate=1e-5, noise="iid"
    ),
    "videocrafter": Entry("videocrafter", "v2"),
    "lavie": Entry("lavie"),
    "show1": Entry("show1"),
}


def main() -> None:
    """Run what is missing and write the page."""
    options = arguments()
    torch.set_num_threads(options.threads)
    check_entries()
    record = opened(options)
    options.base = image_base(options)
    for name in options.systems:
        if name in record["rows"]:
            say(f"{name}: done already")
            continue
        started = time.monotonic()
        record["rows"][name] = untrained(name, options) if name in NOT_TRAINED else trained(name, options)
        write_json(record, RECORD)
        write_text(page(record), PAGE)
        say(f"{name}: {time.monotonic() - started:.0f} s in all, {json.dumps(record['rows'][name])}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    every = [*NOT_TRAINED, *ENTRIES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data set of `kineograph data emoji`")
    parser.add_argument("--base", type=Path, default=Path("emoji"), help="image model (default: the bundled one's)")
    parser.add_argument("--minutes", type=float, default=3, help="training time of each (default: 3)")
    parser.add_argument("--steps", type=int, help="give each so many steps in place of minutes")
    parser.add_argument("--frames", type=int, default=8, help="frames per clip (default: 8)")
    parser.add_argument("--batch", type=int, default=4, help="clips per step (default: 4)")
    parser.add_argument("--threads", type=int, default=2, help="threads (default: 2)")
    parser.add_argument("--systems", nargs="+", default=every, choices=every, metavar="NAME", help=", ".join(every))
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier league found")
    parser.add_argument("--cache", type=Path, help="folder of decoded frames and latents")
    parser.add_argument("--work", type=Path, default=Path("runs/league"), help="folder of the runs")
    return parser.parse_args()


def check_entries() -> None:
    """See that no trainable system of the registry is left out."""
    missing = {name for name, system in systems().items() if system.sampler is None} - {
        entry.system for entry in ENTRIES.values()
    }
    if missing:
        raise SystemExit(f"The league leaves out {', '.join(sorted(missing))}; add them to ENTRIES.")


def opened(options: argparse.Namespace) -> dict[str, Any]:
    """Return the record of this league so far, empty if it is a new one."""
    rules = {name: getattr(options, name) for name in ("minutes", "steps", "frames", "batch", "threads")}
    if RECORD.is_file() and not options.fresh:
        record = json.loads(RECORD.read_text())
        if record["rules"] == rules:
            return record
        raise SystemExit(f"{RECORD} is of a league with other rules, {record['rules']}; give those, or --fresh.")
    shutil.rmtree(options.work, ignore_errors=True)
    record = {"rules": rules, "rows": {}}
    write_json(record, RECORD)  # from now on a killed league goes on
    return record


def image_base(options: argparse.Namespace) -> Path:
    """Write the image model that all start from, the base without its temporal layers, once; return its folder."""
    folder = options.work / "base"
    if not (folder / "model_index.json").is_file():
        parts = open_model(options.base)
        assert isinstance(parts, LatentVideoModel)
        network = VideoUNet(strip(parts.network.unet)).eval()
        settings = replace(parts.settings, name="image model", system="image", num_frames=1)
        LatentVideoModel(network, parts.autoencoder, parts.text, settings).save_pretrained(folder, torch.float32)
    return folder


def say(line: str) -> None:
    """Tell how the league is going."""
    sys.stderr.write(line + "\n")


# --- One system -----------------------------------------------------------------------------------------------------


def trained(name: str, options: argparse.Namespace) -> dict[str, object]:
    """Train one system for the time it has left, measure it and draw it."""
    entry, folder = ENTRIES[name], options.work / slug(name)
    torch.manual_seed(0)
    config = VideoConfig(
        num_frames=options.frames, preset=entry.preset, set=entry.set, noise=entry.noise, noise_alpha=NOISE_ALPHA
    )
    data = DataConfig(data=options.data, cache=options.cache)
    task: Any = latent_video_task(entry.system, data, config, options.base, captions=captions(data, options.base))
    task.validate = dict  # measured here, on fewer clips
    task.preview = lambda directory: None
    kept = read(folder / "kept.json")
    count = sum(p.numel() for p in task.network.parameters() if p.requires_grad)
    before = kept.get("before") or held_out_loss(task, entry.levels)
    clock = Clock(folder / "kept.json", kept.get("seconds", 0.0), before)
    result = train(task, folder, clock, entry.learning_rate, options)
    after = held_out_loss(task, entry.levels)
    seconds, clip = timed(lambda: sampled(folder / "model", task, options.frames))
    draw(clip, name)
    return {
        "trained": count,
        "steps": result.step,
        "minutes": clock.seconds / 60,
        "before": before,
        "after": after,
        "seconds_per_clip": seconds,
    }


@cache
def captions(data: DataConfig, base: Path) -> CaptionTokens:
    """Encode the captions of the data set once for all systems."""
    parts = open_model(base)
    assert isinstance(parts, LatentVideoModel)
    return data.captions(parts.text, data.store())


class Clock:
    """Counts the seconds of training, over kills.

    Args:
        file: Where they are kept.
        seconds: Counted before.
        before: The loss before training, kept beside them.
    """

    def __init__(self, file: Path, seconds: float, before: float) -> None:
        self.file, self.seconds, self.before = file, seconds, before
        self.at = time.monotonic()

    def tick(self) -> None:
        """Count what has passed."""
        now = time.monotonic()
        self.seconds, self.at = self.seconds + now - self.at, now

    def keep(self) -> None:
        """Write the count down."""
        self.tick()
        write_json({"seconds": self.seconds, "before": self.before}, self.file)


def train(task: Any, folder: Path, clock: Clock, rate: float, options: argparse.Namespace) -> Any:
    """Run the trainer for the steps or the minutes that are left, with a checkpoint every `SAVE_SECONDS`."""
    going_on = bool(checkpoint.checkpoints(folder))
    if not going_on:
        clock.seconds = 0.0
    config = TrainConfig(
        output_dir=folder,
        max_train_steps=options.steps or EVERY_STEP,
        train_batch_size=options.batch,
        learning_rate=rate,
        lr_warmup_steps=10,
        weight_decay=0.0,
        ema_halflife_samples=0,
        max_minutes=None if options.steps else max(0.0, options.minutes - clock.seconds / 60),
        log_steps=10,
        checkpointing_steps=EVERY_STEP,
        checkpoints_total_limit=1,
        resume=going_on,
    )
    trainer = Trainer(task, config)
    maintain, saved = trainer._maintain, [time.monotonic()]

    def save_by_the_clock() -> None:
        maintain()
        if time.monotonic() - saved[0] > SAVE_SECONDS:
            trainer.save()
            clock.keep()
            saved[0] = time.monotonic()

    trainer._maintain = save_by_the_clock
    clock.at = time.monotonic()
    task.export, export = clocked(task.export, clock)
    result = trainer.run()
    export(folder / "model")
    return result


def clocked(export: Callable[[Path], None], clock: Clock) -> tuple[Callable[[Path], None], Callable[[Path], None]]:
    """Return what stops the clock when training is over, and the export itself, which is not counted."""
    return lambda directory: clock.keep(), export


@torch.no_grad()
def held_out_loss(task: Any, levels: tuple[float, ...]) -> float:
    """Return the loss on a few held-out clips at fixed noise and noise levels."""
    training = task.network.training
    task.network.eval()
    losses = [task.validation_loss(task.test_clips[:HELD_OUT_CLIPS], level) for level in levels]
    task.network.train(training)
    return sum(losses) / len(losses)


def sampled(folder: Path, task: Any, frames: int) -> Video:
    """Make the clip of the strip: from the prompt, or from the first frame of a held-out clip of that name."""
    model = load(folder)
    if isinstance(model, ImageToVideo):
        store, clip = task.store.frames, clip_called(PROMPT, task)
        picture = torch.from_numpy(store.frames[store.starts[clip]].copy()).permute(2, 0, 1) / 127.5 - 1
        return model.generate(picture, seed=SEED, num_frames=frames, num_inference_steps=STEPS)
    assert isinstance(model, Model)
    return prompted(model, frames)


def clip_called(caption: str, task: Any) -> int:
    """Return the clip with a caption; the first held-out one if there is none."""
    named = [i for i, clip in enumerate(task.store.frames.clips) if clip.caption == caption]
    return named[0] if named else int(task.test_clips[0])


def prompted(model: Model, frames: int) -> Video:
    """Make the clip of the prompt."""
    clip = model.generate(PROMPT, seed=SEED, num_frames=frames, num_inference_steps=STEPS)
    assert isinstance(clip, Video)
    return clip


def untrained(name: str, options: argparse.Namespace) -> dict[str, object]:
    """Draw what needs no training."""
    parts = open_model(options.base)
    assert isinstance(parts, LatentVideoModel)
    if name in systems():
        parts = with_system(parts, name)
    else:
        parts.settings = replace(parts.settings, noise="mixed", noise_alpha=NOISE_ALPHA)
    parts.settings = replace(parts.settings, num_frames=options.frames)
    seconds, clip = timed(lambda: prompted(Model(parts), options.frames))
    draw(clip, name)
    return {"trained": 0, "steps": 0, "minutes": 0.0, "before": None, "after": None, "seconds_per_clip": seconds}


def timed(work: Callable[[], Video]) -> tuple[float, Video]:
    """Run and return the seconds it took, with what came out."""
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


# --- The page -------------------------------------------------------------------------------------------------------


def slug(name: str) -> str:
    """Return a name as a file's."""
    return name.replace(", ", "-").replace(" ", "-")


def draw(clip: Video, name: str) -> None:
    """Write a strip of a clip's frames."""
    PICTURES.mkdir(exist_ok=True)
    sheet = contact_sheet([clip], frames_per_row=len(clip))
    edge = (round(sheet.width * EDGE * len(clip) / sheet.width), round(sheet.height * EDGE * len(clip) / sheet.width))
    part = PICTURES / f".{slug(name)}.part"
    sheet.convert("RGB").resize(edge).save(part, format="WEBP", quality=80)
    part.replace(PICTURES / f"{slug(name)}.webp")


def read(file: Path) -> dict[str, Any]:
    """Read a JSON file; one that is not there is empty."""
    return json.loads(file.read_text()) if file.is_file() else {}


HEAD = """# The same image model, the same time, every design of time

{given} on {threads} {cores}, {frames} frames, batch {batch}, from the image network of the bundled model. Temporal
layers alone are trained, but for Stable Video Diffusion, which trains all weights, as published. Loss: squared error of
v on {clips} held-out clips at two ratios of noise to data, the same for all. Seconds: a clip at {steps} sampling steps,
loading included. Strips: "{prompt}" at one seed. Frames share noise ({noise}), but for
Stable Video Diffusion and Text2Video-Zero, which warps its own; so Stable Video Diffusion's losses do not compare with
the others. Its second stage is given the first frame, in input channels that start at zero.

The table compares designs at equal and very little time, not at their best: a few dozen steps show that every design
trains from here by one command, and which ones cost how much a step. They do not suffice for Stable Video Diffusion to
win back what moving all weights to another process costs at first. Two rows need no training. Minutes count training
alone.

    python docs/systems/league.py --data DATASET {flag}

| system | trained parameters | steps | minutes | loss before | after | s per clip | frames |
| --- | --: | --: | --: | --: | --: | --: | --- |
"""


def page(record: dict[str, Any]) -> str:
    """Write the table in Markdown."""
    rules = record["rules"]
    by_steps = rules["steps"] is not None
    head = HEAD.format(
        given=f"{rules['steps']} steps each" if by_steps else f"{rules['minutes']:g} minutes each",
        flag=(f"--steps {rules['steps']}" if by_steps else f"--minutes {rules['minutes']:g}")
        + f" --frames {rules['frames']} --batch {rules['batch']} --threads {rules['threads']}",
        cores="core" if rules["threads"] == 1 else "cores",
        clips=HELD_OUT_CLIPS,
        prompt=PROMPT,
        noise=f"PYoCo's mixed prior, alpha {NOISE_ALPHA:g}",
        **{**rules, "steps": STEPS},
    )
    names = [name for name in (*NOT_TRAINED, *ENTRIES) if name in record["rows"]]
    return head + "".join(row(name, record["rows"][name]) for name in names)


def row(name: str, values: dict[str, Any]) -> str:
    """Write one row."""
    loss = lambda value: "" if value is None else f"{value:.4f}"
    cells = (
        name,
        f"{values['trained'] / 1e6:.1f} M",
        values["steps"],
        f"{values['minutes']:.1f}",
        loss(values["before"]),
        loss(values["after"]),
        f"{values['seconds_per_clip']:.1f}",
        f"![{name}](league/{slug(name)}.webp)",
    )
    return "| " + " | ".join(map(str, cells)) + " |\n"


if __name__ == "__main__":
    main()
