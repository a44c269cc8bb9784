"""Give every design of time the same image model and the same minutes: `python docs/systems/league.py --base MODEL`.

For each system: how many parameters are trained, the loss on held-out clips before and after, seconds per clip, and a
strip of frames at a fixed prompt and seed. Writes `league.md`, `league.json` and `league/*.png` beside this file. The
row "none" is the image model applied to each frame; `text2video_zero` needs no training.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import torch

from kineograph.models.latent_video import load_latent_video
from kineograph.sampling.generate import Model
from kineograph.training.config import TrainConfig
from kineograph.training.loop import Trainer
from kineograph.training.recipes import DataConfig, VideoConfig, latent_video_task
from kineograph.video import contact_sheet

HERE = Path(__file__).parent
TIMESTEPS = (300, 700)
HELD_OUT_CLIPS = 6
PROMPT, SEED = "loudly crying face", 1
SYSTEMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "modelscope": ("", ("conv_dropout=0.0", "single_frame=skip")),
    "animatediff": ("v2", ()),
    "align_your_latents": ("", ()),
    "videocrafter": ("v2", ()),
    "lavie": ("", ()),
    "show1": ("", ()),
}
"""Preset and changed settings of each system; the widths follow the image model."""


def main() -> None:
    """Train each in turn and write the table."""
    options = arguments()
    data = DataConfig(data=options.data, cache=options.cache)
    rows = json.loads((HERE / "league.json").read_text())["rows"] if options.keep else {}
    for name in options.systems:
        rows[name] = run(name, data, options)
        record = {"minutes": options.minutes, "frames": options.frames, "batch": options.batch, "rows": rows}
        (HERE / "league.json").write_text(json.dumps(record, indent=1) + "\n")
        (HERE / "league.md").write_text(page(record))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data set of `kineograph data emoji`")
    parser.add_argument("--base", type=Path, required=True, help="image model, a run's model folder")
    parser.add_argument("--minutes", type=float, default=3, help="training time of each (default: 3)")
    parser.add_argument("--frames", type=int, default=8, help="frames per clip (default: 8)")
    parser.add_argument("--batch", type=int, default=4, help="clips per step (default: 4)")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--keep", action="store_true", help="keep the rows of other systems")
    parser.add_argument("--cache", type=Path, help="folder of decoded frames and latents")
    parser.add_argument("--work", type=Path, default=Path("runs/league"), help="folder of the runs")
    return parser.parse_args()


def run(name: str, data: DataConfig, options: argparse.Namespace) -> dict[str, object]:
    """Train one system and measure it."""
    preset, changes = SYSTEMS[name]
    torch.manual_seed(0)
    config = VideoConfig(num_frames=options.frames, preset=preset, set=changes)
    task = latent_video_task(name, data, config, options.base)
    task.validate = lambda: {}  # measured here, on fewer clips
    folder = options.work / name
    shutil.rmtree(folder, ignore_errors=True)
    training = TrainConfig(
        output_dir=folder,
        max_train_steps=10**6,
        train_batch_size=options.batch,
        learning_rate=5e-4,
        lr_warmup_steps=10,
        weight_decay=0.0,
        ema_halflife_samples=0,
        max_minutes=options.minutes,
        log_steps=10,
        checkpointing_steps=10**6,
    )
    trainer = Trainer(task, training)
    trainer.preview = lambda: None
    before = held_out_loss(trainer)
    result = trainer.run()
    after = held_out_loss(trainer)
    start = time.perf_counter()
    clip = Model(load_latent_video(folder / "model")).generate(PROMPT, seed=SEED, num_inference_steps=20)
    (HERE / "league").mkdir(exist_ok=True)
    contact_sheet([clip], frames_per_row=options.frames).save(HERE / "league" / f"{name}.png", optimize=True)
    trained = sum(p.numel() for p in task.network.parameters() if p.requires_grad)
    seconds = time.perf_counter() - start
    return {"trained": trained, "steps": result.step, "before": before, "after": after, "seconds_per_clip": seconds}


def held_out_loss(trainer: Trainer) -> float:
    """Return the loss on a few held-out clips at fixed noise and two noise levels."""
    task = trainer.task
    with trainer._inference():
        losses = [task._validation_loss(task.test_clips[:HELD_OUT_CLIPS], t) for t in TIMESTEPS]
    return sum(losses) / len(losses)


def page(record: dict) -> str:
    """Write the table in Markdown."""
    minutes, frames, batch = record["minutes"], record["frames"], record["batch"]
    head = (
        "# The same image model, the same minutes, every design of time\n\n"
        f"Temporal layers trained for {minutes:g} minutes each on one core ({frames} frames, batch {batch}, spatial "
        f"weights frozen); loss on {HELD_OUT_CLIPS} held-out clips at timesteps {TIMESTEPS}; seconds for a clip at 20 "
        f'steps; strips of "{PROMPT}" at one seed. The table compares designs at equal compute, not at '
        "their best.\n\n"
        "    python docs/systems/league.py --data DATASET --base RUN/model\n\n"
        "| system | trained parameters | steps | loss before | after | s per clip | frames |\n"
        "| --- | --: | --: | --: | --: | --: | --- |\n"
    )
    row = (
        "| {name} | {trained:.1f} M | {steps} | {before:.4f} | {after:.4f} | {seconds_per_clip:.1f} "
        "| ![{name}](league/{name}.png) |\n"
    )
    values = lambda name, r: {**r, "name": name, "trained": r["trained"] / 1e6}
    return head + "".join(row.format(**values(name, r)) for name, r in record["rows"].items())


if __name__ == "__main__":
    main()
