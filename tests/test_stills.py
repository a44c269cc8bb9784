"""Pictures of phones, scanners and depth cameras come upright and in 8 bits, or are refused by name."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from kineograph._encode import _png_chunk
from kineograph.errors import MediaError
from kineograph.sampling.image_to_video import _as_pil
from kineograph.video import Video, probe

UPRIGHT = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip
"""How an upright picture is laid down so that an orientation stands it up again."""
DEEP = np.broadcast_to(np.linspace(0, 65535, 64).round().astype(np.uint16), (8, 64)).copy()


def portrait():
    """Four quarters that no turn or mirror maps onto themselves."""
    shown = np.full((32, 24, 3), 20, np.uint8)
    shown[:16, :12], shown[:16, 12:], shown[16:, :12] = (220, 30, 30), (30, 220, 30), (30, 30, 220)
    return shown


def laid_down(orientation):
    exif, method = Image.Exif(), UPRIGHT[orientation]
    exif[0x0112] = orientation
    picture = Image.fromarray(portrait())
    return (picture if method is None else picture.transpose(method)), exif


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_every_orientation_comes_upright(tmp_path, orientation, suffix):
    path = tmp_path / f"a.{suffix}"
    picture, exif = laid_down(orientation)
    picture.save(path, exif=exif, **({"quality": 95} if suffix in ("jpg", "webp", "avif") else {}))
    facts, pixels = probe(path), Video.read(path).to_uint8()[0]
    assert (facts.height, facts.width) == (32, 24)
    assert facts.rotation == {3: 180, 4: 180, 5: 270, 6: 90, 7: 90, 8: 270}.get(orientation, 0)
    assert np.abs(pixels[4::8, 3::6].astype(int) - portrait()[4::8, 3::6]).max() < 25


def test_folders_animations_and_pictures_in_memory_come_upright(tmp_path):
    picture, exif = laid_down(6)
    for name in ("0.png", "1.png"):
        picture.save(tmp_path / name, exif=exif)
    assert (Video.read(tmp_path).to_uint8() == portrait()).all()
    for suffix in ("webp", "png"):
        path = tmp_path / f"moving.{suffix}"
        picture.save(path, save_all=True, append_images=[picture.point(lambda v: v // 2)], exif=exif, lossless=True)
        assert (Video.read(path).to_uint8() == [portrait(), portrait() // 2]).all()
    picture.save(tmp_path / "lzw.tif", compression="tiff_lzw", exif=exif)
    assert (Video.read(tmp_path / "lzw.tif").to_uint8()[0] == portrait()).all()
    with Image.open(tmp_path / "0.png") as opened:
        assert (np.array(_as_pil(opened)) == portrait()).all()


def test_broken_exif_turns_nothing(tmp_path):
    picture, _ = laid_down(1)
    for content in (b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0"):
        picture.save(tmp_path / "a.webp", exif=content, lossless=True)
        assert (Video.read(tmp_path / "a.webp").to_uint8()[0] == portrait()).all()


def test_a_phones_second_picture_is_no_next_frame(tmp_path):
    picture, exif = laid_down(6)
    picture.save(tmp_path / "a.mpo", save_all=True, append_images=[picture.resize((8, 6))], exif=exif)
    (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    assert Video.read(tmp_path / "a.jpg").frames.shape == (1, 3, 32, 24)


# ---------------------------------------------------------------------------------------------------------------- depth


def png16(path, samples, kind, clear=None):
    """Write a PNG of 16 bits, which Pillow writes in grey only; `kind` is the specification's colour type."""
    height, width, _ = samples.shape
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunks = [_png_chunk(b"IHDR", struct.pack(">II5B", width, height, 16, kind, 0, 0, 0))]
    chunks += [_png_chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear))] if clear else []
    chunks += [_png_chunk(b"IDAT", zlib.compress(lines)), _png_chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_of_16_bits_is_scaled(tmp_path, kind, channels):
    samples = np.stack([DEEP, DEEP[:, ::-1], DEEP, DEEP[:, ::-1]], -1)[..., :channels]
    png16(tmp_path / "a.png", samples, kind)
    pixels = Video.read(tmp_path / "a.png").to_uint8()[0]
    grey = channels < 3
    expected = (samples >> 8).astype(np.uint8)
    assert (pixels[..., :1] == expected[..., :1]).all()
    assert (pixels[..., 1] == expected[..., 0 if grey else 1]).all()
    assert pixels.shape[-1] == (4 if channels in (2, 4) else 3)
    assert channels not in (2, 4) or (pixels[..., 3] == expected[..., -1]).all()


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3)])
def test_a_transparent_colour_of_16_bits(tmp_path, kind, channels):
    png16(tmp_path / "a.png", DEEP[..., None].repeat(channels, -1), kind, clear=[int(DEEP[0, 9])] * channels)
    alpha = Video.read(tmp_path / "a.png").to_uint8()[0, ..., 3]
    assert alpha[0].tolist() == [0 if column == 9 else 255 for column in range(64)]


def test_other_depths_in_tiff_and_pgm(tmp_path):
    big_endian = Image.frombytes("I;16B", (64, 8), DEEP.astype(">u2").tobytes())
    pictures = {"le.tif": Image.fromarray(DEEP), "be.tif": big_endian, "a.pgm": Image.fromarray(DEEP)}
    pictures["white.tif"] = Image.fromarray(65535 - DEEP)
    for name, picture in pictures.items():
        picture.save(tmp_path / name, **({"tiffinfo": {262: 0}} if name == "white.tif" else {}))
        assert (Video.read(tmp_path / name).to_uint8()[0, ..., 0] == DEEP >> 8).all(), name
    Image.fromarray(DEEP.astype(np.float32) / 65535).save(tmp_path / "unit.tif")
    pixels = Video.read(tmp_path / "unit.tif").to_uint8()[0, ..., 0]
    assert (pixels == np.rint(DEEP / 257)).all()


@pytest.mark.parametrize("values", [np.float32([[0, 1.5]]), np.float32([[0, np.nan]]), np.int32([[0, 70000]])])
def test_samples_without_a_range_are_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(MediaError, match=r"a\.tif' holds .* nothing says which are black and white\. Scale them"):
        Video.read(tmp_path / "a.tif")


@pytest.mark.parametrize(("mode", "suffix"), [("CMYK", "jpg"), ("CMYK", "tif"), ("P", "png"), ("LA", "png"),
                                              ("PA", "tif"), ("YCbCr", "tif"), ("1", "png"), ("L", "jpg")])  # fmt: skip
def test_every_mode_shows_its_colours(tmp_path, mode, suffix):
    colour = (204, 51, 51) if mode not in ("LA", "L", "1") else (255, 255, 255)
    Image.new("RGB", (16, 16), colour).convert(mode).save(tmp_path / f"a.{suffix}")
    video = Video.read(tmp_path / f"a.{suffix}", background="black")
    assert np.abs(video.to_uint8()[0, 8, 8].astype(int) - colour).max() <= 3


def test_transparency_of_any_picture_of_a_folder_is_kept(tmp_path):
    """Optimisers save opaque frames without an alpha channel."""
    Image.new("RGB", (4, 4), "red").save(tmp_path / "0.png")
    Image.new("RGBA", (4, 4), (0, 255, 0, 100)).save(tmp_path / "1.png")
    assert Video.read(tmp_path).to_uint8()[:, 0, 0].tolist() == [[255, 0, 0, 255], [0, 255, 0, 100]]


# ---------------------------------------------------------------------------------------------------------------- kinds


def test_pictures_under_other_names(tmp_path):
    for name, kind in (("a.mp4", "JPEG"), ("b.png", "JPEG2000"), ("c", "AVIF"), ("d.jpg", "PNG")):
        Image.fromarray(portrait()).save(tmp_path / name, format=kind)
        assert Video.read(tmp_path / name).frames.shape == (1, 3, 32, 24)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture; convert it"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heix", "a HEIC picture"),
        (b"\xff\x0a" + b"x" * 30, "a JPEG XL picture"),
        (b"PK\x03\x04" + b"x" * 30, "a ZIP archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS.*git lfs pull"),
    ],
)
def test_other_files_are_named_as_what_they_are(tmp_path, head, words):
    (tmp_path / "a.png").write_bytes(head + bytes(100))
    with pytest.raises(MediaError, match=rf"a\.png' is not a video or picture that can be read: it is {words}"):
        Video.read(tmp_path / "a.png")
