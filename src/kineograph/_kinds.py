"""What a file is, told from its first bytes: a picture for Pillow, a film for FFmpeg, or something else with a name."""

from __future__ import annotations

HEAD_BYTES = 256
_JPEG_2000, _PORTABLE = b"\0\0\0\x0cjP  ", (b"P5\n", b"P6\n", b"P5 ", b"P6 ")
_PILLOW = (b"GIF8", b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", _JPEG_2000, *_PORTABLE)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
"""Brands of pictures in ISO containers: AV1 Image File Format 1.1, section 3; ISO/IEC 23008-12, annex B."""
_OTHERS = {
    b"\xff\x0a": "a JPEG XL picture; convert it to PNG (djxl)",
    b"\0\0\0\x0cJXL ": "a JPEG XL picture; convert it to PNG (djxl)",
    b"8BPS": "a Photoshop document; export it as PNG",
    b"v/1\x01": "an OpenEXR picture; convert it to 16-bit PNG",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"PK\x03\x04": "a ZIP archive (or a file of weights); unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program",
    b"version https://git-lfs": "a pointer of Git LFS in the place of the file; fetch it with: git lfs pull",
}


def is_picture(head: bytes) -> bool:
    """Tell whether Pillow reads a file that begins so."""
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return is_webp or head.startswith(_PILLOW) or bool(_brands(head) & _AVIF_BRANDS)


def unreadable(head: bytes) -> str | None:
    """Name a file that begins so, and the way out, where neither Pillow nor FFmpeg gives its frames.

    FFmpeg opens HEIC, but gives one tile of the mosaic that such a picture is.
    """
    if _brands(head) & _HEIF_BRANDS and not is_picture(head):
        return "a HEIC picture; convert it to JPEG or PNG (heif-convert)"
    return next((words for magic, words in _OTHERS.items() if head.startswith(magic)), None)


def _brands(head: bytes) -> set[bytes]:
    """Return the brands of an ISO base media file (ISO/IEC 14496-12, section 4.3)."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(len(head), int.from_bytes(head[:4], "big"))
    return {head[8:12], *(head[place : place + 4] for place in range(16, end - 3, 4))}
