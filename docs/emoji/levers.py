"""Measure what the image network is trained on: `python docs/emoji/levers.py --data DIR --work DIR`.

A small network (6.6 million parameters) learns the middle frames of the training clips from scratch, once as the
bundled model was trained and once for each change. All are compared by one number, the squared error of v at five
timesteps, on training clips and on held-out combinations, whatever the network predicts: an error of x0 is an error of
v times a number that depends on the timestep alone. Runs resume where they were stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kineograph.data.emoji import HELD_OUT_SPLIT
from kineograph.data.latents import LatentStore
from kineograph.diffusion import objective
from kineograph.diffusion.noise import mix_seed
from kineograph.models.image_unet import build_image_unet, prefer_matmul_attention
from kineograph.models.latent_video import COSINE_V, LatentVideoModel, Settings, load_latent_video
from kineograph.models.video_unet import VideoUNet
from kineograph.sampling.generate import BUNDLED
from kineograph.training.autoencoder import to_pixels
from kineograph.training.batches import generators, rand
from kineograph.training.config import TrainConfig
from kineograph.training.data import DataConfig
from kineograph.training.diffusion import DiffusionTask
from kineograph.training.loop import Trainer

CHANNELS, BATCH, RATE = (64, 96, 128), 32, 1e-3


@dataclass(frozen=True)
class Lever:
    """One way to train: what is predicted, how levels weigh, mirrored pictures, samples of half-life of the average."""

    kind: str = "v_prediction"
    weight: Callable[..., Tensor] = objective.simple
    flip: bool = False
    halflife: float = 200.0


LEVERS = {
    "v, all levels alike": Lever(),
    "the same, last weights instead of averaged": Lever(halflife=0),
    "epsilon": Lever(kind="epsilon"),
    "x0": Lever(kind="sample"),
    "v, min-SNR 5": Lever(weight=objective.min_snr(5.0)),
    "v, error of x0 by max(SNR, 1)": Lever(weight=objective.truncated_snr),
    "v, half of the pictures mirrored": Lever(flip=True),
}


class LeverTask(DiffusionTask):
    """Trains as one lever says and validates in v."""

    def __init__(self, lever: Lever, mirrored: np.ndarray, *around: Any, **options: Any) -> None:
        super().__init__(*around, **options)
        self.lever, self.mirrored = lever, mirrored

    def _window(self, clip: int, count: int, choose: np.random.Generator) -> np.ndarray:
        """Take the picture of a clip, or its mirror image."""
        latents = self.mirrored if self.lever.flip and choose.random() < 0.5 else self.store.latents
        return latents[clip : clip + 1]

    def loss(self, network: Callable[..., Any], batch: dict[str, Tensor], seeds: list[int]) -> Tensor:
        """Return the weighted squared error of each sample at a random timestep."""
        u = rand(generators([mix_seed(seed, 8) for seed in seeds]))
        timesteps = objective.timesteps_of(u, self.model.schedule.num_timesteps)
        alpha, sigma = self.model.schedule.alpha_sigma(timesteps)
        weight = self.lever.weight(alpha, sigma, self.model.plan.kind)
        return weight * self.error(network, batch, timesteps, seeds)

    def validation_loss(self, clips: np.ndarray, timestep: int) -> float:
        """Return the mean squared error of v, whatever is predicted."""
        alpha, sigma = self.model.schedule.alpha_sigma(torch.tensor([timestep]))
        of_x0 = objective.x0_error_of_output(self.model.plan.kind, alpha, sigma)
        return super().validation_loss(clips, timestep) * float(of_x0 / objective.x0_error_of_output("v", alpha, sigma))


def main() -> None:
    """Run every lever and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="data set of `kineograph data emoji`")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--cache", type=Path, help="folder of the decoded frames (default: the library's)")
    parser.add_argument("--steps", type=int, default=300, help=f"steps of {BATCH} pictures (default: 300)")
    options = parser.parse_args()
    data, model = DataConfig(data=options.data, cache=options.cache), load_latent_video(BUNDLED / "emoji")
    store, mirrored = middles(model, data)
    captions = data.captions(model.text, store.frames)
    for name, lever in LEVERS.items():
        torch.manual_seed(0)
        task = LeverTask(lever, mirrored, fresh(model, lever.kind), store, captions, held_out=HELD_OUT_SPLIT)
        task.export = task.preview = lambda directory: None
        folder = options.work / name.replace(" ", "-").replace(",", "")
        config = TrainConfig(
            output_dir=folder,
            max_train_steps=options.steps,
            train_batch_size=BATCH,
            learning_rate=RATE,
            lr_schedule="cosine",
            lr_warmup_steps=20,
            ema_halflife_samples=lever.halflife,
            resume=(folder / "checkpoints").is_dir(),
        )
        result = Trainer(task, config).run()
        if result.stopped.startswith("signal"):
            return
        levels = " | ".join(f"{value:.3f}" for key, value in result.validation.items() if not key.endswith("mean"))
        print(f"| {name} | {levels} |", flush=True)


def middles(model: LatentVideoModel, data: DataConfig) -> tuple[LatentStore, np.ndarray]:
    """Encode every clip's middle frame and its mirror image."""
    frames = data.store()
    rows = frames.starts + frames.counts // 2
    count = len(rows)
    single = replace(frames, frames=frames.frames[rows], starts=np.arange(count), counts=np.ones(count, dtype=np.int64))
    with torch.inference_mode():
        plain, mirrored = (
            np.concatenate([_encoded(model, single.frames[i : i + 64], flip) for i in range(0, count, 64)])
            for flip in (False, True)
        )
    return LatentStore(plain, single), mirrored


def _encoded(model: LatentVideoModel, pixels: np.ndarray, flip: bool) -> np.ndarray:
    pictures = to_pixels(pixels)
    return model.autoencoder.encode((pictures.flip(-1) if flip else pictures)[:, None])[:, 0].half().numpy()


def fresh(model: LatentVideoModel, kind: str) -> LatentVideoModel:
    """Return a model with a small untrained network that predicts what is asked for."""
    unet = build_image_unet(
        latent_channels=model.autoencoder.latent_channels, text_dim=model.text.dim, channels=CHANNELS
    )
    settings = Settings(name=kind, num_frames=1, scheduler={**COSINE_V, "prediction_type": kind})
    return LatentVideoModel(VideoUNet(prefer_matmul_attention(unet)), model.autoencoder, model.text, settings)


if __name__ == "__main__":
    main()
