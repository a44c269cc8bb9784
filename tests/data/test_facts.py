"""What the writers of manifests say of a file is what reading it gives."""

import io
import tarfile
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from kineograph.data.emoji import obtain_emoji
from kineograph.data.emoji_archives import PACKAGES, archive_name
from kineograph.data.facts import file_facts
from kineograph.data.importers import import_data
from kineograph.data.manifest import read_manifest
from kineograph.data.synthetic import write_synthetic
from kineograph.video import Video

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 48, 3), dtype=np.uint8)


def encoded(path, times, unit=1000, aspect=1, **options):
    """Write 24 pictures of H.264 at given times, in units of 1/`unit` s."""
    with av.open(str(path), "w", options=options) as out:
        stream = out.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, unit)
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        for picture, time in zip(PIXELS, times, strict=False):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = time, Fraction(1, unit)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def pictures(path, durations):
    """Write an animation whose pictures are held so many milliseconds."""
    first, *rest = [Image.fromarray(picture) for picture in PIXELS[: len(durations)]]
    first.save(path, save_all=True, append_images=rest, duration=durations)


STEADY = range(0, 24 * 1001, 1001)
WRITERS = {
    "broadcast.mp4": lambda path: encoded(path, STEADY, 24000),
    "dash.mp4": lambda path: encoded(path, STEADY, 24000, movflags="frag_keyframe+empty_moov+default_base_moof+dash"),
    "vary.mp4": lambda path: encoded(path, np.cumsum([0] + [33, 100, 17] * 7 + [33, 100]).tolist()),
    "vary.mkv": lambda path: encoded(path, np.cumsum([0] + [33, 100, 17] * 7 + [33, 100]).tolist()),
    "sparse.mkv": lambda path: encoded(path, range(0, 2400, 100)),
    "packets.ts": lambda path: encoded(path, range(0, 24 * 3750, 3750), 90000),
    "wide.mp4": lambda path: encoded(path, STEADY, 24000, Fraction(64, 45)),
    "held.gif": lambda path: pictures(path, [100, 100, 500, 900]),
    "held.webp": lambda path: pictures(path, [40, 40, 120, 900]),
    "still.webp": lambda path: Image.fromarray(PIXELS[0]).save(path),
    "odd.mp4": lambda path: Video.from_uint8(PIXELS[:7, :31, :33], 7.5).save(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_an_import_says_what_reading_gives(tmp_path, name):
    WRITERS[name](tmp_path / name)
    import_data(tmp_path)
    (clip,) = read_manifest(tmp_path)
    agrees(tmp_path, clip)


def agrees(root, clip):
    """Compare a manifest line with the clip as read, and the cheap facts with those of decoding."""
    video = Video.read(root / clip.path)
    assert (clip.frames, clip.width, clip.height) == (len(video), video.width, video.height)
    assert clip.fps == pytest.approx(video.fps, rel=1e-9) if clip.frames > 1 else clip.fps == 0
    quick, whole = file_facts(root / clip.path), file_facts(root / clip.path, decode=True)
    assert (quick.frames, quick.fps) == (whole.frames, whole.fps)
    assert quick.seconds == pytest.approx(whole.seconds, abs=1.1 / video.fps)  # the header may not say the last length
    for fps in (8.0, 30.0):
        assert whole.given(fps) == len(Video.read(root / clip.path, fps=fps)) or clip.frames == 1


def test_synthetic_clips_are_as_said(tmp_path):
    write_synthetic(tmp_path, 2, num_frames=5, size=(17, 33), fps=23.976)
    for clip in read_manifest(tmp_path):
        agrees(tmp_path, clip)


def test_emoji_are_as_said(tmp_path):
    store = tmp_path / "archives"
    store.mkdir()
    content = io.BytesIO()
    first, *rest = [Image.fromarray(picture[:, :32]).convert("RGBA") for picture in PIXELS[:5]]
    first.save(content, "WEBP", save_all=True, append_images=rest, duration=42, lossless=True)
    files = {archive_name(package): {} for package in PACKAGES} | {
        archive_name(PACKAGES[0]): {"package/assets/1f600.webp": content.getvalue()},
        archive_name("emojilib"): {"package/dist/emoji-en-US.json": b"{}"},
    }
    for name, members in files.items():
        with tarfile.open(store / name, "w:gz") as tar:
            for member, data in members.items():
                entry = tarfile.TarInfo(member)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    obtain_emoji(tmp_path / "set", archives=store, size=16)
    (clip,) = read_manifest(tmp_path / "set")
    agrees(tmp_path / "set", clip)
