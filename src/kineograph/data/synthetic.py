"""Procedural clips: coloured shapes that move, with exact captions, masks and optical flow.

Every clip is a function of its seed. Shapes move in straight lines and never leave the picture, so the caption's words
(size, colour, shape, direction, speed) hold for the whole clip, and the flow of every visible pixel is known without
estimating it. With `textured=True` shapes and background carry smooth patterns, which flow estimators need.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kineograph.data.manifest import MANIFEST_NAME, Clip, write_manifest
from kineograph.data.replacing import refuse_existing, replacing
from kineograph.errors import InputError
from kineograph.video import Video

LICENCE = "CC0-1.0"
_PARTS = ("clips", "flow", MANIFEST_NAME)
SHAPES = ("circle", "square", "triangle", "diamond", "ring", "cross")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (240, 210, 40),
    "purple": (150, 60, 190),
    "cyan": (60, 200, 210),
    "orange": (245, 140, 30),
    "white": (245, 245, 245),
}
BACKGROUNDS = {"black": (10, 10, 10), "grey": (110, 110, 110), "brown": (80, 55, 40)}
SIZES = {"small": 0.10, "medium": 0.15, "large": 0.21}
"""Half the extent of a shape, as a share of the picture's shorter edge."""
DIRECTIONS = {
    "to the left": (-1, 0),
    "to the right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up and to the left": (-1, -1),
    "up and to the right": (1, -1),
    "down and to the left": (-1, 1),
    "down and to the right": (1, 1),
}
SPEEDS = {"slowly": 0.25, "quickly": 0.55}
"""Way of a shape over the whole clip, as a share of the picture's shorter edge, along each axis that it moves on."""
_SUPERSAMPLING = 4
_PATTERN_DEPTH = 40.0


@dataclass(frozen=True)
class Shape:
    """One moving shape.

    Attributes:
        kind: One of `SHAPES`.
        colour: One of `COLOURS`.
        size: One of `SIZES`.
        direction: One of `DIRECTIONS`, or None if it stays still.
        speed: One of `SPEEDS`, or None if it stays still.
        start: Centre in the first frame, (x, y) in pixels; a pixel's centre is at half-integers.
        velocity: (x, y) in pixels per frame.
        radius: Half the extent in pixels.
    """

    kind: str
    colour: str
    size: str
    direction: str | None
    speed: str | None
    start: tuple[float, float]
    velocity: tuple[float, float]
    radius: float

    @property
    def words(self) -> str:
        """The shape's part of the caption."""
        motion = f"moving {self.direction} {self.speed}" if self.direction else "staying still"
        article = "an" if self.size[0] in "aeiou" else "a"
        return f"{article} {self.size} {self.colour} {self.kind} {motion}"


@dataclass(frozen=True)
class SyntheticClip:
    """A clip and everything that is true of it.

    Attributes:
        video: The clip, RGB.
        caption: What it shows, in words.
        flow: float32, (frames - 1, 2, height, width): where the content of each pixel goes in the next frame, (x, y) in
            pixels per frame; (0, 0) for the background unless it pans.
        mask: bool, (frames, shapes, height, width): pixels that show each shape.
        shapes: The shapes, the last one in front.
        background: One of `BACKGROUNDS`.
    """

    video: Video
    caption: str
    flow: Tensor
    mask: Tensor
    shapes: tuple[Shape, ...]
    background: str


def synthetic_clip(
    seed: int | tuple[int, ...],
    num_frames: int = 16,
    size: int | tuple[int, int] = 64,
    fps: float = 8.0,
    *,
    objects: int | None = None,
    textured: bool = False,
    pan: tuple[float, float] = (0.0, 0.0),
) -> SyntheticClip:
    """Make one clip.

    Args:
        seed: Everything random about the clip follows from it.
        num_frames: Number of frames, at least 1.
        size: Edge of a square picture, or (height, width), in pixels, at least 16.
        fps: Frames per second.
        objects: Number of shapes, 1 or 2; None lets the seed choose.
        textured: Give shapes and background smooth patterns that move with them.
        pan: Movement of the background, (x, y) in pixels per frame; visible only with `textured`.

    Raises:
        InputError: An argument is out of range.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if num_frames < 1 or min(height, width) < 16 or objects not in (None, 1, 2):
        raise InputError(
            f"A synthetic clip has at least 1 frame, 16 pixels each way, and 1 or 2 objects; given were {num_frames} "
            f"frames, {width}x{height} pixels, objects={objects}."
        )
    rng = np.random.default_rng(seed)
    count = objects or int(rng.integers(1, 3))
    background = str(rng.choice(list(BACKGROUNDS)))
    shapes = _shapes(rng, count, num_frames, height, width)
    patterns = [_pattern(rng) if textured else None for _ in range(count + 1)]
    frames, masks = zip(
        *(_draw(shapes, background, patterns, pan, index, height, width) for index in range(num_frames)), strict=True
    )
    caption = f"{' and '.join(shape.words for shape in shapes)}, on a {background} background"
    mask = torch.from_numpy(np.stack(masks))
    video = Video.from_uint8(np.stack(frames), fps, metadata={"prompt": caption})
    return SyntheticClip(video, caption, _flow(shapes, mask[:-1], pan), mask, shapes, background)


def write_synthetic(
    directory: str | Path,
    count: int,
    seed: int = 0,
    *,
    num_frames: int = 16,
    size: int | tuple[int, int] = 64,
    fps: float = 8.0,
    objects: int | None = None,
    textured: bool = False,
    test_every: int | None = None,
    flow: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> Path:
    """Write a data set of synthetic clips (lossless mkv) with its manifest, all of it or nothing.

    Args:
        directory: Folder of the data set; made where it is missing.
        count: Number of clips.
        seed: Clip i is `synthetic_clip((seed, i), ...)`.
        num_frames: See `synthetic_clip`, as for size, fps, objects and textured.
        size: Edge in pixels or (height, width).
        fps: Frames per second.
        objects: Shapes per clip.
        textured: Whether there are patterns.
        test_every: Every so-manieth clip goes to the split `"test"`; None puts all in `"train"`.
        flow: Also write `flow/000000.npz` with the arrays `flow` and `mask` of each clip, named by the manifest's
            extra key `"flow"`.
        overwrite: Replace the clips, the flow and the manifest that are there.
        progress: Called with `(done, total, what)`.

    Returns:
        The manifest file.

    Raises:
        InputError: An argument is out of range.
        DataError: The folder holds a data set already.
    """
    if count < 1:
        raise InputError(f"count={count}: a data set needs at least one clip.")
    if test_every is not None and test_every < 1:
        raise InputError(f"test_every={test_every}: every so-manieth clip goes to the test split, 1 or more.")
    root = Path(directory)
    refuse_existing(root, overwrite, names=_PARTS)
    synthetic_clip((seed, 0), num_frames, size, fps, objects=objects, textured=textured)  # refuses before it writes
    with replacing(root, _PARTS) as part:
        for name in _PARTS[:2] if flow else _PARTS[:1]:
            (part / name).mkdir()
        rows = []
        for index in range(count):
            clip = synthetic_clip((seed, index), num_frames, size, fps, objects=objects, textured=textured)
            split = "test" if test_every and index % test_every == test_every - 1 else "train"
            rows.append(_write(clip, part, index, split, flow))
            if progress:
                progress(index + 1, count, "clips")
        write_manifest(part, rows)
    return root / MANIFEST_NAME


def _write(clip: SyntheticClip, root: Path, index: int, split: str, flow: bool) -> Clip:
    path = clip.video.save(root / "clips" / f"{index:06d}.mkv")
    extra = {}
    if flow:
        extra["flow"] = f"flow/{index:06d}.npz"
        np.savez_compressed(root / extra["flow"], flow=clip.flow.numpy(), mask=clip.mask.numpy())
    return Clip(
        path=path.relative_to(root).as_posix(),
        caption=clip.caption,
        fps=clip.video.fps,
        frames=len(clip.video),
        width=clip.video.width,
        height=clip.video.height,
        source="kineograph.data.synthetic",
        licence=LICENCE,
        split=split,
        extra=extra,
    )


def _shapes(rng: np.random.Generator, count: int, num_frames: int, height: int, width: int) -> tuple[Shape, ...]:
    """Choose shapes of different colours whose whole way lies inside the picture."""
    colours = rng.permutation(list(COLOURS))[:count]
    return tuple(_shape(rng, str(colour), num_frames, height, width) for colour in colours)


def _shape(rng: np.random.Generator, colour: str, num_frames: int, height: int, width: int) -> Shape:
    kind, size = str(rng.choice(SHAPES)), str(rng.choice(list(SIZES)))
    moves = num_frames > 1 and rng.random() < 0.9
    direction = str(rng.choice(list(DIRECTIONS))) if moves else None
    speed = str(rng.choice(list(SPEEDS))) if moves else None
    edge = min(height, width)
    radius = SIZES[size] * edge
    way = SPEEDS[speed] * edge if speed else 0.0
    signs = DIRECTIONS[direction] if direction else (0, 0)
    start = tuple(_start(rng, sign * way, radius, extent) for sign, extent in zip(signs, (width, height), strict=True))
    velocity = tuple(sign * way / max(1, num_frames - 1) for sign in signs)
    return Shape(kind, colour, size, direction, speed, (start[0], start[1]), (velocity[0], velocity[1]), radius)


def _start(rng: np.random.Generator, way: float, radius: float, extent: int) -> float:
    """Choose a coordinate from which the way does not leave (0, extent)."""
    low, high = radius + max(0.0, -way), extent - radius - max(0.0, way)
    return float(rng.uniform(low, high))


Pattern = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _pattern(rng: np.random.Generator) -> Pattern:
    """Make a smooth brightness pattern in [-1, 1] over the plane: four waves of 6 to 20 pixels."""
    wavelengths, angles = rng.uniform(6, 20, 4), rng.uniform(0, np.pi, 4)
    phases = rng.uniform(0, 2 * np.pi, 4)

    def brightness(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        along = x[..., None] * np.cos(angles) + y[..., None] * np.sin(angles)
        return np.sin(2 * np.pi * along / wavelengths + phases).mean(-1)

    return brightness


def _draw(
    shapes: tuple[Shape, ...],
    background: str,
    patterns: list[Pattern | None],
    pan: tuple[float, float],
    index: int,
    height: int,
    width: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one frame: uint8 (height, width, 3), and who is visible where: bool (shapes, height, width)."""
    centres = (np.arange(height * _SUPERSAMPLING) + 0.5) / _SUPERSAMPLING
    across = (np.arange(width * _SUPERSAMPLING) + 0.5) / _SUPERSAMPLING
    y, x = np.meshgrid(centres, across, indexing="ij")
    owner = np.full(x.shape, -1)
    picture = _painted(BACKGROUNDS[background], patterns[-1], x - pan[0] * index, y - pan[1] * index)
    for number, shape in enumerate(shapes):
        dx = x - shape.start[0] - shape.velocity[0] * index
        dy = y - shape.start[1] - shape.velocity[1] * index
        inside = _inside(shape.kind, dx / shape.radius, dy / shape.radius)
        picture[inside] = _painted(COLOURS[shape.colour], patterns[number], dx, dy)[inside]
        owner[inside] = number
    visible = np.stack([_averaged((owner == number).astype(np.float64)) > 0.5 for number in range(len(shapes))])
    return np.rint(_averaged(picture)).clip(0, 255).astype(np.uint8), visible


def _painted(colour: tuple[int, int, int], pattern: Pattern | None, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    flat = np.broadcast_to(np.array(colour, np.float64), (*x.shape, 3)).copy()
    return flat if pattern is None else flat + _PATTERN_DEPTH * pattern(x, y)[..., None]


def _averaged(picture: np.ndarray) -> np.ndarray:
    """Average the samples of every pixel."""
    rows, columns = picture.shape[0] // _SUPERSAMPLING, picture.shape[1] // _SUPERSAMPLING
    return picture.reshape(rows, _SUPERSAMPLING, columns, _SUPERSAMPLING, *picture.shape[2:]).mean((1, 3))


def _inside(kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Tell which points, in units of the shape's radius from its centre, belong to a shape."""
    away, near, far = np.hypot(x, y), np.minimum(abs(x), abs(y)), np.maximum(abs(x), abs(y))
    return {
        "circle": away <= 1,
        "square": far <= 0.85,
        "triangle": (y <= 0.85) & (abs(x) <= (y + 1) / 1.85),
        "diamond": abs(x) + abs(y) <= 1,
        "ring": (away <= 1) & (away >= 0.55),
        "cross": (far <= 1) & (near <= 0.35),
    }[kind]


def _flow(shapes: tuple[Shape, ...], mask: Tensor, pan: tuple[float, float]) -> Tensor:
    """Give every visible pixel the velocity of what it shows."""
    flow = torch.tensor(pan, dtype=torch.float32).view(1, 2, 1, 1).repeat(mask.shape[0], 1, *mask.shape[2:])
    for number, shape in enumerate(shapes):
        velocity = torch.tensor(shape.velocity, dtype=torch.float32).view(1, 2, 1, 1)
        flow = torch.where(mask[:, number, None], velocity, flow)
    return flow
