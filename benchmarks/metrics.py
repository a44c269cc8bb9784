"""Speed of the metrics beside their peers, and their sensitivity on real clips.

One command each:

    python benchmarks/metrics.py speed
    python benchmarks/metrics.py sensitivity --data DATASET --out docs/metrics/sensitivity.svg

Times are processor seconds of one thread, the best of several runs, all in one process, so that a busy machine disturbs
every row alike.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn import functional

from kineograph.metrics import frechet_distance, mmd, ssim


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Best processor time of several runs."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def sqrtm_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The distance as pytorch-fid writes it, without the `disp` argument that SciPy removes."""
    import scipy.linalg

    mean = x.mean(0) - y.mean(0)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = scipy.linalg.sqrtm(a @ b)
    return float(mean @ mean + np.trace(a) + np.trace(b) - 2 * np.trace(np.real(root)))


def row(name: str, ours: float, peers: dict[str, float]) -> None:
    """Print one comparison."""
    others = ", ".join(f"{peer} {value:.4g} s ({value / ours:.1f}x)" for peer, value in peers.items())
    print(f"{name}: ours {ours:.4g} s; {others}", flush=True)


@dataclass
class Speed:
    """Time distances and SSIM beside SciPy, torchmetrics and scikit-image."""

    repeats: int = 2
    """Runs per row; the best counts."""

    def __call__(self) -> None:
        """Print the table."""
        torch.set_num_threads(1)
        spectrum = (4 / (1 + torch.arange(2048, dtype=torch.float64))).sqrt()
        for n in (256, 4096):
            x, y = (torch.randn(n, 2048, dtype=torch.float64) * spectrum * s for s in (1.0, 1.1))
            ours = seconds(lambda x=x, y=y: frechet_distance(x, y), max(2, self.repeats))
            peer = seconds(lambda x=x, y=y: sqrtm_distance(x.numpy(), y.numpy()), 1)
            row(f"Fréchet distance, n={n}, d=2048", ours, {"sqrtm": peer})
        self.similarity()
        self.discrepancy()

    def similarity(self) -> None:
        """SSIM of one clip of 16 frames, 256 x 256, RGB, in [0, 1]."""
        from skimage.metrics import structural_similarity
        from torchmetrics.functional.image import structural_similarity_index_measure

        a = torch.rand(16, 3, 256, 256)
        b = (a + 0.1 * torch.rand_like(a)).clamp(0, 1)
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
        frames = list(zip(a.numpy(), b.numpy(), strict=True))
        peers = {
            "torchmetrics": lambda: structural_similarity_index_measure(a, b, data_range=1.0),
            "torchmetrics by frame": lambda: [
                structural_similarity_index_measure(x[None], y[None], data_range=1.0) for x, y in zip(a, b, strict=True)
            ],
            "scikit-image": lambda: [structural_similarity(x, y, channel_axis=0, **options) for x, y in frames],
        }
        ours = seconds(lambda: ssim(a, b, 1.0), self.repeats + 1)
        row("SSIM, clip of 16 x 256 x 256", ours, {name: seconds(work, self.repeats) for name, work in peers.items()})

    def discrepancy(self) -> None:
        """Full U-statistic beside 100 subsets of 1000."""
        from torchmetrics.image.kid import poly_mmd

        x, y = torch.randn(2048, 400, dtype=torch.float64), torch.randn(2048, 400, dtype=torch.float64)
        pick = lambda z: z[torch.randperm(2048)[:1000]]
        peer = seconds(lambda: [poly_mmd(pick(x), pick(y)) for _ in range(100)], 1)
        row("MMD, n=2048, d=400", seconds(lambda: mmd(x, y), self.repeats), {"torchmetrics 100 x 1000": peer})


def blur(x: Tensor, strength: float) -> Tensor:
    """Gaussian blur with a deviation of `strength` pixels."""
    axis = torch.arange(-9, 10).float()
    weights = torch.exp(-axis.square() / (2 * strength**2))
    weights = (weights / weights.sum()).repeat(3, 1)
    x = functional.conv2d(functional.pad(x, (0, 0, 9, 9), mode="replicate"), weights[:, None, :, None], groups=3)
    return functional.conv2d(functional.pad(x, (9, 9, 0, 0), mode="replicate"), weights[:, None, None, :], groups=3)


def noise(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Gaussian noise with a deviation of `strength` in units of [-1, 1]; the same pattern at every strength."""
    return (x + strength * torch.randn(x.shape, generator=generator)).clamp(-1, 1)


def frozen(frames: int, strength: float, generator: torch.Generator) -> Tensor:
    """Order of frames in which the last `strength` of the clip repeats one frame."""
    kept = max(1, round(frames * (1 - strength)))
    return torch.arange(frames).clamp_max(kept - 1)


def shuffled(frames: int, strength: float, generator: torch.Generator) -> Tensor:
    """Order in which a share `strength` of the frames is permuted; a smaller share is part of a larger one."""
    order = torch.arange(frames)
    chosen = torch.randperm(frames, generator=generator)[: round(frames * strength)].sort().values
    order[chosen] = chosen[torch.randperm(len(chosen), generator=generator)]
    return order


def reversed_order(frames: int, strength: float, generator: torch.Generator) -> Tensor:
    """The whole clip backwards with probability `strength`."""
    backwards = torch.rand((), generator=generator) < strength
    return torch.arange(frames).flip(0) if backwards else torch.arange(frames)


SPATIAL = {"blur (pixels)": ((0.5, 1.0, 2.0, 4.0), blur), "noise (of 2)": ((0.05, 0.1, 0.2, 0.4), noise)}
TEMPORAL = {"frozen (share)": frozen, "shuffled (share)": shuffled, "reversed (share)": reversed_order}
SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass
class Sensitivity:
    """Distances of stand-ins between clean clips and clips spoilt at rising strength."""

    data: Path
    """Clips."""
    out: Path = Path("docs/metrics/sensitivity.svg")
    """Figure; the numbers go beside it as JSON."""
    count: int = 256
    """Clips on each side."""
    image_frames: int = 4
    """Frames per clip for the image network."""
    seed: int = 1
    """Of the choice of clips and of the spoiling."""

    def __call__(self) -> None:
        """Measure, print, draw."""
        from kineograph.metrics.clips import list_clips
        from kineograph.metrics.features.standins import load_efficientnet
        from kineograph.metrics.motion_net import load_motion_net

        torch.set_num_threads(1)
        self.image, self.motion = load_efficientnet(), load_motion_net()
        self.generator = torch.Generator().manual_seed(self.seed)
        records = list_clips(self.data, "data")[1::2]  # the motion network is trained on the others
        order = torch.randperm(len(records), generator=self.generator).tolist()
        clips = []
        while len(clips) < 2 * self.count and order:
            frames = records[order.pop()].load().frames
            if len(frames) >= 48:
                clips.append(frames[:48:3, :3])
        real, spoilt = torch.stack(clips[: self.count]), torch.stack(clips[self.count :])
        self.reference = {"image": self.of_images(real).flatten(0, 1), "motion": self.of_motion(real)}
        frames = self.of_images(spoilt, all_frames=True)
        found = {"clean": {"0": self.distances(frames[:, self.spread()], spoilt)}}
        for name, (strengths, change) in SPATIAL.items():
            for strength in strengths:
                extra = [(self.dice(i),) if change is noise else () for i in range(self.count)]
                worse = torch.stack([change(clip, strength, *dice) for clip, dice in zip(spoilt, extra, strict=True)])
                found.setdefault(name, {})[str(strength)] = self.distances(self.of_images(worse), worse)
        for name, change in TEMPORAL.items():
            for share in SHARES:
                orders = [change(16, share, self.dice(i)) for i in range(self.count)]
                worse = torch.stack([clip[order] for clip, order in zip(spoilt, orders, strict=True)])
                seen = torch.stack([f[o][self.spread()] for f, o in zip(frames, orders, strict=True)])
                found.setdefault(name, {})[str(share)] = self.distances(seen, worse)
        for name, values in found.items():
            for strength, result in values.items():
                print(name, strength, {k: round(v, 4) for k, v in result.items()}, flush=True)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        draw(found, self.out)

    def dice(self, clip: int) -> torch.Generator:
        """The random numbers of a clip: the same at every strength, so that strengths differ in nothing else."""
        return torch.Generator().manual_seed(1000 * self.seed + clip)

    def spread(self) -> Tensor:
        """Frames that the image network sees."""
        return torch.linspace(0, 15, self.image_frames).round().long()

    def of_images(self, clips: Tensor, all_frames: bool = False) -> Tensor:
        """Image features (clips, frames, dimensions)."""
        chosen = clips if all_frames else clips[:, self.spread()]
        return torch.cat([self.image(clip[None])["pool"] for clip in chosen])

    def of_motion(self, clips: Tensor) -> Tensor:
        """Motion features (clips, dimensions)."""
        return torch.cat([self.motion(clip[None])["pool"] for clip in clips])

    def distances(self, frames: Tensor, clips: Tensor) -> dict[str, float]:
        """Fréchet and kernel distances to the reference in both feature spaces."""
        seen = {"image": frames.flatten(0, 1), "motion": self.of_motion(clips)}
        fd = {f"FD {k}": frechet_distance(x, self.reference[k]) for k, x in seen.items()}
        return fd | {f"KD {k}": mmd(x, self.reference[k]) for k, x in seen.items()}


def draw(found: dict[str, dict[str, dict[str, float]]], out: Path) -> None:
    """One panel per change: distance over that of the clean clips, for both networks."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "kineograph"
    import matplotlib.pyplot as plt

    clean = found["clean"]["0"]
    names = [name for name in found if name != "clean"]
    figure, axes = plt.subplots(1, len(names), figsize=(3 * len(names), 2.8), layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        x = [0.0, *map(float, found[name])]
        for key, label in (("FD image", "EfficientNet-Lite0"), ("FD motion", "kineograph-motion")):
            axis.plot(x, [1.0, *(v[key] / clean[key] for v in found[name].values())], marker="o", label=label)
        axis.set_xlabel(name)
    axes[0].set_ylabel("Fréchet distance / clean")
    axes[0].legend(fontsize=8)
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    tyro.cli(Speed | Sensitivity)()
