"""Write moving pictures: H.264 mp4, VP9 webm, lossless mkv and apng through PyAV; gif, webp and folders through Pillow.

Every writer takes uint8 frames, integer-free times in seconds and the record to embed, and writes to the path it is
given. `atomically` gives it a temporary path in the target's folder, checks the result and renames it, so that a full
disk or a crash leaves either the old file or the new one.

The GIF and WebP containers are assembled here, because Pillow merges equal neighbouring frames when it saves an
animation, and a clip must come back with the frames it had. Each frame's compressed data still come from Pillow.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import platform
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import numpy as np

from kineograph._container import FOLDER_RECORD, SWSCALE_FLAGS, Record
from kineograph._rates import exact_rate, nearest_tick
from kineograph.errors import InputError, KineographError, MediaError, ResourceError

_NO_SPACE = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EFBIG: "too large"}
_VIDEO_CLOCK = 90_000
"""Ticks per second for variable frame rates, the clock of MPEG systems (ISO/IEC 13818-1)."""
# A fixed number, not the machine's: x264's and libvpx' output depends on how many threads share the work.
_ENCODER_THREADS = "2"
_SAME_BYTES = "asm=SSSE3" if platform.machine().lower() in ("x86_64", "amd64") else "mbtree=0"
X264_OPTIONS = {"x264-params": _SAME_BYTES}
"""Makes x264's output depend on its input alone.

With AVX-512 its macroblock tree reads memory that nobody has set: 80 encodings of one small clip were 12 different
files (preset veryfast), or 71 (medium). With AVX2, SSE4.2 and SSSE3 all 80 were one and the same, in the same time.
Only instructions that the processor has may be named; every x86-64 processor of the last ten years has SSSE3. Others
do without the tree, which makes files up to twice as large.
"""


class Colours(NamedTuple):
    """How numbers mean colours: codes of ITU-T H.273 (tables 2 to 4), and FFmpeg's of the range."""

    matrix: int
    range: int
    primaries: int
    transfer: int

    def tag(self, context: Any) -> None:
        """Write them into a film."""
        context.colorspace, context.color_range = self.matrix, self.range
        context.color_primaries, context.color_trc = self.primaries, self.transfer


BT709, SRGB = Colours(1, 1, 1, 1), Colours(0, 2, 1, 13)
"""Limited range of BT.709; full range of RGB with the transfer of IEC 61966-2-1."""


@dataclass(frozen=True)
class Clip:
    """What a writer gets.

    Attributes:
        pixels: uint8, (frames, height, width, 3 or 4).
        times: Presentation time of every frame in seconds, increasing from 0.
        record: The facts to embed.
    """

    pixels: np.ndarray
    times: Sequence[float]
    record: Record

    @property
    def alpha(self) -> bool:
        """Whether the frames have an alpha channel."""
        return self.pixels.shape[-1] == 4

    @property
    def ends(self) -> list[float]:
        """Presentation time of every frame but the first, and the end of the last one, in seconds."""
        return [*self.times[1:], self.record.timing.duration(len(self.times))]


@contextlib.contextmanager
def atomically(target: Path) -> Iterator[Path]:
    """Give a temporary path beside the target, which replaces the target when the block ends without an error.

    Raises:
        ResourceError: The disk is full.
        MediaError: The folder does not exist or cannot be written.
    """
    if target.parent.exists() and not target.parent.is_dir():
        raise MediaError(f"Cannot write '{target}': '{target.parent}' is a file, no folder. Name another place.")
    if not target.parent.is_dir():
        raise MediaError(f"Cannot write '{target}': the folder '{target.parent}' does not exist. Make it first.")
    temporary: Path | None = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        draft = temporary / target.name
        yield draft
        _sync(draft)
        _replace(draft, target, temporary)
    except KineographError:
        raise
    except OSError as error:
        raise _write_error(target, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_error(target: Path, error: OSError) -> KineographError:
    if error.errno in _NO_SPACE:
        return ResourceError(
            f"Cannot write '{target}': {_NO_SPACE[error.errno]}. Nothing was left behind; free some space or choose "
            f"another folder."
        )
    return MediaError(f"Cannot write '{target}': {error.strerror or error}. Nothing was left behind.")


def _sync(draft: Path) -> None:
    for file in sorted(draft.iterdir()) if draft.is_dir() else [draft]:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def _replace(draft: Path, target: Path, aside: Path) -> None:
    """Rename the draft to the target. A folder that this package wrote is moved aside first; any other is kept."""
    if target.is_dir() != draft.is_dir() and target.exists():
        raise MediaError(f"Cannot write '{target}': a {'folder' if target.is_dir() else 'file'} of that name exists.")
    if target.is_dir() and any(target.iterdir()):
        if not (target / FOLDER_RECORD).exists():
            raise MediaError(
                f"Cannot write '{target}': the folder holds files that are not a saved clip (no {FOLDER_RECORD}). "
                f"Choose a new or empty folder."
            )
        target.rename(aside / "previous")
    draft.replace(target)


# ---------------------------------------------------------------------------------------------------------------- PyAV


def write_mp4(clip: Clip, path: Path, crf: int) -> None:
    """Write H.264, yuv420p, BT.709 limited range, index in front; odd sizes padded by repeating the edge."""
    options = {"crf": str(crf), "preset": "medium", "threads": _ENCODER_THREADS}
    options |= X264_OPTIONS
    # The mp4 index adds up decoding times, which with B frames do not end where uneven presentation times do.
    options |= {} if clip.record.times is None and clip.record.last is None else {"bf": "0"}
    _write_av(clip, path, "mp4", "libx264", "yuv420p", options, {"movflags": "+faststart"}, BT709)


def write_webm(clip: Clip, path: Path, crf: int) -> None:
    """Write VP9, with alpha beside the picture for four channels; odd sizes padded as for mp4."""
    options = {"crf": str(crf), "b": "0", "threads": _ENCODER_THREADS, "row-mt": "0", "cpu-used": "2"}
    # Hidden alternate reference frames and alpha do not go together in libvpx.
    options |= {"auto-alt-ref": "0"} if clip.alpha else {}
    _write_av(clip, path, "webm", "libvpx-vp9", "yuva420p" if clip.alpha else "yuv420p", options, {}, BT709)


def write_mkv(clip: Clip, path: Path) -> None:
    """Write FFV1 (RFC 9043) in RGB: every bit comes back."""
    # Version 3 parts the picture into slices, which tiny pictures have no room for.
    options = {"level": "3", "slices": "4"} if min(clip.pixels.shape[1:3]) >= 32 else {"level": "1"}
    options |= {"threads": _ENCODER_THREADS}
    _write_av(clip, path, "matroska", "ffv1", "bgra" if clip.alpha else "bgr0", options, {}, SRGB)


def write_apng(clip: Clip, path: Path) -> None:
    """Write an animated PNG that repeats for ever: every bit comes back."""
    last = Fraction(clip.ends[-1] - clip.times[-1]).limit_denominator(10_000)
    endless = {"plays": "0", "final_delay": f"{last.numerator}/{last.denominator}"}
    _write_av(clip, path, "apng", "apng", "rgba" if clip.alpha else "rgb24", {}, endless)
    data = path.read_bytes()
    end_of_header = 8 + 12 + 13  # signature, then the IHDR chunk: length, name and check sum around 13 bytes
    text = _png_chunk(b"tEXt", b"Comment\0" + clip.record.to_json().encode("ascii"))
    path.write_bytes(data[:end_of_header] + text + data[end_of_header:])


def _png_chunk(name: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


def _write_av(
    clip: Clip,
    path: Path,
    container: str,
    codec: str,
    pixel_format: str,
    options: dict[str, str],
    container_options: dict[str, str],
    colours: Colours | None = None,
) -> None:
    import av

    pixels = _even(clip.pixels) if "420" in pixel_format else clip.pixels
    rate, unit, stamps = _stamps(clip)
    bitexact = {"fflags": "+bitexact"}
    to = av.open(str(path), "w", format=container, container_options=container_options | bitexact)
    with _as_os_error(), to as output:
        output.metadata["comment"] = clip.record.to_json()
        stream: Any = output.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], pixel_format
        stream.time_base = stream.codec_context.time_base = unit
        if colours is not None:
            colours.tag(stream.codec_context)
        for frame in _av_frames(pixels, stamps, unit, pixel_format, colours):
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    _check_packets(path, len(pixels))


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """Turn FFmpeg's errors that are no `OSError` (a codec refuses the size, say) into one, for `atomically`."""
    import av.error

    try:
        yield
    except av.error.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error


def _even(pixels: np.ndarray) -> np.ndarray:
    """Pad height and width to even numbers by repeating the last row and column."""
    _, height, width, _ = pixels.shape
    return np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _stamps(clip: Clip) -> tuple[Fraction, Fraction, list[int]]:
    """Give the frame rate, the clock's unit, and the frames' stamps with the end of the last one appended."""
    rate = exact_rate(clip.record.fps)
    if clip.record.times is None and clip.record.last is None:
        return rate, 1 / rate, list(range(len(clip.times) + 1))
    return rate, Fraction(1, _VIDEO_CLOCK), whole_ticks([0, *clip.ends], _VIDEO_CLOCK)


def whole_ticks(times: Sequence[float], per_second: int) -> list[int]:
    """Round times to a container's clock.

    Raises:
        InputError: Two frames fall on one tick.
    """
    ticks = [nearest_tick(time, 1 / per_second) for time in times]
    for index, (tick, following) in enumerate(pairwise(ticks)):
        if following <= tick:
            raise InputError(
                f"Frames {index} and {index + 1} are {times[index + 1] - times[index]:.6f} s apart, closer than this "
                f"format's clock of {1 / per_second:.6f} s. Lower the frame rate or choose mp4."
            )
    return ticks


def _av_frames(
    pixels: np.ndarray, stamps: list[int], unit: Fraction, pixel_format: str, colours: Colours | None
) -> Iterator[Any]:
    import av

    given = "rgba" if pixels.shape[-1] == 4 else "rgb24"
    for picture, stamp, following in zip(pixels, stamps, stamps[1:], strict=False):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=given)
        if colours is BT709:
            frame = frame.reformat(
                format=pixel_format,
                dst_colorspace=BT709.matrix,
                dst_color_range=BT709.range,
                interpolation=SWSCALE_FLAGS,
                threads=1,
            )
        elif pixel_format != given:
            frame = frame.reformat(format=pixel_format, threads=1)
        frame.pts, frame.time_base, frame.duration = stamp, unit, following - stamp
        yield frame


def _check_packets(path: Path, frames: int) -> None:
    """Make sure that every frame is in the file: a full disk may go unnoticed by a muxer."""
    import av

    with av.open(str(path)) as written:
        found = sum(bool(packet.size) for packet in written.demux(video=0))
    if found != frames:
        raise ResourceError(
            f"Only {found} of {frames} frames reached the disk while writing '{path.name}'; is it full? Nothing was "
            f"left behind."
        )


# -------------------------------------------------------------------------------------------------------------- Pillow


def write_folder(clip: Clip, path: Path) -> None:
    """Write frames 000000.png, 000001.png, ... and the record as video.json."""
    path.mkdir()
    for index, picture in enumerate(clip.pixels):
        _image(picture).save(path / f"{index:06d}.png")
    (path / FOLDER_RECORD).write_text(clip.record.to_json() + "\n", encoding="ascii")


def write_still(clip: Clip, path: Path) -> None:
    """Write a clip of one frame as a PNG picture."""
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("Comment", clip.record.to_json())
    _image(clip.pixels[0]).save(path, format="PNG", pnginfo=text)


def _image(picture: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(picture))


def write_webp(clip: Clip, path: Path, quality: int | None) -> None:
    """Write an animated WebP: lossless, or lossy with a quality from 0 to 100.

    The container is that of Google's "WebP Container Specification": VP8X, ANIM, one ANMF chunk per frame, XMP.
    Lossless frames store only the rectangle that changed.
    """
    _, height, width, _ = clip.pixels.shape
    if max(height, width) > 16383:
        raise InputError(f"WebP pictures are at most 16383 pixels wide and high, not {width}x{height}. Choose mp4.")
    ends = whole_ticks([0, *clip.ends], 1000)
    has_xmp, has_alpha, is_animated = 0x04, 0x10, 0x02
    flags = has_xmp | is_animated | (has_alpha if clip.alpha else 0)
    chunks = [
        _riff(b"VP8X", bytes([flags, 0, 0, 0]) + _u24(width - 1) + _u24(height - 1)),
        _riff(b"ANIM", bytes(4) + struct.pack("<H", 0)),  # transparent background, repeat for ever
    ]
    for index, picture in enumerate(clip.pixels):
        top, left, part = _changed(clip.pixels, index) if quality is None else (0, 0, picture)
        place = _u24(left // 2) + _u24(top // 2) + _u24(part.shape[1] - 1) + _u24(part.shape[0] - 1)
        do_not_blend = 0x02
        timing = _u24(ends[index + 1] - ends[index]) + bytes([do_not_blend])
        chunks.append(_riff(b"ANMF", place + timing + _webp_still(part, quality)))
    chunks.append(_riff(b"XMP ", _xmp(clip.record)))
    body = b"WEBP" + b"".join(chunks)
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


def _riff(name: bytes, payload: bytes) -> bytes:
    return name + struct.pack("<I", len(payload)) + payload + bytes(len(payload) % 2)


def _u24(value: int) -> bytes:
    if not 0 <= value < 1 << 24:
        raise InputError(f"A frame of {value} ms is longer than WebP allows (16777215 ms). Choose mp4.")
    return struct.pack("<I", value)[:3]


def _changed(pixels: np.ndarray, index: int) -> tuple[int, int, np.ndarray]:
    """Cut out the rectangle that differs from the previous frame, at an even corner; one pixel if nothing does."""
    picture = pixels[index]
    if index == 0:
        return 0, 0, picture
    different = (picture != pixels[index - 1]).any(-1)
    if not different.any():
        return 0, 0, picture[:1, :1]
    rows, columns = (np.flatnonzero(different.any(axis)) for axis in (1, 0))
    top, left = int(rows[0]) // 2 * 2, int(columns[0]) // 2 * 2
    return top, left, picture[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]


def _webp_still(picture: np.ndarray, quality: int | None) -> bytes:
    """Compress one picture and keep the chunks that belong into an animation frame."""
    buffer = io.BytesIO()
    if quality is None:
        _image(picture).save(
            buffer, format="WEBP", lossless=True, exact=True, quality=0, method=0
        )  # a tenth of the time for a tenth more bytes
    else:
        _image(picture).save(buffer, format="WEBP", quality=quality, method=4)
    data, position, kept = buffer.getvalue(), 12, b""
    while position < len(data):
        (size,) = struct.unpack_from("<I", data, position + 4)
        end = position + 8 + size + size % 2
        if data[position : position + 4] in (b"ALPH", b"VP8 ", b"VP8L"):
            kept += data[position:end]
        position = end
    return kept


def _xmp(record: Record) -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description>'
        f"{escape(record.to_json())}</dc:description></rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode("ascii")


def write_gif(clip: Clip, path: Path) -> None:
    """Write a GIF (GIF89a specification) with one palette for the clip and true delays in hundredths of a second.

    Up to 256 colours are kept exactly; more are reduced to the clip's best 256 with an ordered dither, which stands
    still where the picture does. Alpha becomes one bit: half or less is transparent.

    Raises:
        InputError: Frames follow each other in less than 0.02 s, which players would show as 0.1 s.
    """
    _, height, width, _ = clip.pixels.shape
    delays = _gif_delays(clip)
    indices, palette, hole = _palettise(clip.pixels)
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    blocks = [
        b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0) + table.tobytes(),
        b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00",  # repeat for ever
        b"!\xfe" + _sub_blocks(clip.record.to_json().encode("ascii")),
    ]
    keep, clear = 1, 2
    disposal = keep if hole is None else clear
    for index, delay in enumerate(delays):
        top, left, part = _changed(indices[..., None], index) if hole is None else (0, 0, indices[index][..., None])
        control = disposal << 2 | (hole is not None)
        blocks.append(b"!\xf9\x04" + struct.pack("<BHBB", control, delay, hole or 0, 0))
        blocks.append(_gif_picture(part[..., 0], left, top))
    path.write_bytes(b"".join(blocks) + b";")


def _gif_delays(clip: Clip) -> list[int]:
    ends = whole_ticks([0, *clip.ends], 100)
    delays = [after - before for before, after in pairwise(ends)]
    if min(delays) < 2:
        raise InputError(
            f"GIF delays are hundredths of a second, and players show less than 2 of them as 10, so a clip of "
            f"{clip.record.fps:g} frames per second would play wrongly. Save at 50 fps or less, or as webp or mp4."
        )
    if max(delays) > 65535:
        raise InputError(f"A frame of {max(delays) / 100} s is longer than GIF allows (655.35 s). Choose mp4.")
    return delays


def _sub_blocks(data: bytes) -> bytes:
    parts = (data[begin : begin + 255] for begin in range(0, len(data), 255))
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def _gif_picture(indices: np.ndarray, left: int, top: int) -> bytes:
    from PIL import Image
    from PIL.GifImagePlugin import getdata

    image = Image.fromarray(np.ascontiguousarray(indices))
    image = image.convert("P") if image.mode != "P" else image
    return b"".join(getdata(image, (left, top)))


def _palettise(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Map a clip to palette indices.

    Args:
        pixels: uint8, (frames, height, width, 3 or 4).

    Returns:
        Indices as uint8 (frames, height, width), the palette as uint8 (colours, 3), and the index that stands for
        transparent, or None.
    """
    clear = pixels[..., 3] < 128 if pixels.shape[-1] == 4 else None
    room = 256 if clear is None else 255
    packed = _packed(pixels)
    colours = np.unique(packed if clear is None else packed[~clear])
    if len(colours) <= room:
        indices = np.searchsorted(colours, packed).clip(0, 255).astype(np.uint8)
        palette = _unpacked(colours)
    else:
        palette = _best_palette(pixels[..., :3] if clear is None else pixels[..., :3][~clear][None, None], room)
        indices = _dither(pixels[..., :3], palette)
    if clear is None:
        return indices, palette, None
    indices[clear] = len(palette)
    return indices, np.concatenate([palette, np.zeros((1, 3), np.uint8)]), len(palette)


def _packed(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., :3].astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def _unpacked(colours: np.ndarray) -> np.ndarray:
    return np.stack([colours >> 16, colours >> 8 & 255, colours & 255], -1).astype(np.uint8)


def _best_palette(pixels: np.ndarray, colours: int, sample: int = 1 << 15, flat_share: float = 0.005) -> np.ndarray:
    """Choose a palette for a whole clip: its flat colours exactly, the rest by median cut and k-means over a sample.

    Args:
        pixels: uint8, (..., 3).
        colours: Size of the palette, at most.
        sample: Number of pixels looked at, evenly spaced.
        flat_share: A colour with at least this share of the pixels is kept exactly, so that a white background stays.
    """
    points = pixels.reshape(-1, 3)
    points = points[:: max(1, len(points) // sample)]
    found, counts = np.unique(_packed(points), return_counts=True)
    exact = _unpacked(found[counts >= flat_share * len(points)])[: colours // 2]
    points = points[~np.isin(_packed(points), _packed(exact))]
    if len(points) == 0:
        return exact
    image = _image(np.resize(points, (-(-len(points) // 64), 64, 3)))
    rest = np.array(image.quantize(colours - len(exact), method=0).getpalette("RGB"), np.uint8).reshape(-1, 3)
    rest = _k_means(points.astype(np.float32), rest[: colours - len(exact)].astype(np.float32))
    return np.concatenate([exact, rest.round().astype(np.uint8)])


def _k_means(points: np.ndarray, centres: np.ndarray, rounds: int = 3) -> np.ndarray:
    """Move centres (n, 3) to the mean of their points (m, 3), a few times (Lloyd's algorithm)."""
    for _ in range(rounds):
        nearest = (np.square(centres).sum(-1) - 2 * points @ centres.T).argmin(-1)
        counts = np.bincount(nearest, minlength=len(centres))[:, None]
        sums = np.stack([np.bincount(nearest, points[:, axis], len(centres)) for axis in range(3)], -1)
        centres = np.where(counts > 0, sums / np.maximum(counts, 1), centres).astype(np.float32)
    return centres


def _dither(pixels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Quantise with an ordered (Bayer 8x8) dither as wide as the palette is coarse; palette colours stay clean."""
    from PIL import Image

    distances = np.linalg.norm(palette[:, None].astype(np.float32) - palette[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    spread = float(np.median(distances.min(1)))
    _, height, width, _ = pixels.shape
    offsets = np.round((_bayer(8) - 0.5) * spread).astype(np.int16)
    tiled = np.tile(offsets, (height // 8 + 1, width // 8 + 1))[:height, :width, None]
    table = Image.new("P", (1, 1))
    table.putpalette(np.concatenate([palette, palette[-1:].repeat(256 - len(palette), 0)]).tobytes())
    return np.stack([_dithered(frame, tiled, table, palette) for frame in pixels])


def _dithered(frame: np.ndarray, offsets: np.ndarray, table: Any, palette: np.ndarray) -> np.ndarray:
    noisy = _image((frame.astype(np.int16) + offsets).clip(0, 255).astype(np.uint8))
    indices = np.array(noisy.quantize(palette=table, dither=0)).clip(0, len(palette) - 1)
    order = np.argsort(_packed(palette), kind="stable")
    known, packed = _packed(palette)[order], _packed(frame)
    place = np.searchsorted(known, packed).clip(0, len(known) - 1)
    return np.where(known[place] == packed, order[place], indices).astype(np.uint8)


def _bayer(size: int) -> np.ndarray:
    """Thresholds in (0, 1) of Bayer's ordered dither (1973), by the doubling recursion."""
    matrix = np.zeros((1, 1))
    while len(matrix) < size:
        matrix = np.block([[4 * matrix, 4 * matrix + 2], [4 * matrix + 3, 4 * matrix + 1]])
    return (matrix + 0.5) / size**2
