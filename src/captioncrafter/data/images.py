"""Image files as a model should see them: upright, RGB, eight bits, whole, or refused with a reason.

Needs Pillow alone. The image processor's resizing comes later and elsewhere.
"""

import io
import os
import struct
import textwrap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias, Union

import numpy as np
import xxhash
from PIL import ExifTags, Image, UnidentifiedImageError

from captioncrafter.errors import ImageError

ImageLike: TypeAlias = Union[bytes, str, "os.PathLike[str]", Image.Image]

# A 10 kB PNG can claim 81 million pixels and passes Pillow's own limit (twice 89 million). This is 8192 x 8192: about
# 200 MB as RGB, and beyond what a model of 224 x 224 pixels has any use for.
MAX_PIXELS = 8192 * 8192

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".pgm"})

# Pillow can also open formats that run other programs or read other files (EPS starts Ghostscript): not from strangers.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")

# What Pillow raises on damaged files: thousands of files of the formats above with flipped bytes gave most of these.
_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, RuntimeError,
    struct.error, zlib.error,
)  # fmt: skip

_LONGEST_NOTICE = 300

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(image: ImageLike, *, name: str = "") -> Image.Image:
    """The image as RGB: turned as its EXIF orientation says, transparency over white, the first of several frames.

    Grey levels of 16 bits are scaled to 8 (Pillow's `convert` clips them to white). Colour profiles are not applied,
    as nothing that BLIP-2 learned from had them applied. Raises `ImageError`, which names the path (or `name`, for
    bytes), for what is missing, empty, cut short, damaged, of an unknown format or larger than `MAX_PIXELS`.
    """
    if isinstance(image, Image.Image):
        opened, name = image, name or "image"
    elif isinstance(image, bytes):
        name = name or "image"
        opened = open_image(image, name)
    else:
        name = name or os.fspath(image)
        opened = open_image(read_image_file(Path(image), name), name)
    return as_rgb(opened, name)


def read_image_file(path: Path, name: str) -> bytes:
    """The bytes of an image file; raises `ImageError` with the system's reason when they cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(name, f"cannot be read ({error.strerror or error})") from None


def open_image(data: bytes, name: str) -> Image.Image:
    """The image with its size and format known and its pixels still undecoded."""
    if not data:
        raise ImageError(name, "empty file")
    with _damage_named(name):
        opened = Image.open(io.BytesIO(data), formats=_known_formats())
    _refuse_if_huge(opened, name)
    return opened


def as_rgb(image: Image.Image, name: str) -> Image.Image:
    """Decodes what `open_image` gave, as `decode_image` describes."""
    _refuse_if_huge(image, name)
    with _damage_named(name):
        image.load()
        upright = _on_white(_eight_bits(_upright(image), name))
    # Pillow's copies keep the EXIF orientation: whoever decodes one again would turn it again.
    upright.info.clear()
    return upright


def has_more_frames(image: Image.Image) -> bool:
    """Whether frames are lost by showing the first: an animation, or a TIFF of several pages.

    A telephone's MPO file also holds several, but they are copies of the first.
    """
    try:
        return image.format != "MPO" and getattr(image, "is_animated", False)
    except _DAMAGE:
        return False


def copyright_notice(file: Path) -> str:
    """Whose an image is, as its EXIF says; empty where it says nothing, or nothing that can be read."""
    try:
        notice = _noted(open_image(read_image_file(file, str(file)), str(file)), ExifTags.Base.Copyright)
    except ImageError:
        return ""
    if not isinstance(notice, str):
        return ""
    with suppress(UnicodeError):
        notice = notice.encode("latin-1").decode("utf-8")  # Pillow reads bytes as they were never meant
    holders = [part for part in notice.split("\0") if part.strip()]  # the photographer's, then the editor's
    return textwrap.shorten(", ".join(holders), _LONGEST_NOTICE, placeholder=" …")


def image_hash(data: bytes) -> str:
    """What tells one image file from another: 32 hex digits (XXH3, 128 bits) of its bytes."""
    return xxhash.xxh3_128_hexdigest(data)


def _known_formats() -> tuple[str, ...]:
    """The formats wanted that this Pillow was built with: asking it for any other raises KeyError."""
    Image.init()
    return tuple(known for known in _FORMATS if known in Image.OPEN)


@contextmanager
def _damage_named(name: str) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(name, _TOO_LARGE) from None
    except UnidentifiedImageError:
        raise ImageError(name, f"not an image of a known format ({', '.join(_known_formats())})") from None
    except _DAMAGE as error:
        raise ImageError(name, f"damaged ({error or type(error).__name__})") from None


_TOO_LARGE = f"larger than {MAX_PIXELS / 1e6:.0f} million pixels; scale it down first"


def _refuse_if_huge(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(name, _TOO_LARGE)


def _noted(image: Image.Image, tag: ExifTags.Base) -> Any:
    """What the EXIF says under a tag; None where it does not, or is broken."""
    try:
        return image.getexif().get(tag)
    except _DAMAGE:
        # The pixels may be good: a camera's broken notes are no reason to lose the photo.
        return None


def _upright(image: Image.Image) -> Image.Image:
    orientation = _noted(image, ExifTags.Base.Orientation)
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise ImageError(name, "its pixels are floating-point numbers, of which nobody knows which is white")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise ImageError(name, "its grey levels do not fit 16 bits, so nobody knows which is white")
    return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")
