"""A draft: the clip of a prompt, as latents, from the text alone.

Where there is hardly any data left in the noise, the best estimate of it is the mean over all that the prompt may show,
E[x0 | prompt]. A convolutional network learns this map slowly: the text reaches every position alike, and what belongs
where it has to find out from the borders. A fully connected network learns it in minutes, and takes the noisiest steps
instead, as an expert does (Balaji et al. 2022, eDiff-I, arXiv:2211.01324, sec. 4: denoisers for parts of the noise
levels). Its estimate is one for all of them, so these steps cost nothing.
Time is one more input of it: it is an image model plus time, and asked for each frame's moment by itself.
Differs from the paper: the expert does not look at x, which is what makes it small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from kineograph.errors import WeightsError, unknown
from kineograph.models.weights import built, load_strictly, read_json, read_safetensors, write_json, write_safetensors

FOLDER = "draft"
WIDTH, BLOCKS, PROTOTYPES, COMPONENTS = 896, 2, 4096, 512
"""Size of a fresh draft: 9.0 million values for 3,271 names and 8 latent channels at 16x16."""
MIDDLE = 0.5
WAVES = 8
"""Cosines over the clip that tell a moment, from half a period on."""
LOOKS = 8
"""Names from which a new look is told, the likeliest ones; emoji come in six."""
KNOWN = 0.99
"""From here on a sentence counts as a name."""
HEIGHT = 3.0
"""Height of these waves: beside hundreds of values of the text, eight of height 1 say little."""


class DraftNetwork(nn.Module):
    """From the first token of a prompt, its sentence embedding, and a moment of the clip to the latents of a frame.

    Args:
        text_dim: Width of a token.
        latent_shape: (channels, height, width) of one frame.
        frames: Frames of the clips that it was trained on.
        width: Width of the hidden layers.
        blocks: Residual blocks.
        prototypes: Names that it knows.
        components: Pictures that every frame is a sum of, no more than values of a latent.
    """

    mean: Tensor
    basis: Tensor

    def __init__(
        self,
        text_dim: int,
        latent_shape: tuple[int, int, int],
        frames: int,
        width: int = WIDTH,
        blocks: int = BLOCKS,
        prototypes: int = PROTOTYPES,
        components: int = COMPONENTS,
    ) -> None:
        super().__init__()
        self.text_dim, self.latent_shape, self.frames, self.width = text_dim, latent_shape, frames, width
        self.enter = nn.Linear(text_dim, width)
        self.differ = nn.Linear(text_dim, width, bias=False)
        self.known = Prototypes(prototypes, text_dim, components)
        self.looks = Looks(text_dim, latent_shape[0])
        self.recall = nn.Sequential(
            nn.LayerNorm(components, elementwise_affine=False), nn.Linear(components, width, bias=False)
        )
        self.time = nn.Linear(WAVES, width, bias=False)
        self.blocks = nn.ModuleList([Bilinear(width) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, components)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.register_buffer("mean", torch.zeros(math.prod(latent_shape)))
        self.register_buffer("basis", torch.eye(components, math.prod(latent_shape)))

    @property
    def config(self) -> dict[str, Any]:
        """What `load_draft` builds it from."""
        sizes = {"text_dim": self.text_dim, "latent_shape": list(self.latent_shape), "frames": self.frames}
        inner = {"width": self.width, "blocks": len(self.blocks), "components": len(self.basis)}
        return {**sizes, **inner, "prototypes": len(self.known.keys)}

    def forward(
        self,
        tokens: Tensor,
        moments: Tensor | None = None,
        noise: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Return one frame for each prompt.

        Args:
            tokens: `(prompts, tokens, text_dim)`; the first is the sentence embedding. A prompt far from all that it
                knows is taken for the nearest one (`Prototypes.read`).
            moments: Where in the clip, 0 to 1, `(prompts,)`; None: its middle.
            noise: Added to the embedding after it is scaled to unit variance, `(prompts, text_dim)`; in training.
            hidden: Number of the name that it must do without, `(prompts,)`, -1 for none; in training.

        Returns:
            Latents `(prompts, channels, height, width)`.
        """
        sentence = self.known.read(unit_variance(tokens))
        if noise is not None:
            sentence = sentence + noise
        if moments is None:
            moments = sentence.new_full((len(sentence),), MIDDLE)
        return self.frame(sentence, moments, hidden)

    def frame(self, sentence: Tensor, moments: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Map sentences of unit variance `(prompts, text_dim)` and moments to latents, as `forward` does."""
        found = self.known(sentence, hidden)
        x = self.enter(sentence) + self.differ(sentence - found.name) + self.recall(found.code)
        x = x + self.time(HEIGHT * waves(moments))
        for block in self.blocks:
            x = block(x)
        new = (found.known < KNOWN).nonzero()[:, 0]
        picture = self.picture(found.code + self.leave(self.norm(x)))
        return picture.index_add(0, new, self.change(sentence[new], found.rows(new))) if len(new) else picture

    def change(self, sentence: Tensor, found: Found) -> Tensor:
        """Return how the look that a sentence asks for differs from the mean look of the thing, `(n, c, h, w)`."""
        share, places = found.share.topk(min(LOOKS, found.share.shape[1]), dim=1)
        asked, seen = sentence - found.name, self.known.keys[places] - found.name[:, None]
        pictures = self.picture(self.known.codes[places].flatten(0, 1)).unflatten(0, places.shape)
        change = self.looks(asked, seen, share, pictures.flatten(3))
        return (1 - found.known)[:, None, None, None] * change.view(-1, *self.latent_shape)

    def picture(self, code: Tensor) -> Tensor:
        """Return the latents `(n, channels, height, width)` of the weights `(n, components)` of the components."""
        return (self.mean + code @ self.basis).unflatten(1, self.latent_shape)

    def code(self, pictures: Tensor) -> Tensor:
        """Return the weights `(n, components)` that come nearest to latents `(n, channels, height, width)`."""
        return (pictures.flatten(1) - self.mean) @ self.basis.T

    def clip(self, tokens: Tensor, num_frames: int) -> Tensor:
        """Return clips, each around its middle at the trained frame rate; longer ones than trained are slower.

        Args:
            tokens: As for `forward`.
            num_frames: Frames; a single one is the middle.

        Returns:
            Latents `(prompts, frames, channels, height, width)`.
        """
        sentences = repeat(self.known.read(unit_variance(tokens)), "p d -> (p f) d", f=num_frames)
        moments = frame_moments(num_frames, self.frames).to(tokens.device)
        rows = self.frame(sentences, moments.repeat(len(tokens)))
        return rearrange(rows, "(p f) c h w -> p f c h w", f=num_frames)


@dataclass(frozen=True)
class Found:
    """What a memory knows of sentences.

    Attributes:
        code: What is remembered, `(batch, width)`: of the name, if it is known, else the mean of the thing's looks.
        name: Mean name of the thing that each is about, `(batch, text_dim)`.
        share: How likely each name is of that thing, `(batch, names)`.
        known: Whether the sentence is a name, from 0 to 1, `(batch,)`.
    """

    code: Tensor
    name: Tensor
    share: Tensor
    known: Tensor

    def rows(self, chosen: Tensor) -> Found:
        """Return what is known of some of the sentences."""
        return Found(self.code[chosen], self.name[chosen], self.share[chosen], self.known[chosen])


class Prototypes(nn.Module):
    """A memory of things by their names, each in the looks that were seen.

    A name that it knows it recalls. Of any other it says which thing it is of, by a softmax in the metric, which is the
    posterior if names were blurred by noise.
    Source: Ramsauer et al. 2021, arXiv:2008.02217 (Hopfield networks with continuous states), as a layer with stored
    patterns. All but the rate stays what the data say: learned codes would drift from the pictures that new looks are
    told from (0.05 instead of 0.10 of the variance unexplained before the rest of the network).

    Args:
        names: Sentences.
        text_dim: Width of a sentence.
        width: Width of what is remembered.
    """

    RATE, EXACT = 0.5, 0.5
    FAR = 0.3
    """Mean squared distance of one value, where those of a sentence have variance 1. Measured on the bundled
    draft: beyond it are none of 3,271 training names, none of 104 held-out ones, 27 of thirty paraphrases."""
    SAME = 1e-3
    """Mean squared distance below which a sentence is a name; rounding to bfloat16 moves it by 1e-5."""
    LEAST = -40.0
    """Logarithm of the least likelihood, relative to the best: e^-87 and below are denormal numbers, which are slow."""

    keys: Tensor
    codes: Tensor
    metric: Tensor

    def __init__(self, names: int, text_dim: int, width: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.randn(names, text_dim))
        self.register_buffer("metric", torch.eye(text_dim))
        self.register_buffer("codes", torch.randn(names, width))
        self.log_rate = nn.Parameter(torch.tensor(math.log(self.RATE)))

    def forward(self, sentence: Tensor, hidden: Tensor | None = None) -> Found:
        """Return what is known of sentences; in float32, as hundreds differ by less than one.

        Args:
            sentence: `(batch, text_dim)`.
            hidden: Number of the name that is left out, `(batch,)`; -1: none.
        """
        with torch.autocast(sentence.device.type, enabled=False):
            left_out = None if hidden is None else torch.arange(len(self.keys), device=hidden.device) == hidden[:, None]
            share = self.share(sentence, left_out)
            distance = self.distance(sentence)
            least, place = (distance if left_out is None else distance.masked_fill(left_out, torch.inf)).min(dim=1)
            known = torch.exp(-self.EXACT * least * sentence.shape[1] / 2)
            code = torch.lerp(share @ self.codes, self.codes[place], known[:, None])
            return Found(code, share @ self.keys, share, known)

    def share(self, sentence: Tensor, left_out: Tensor | None = None) -> Tensor:
        """Return how likely each name is of the thing that was meant, `(batch, names)`; looks count alike."""
        stored = self.keys @ self.metric
        likelihood = self.log_rate.exp() * (sentence @ self.metric @ stored.T - stored.square().sum(dim=1) / 2)
        if left_out is not None:
            likelihood = likelihood.masked_fill(left_out, -torch.inf)
        relative = likelihood - likelihood.amax(dim=1, keepdim=True).detach()
        return torch.softmax(relative.clamp(min=self.LEAST), dim=1)

    def read(self, sentence: Tensor) -> Tensor:
        """Return sentences `(batch, text_dim)`, those further than `FAR` from every name as the nearest of them.

        What is said in other words than any caption is meant as one of them; where the layers behind were never
        trained, they would make a blend of it.
        """
        least, place = self.distance(sentence).min(dim=1)
        return torch.where((least > self.FAR)[:, None], self.keys[place], sentence)

    def number(self, sentence: Tensor) -> Tensor:
        """Return which name each sentence is, up to rounding to bfloat16, `(batch,)`; -1: none of them."""
        least, place = self.distance(sentence).min(dim=1)
        return torch.where(least < self.SAME, place, -1)

    def distance(self, sentence: Tensor) -> Tensor:
        """Return the mean squared distances of sentences `(batch, text_dim)` to the names, `(batch, names)`."""
        return torch.cdist(sentence, self.keys).square() / sentence.shape[1]


class Looks(nn.Module):
    """Tells a look of a thing that was never seen from those that were.

    Looks differ alike everywhere: where one person is darker, another is. So the change from the mean look is linear in
    the latents of the seen looks at the same position, by matrices over channels that depend on which look is asked for
    and which one is seen, each a sum of `RANK` matrices by products of what the two names say. Of a name only the
    `DIRECTIONS` in which names of looks differ most count, each at unit variance.

    Args:
        text_dim: Width of a sentence.
        channels: Of the latents.
    """

    RANK, HIDDEN = 32, 32
    DIRECTIONS = 10
    directions: Tensor

    def __init__(self, text_dim: int, channels: int) -> None:
        super().__init__()
        count = min(self.DIRECTIONS, text_dim)
        self.register_buffer("directions", torch.eye(text_dim, count))
        self.ask, self.tell = (
            nn.Sequential(nn.Linear(count, self.HIDDEN), nn.GELU(), nn.Linear(self.HIDDEN, self.RANK)) for _ in range(2)
        )
        self.matrices = nn.Parameter(torch.zeros(self.RANK, channels, channels))
        self.mean_matrices = nn.Parameter(torch.zeros(self.RANK, channels, channels))
        self.shift = nn.Parameter(torch.zeros(self.RANK, channels))

    def forward(self, asked: Tensor, seen: Tensor, share: Tensor, pictures: Tensor) -> Tensor:
        """Return the change from the mean look.

        Args:
            asked: How the name differs from the thing's mean name, `(n, text_dim)`.
            seen: The same of the looks that were seen, `(n, looks, text_dim)`.
            share: How likely each of these is of the thing, `(n, looks)`.
            pictures: Their latents, `(n, looks, channels, positions)`.

        Returns:
            `(n, channels, positions)`.
        """
        asked, seen = self.ask(asked @ self.directions), self.tell(seen @ self.directions)
        mean = torch.einsum("nl,nlcp->ncp", share, pictures)
        matrices = torch.einsum("nr,nlr,nl,rdc->nldc", asked, seen, share, self.matrices)
        change = torch.einsum("nldc,nlcp->ndp", matrices, pictures - mean[:, None])
        change = change + torch.einsum("nr,rdc,ncp->ndp", asked, self.mean_matrices, mean)
        return change + (asked @ self.shift)[:, :, None]


def far_apart(sentences: Tensor, count: int) -> list[int]:
    """Choose sentences that are far from each other: each is the one farthest from those before it.

    Farthest-first traversal (Gonzalez 1985, doi:10.1016/0304-3975(85)90224-5).

    Args:
        sentences: At least `count`, `(sentences, text_dim)`.
        count: How many.
    """
    chosen, distance = [0], torch.full((len(sentences),), torch.inf)
    while len(chosen) < count:
        distance = torch.minimum(distance, (sentences - sentences[chosen[-1]]).square().sum(dim=1))
        chosen.append(int(distance.argmax()))
    return chosen


RIDGE = 0.1
"""Share of the mean variance that is added to all directions before the scatter within kinds is inverted."""


def within_kinds(sentences: Tensor, kinds: Tensor) -> Tensor:
    """Return the metric in which sentences of one kind lie close: the inverse root of the scatter within kinds.

    How one thing's tones, say, differ in words is much alike for all things, and tells nothing about which thing it is.
    Source: Hatch et al. 2006, doi:10.21437/Interspeech.2006-183 (within-class covariance normalisation).

    Args:
        sentences: `(n, text_dim)`.
        kinds: Number of each one's kind, `(n,)`.

    Returns:
        Symmetric `(text_dim, text_dim)`, to multiply sentences with; scaled so that the median distance from a kind's
        mean to the nearest other one stays. The identity if no kind has two sentences.
    """
    mean = means_of(sentences, kinds)
    values, vectors = scatter_within(sentences, kinds)
    if len(mean) < 2 or not bool(values.any()):
        return torch.eye(sentences.shape[1])
    metric = vectors * (values + RIDGE * values.mean()).rsqrt() @ vectors.T
    return metric * nearest_other(mean) / nearest_other(mean @ metric)


def scatter_within(sentences: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
    """Return variances `(text_dim,)`, rising, and directions, as columns, of sentences around the mean of their kind.

    Args:
        sentences: `(n, text_dim)`.
        kinds: Number of each one's kind, `(n,)`; kinds of one sentence do not count.
    """
    several = (torch.bincount(kinds) > 1)[kinds]
    inside = (sentences - means_of(sentences, kinds)[kinds])[several]
    values, vectors = torch.linalg.eigh(inside.T @ inside / max(1, len(inside)))
    return values.clamp(min=0), vectors


def means_of(rows: Tensor, kinds: Tensor) -> Tensor:
    """Return the mean of the rows `(n, d)` of each kind, `(kinds, d)`."""
    count = torch.bincount(kinds)
    return rows.new_zeros(len(count), rows.shape[1]).index_add(0, kinds, rows) / count[:, None].clamp(min=1)


def nearest_other(points: Tensor) -> Tensor:
    """Return the median distance of points `(n, d)` to the nearest other one."""
    distance = torch.cdist(points, points)
    return distance.fill_diagonal_(torch.inf).amin(dim=1).median()


def unit_variance(tokens: Tensor) -> Tensor:
    """Return the sentence embeddings of prompts, the first tokens, scaled to unit variance, `(prompts, text_dim)`."""
    sentence = tokens[:, 0].float()
    return nn.functional.normalize(sentence, dim=1) * sentence.shape[1] ** 0.5


def waves(moments: Tensor) -> Tensor:
    """Return `(n, WAVES)` cosines of moments `(n,)`: the first rows of the discrete cosine transform over a clip."""
    return torch.cos(torch.pi * torch.arange(1, WAVES + 1, device=moments.device) * moments[:, None])


def frame_moments(num_frames: int, trained: int) -> Tensor:
    """Return the moments of a clip's frames, 0 to 1: the middles of equal parts, as many as trained frames or more."""
    return MIDDLE + (torch.arange(num_frames) - (num_frames - 1) / 2) / max(num_frames, trained)


class Bilinear(nn.Module):
    """A residual block whose only nonlinearity is a product: who it is times what skin, say.

    Source: Shazeer 2020, arXiv:2002.05202, sec. 2 ("Bilinear"), with two thirds of the width as there.

    Args:
        width: Values in and out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 2 * width // 3
        self.norm = nn.LayerNorm(width)
        self.value, self.gate = nn.Linear(width, inner), nn.Linear(width, inner)
        self.out = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width) to the same."""
        normed = self.norm(x)
        return x + self.out(self.value(normed) * self.gate(normed))


def resized(draft: Tensor, height: int, width: int) -> Tensor:
    """Return a draft `(prompts, frames, channels, h, w)` at another size."""
    if draft.shape[-2:] == (height, width):
        return draft
    frames = nn.functional.interpolate(draft.flatten(0, 1), (height, width), mode="bilinear", antialias=True)
    return frames.unflatten(0, draft.shape[:2])


def save_draft(network: DraftNetwork, folder: Path, dtype: torch.dtype) -> None:
    """Write `draft/` into a model folder."""
    tensors = network.state_dict()
    tensors = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
    write_safetensors(tensors, folder / FOLDER / "model.safetensors", {"format": "pt"})
    write_json(network.config, folder / FOLDER / "config.json")


def load_draft(folder: Path) -> DraftNetwork | None:
    """Load the draft of a model folder, in float32 and evaluation mode; None: it has none.

    Raises:
        WeightsError: Its configuration or weights are missing, damaged, or do not belong together.
    """
    where = folder / FOLDER
    if not where.is_dir():
        return None
    config = _checked(read_json(where / "config.json"), where / "config.json")
    tensors = read_safetensors(where / "model.safetensors")
    network = built(lambda: DraftNetwork(**config), tensors, str(where))
    load_strictly(network, tensors, str(where))
    return network.float().eval()


def _checked(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return a configuration with sizes that are sizes.

    Raises:
        WeightsError: A field is unknown, missing or no positive whole number.
    """
    names = ("text_dim", "latent_shape", "frames", "width", "blocks", "prototypes", "components")
    for name in config:
        if name not in names:
            raise unknown(f"field in {file}", name, names, WeightsError)
    shape = config.get("latent_shape")
    sizes = [config.get(name) for name in names if name != "latent_shape"]
    sizes += shape if isinstance(shape, list) and len(shape) == 3 else [None]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise WeightsError(f"'{file}' must give {', '.join(names)} as positive whole numbers, not {dict(config)}.")
    return {**config, "latent_shape": tuple(shape or ())}
