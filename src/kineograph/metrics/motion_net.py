"""A small motion-aware network: the offline stand-in for I3D, and the recipe that trains it.

An image network cannot tell a shuffled clip from the clip. This one is trained to: a factorised 3D network (Tran et al.
2018, arXiv:1711.11248: space, then frames) learns, on clips without labels, (1) which temporal change was made to a
clip: none, reversed, shuffled, frozen, stuttering (Misra et al. 2016, arXiv:1603.08561; the arrow of time: Wei et al.
2018, CVPR), at several speeds; (2) which two crops come from one clip (Chen et al. 2020, arXiv:2002.05709, eq. 1). The
feature is the pooled last layer. It stands in for I3D; its numbers are never called FVD or KVD.

Train:  python -m kineograph.metrics.motion_net --data DATASET --out src/kineograph/bundled/motion_net --minutes 22
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from kineograph.errors import DataError, WeightsError
from kineograph.metrics.features import resize
from kineograph.metrics.features.extractor import Card, Extractor
from kineograph.metrics.features.weights import file_hash, fill, load_tensors
from kineograph.models.weights import write_safetensors

log = logging.getLogger(__name__)
FRAMES, SIDE, MARGIN = 16, 32, 4
WIDTHS = (32, 64, 128, 160)
BUNDLED = "bundled/motion_net/motion_net.safetensors"


class Block(nn.Module):
    """A convolution over space, then one over frames, each normalised, with a shortcut."""

    def __init__(self, before: int, after: int, space: int, time: int):
        super().__init__()
        self.space = nn.Conv3d(before, after, (1, 3, 3), (1, space, space), (0, 1, 1), bias=False)
        self.norm_space = nn.BatchNorm3d(after)
        self.frames = nn.Conv3d(after, after, (3, 1, 1), (time, 1, 1), (1, 0, 0), bias=False)
        self.norm_frames = nn.BatchNorm3d(after)
        self.short = nn.Conv3d(before, after, 1, (time, space, space), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, before, frames, h, w) to (n, after, frames / time, h / space, w / space)."""
        y = functional.relu(self.norm_space(self.space(x)))
        return functional.relu(self.norm_frames(self.frames(y)) + self.short(x))


class MotionNet(nn.Module):
    """Four blocks over 16 frames of 32 x 32 pixels and their differences; features of 320 numbers."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.stem = nn.Conv3d(6, a, (1, 5, 5), (1, 2, 2), (0, 2, 2), bias=False)
        self.norm = nn.BatchNorm3d(a)
        self.blocks = nn.ModuleList([Block(a, b, 2, 1), Block(b, c, 2, 2), Block(c, d, 2, 2), Block(d, d, 1, 1)])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map (n, 3, 16, 32, 32) in [-1, 1] to `pool` (n, 320): mean and deviation over frames and places."""
        change = functional.pad(x[:, :, 1:] - x[:, :, :-1], (0, 0, 0, 0, 1, 0))
        x = functional.relu(self.norm(self.stem(torch.cat([x, 4 * change], 1))))
        for block in self.blocks:
            x = block(x)
        flat = x.flatten(2)
        return {"pool": torch.cat([flat.mean(2), (flat.var(2, correction=0) + 1e-6).sqrt()], 1)}


def prepare(clips: Tensor) -> Tensor:
    """Map clips (n, frames, 3, h, w) in [-1, 1] to (n, 3, 16, 32, 32): 16 frames evenly spread, antialiased."""
    index = torch.linspace(0, clips.shape[1] - 1, FRAMES).round().long()
    frames = rearrange(resize.to_bytes(clips[:, index]), "n f c h w -> (n f) c h w")
    small = resize.antialiased_bilinear(frames, SIDE, SIDE).round() / 127.5 - 1
    return rearrange(small, "(n f) c h w -> n c f h w", n=len(clips))


def load_motion_net(source: Path | None = None) -> Extractor:
    """Load the bundled network, or another trained with this recipe.

    Returns:
        A clip extractor for 8 frames or more with the layer `pool` (320); a stand-in.

    Raises:
        WeightsError: The weights are missing or do not fit.
    """
    path = source or Path(str(files("kineograph") / BUNDLED))
    if not path.is_file():
        raise WeightsError(
            f"The motion network is missing at {path}. Train it: python -m kineograph.metrics.motion_net."
        )
    network = fill(MotionNet(), {k: v.float() for k, v in load_tensors(path).items()}, path)
    text = f"bytes, {FRAMES} frames evenly spread, antialiased bilinear to {SIDE}x{SIDE}"
    card = Card("kineograph-motion", file_hash(path), text, "clip", True, "trained here on Fluent emoji (MIT)")
    return Extractor(card, prepare, network, ("pool",), fewest_frames=8, batch=16)


def _frozen(x: Tensor, g: torch.Generator) -> Tensor:
    return x[:, torch.randint(FRAMES, (1,), generator=g)].expand_as(x)


def _stutter(x: Tensor, g: torch.Generator) -> Tensor:
    return x[:, torch.arange(FRAMES) // 4 * 4]


CHANGES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda x, g: x,
    "reversed": lambda x, g: x.flip(1),
    "shuffled": lambda x, g: x[:, torch.randperm(FRAMES, generator=g)],
    "frozen": _frozen,
    "stutter": _stutter,
}
"""Temporal changes of a window of shape (channels, 16, h, w)."""
SHARES = (0.35, 0.35, 0.1, 0.1, 0.1)  # how often each is drawn: the direction is the hard one to learn
STRIDES = (1, 2, 3)  # speeds of the windows, in frames of the bank


@dataclass
class Recipe:
    """Train the motion network."""

    data: Path
    """Data set folder with a manifest, or a folder of clips."""
    out: Path = Path("src/kineograph/bundled/motion_net")
    """Folder for the weights."""
    minutes: float = 22.0
    """Processor time to train."""
    clips: int = 1000
    """Clips held in memory."""
    batch: int = 24
    """Clips per step; each is seen twice."""
    rate: float = 2e-3
    """Peak learning rate of AdamW."""
    seed: int = 0
    """Of initialisation, sampling and changes."""


def read_bank(recipe: Recipe) -> list[Tensor]:
    """Decode the training clips to uint8 (3, frames, 36, 36), every second frame.

    Every second record in the order of the data set is left alone, for measurements on clips that were never seen.

    Raises:
        DataError: Fewer than 100 usable clips.
    """
    from kineograph.metrics.clips import list_clips

    records = list_clips(recipe.data, "training data")[::2]
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(recipe.seed))[: recipe.clips]
    bank = []
    for i in order.tolist():
        frames = records[i].load().frames[::2, :3]
        if len(frames) >= FRAMES + 4:
            small = (
                resize.antialiased_bilinear(resize.to_bytes(frames), SIDE + MARGIN, SIDE + MARGIN)
                .round()
                .to(torch.uint8)
            )
            bank.append(rearrange(small, "f c h w -> c f h w"))
    if len(bank) < 100:
        raise DataError(f"{recipe.data} has {len(bank)} clips of at least {2 * FRAMES + 8} frames; training needs 100.")
    return bank


def _window(clip: Tensor, stride: int, g: torch.Generator) -> Tensor:
    """A random crop of 16 frames; a clip too short for the stride wraps around, as looped animations do."""
    start = int(torch.randint(clip.shape[1], (1,), generator=g))
    top, left = (int(v) for v in torch.randint(MARGIN + 1, (2,), generator=g))
    x = clip[:, (start + stride * torch.arange(FRAMES)) % clip.shape[1], top : top + SIDE, left : left + SIDE]
    x = x.float() / 127.5 - 1
    return x.flip(-1) if torch.rand(1, generator=g) < 0.5 else x


def draw_batch(bank: list[Tensor], size: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two windows of each drawn clip, one temporal change each: (2 size, 3, 16, 32, 32), and the changes' numbers."""
    chosen = [bank[i] for i in torch.randint(len(bank), (size,), generator=g).tolist()]
    names = list(CHANGES)
    labels = torch.multinomial(torch.tensor(SHARES), 2 * size, replacement=True, generator=g)
    strides = torch.randint(len(STRIDES), (2 * size,), generator=g)
    windows = []
    for clip, label, stride in zip(chosen + chosen, labels.tolist(), strides.tolist(), strict=True):
        window = _window(clip, STRIDES[stride], g)
        windows.append(CHANGES[names[label]](window, g))
    return torch.stack(windows), labels


def contrast(z: Tensor, temperature: float = 0.2) -> Tensor:
    """Normalised temperature-scaled cross entropy of pairs (i, i + n), Chen et al. 2020, eq. 1."""
    z = functional.normalize(z, dim=1)
    logits = (z @ z.T / temperature).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
    return functional.cross_entropy(logits, torch.arange(len(z)).roll(len(z) // 2))


def train(recipe: Recipe) -> Path:
    """Train for the given time and write the weights in bfloat16.

    Returns:
        The weights file.
    """
    torch.manual_seed(recipe.seed)
    g = torch.Generator().manual_seed(recipe.seed)
    bank = read_bank(recipe)
    network, judge, project = MotionNet(), nn.Linear(320, len(CHANGES)), nn.Linear(320, 64)
    weights = [*network.parameters(), *judge.parameters(), *project.parameters()]
    optimizer = torch.optim.AdamW(weights, recipe.rate, weight_decay=0.01)
    start, step, right = time.process_time(), 0, 0.0
    while (done := (time.process_time() - start) / 60 / recipe.minutes) < 1:
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * min(1, step / 50) * (1 - done) + 1e-6
        clips, labels = draw_batch(bank, recipe.batch, g)
        with torch.autocast(clips.device.type, torch.bfloat16):
            features = network(clips)["pool"].float()
        verdict = judge(features)
        loss = functional.cross_entropy(verdict, labels) + 0.3 * contrast(project(features))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = 0.98 * right + 0.02 * (verdict.argmax(1) == labels).float().mean().item()
        step += 1
        if step % 25 == 0:
            log.info("step %d, %.0f %% of the time, loss %.3f, changes told %.2f", step, 100 * done, loss.item(), right)
    return _write(network, recipe, {"steps": step, "clips": len(bank), "changes_told": round(right, 3)})


def _write(network: nn.Module, recipe: Recipe, facts: dict[str, float]) -> Path:
    path = recipe.out / "motion_net.safetensors"
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    notes = {"recipe": "kineograph.metrics.motion_net", "facts": json.dumps(facts), "seed": str(recipe.seed)}
    write_safetensors({k: v.to(torch.bfloat16) for k, v in state.items()}, path, notes)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    log.info("wrote %s, SHA-256 %s, %s", path, digest, facts)
    return path


if __name__ == "__main__":
    import tyro

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(tyro.cli(Recipe))
