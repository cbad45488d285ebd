"""Small pictures, as a page carries them."""

import io

from PIL import Image

_PIXELS = 192
_QUALITY = 75


def thumbnail(picture: Image.Image) -> bytes:
    """A small JPEG of the whole picture, which is made small itself."""
    picture.thumbnail((_PIXELS, _PIXELS), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()
