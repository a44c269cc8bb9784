"""The draft of a model: a small network that learns the clip of every caption, frame by frame.

A sample is one caption and one frame; a clip's frames are those around its middle. The loss is the squared error,
whose minimum is the conditional mean: the best denoiser at infinite noise. The sentence embedding can be blurred with
noise of random strength, so that the network is smooth where no caption lies (Bishop 1995,
doi:10.1162/neco.1995.7.1.108: training with noise is Tikhonov regularisation).
Where things come in several looks (`kind`), those of one may differ by less than the error of a draft: the skin tones
of a hand by 0.2 to 4 % of the pictures' variance. So the error's part in the direction of another look weighs more.
And mostly such a thing's own name is hidden from the draft's memory, so that it learns what it will be asked: to tell
a look that it has not seen from those that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kineograph.data.balance import EvenDraw, kinds_of
from kineograph.data.latents import LatentStore
from kineograph.diffusion.noise import mix_seed
from kineograph.errors import InputError
from kineograph.models.draft import DraftNetwork, far_apart, frame_moments, scatter_within, unit_variance, within_kinds
from kineograph.models.latent_video import LatentVideoModel
from kineograph.training.captions import CaptionTokens
from kineograph.training.opening import preview_prompts as choose_prompts
from kineograph.training.opening import training_clips
from kineograph.training.previews import write_clips
from kineograph.training.resume import autoencoder_print
from kineograph.training.task import Told, tracked

VALIDATION_CLIPS = 256
LOOK_STEPS, LOOK_BATCH, LOOK_RATE = 1000, 96, 2e-2
SMALL = 1e-6  # variance below which a direction of names is rounding
HIDDEN = 0.7
"""Share of the samples of things in several looks whose own name is hidden from the draft."""
CONTRAST = 5.0  # Ours: of 1, 5, 20 and 50, see docs/emoji/diary.md


class DraftTask(Told):
    """Trains the draft of a latent model.

    Args:
        model: The parts; only the draft changes.
        store: Latents of the data set.
        captions: Tokens of every clip's captions and how often each is shown.
        held_out: Split to validate on beside training clips.
        balance: Field of the manifest whose values are shown more evenly (see `data.balance`); empty: all clips alike.
        blur: Largest deviation of the noise on the sentence embedding, whose own values have deviation 1.
        kind: Field of the manifest that is the same for clips of one thing in several looks; empty: each is its own.
        contrast: Weight of the squared error towards another look of the same thing, beside 1 for all directions.
        preview_prompts: Prompts of the previews; none: captions of the data set.
    """

    name = part = "draft"

    def __init__(
        self,
        model: LatentVideoModel,
        store: LatentStore,
        captions: CaptionTokens,
        *,
        held_out: str = "",
        balance: str = "",
        blur: float = 0.0,
        kind: str = "",
        contrast: float = CONTRAST,
        preview_prompts: Sequence[str] = (),
    ) -> None:
        if model.draft is None:
            raise InputError("The model has no draft to train.")
        self.model, self.store, self.captions, self.blur = model, store, captions, blur
        self.network: DraftNetwork = model.draft
        self.held_out, self.balance, self.kind = held_out, balance, kind
        self.preview_prompts = tuple(preview_prompts) or choose_prompts(store.frames, held_out)
        self.clips = training_clips(store.frames, 1)
        self.num_samples = len(self.clips)
        self.drawn = EvenDraw(self.clips, store.frames.clips, balance)
        self.contrast, self.kinds = contrast, kinds_of(self.clips, store.frames.clips, kind)
        self.looks = looks_of(self.clips, self.kinds, store.frames.counts)
        self.moments = frame_moments(self.network.frames, self.network.frames)
        self.test_clips = _some(store.frames.clips_of(held_out))

    def facts(self) -> dict[str, Any]:
        """Return data, model and kind of training, by flag."""
        sizes = " ".join(f"{name}={value}" for name, value in sorted(self.network.config.items()))
        set_ = f"{sizes} blur={self.blur} kind={self.kind} contrast={self.contrast}"
        own = {"held-out": self.held_out, "balance": self.balance, "set": set_}
        return {**self.store.frames.facts(), **own, "base": autoencoder_print(self.model)}

    def start_from_data(self) -> None:
        """Let a fresh network know the clips' names, and answer each with its middle frame."""
        network, pictures = self.network, torch.stack([self.middle(int(clip)) for clip in self.clips]).flatten(1)
        sentences, kinds = unit_variance(self._first(self.clips)).cpu(), torch.from_numpy(self.kinds)
        mean = pictures.mean(dim=0)
        kept = far_apart(sentences, len(network.known.keys))
        with torch.no_grad():
            network.mean.copy_(mean)
            network.basis.copy_(principal_components(pictures - mean, len(network.basis)))
            network.known.keys.copy_(sentences[kept])
            network.known.metric.copy_(within_kinds(sentences, kinds))
            network.known.codes.copy_(network.code(pictures[kept].to(network.mean.device)))
            spread, directions = scatter_within(sentences, kinds)
            count = network.looks.directions.shape[1]
            chosen = directions[:, -count:] * spread[-count:].clamp(min=SMALL).rsqrt()
            network.looks.directions.copy_(chosen)
        if spread.any():
            self.learn_looks()

    def learn_looks(self) -> None:
        """Let the looks be learned first, alone, from the middle frames of what has several: seconds, not minutes."""
        network, own = self.network, numbers(self.network, self.captions)
        rows = np.array([clip for clip in self.clips if self.looks[int(clip)][0] != clip and own[clip] >= 0], dtype=int)
        if len(rows) == 0:
            return
        pictures = torch.stack([self.middle(int(clip)) for clip in rows]).to(network.mean.device)
        with torch.no_grad():
            asked = network.known.read(unit_variance(self._first(rows)))
            found = network.known(asked, own[rows].to(asked.device))
        optimizer = torch.optim.Adam(network.looks.parameters(), LOOK_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, LOOK_STEPS)
        generator = torch.Generator().manual_seed(0)
        for _ in range(LOOK_STEPS):
            some = torch.randint(len(rows), (LOOK_BATCH,), generator=generator).to(asked.device)
            mean = network.picture(found.code[some])
            made = mean + network.change(asked[some], found.rows(some))
            loss = (made - pictures[some]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    @cached_property
    def own(self) -> Tensor:
        """Which of the draft's names is that of each clip of the data set, `(clips,)`; -1: none."""
        return numbers(self.network, self.captions)

    @cached_property
    def near(self) -> Tensor:
        """Which texts are near enough to a name to be taken as they are, `(texts,)`; the others are never shown."""
        first = torch.from_numpy(self.captions.tokens[:, :1].astype(np.float32)).to(self.model.device)
        known = self.network.known
        parts = [known.distance(unit_variance(part)).amin(dim=1) <= known.FAR for part in first.split(1024)]
        return torch.cat(parts).cpu()

    def frames(self, clip: int) -> Tensor:
        """Return the latents of the frames of a clip that the draft shows, those around its middle, `(n, c, h, w)`."""
        rows = [self._row(clip, frame) for frame in range(self.network.frames)]
        return torch.from_numpy(self.store.latents[rows].astype(np.float32))

    def middle(self, clip: int) -> Tensor:
        """Return the latents of a clip's middle frame, `(c, h, w)`."""
        row = self._row(clip, self.network.frames // 2)
        return torch.from_numpy(self.store.latents[row].astype(np.float32))

    def _row(self, clip: int, frame: int) -> int:
        """Return where a frame that the draft shows stands; a shorter clip rests at its end."""
        count = int(self.store.frames.counts[clip])
        before = max(0, count - self.network.frames) // 2
        return int(self.store.frames.starts[clip]) + min(before + frame, count - 1)

    def load(self, indices: list[int], seeds: list[int]) -> dict[str, Tensor]:
        """Return frames `(n, c, h, w)`, looks, texts `(n, 1, dim)`, moments, noise `(n, dim)`, what is hidden."""
        samples = [self._sample(int(self.clips[i]), seed) for i, seed in zip(indices, seeds, strict=True)]
        clips, looks, frames, texts, noise, hidden = zip(*samples, strict=True)
        rows = [self._row(clip, frame) for clip, frame in zip(clips, frames, strict=True)]
        others = [self._row(clip, frame) for clip, frame in zip(looks, frames, strict=True)]
        return {
            "pictures": torch.from_numpy(self.store.latents[rows].astype(np.float32)),
            "looks": torch.from_numpy(self.store.latents[others].astype(np.float32)),
            "context": self.captions.rows(texts, length=1),
            "moments": self.moments[list(frames)],
            "noise": torch.from_numpy(np.stack(noise)),
            "hidden": torch.tensor(hidden),
        }

    def _sample(self, clip: int, seed: int) -> tuple[int, int, int, int, np.ndarray, int]:
        """Choose a clip, another look, a frame, a row of its captions, noise on that sentence, and what is hidden."""
        choose = np.random.default_rng(mix_seed(seed, 7))
        clip = self.drawn(clip, choose)
        frame, text = int(choose.integers(self.network.frames)), self.captions.draw_row(clip, choose)
        text = text if self.near[text] else self.captions.texts[clip][0]
        noise = choose.standard_normal(self.network.text_dim, np.float32)
        strength, looks = np.float32(self.blur * choose.random()), self.looks[clip]
        look, hide = int(looks[choose.integers(len(looks))]), choose.random() < HIDDEN
        return clip, look, frame, text, strength * noise, int(self.own[clip]) if hide and look != clip else -1

    def loss(self, network: Callable[..., Any], batch: dict[str, Tensor], seeds: list[int]) -> Tensor:
        """Return the squared error of each sample, its text blurred, and `contrast` times that towards its look."""
        made = network(batch["context"], batch["moments"], batch["noise"], batch["hidden"]).float()
        error, away = (made - batch["pictures"]).flatten(1), (batch["looks"] - batch["pictures"]).flatten(1)
        towards = (error * nn.functional.normalize(away, dim=1)).sum(dim=1)
        return error.square().mean(dim=1) + self.contrast * towards.square() / error.shape[1]

    def validate(self) -> dict[str, float]:
        """Return the share of the variance that is not explained, of middle frames and of motion around the mean frame.

        Both of training clips and of held-out ones; motion of those that have as many frames as the draft.
        """
        chosen = {"train": _some(self.clips), "held_out": self.test_clips}
        found = {f"{name}_unexplained": self.unexplained(clips) for name, clips in chosen.items() if len(clips) > 1}
        moving = {name: clips[self.store.frames.counts[clips] >= self.network.frames] for name, clips in chosen.items()}
        motion = {name: self.motion_unexplained(clips) for name, clips in moving.items() if len(clips)}
        return found | {f"{name}_motion_unexplained": value for name, value in motion.items()}

    def unexplained(self, clips: np.ndarray) -> float:
        """Return the squared error of clips' first captions over the variance of their middle frames."""
        pictures = torch.stack([self.middle(int(clip)) for clip in clips]).to(self.model.device)
        error = (self.network(self._first(clips), self._middle_moment(len(clips))) - pictures).square().mean()
        return (error / (pictures - pictures.mean(dim=0)).square().mean()).item()

    def motion_unexplained(self, clips: np.ndarray) -> float:
        """Return the squared error of clips' frames less their mean over time, over its size; 1 is no motion."""
        error = size = 0.0
        for clip in tracked(clips, self.progress, "validation"):
            real = self.frames(int(clip)).to(self.model.device)
            made = self.network.clip(self._first(np.array([clip])), self.network.frames)[0]
            real, made = real - real.mean(dim=0), made - made.mean(dim=0)
            error, size = error + (made - real).square().sum().item(), size + real.square().sum().item()
        return error / size if size else 1.0

    def _first(self, clips: np.ndarray) -> Tensor:
        return self.captions.rows([self.captions.texts[clip][0] for clip in clips], length=1).to(self.model.device)

    def _middle_moment(self, count: int) -> Tensor:
        return self.moments[self.network.frames // 2].expand(count).to(self.model.device)

    def preview(self, directory: Path) -> None:
        """Write a sheet of drafts, decoded."""
        from kineograph.video import Video

        if not self.preview_prompts:
            return
        drafts = self.network.clip(self.model.text(self.preview_prompts), self.network.frames)
        drafts = tracked(drafts, self.progress, "previews")
        clips = [self.model.autoencoder.decode(draft[None])[0].float().cpu() for draft in drafts]
        write_clips([Video(clip, self.model.settings.fps) for clip in clips], self.preview_prompts, directory)

    def export(self, directory: Path) -> None:
        """Write the whole model, ready to `generate`."""
        self.model.save_pretrained(directory, torch.float32)


def _some(clips: np.ndarray) -> np.ndarray:
    """Return clips evenly spread over some."""
    return clips[:: max(1, len(clips) // VALIDATION_CLIPS)][:VALIDATION_CLIPS]


def principal_components(centred: Tensor, count: int) -> Tensor:
    """Return the directions of most variance of centred rows `(n, d)`, orthonormal, `(count, d)`, most first."""
    return torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -count:].flip(1).T


@torch.no_grad()
def numbers(network: DraftNetwork, captions: CaptionTokens) -> Tensor:
    """Return which of a draft's names is the first caption of each clip of a data set, `(clips,)`; -1: none."""
    first = captions.rows([texts[0] for texts in captions.texts], length=1).to(network.mean.device)
    return torch.cat([network.known.number(unit_variance(part)) for part in first.split(512)]).cpu()


def looks_of(clips: np.ndarray, kinds: np.ndarray, counts: np.ndarray) -> dict[int, np.ndarray]:
    """Return for each clip the others of its kind that have as many frames, or itself if there is none."""
    same = {int(kind): clips[kinds == kind] for kind in np.unique(kinds)} if len(np.unique(kinds)) < len(kinds) else {}
    found = {}
    for clip, kind in zip(clips, kinds, strict=True):
        near = same.get(int(kind), clips[:0])
        near = near[(near != clip) & (counts[near] == counts[clip])]
        found[int(clip)] = near if len(near) else np.array([clip])
    return found
