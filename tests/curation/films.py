"""Synthetic films with exact oracles, encoded by PyAV inside the tests; nothing here is a file of the repository."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

SIZE = (96, 160)
"""Default height and width: small enough to be quick, large enough for flow and cuts."""


def texture(seed: int, size: tuple[int, int]) -> np.ndarray:
    """Return a random picture, uint8 (height, width, 3), whose detail falls off with scale as in photographs."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((*size, 3), np.float32)
    for grain in (48, 24, 12, 6, 3):
        noise = rng.normal(size=(size[0] // grain + 3, size[1] // grain + 3, 3)).astype(np.float32)
        large = cv2.resize(noise, None, fx=grain, fy=grain, interpolation=cv2.INTER_CUBIC)
        picture += large[: size[0], : size[1]] * grain**0.7
    picture = picture / picture.std() * 50 + 128 * rng.uniform(0.7, 1.2, 3).astype(np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def shot(seed: int, frames: int, size: tuple[int, int] = SIZE, pan: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Return a shot, uint8 (frames, height, width, 3): a texture under a camera that pans (right, down) per frame."""
    reach = (int(abs(pan[1]) * frames) + 2, int(abs(pan[0]) * frames) + 2)
    wide = texture(seed, (size[0] + reach[0], size[1] + reach[1]))
    result = np.empty((frames, *size, 3), np.uint8)
    for i in range(frames):
        x, y = (v * i if v >= 0 else -v * (frames - 1 - i) for v in pan)
        move = np.array([[1, 0, -x], [0, 1, -y]], np.float32)
        result[i] = cv2.warpAffine(wide, move, (size[1], size[0]), flags=cv2.INTER_LINEAR)
    return result


def dissolve(first: np.ndarray, second: np.ndarray, frames: int) -> np.ndarray:
    """Join two shots by a dissolve over the first's last and the second's first `frames` frames."""
    weight = (np.arange(1, frames + 1) / (frames + 1))[:, None, None, None]
    mixed = first[-frames:] * (1 - weight) + second[:frames] * weight
    return np.concatenate([first[:-frames], mixed.round().astype(np.uint8), second[frames:]])


def fade(shot: np.ndarray, frames: int, into: bool = False, level: int = 0) -> np.ndarray:
    """Fade a shot's last frames to a grey level, or its first frames from it."""
    weight = np.arange(1, frames + 1) / (frames + 1)
    ramp = np.ones(len(shot))
    ramp[: frames if into else 0] = weight if into else 1
    if not into:
        ramp[-frames:] = weight[::-1]
    return (shot * ramp[:, None, None, None] + level * (1 - ramp[:, None, None, None])).round().astype(np.uint8)


def write(
    path: Path,
    frames: Iterable[np.ndarray],
    fps: Fraction | int = 24,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    gop: int = 24,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    aspect: Fraction | None = None,
    container: dict[str, str] | None = None,
    format: str | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Encode pictures as a film.

    Args:
        path: File to write; its suffix names the container unless `format` does.
        frames: uint8 pictures (height, width, 3).
        fps: Frames per second.
        codec: FFmpeg's encoder.
        pixel_format: The encoder's pixel format.
        options: The encoder's options.
        gop: Greatest distance of keyframes.
        pts: Time stamp of each frame, in `time_base`, for variable frame rates.
        time_base: Unit of `pts`.
        aspect: Width of a pixel over its height.
        container: The muxer's options.
        format: The muxer.
        metadata: Tags of the file.
    """
    with av.open(str(path), "w", format=format, options=container or {}) as output:
        output.metadata.update(metadata or {})
        stream = None
        for i, picture in enumerate(frames):
            if stream is None:
                stream = output.add_stream(codec, rate=Fraction(fps))
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = pixel_format
                stream.codec_context.gop_size = gop
                stream.codec_context.thread_count = 1
                preset = {"preset": "ultrafast"} if codec in ("libx264", "libx265") else {}
                stream.options = {**preset, **(options or {})}
                if time_base:
                    stream.codec_context.time_base = time_base
                if aspect:
                    stream.codec_context.sample_aspect_ratio = aspect
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixel_format)
            frame.pts = i if pts is None else pts[i]
            frame.time_base = time_base or 1 / Fraction(fps)
            output.mux(stream.encode(frame))
        assert stream is not None
        output.mux(stream.encode(None))
    return path


def open_gop(path: Path, frames: Iterable[np.ndarray], gop: int = 12, **told) -> Path:
    """Encode with open groups of pictures: B-frames before a keyframe that refer to it and to its predecessors."""
    x264 = f"open-gop=1:keyint={gop}:min-keyint={gop}:scenecut=0:bframes=3:b-adapt=0"
    return write(path, frames, options={"preset": "veryfast", "x264-params": x264}, gop=gop, **told)


def unstamped(path: Path, frames: np.ndarray, fps: int = 24) -> Path:
    """Write H.264 with reordered pictures to Matroska as AVI would hold it, by decoding times alone.

    FFmpeg does not write `V_MS/VFW/FOURCC` for H.264. So the packets go into a track of MPEG-4, whose codec's name and
    private data are then overwritten: by that name, and by a Windows bitmap header that says H264.
    """
    height, width = frames.shape[1:3]
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.thread_count = Fraction(1, fps), Fraction(fps), 1
    encoder.gop_size, encoder.options = 12, {"preset": "veryfast", "bf": "2"}
    packets = []
    for i, picture in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = i, Fraction(1, fps)
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    with av.open(str(path), "w", format="matroska") as output:
        stream = output.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        output.start_encoding()
        private = bytes(stream.codec_context.extradata)
        for i, packet in enumerate(packets):
            packet.stream, packet.time_base = stream, Fraction(1, fps)
            packet.pts = packet.dts = i
            packet.duration = 1
            output.mux(packet)
    bitmap = struct.pack("<IiiHH4s20x", 40, width, height, 1, 24, b"H264")
    content = path.read_bytes().replace(b"V_MPEG4/ISO/ASP", b"V_MS/VFW/FOURCC", 1)
    path.write_bytes(content.replace(private, bitmap.ljust(len(private), b"\0"), 1))
    return path


def decoded(path: Path, format: str = "rgb24") -> tuple[np.ndarray, list[int]]:
    """Decode a whole file: pictures and pts."""
    with av.open(str(path)) as container:
        frames = list(container.decode(container.streams.video[0]))
    return np.stack([frame.to_ndarray(format=format) for frame in frames]), [frame.pts for frame in frames]


def join(*shots: np.ndarray) -> np.ndarray:
    """Join shots by hard cuts."""
    return np.concatenate(shots)


CACHE = Path("~/.cache/kineograph-dev/films").expanduser()


def big_buck_bunny(folder: Path = CACHE) -> Path:
    """Return the whole Big Buck Bunny (CC BY 3.0, Blender Foundation), fetched once from moviepy's sources on PyPI.

    Its trailer lies beside it, as `trailer_bbb.mp4`.
    """
    film, trailer = folder / "bbb.mp4", folder / "trailer_bbb.mp4"
    if film.exists() and trailer.exists():
        return film
    folder.mkdir(parents=True, exist_ok=True)
    inner = "moviepy-2.2.1/docs/_static/medias/getting_started/moviepy_10_minutes"
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*command, "--dest", place, "moviepy==2.2.1"], check=True)
        [archive] = Path(place).glob("moviepy-*.tar.gz")
        with tarfile.open(archive) as tar:
            packed = zipfile.ZipFile(io.BytesIO(_member(tar, f"{inner}/moviepy_10_minutes.zip")))
            contents = {trailer: _member(tar, f"{inner}/trailer_bbb.mp4")}
        contents[film] = packed.read(next(name for name in packed.namelist() if name.endswith("/bbb.mp4")))
        for target, content in contents.items():
            part = target.with_suffix(".part")
            part.write_bytes(content)
            part.replace(target)
    return film


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()
