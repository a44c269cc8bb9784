"""A clip in memory, and its way to and from disk.

`Video` holds frames in [-1, 1] and their rate; `Video.read` takes anything that PyAV or Pillow decodes, by time and not
by index; `Video.save` writes what its suffix says, with prompt, seed and settings inside the file. A clip that is
written and read back has the same frames at the same times, and the same bits where the format is lossless.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as functional
from einops import rearrange
from torch import Tensor

from kineograph._container import STILLS_FPS, MediaInfo, Picture, Record, Source, check_window, open_source
from kineograph._rates import Timing, timing
from kineograph._targets import SUFFIXES, ending
from kineograph.errors import InputError, MediaError, unknown

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["STILLS_FPS", "MediaInfo", "Video", "contact_sheet", "iterate", "probe"]

Colour = str | tuple[int, int, int]


@dataclass(frozen=True, eq=False, repr=False)
class Video:
    """A clip.

    Attributes:
        frames: float32 on the CPU, (frames, channels, height, width) in [-1, 1]; 3 channels (RGB) or 4 (RGBA, alpha
            not multiplied in; -1 is transparent). Tensors of other floating types and devices are converted.
        fps: Frames per second. With `times`, the average rate.
        times: Presentation time of every frame in seconds, from 0, increasing; None for a constant rate (frame / fps).
        metadata: Prompt, negative prompt, seed, settings, versions: whatever JSON can hold. Saved inside the file.
        last: Seconds that the last frame is held, where that is not `1 / fps`, as in many animations.

    Raises:
        InputError: Shapes, rate, times or metadata are not as above.
    """

    frames: Tensor
    fps: float
    times: tuple[float, ...] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    last: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", _checked_frames(self.frames))
        object.__setattr__(self, "fps", _checked_fps(self.fps))
        if self.times is not None:
            object.__setattr__(self, "times", _checked_times(self.times, len(self)))
        if self.last is not None and not (math.isfinite(self.last) and self.last > 0):
            raise InputError(f"last={self.last} is no time to hold the last frame: give seconds, more than 0.")

    def __len__(self) -> int:
        return self.frames.shape[0]

    def __repr__(self) -> str:
        """Say how much there is: `Video(16 frames, 128x96, 8 fps, 2 s)`, width before height."""
        count = f"{len(self)} frame{'s' if len(self) > 1 else ''}"
        rate = f"{self.fps:.5g} fps{' on average' if self.times else ''}"
        alpha = ", alpha" if self.alpha else ""
        return f"Video({count}, {self.width}x{self.height}{alpha}, {rate}, {self.duration:.4g} s)"

    def _repr_html_(self) -> str:
        """Play the clip where a notebook shows the value of a cell."""
        from kineograph._notebook import html_of

        return html_of(self)

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.frames.shape[2]

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self.frames.shape[3]

    @property
    def alpha(self) -> bool:
        """Whether there is an alpha channel."""
        return self.frames.shape[1] == 4

    @property
    def duration(self) -> float:
        """Seconds from the first frame's start to the last frame's end."""
        return Timing(self.fps, self.times, self.last).duration(len(self))

    @property
    def frame_times(self) -> tuple[float, ...]:
        """Presentation time of every frame in seconds, for constant and variable rates alike."""
        return self.times or tuple(index / self.fps for index in range(len(self)))

    @classmethod
    def from_uint8(
        cls,
        array: np.ndarray | Tensor,
        fps: float,
        *,
        times: Sequence[float] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Video:
        """Build a clip from 8-bit pictures.

        Args:
            array: uint8, (frames, height, width, 3 or 4).
            fps: Frames per second.
            times: See `Video`.
            metadata: See `Video`.
        """
        array = torch.as_tensor(array)
        if array.dtype != torch.uint8 or array.ndim != 4 or array.shape[-1] not in (3, 4):
            raise InputError(
                f"from_uint8 takes uint8 pictures (frames, height, width, 3 or 4), not {array.dtype} of shape "
                f"{tuple(array.shape)}."
            )
        return cls(_to_float(array), fps, None if times is None else tuple(times), dict(metadata or {}))

    def to_uint8(self) -> np.ndarray:
        """Round to 8 bits: uint8, (frames, height, width, 3 or 4). Values outside [-1, 1] are clamped.

        Raises:
            InputError: A value is NaN or infinite.
        """
        for index, frame in enumerate(self.frames):
            if not torch.isfinite(frame).all():
                raise InputError(
                    f"Frame {index} of {len(self)} holds NaN or infinite values, so it is no picture. A model that "
                    f"produces them often does so in half precision: try bfloat16 or float32."
                )
        pixels = self.frames.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
        return rearrange(pixels, "f c h w -> f h w c").contiguous().numpy()

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        *,
        fps: float | None = None,
        num_frames: int | None = None,
        start: float = 0.0,
        end: float | None = None,
        size: tuple[int, int] | None = None,
        background: Colour | None = None,
    ) -> Video:
        """Read a video file, an animated gif, webp or png, a picture, or a folder of pictures.

        Without `fps` every frame displayed from `start` to before `end` is returned with its own time: a file of
        constant rate gives `times=None`, one of variable rate its true times. With `fps` the clip is sampled at
        start, start + 1/fps, ...: each sample is the frame on screen at that moment, so a slower source repeats frames
        and a faster one skips some, and nothing else does. Times of the result count from its first frame.

        Args:
            path: The file or folder. Pictures in a folder without `video.json` are `STILLS_FPS` frames per second.
            fps: Sample at this rate; None keeps the file's frames.
            num_frames: Read exactly so many frames; None reads to the end.
            start: Seconds.
            end: Seconds, exclusive; None, or a time after the end, reads to the end.
            size: (height, width) to scale to, see `resize`; None keeps the file's size.
            background: Colour to put behind a transparent picture: a name, `"#rrggbb"` or (red, green, blue) from
                0 to 255. None keeps alpha as the fourth channel.

        Raises:
            MediaError: The file is missing, is no video, has no frames, fewer than `num_frames`, or is truncated or
                corrupt (the message says up to where it is readable).
            InputError: An argument is out of range.
        """
        check_window(start, end, fps, num_frames)
        source = open_source(Path(path))
        backdrop = None if background is None else _rgb(background)
        pictures = _window(source, start, end) if fps is None else _sampled(source, fps, start, end)
        times, frames, lengths = [], [], []
        for picture in islice(pictures, num_frames):
            times.append(picture.time)
            lengths.append(picture.duration)
            frames.append(_prepared(picture.pixels(), size, backdrop, frames[0].shape if frames else None, source.info))
        _check_count(len(frames), num_frames, start, source.info)
        held = lengths[-1] if end is None or lengths[-1] is None else min(lengths[-1], end - times[-1])
        timed = Timing(fps, None, None) if fps is not None else _timed(times, held, source)
        stacked = torch.stack(frames)
        return cls(
            _to_float(stacked) if size is None else rearrange(stacked, "f h w c -> f c h w"),
            timed.fps,
            timed.times,
            source.info.metadata,
            timed.last,
        )

    @staticmethod
    def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
        """Read the metadata that `save` embedded, without decoding the clip; empty if there is none."""
        return open_source(Path(path)).info.metadata

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        fps: float | None = None,
        crf: int | None = None,
        quality: int | None = None,
        background: Colour | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Path:
        """Write the clip in the format that the suffix names, atomically.

        | suffix | format | pixels |
        | --- | --- | --- |
        | .mp4 .m4v .mov | H.264 yuv420p, BT.709, index in front; odd sizes padded, read back cropped | lossy |
        | .webm | VP9, with alpha | lossy |
        | .mkv | FFV1, RGB or RGBA | exact |
        | .webp | animated WebP, with alpha | exact, or lossy with `quality` |
        | .apng | animated PNG, with alpha | exact |
        | .gif | one palette per clip, delays in 1/100 s, 1-bit alpha | exact up to 256 colours |
        | .png | a single picture (clips of one frame) | exact |
        | none, or '/' | folder of PNG pictures and video.json | exact |

        Args:
            path: Where to. An existing file is replaced; a folder only if this method wrote it.
            fps: Play at this rate instead of the clip's own; the frames stay. Not for clips with `times`.
            crf: Constant rate factor of H.264 (default 18; 0 best to 51) or VP9 (default 24; 0 to 63).
            quality: Of a lossy WebP, 0 to 100. None is lossless.
            background: Colour behind transparent pixels, see `read`; needed to save four channels as mp4.
            metadata: Merged over the clip's own metadata.

        Returns:
            The path.

        Raises:
            InputError: NaN in the frames, an option that the format does not have, or an unknown suffix.
            ResourceError: The disk is full; nothing is left behind.
            MediaError: The target cannot be written.
        """
        from kineograph._encode import Clip, atomically

        target = Path(path)
        video = self._retimed(fps) if fps is not None else self
        video = video.over(background) if background is not None and video.alpha else video
        write = _writer(ending(os.fspath(path), SUFFIXES, "The file"), target, crf, quality, video)
        pixels = video.to_uint8()
        record = video._record({**self.metadata, **(metadata or {})})
        with atomically(target) as draft:
            write(Clip(pixels, video.frame_times, record), draft)
        return target

    def over(self, background: Colour) -> Video:
        """Put a colour behind a transparent clip: three channels; a clip without alpha stays as it is."""
        if not self.alpha:
            return self
        colour = torch.tensor(_rgb(background), dtype=torch.float32).div(127.5).sub(1).view(1, 3, 1, 1)
        opacity = self.frames[:, 3:].add(1).div(2)
        return replace(self, frames=torch.lerp(colour, self.frames[:, :3], opacity))

    def resize(self, height: int, width: int, fit: Literal["stretch", "crop"] = "stretch") -> Video:
        """Scale with an antialiased bicubic filter (values stay in [-1, 1]); alpha is weighed in properly.

        Args:
            height: New height in pixels.
            width: New width in pixels.
            fit: `"stretch"` scales to exactly this size; `"crop"` keeps the aspect ratio, covers the size and cuts the
                rest off evenly.
        """
        if min(height, width) < 1:
            raise InputError(f"A size of {height}x{width} pixels is empty.")
        if fit not in ("stretch", "crop"):
            raise unknown("fit", fit, ("stretch", "crop"))
        if fit == "stretch":
            return replace(self, frames=_resized(self.frames, height, width))
        scale = max(height / self.height, width / self.width)
        covering = (max(height, round(self.height * scale)), max(width, round(self.width * scale)))
        frames = _resized(self.frames, *covering)
        top, left = (covering[0] - height) // 2, (covering[1] - width) // 2
        return replace(self, frames=frames[..., top : top + height, left : left + width].contiguous())

    def contact_sheet(self, *, columns: int = 8, every: int = 1, label: str | None = None) -> Image:
        """Lay the frames out in reading order, as a picture.

        Args:
            columns: Frames per row.
            every: Show every so-manieth frame.
            label: Text above the frames; the default is the prompt in the metadata, if any.
        """
        shown = replace(self, frames=self.frames[::every], times=None)
        rows = [replace(shown, frames=part) for part in shown.frames.split(columns)]
        text = label if label is not None else str(self.metadata.get("prompt", ""))
        return contact_sheet(rows, [text] + [""] * (len(rows) - 1), frames_per_row=min(columns, len(shown)))

    def _retimed(self, fps: float) -> Video:
        if self.times is not None:
            raise InputError("fps= cannot be given for a clip with its own times; resample it while reading instead.")
        return replace(self, fps=fps, last=None)

    def _record(self, metadata: dict[str, Any]) -> Record:
        from kineograph import __version__

        record = Record(
            frames=len(self),
            fps=self.fps,
            size=(self.height, self.width),
            channels=self.frames.shape[1],
            times=self.times,
            metadata=metadata,
            version=__version__,
            last=self.last,
        )
        try:
            record.to_json()
        except (TypeError, ValueError) as error:
            raise InputError(f"The metadata cannot be saved as JSON: {error}.") from error
        return record


def probe(path: str | os.PathLike[str]) -> MediaInfo:
    """Find size, rate, frames, duration, codec, rotation and alpha of a file, decoding at most one video frame.

    Raises:
        MediaError: The file is missing or no video.
    """
    return open_source(Path(path)).info


def iterate(
    path: str | os.PathLike[str], *, start: float = 0.0, end: float | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """Stream a file of any length: yield (seconds after the file's first frame, uint8 (height, width, 3 or 4)).

    Args:
        path: As for `Video.read`.
        start: First time, in seconds.
        end: Time before which to stop, in seconds; None is the end.

    Raises:
        MediaError: As for `Video.read`; a damaged file yields its good frames first.
    """
    check_window(start, end, None, None)
    source = open_source(Path(path))
    return ((picture.time, picture.pixels()) for picture in _window(source, start, end))


def contact_sheet(
    videos: Iterable[Video],
    labels: Sequence[str] | None = None,
    *,
    frames_per_row: int = 8,
    background: Colour = "white",
    gap: int = 4,
) -> Image:
    """Draw one labelled row of evenly spaced frames per clip.

    Args:
        videos: The clips, of any sizes.
        labels: Text above every row; the default is each clip's prompt, if its metadata have one.
        frames_per_row: Frames shown per clip, at most.
        background: Colour of the sheet, and behind transparent frames.
        gap: Pixels between frames.
    """
    from PIL import Image

    videos = list(videos)
    if not videos or frames_per_row < 1:
        raise InputError("A contact sheet needs at least one clip and one frame per row.")
    texts = list(labels) if labels is not None else [str(video.metadata.get("prompt", "")) for video in videos]
    if len(texts) != len(videos):
        raise InputError(f"There are {len(videos)} clips but {len(texts)} labels.")
    strips = [_strip(video, frames_per_row, background, gap) for video in videos]
    width = max(strip.width for strip in strips)
    rows = [_labelled(strip, text, width, background, gap) for strip, text in zip(strips, texts, strict=True)]
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)), background)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


# ------------------------------------------------------------------------------------------------------------ checking


def _checked_frames(frames: Tensor) -> Tensor:
    if not isinstance(frames, Tensor):
        raise InputError(f"Video frames are a torch tensor, not {type(frames).__name__}; for arrays use from_uint8.")
    if not frames.is_floating_point():
        raise InputError(f"Video frames are floats in [-1, 1], not {frames.dtype}; for 8 bits use Video.from_uint8.")
    if frames.ndim != 4 or frames.shape[1] not in (3, 4) or 0 in frames.shape:
        raise InputError(
            f"Video frames have the shape (frames, 3 or 4 channels, height, width), none of them 0, not "
            f"{tuple(frames.shape)}."
        )
    return frames.detach().to("cpu", torch.float32)


def _checked_fps(fps: float) -> float:
    if not (math.isfinite(fps) and fps > 0):
        raise InputError(f"fps={fps} is not a frame rate: give frames per second, more than 0.")
    return float(fps)


def _checked_times(times: Sequence[float], frames: int) -> tuple[float, ...]:
    times = tuple(float(time) for time in times)
    if len(times) != frames:
        raise InputError(f"There are {frames} frames but {len(times)} times.")
    if times[0] != 0 or not all(math.isfinite(time) for time in times):
        raise InputError(f"Times count in seconds from the first frame, so the first is 0, not {times[0]}.")
    if any(after <= before for before, after in pairwise(times)):
        raise InputError("Times must increase from frame to frame.")
    return times


def _check_count(found: int, wanted: int | None, start: float, info: MediaInfo) -> None:
    length = f"{info.duration:.3f} s" if info.duration is not None else "unknown length"
    if found == 0:
        raise MediaError(f"'{info.path}' ({length}) shows no frame at or after {start:g} s.")
    if wanted is not None and found < wanted:
        raise MediaError(
            f"'{info.path}' ({length}) gives {found} frames from {start:g} s on, but num_frames={wanted} were asked "
            f"for. Ask for fewer, or for a higher fps."
        )


def _rgb(colour: Colour) -> tuple[int, int, int]:
    from PIL import ImageColor

    try:
        red, green, blue = (ImageColor.getrgb(colour) if isinstance(colour, str) else colour)[:3]
    except (ValueError, TypeError) as error:
        raise InputError(
            f"'{colour}' is not a colour: give a name such as 'white', '#rrggbb', or (red, green, blue) from 0 to 255."
        ) from error
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise InputError(f"The colour {colour} has a value outside 0 to 255.")
    return int(red), int(green), int(blue)


# ------------------------------------------------------------------------------------------------------------- reading


def _window(source: Source, start: float, end: float | None) -> Iterator[Picture]:
    """Give the frames with start <= time < end, within one unit of the container's clock."""
    slack = min(source.tick, 0.25 / (source.info.fps or STILLS_FPS))
    for picture in source.pictures(start):
        if end is not None and picture.time >= end - slack:
            return
        if picture.time >= start - slack:
            yield picture


def _sampled(source: Source, fps: float, start: float, end: float | None) -> Iterator[Picture]:
    """Give the frame on screen at start, start + 1/fps, ... before `end` or the end of the last frame."""
    slack = min(source.tick, 0.25 / fps, 0.25 / (source.info.fps or STILLS_FPS))
    index, shown = 0, None
    for following in source.pictures(start):
        while shown is not None and (now := start + index / fps) < following.time - slack:
            if end is not None and now >= end - slack:
                return
            yield shown._replace(time=now)
            index += 1
        shown = following
    if shown is None:
        return
    over = shown.time + (shown.duration or 1 / (source.info.fps or STILLS_FPS))
    while (now := start + index / fps) < min(over, math.inf if end is None else end) - slack:
        yield shown._replace(time=now)
        index += 1


def _prepared(
    pixels: np.ndarray,
    size: tuple[int, int] | None,
    backdrop: tuple[int, int, int] | None,
    first: torch.Size | None,
    info: MediaInfo,
) -> Tensor:
    """Composite and scale one picture: uint8 (height, width, channels), or float in [-1, 1] if it was scaled."""
    picture = torch.from_numpy(pixels)
    if backdrop is not None and picture.shape[-1] == 4:
        opacity = picture[..., 3:].float().div(255)
        mixed = torch.lerp(torch.tensor(backdrop, dtype=torch.float32), picture[..., :3].float(), opacity)
        picture = mixed.round_().to(torch.uint8)
    if size is not None:
        return rearrange(_resized(_to_float(picture[None]), *size)[0], "c h w -> h w c")
    if first is not None and picture.shape != first:
        raise MediaError(
            f"'{info.path}' changes its picture size from {first[1]}x{first[0]} to {picture.shape[1]}x"
            f"{picture.shape[0]} on the way. Read it with size=(height, width)."
        )
    return picture


def _to_float(pixels: Tensor) -> Tensor:
    return rearrange(pixels, "f h w c -> f c h w").to(torch.float32).div_(127.5).sub_(1).contiguous()


def _timed(times: list[float], last: float | None, source: Source) -> Timing:
    """Recognise the rate of the frames read, see `timing`."""
    record = source.record
    try:
        return timing(
            [time - times[0] for time in times],
            last,
            tick=source.tick,
            rates=source.rates,
            held=source.held,
            stated=record.timing if record and record.frames == len(times) else None,
        )
    except MediaError as error:
        raise MediaError(f"'{source.info.path}' is corrupt: {error}.") from error


def _resized(frames: Tensor, height: int, width: int) -> Tensor:
    if frames.shape[-2:] == (height, width):
        return frames
    if frames.shape[1] == 3:
        return functional.interpolate(frames, (height, width), mode="bicubic", antialias=True).clamp_(-1, 1)
    opacity = frames[:, 3:].add(1).div(2)
    weighted = torch.cat([frames[:, :3].add(1).mul(opacity), opacity], 1)
    scaled = functional.interpolate(weighted, (height, width), mode="bicubic", antialias=True)
    opacity = scaled[:, 3:].clamp(0, 1)
    colour = scaled[:, :3].div(opacity.clamp(min=1e-6)).sub(1)
    return torch.cat([colour, opacity.mul(2).sub(1)], 1).clamp_(-1, 1)


# ------------------------------------------------------------------------------------------------------------- writing


def _writer(suffix: str, target: Path, crf: int | None, quality: int | None, video: Video) -> Any:
    """Choose the writer for a suffix, refusing options and pixels that the format does not have."""
    from kineograph import _encode

    best = {".mp4": 51, ".m4v": 51, ".mov": 51, ".webm": 63}
    if crf is not None and suffix not in best:
        raise InputError(f"crf={crf} has no meaning for '{suffix or 'a folder'}'; it belongs to mp4 and webm.")
    if crf is not None and not 0 <= crf <= best[suffix]:
        raise InputError(f"crf={crf} is out of range for '{suffix}': 0 (best) to {best[suffix]} (smallest).")
    if quality is not None and (suffix != ".webp" or not 0 <= quality <= 100):
        raise InputError(f"quality={quality}: only webp has it, from 0 to 100, and it makes the file lossy.")
    if suffix in (".mp4", ".m4v", ".mov"):
        if video.alpha:
            raise InputError(
                f"'{target.name}': mp4 has no alpha channel. Give background='white' (or another colour), or save as "
                f".webm, .webp or .mkv."
            )
        return lambda clip, path: _encode.write_mp4(clip, path, 18 if crf is None else crf)
    if suffix == ".webm":
        return lambda clip, path: _encode.write_webm(clip, path, 24 if crf is None else crf)
    if suffix == ".webp":
        return lambda clip, path: _encode.write_webp(clip, path, quality)
    if suffix == ".png" and len(video) > 1:
        raise InputError(
            f"'{target.name}' can hold one picture, and the clip has {len(video)}. Save as '{target.with_suffix('')}/' "
            f"(a folder), .apng or .webp."
        )
    return {
        ".mkv": _encode.write_mkv,
        ".gif": _encode.write_gif,
        ".apng": _encode.write_apng,
        ".png": _encode.write_still,
        "": _encode.write_folder,
    }[suffix]


# ------------------------------------------------------------------------------------------------------ contact sheets


def _strip(video: Video, frames: int, background: Colour, gap: int) -> Image:
    """Lay evenly spaced frames of a clip side by side."""
    from PIL import Image

    chosen = torch.linspace(0, len(video) - 1, min(frames, len(video))).round().long()
    pictures = replace(video, frames=video.frames[chosen], times=None).over(background).to_uint8()
    step = video.width + gap
    strip = Image.new("RGB", (step * len(pictures) + gap, video.height + gap), background)
    for column, picture in enumerate(pictures):
        strip.paste(Image.fromarray(picture), (gap + column * step, 0))
    return strip


def _labelled(strip: Image, text: str, width: int, background: Colour, gap: int) -> Image:
    """Put a strip under its label, wrapped to the width of the sheet."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=14)
    lines = _wrapped(text, lambda line: font.getlength(line) <= width - 2 * gap)
    line_height = 18
    row = Image.new("RGB", (width, len(lines) * line_height + gap + strip.height), background)
    pen = ImageDraw.Draw(row)
    ink = "black" if sum(_rgb(background)) > 382 else "white"
    for index, line in enumerate(lines):
        pen.text((gap, gap // 2 + index * line_height), line, fill=ink, font=font)
    row.paste(strip, (0, len(lines) * line_height + gap))
    return row


def _wrapped(text: str, fits: Any) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and fits(f"{lines[-1]} {word}"):
            lines[-1] = f"{lines[-1]} {word}"
        else:
            lines.append(word)
    return lines
