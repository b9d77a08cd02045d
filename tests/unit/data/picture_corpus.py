"""Pictures that are odd, damaged or hostile, made from bytes, each with what must become of it."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

HUGE = 300_000_000
"""Bytes that the compressed parts of the bombs unfold to."""


@dataclass(frozen=True)
class Case:
    """A file and what `read_image` must make of it."""

    name: str
    data: bytes
    shape: tuple[int, int] | None
    """(height, width), or None where the file must be refused."""
    mean: float | None = None
    """Mean value of the pixels, within 2; None leaves it open."""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(height: int = 20, width: int = 30) -> Image.Image:
    """Smooth colours, which JPEG keeps nearly."""
    ramp = np.add.outer(np.arange(height) * 4, np.arange(width) * 3).astype(np.uint8)
    return Image.fromarray(np.stack([ramp, 255 - ramp, ramp // 2], axis=-1))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@cache
def unfolding() -> bytes:
    """A stream of zlib that unfolds to HUGE zeros."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(HUGE // 100)) for _ in range(100)) + packer.flush()


def png(width: int, height: int, extra: bytes = b"", pixels: bytes = b"", bits: int = 8) -> bytes:
    """A PNG whose header may claim anything; `pixels` are compressed."""
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), extra, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def odd() -> Iterator[Case]:
    """What must be read, and how."""
    image = scene()
    mean = float(np.asarray(image).mean())
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM"):
        yield Case(f"plain {kind}", encoded(image, kind), (20, 30), mean)
    yield Case("gif", encoded(image, "GIF"), (20, 30))
    for kind in ("JPEG", "TIFF"):
        yield Case(f"cmyk {kind}", encoded(image.convert("CMYK"), kind), (20, 30), mean)
    grey = float(np.asarray(image.convert("L")).mean())
    yield Case("grey with alpha", encoded(image.convert("LA"), "PNG"), (20, 30), grey)
    deep = Image.fromarray(np.full((4, 6), 40_000, np.uint16))
    yield Case("16 bit png", encoded(deep, "PNG"), (4, 6), 40_000 / 257)
    yield Case("16 bit tiff", encoded(deep, "TIFF"), (4, 6), 40_000 / 257)
    palette = Image.fromarray(np.zeros((3, 5), np.uint8))
    palette.putpalette([200, 100, 30])
    yield Case("palette", encoded(palette, "PNG"), (3, 5), 110)
    yield Case("transparent palette", encoded(palette, "PNG", transparency=0), (3, 5), 255)
    frames = [Image.fromarray(np.full((9, 7, 3), value, np.uint8)) for value in (10, 100, 200)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        moving = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        yield Case(f"animated {kind}", moving, (9, 7), 10)
    for width, height in ((1, 1), (20_000, 20), (20, 20_000)):
        data = encoded(Image.new("RGB", (width, height), (9, 9, 9)), "PNG")
        yield Case(f"{width} x {height}", data, (height, width), 9)
    for orientation in (*range(1, 9), 99):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = encoded(image, "JPEG", exif=exif)
        yield Case(f"exif {orientation}", turned, (20, 30), mean)  # the frame of its masks
    nothing = encoded(image, "JPEG", exif=b"Exif\0\0" + b"\xff" * 200)
    yield Case("exif of nothing", nothing, (20, 30))
    endless = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0"
    yield Case("exif that points at itself", encoded(image, "JPEG", exif=endless), (20, 30))
    yield Case("more pixels than claimed", png(3, 3, pixels=unfolding()), (3, 3), 0)
    notes = chunk(b"tEXt", b"a\0b") * 2000
    yield Case("two thousand notes", png(3, 3, notes, zlib.compress(bytes(30))), (3, 3), 0)


def refused() -> Iterator[Case]:
    """What must be refused: nothing, something else, or more than a data set can mean."""
    yield Case("zero bytes", b"", None)
    for name, data in {
        "html": b"<html>not found</html>",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "zip": b"PK\x03\x04" + b"\0" * 60,
        "pickle": b"\x80\x04\x95" + b"\0" * 60,
        "float": b"Pf\n2 1\n-1.0\n" + b"\0" * 8,
    }.items():
        yield Case(name, data, None)
    for kind in ("JPEG", "PNG"):
        whole = encoded(scene(64, 64), kind)
        for percent in range(0, 95, 5):  # 95 % may hold all pixels
            yield Case(f"{kind} of {percent} %", whole[: len(whole) * percent // 100], None)
    for width, height in ((0, 0), (2**31 - 1, 2**31 - 1), (2**32 - 1, 1), (10_000, 10_000)):
        yield Case(
            f"png claims {width} x {height}",
            png(width, height, pixels=zlib.compress(bytes(64))),
            None,
        )
    yield Case("png of 3 bits", png(3, 3, bits=3), None)
    for kind, head in ((b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")):
        data = png(3, 3, chunk(kind, head + unfolding()), zlib.compress(bytes(30)))
        yield Case(f"{kind.decode()} bomb", data, None)
    jpeg = bytearray(encoded(scene(), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    for side in (0, 65_535):
        jpeg[at : at + 4] = struct.pack(">HH", side, side)
        yield Case(f"jpeg claims {side}", bytes(jpeg), None)
    gif = bytearray(encoded(scene(), "GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    yield Case("gif claims 65535", bytes(gif), None)
    for side in (2**31 - 1, -5):
        bmp = bytearray(encoded(scene(), "BMP"))
        bmp[18:26] = struct.pack("<ii", side, 2**31 - 1)
        yield Case(f"bmp claims {side}", bytes(bmp), None)
    for head in (b"99999999 99999999\n255\n", b"9" * 5000 + b" 1\n255\n", b"2 1\n70000\n"):
        yield Case(f"ppm {head[:12]!r}", b"P6\n" + head + b"\0" * 24, None)
