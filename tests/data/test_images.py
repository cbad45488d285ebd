"""Image files as a model should see them, or refused with a reason. Each file is a real one, made here."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image, ImageOps

from captioncrafter.data.images import (
    MAX_PIXELS,
    copyright_notice,
    decode_image,
    has_more_frames,
    image_hash,
    open_image,
    read_image_file,
)
from captioncrafter.errors import ImageError
from sources import photo
from tiny import picture

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(orientation: int) -> bytes:
    """A PNG, stored 2 wide and 3 high with six colours, whose EXIF notes say how the camera was held."""
    image = Image.new("RGB", (2, 3))
    image.putdata([RED, BLUE, WHITE, (0, 255, 0), (0, 0, 0), (9, 9, 9)])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return file_of(image, "PNG", exif=exif)


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header says it is this large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def reason_of(data: bytes) -> str:
    with pytest.raises(ImageError) as refused:
        decode_image(data, name="a.jpg")
    assert str(refused.value) == f"a.jpg: {refused.value.reason}."
    return refused.value.reason


def test_a_photo_taken_with_the_camera_on_its_side_stands_upright():
    image = decode_image(turned(6))

    assert image.size == (3, 2)
    assert [image.getpixel(corner) for corner in ((0, 0), (2, 0))] == [(0, 0, 0), RED]


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_applied_as_pillow_applies_it(orientation: int):
    image, expected = (
        decode_image(turned(orientation)),
        ImageOps.exif_transpose(Image.open(io.BytesIO(turned(orientation)))),
    )

    assert (image.size, image.tobytes()) == (expected.size, expected.tobytes())


def test_an_image_decoded_twice_is_turned_once():
    once = decode_image(turned(6))

    twice = decode_image(once)

    assert (twice.size, twice.tobytes()) == (once.size, once.tobytes())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_camera_notes_do_not_cost_the_photo():
    data = file_of(Image.new("RGB", (4, 2), RED), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")

    assert decode_image(data).size == (4, 2)


def test_notes_that_are_no_exif_at_all_do_not_cost_the_photo():
    assert decode_image(file_of(Image.new("RGB", (4, 2), RED), "PNG", exif=b"no notes")).size == (4, 2)


def test_grey_levels_of_16_bits_are_scaled_and_not_clipped_to_white():
    grey = Image.new("I;16", (2, 1))
    grey.putpixel((0, 0), 0x4000)
    grey.putpixel((1, 0), 0xFFFF)

    image = decode_image(file_of(grey, "PNG"))

    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(64, 64, 64), WHITE]


def test_grey_levels_of_no_known_white_are_refused():
    assert "nobody knows which is white" in reason_of(file_of(Image.new("F", (2, 2), 0.5), "TIFF"))
    assert "nobody knows which is white" in reason_of(file_of(Image.new("I", (2, 2), 70000), "TIFF"))


def test_transparency_shows_white():
    image = Image.new("RGBA", (3, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    image.putpixel((2, 0), (255, 0, 0, 51))

    shown = decode_image(file_of(image, "PNG"))

    assert [shown.getpixel((x, 0)) for x in range(3)] == [WHITE, RED, (255, 204, 204)]


def test_a_transparent_palette_entry_shows_white():
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)

    shown = decode_image(file_of(image, "PNG", transparency=b"\0\xff"))

    assert [shown.getpixel((x, 0)) for x in range(2)] == [WHITE, BLUE]


@pytest.mark.parametrize("mode", ["1", "L", "P"])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF"])
def test_black_on_white_stays_black_on_white_in_every_mode(mode: str, kind: str):
    image = Image.new("RGB", (2, 1), "white")
    image.putpixel((0, 0), (0, 0, 0))

    shown = decode_image(file_of(image.convert(mode), kind))

    assert (shown.mode, shown.getpixel((0, 0)), shown.getpixel((1, 0))) == ("RGB", (0, 0, 0), WHITE)


def test_cmyk_becomes_the_colours_it_prints():
    shown = decode_image(file_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))

    assert shown.mode == "RGB"
    assert all(abs(one - other) < 8 for one, other in zip(shown.getpixel((4, 4)), RED, strict=True))


def test_of_an_animation_the_first_frame_is_shown_and_the_others_are_told_of():
    frames = [Image.new("P", (4, 4)) for _ in range(3)]
    for frame, colour in zip(frames, (RED, BLUE, WHITE), strict=True):
        frame.putpalette(colour)
    data = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])

    assert decode_image(data).getpixel((0, 0)) == RED
    assert has_more_frames(open_image(data, "a.gif"))


def test_a_still_gif_has_no_more_frames():
    assert not has_more_frames(open_image(file_of(Image.new("P", (4, 4)), "GIF"), "a.gif"))


def test_a_photo_cut_short_is_refused():
    data = photo(1)

    assert reason_of(data[:-20]).startswith("damaged (image file is truncated")


def test_an_empty_file_is_refused():
    assert reason_of(b"") == "empty file"


def test_text_that_calls_itself_a_photo_is_refused():
    reason = reason_of(b"<html><body>404 Not Found</body></html>")

    assert reason.startswith("not an image of a known format (JPEG, PNG, WEBP, GIF, BMP, TIFF")


def test_a_small_file_that_unpacks_to_a_huge_image_is_refused_before_it_is_unpacked():
    data = png_that_claims(9000, 9000)

    assert len(data) < 200
    with pytest.raises(ImageError, match="larger than 67 million pixels"):
        open_image(data, "a.png")
    assert reason_of(data) == "larger than 67 million pixels; scale it down first"


def test_a_claim_that_pillow_itself_refuses_gives_the_same_reason():
    assert reason_of(png_that_claims(30_000, 30_000)) == "larger than 67 million pixels; scale it down first"


def test_the_largest_image_allowed_is_no_smaller_than_a_cameras():
    assert MAX_PIXELS >= 50e6


def test_postscript_is_never_run():
    data = file_of(Image.new("RGB", (8, 8)), "EPS")

    assert reason_of(data).startswith("not an image of a known format")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_damage_anywhere_gives_an_image_or_a_reason_and_never_another_error(kind: str):
    whole = file_of(Image.open(io.BytesIO(picture(5))).convert("RGB"), kind)

    for at in range(0, len(whole), max(1, len(whole) // 60)):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        try:
            assert decode_image(bytes(damaged)).mode == "RGB"
        except ImageError as error:
            assert error.reason


def test_a_path_bytes_and_a_pillow_image_give_the_same_pixels(tmp_path: Path):
    file = tmp_path / "a.png"
    file.write_bytes(picture(3))

    shown = [decode_image(one).tobytes() for one in (file, str(file), picture(3), Image.open(file))]

    assert len(set(shown)) == 1


def test_a_missing_file_is_named_with_the_systems_reason(tmp_path: Path):
    with pytest.raises(ImageError) as refused:
        decode_image(tmp_path / "gone.jpg")

    assert str(refused.value) == f"{tmp_path / 'gone.jpg'}: cannot be read (No such file or directory)."


def test_a_folder_is_no_image(tmp_path: Path):
    with pytest.raises(ImageError, match=r"cannot be read \(Is a directory\)"):
        read_image_file(tmp_path, "folder.jpg")


def test_the_pillow_image_that_was_given_is_left_as_it_is():
    given = Image.open(io.BytesIO(turned(6)))
    pixels, notes = given.tobytes(), dict(given.info)

    decode_image(given)

    assert (given.tobytes(), given.info) == (pixels, notes)


def test_one_byte_makes_another_hash():
    assert image_hash(b"one") == image_hash(b"one") != image_hash(b"onf")
    assert len(image_hash(b"")) == 32


def with_notice(file: Path, notice: Any) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Copyright] = notice
    Image.new("RGB", (4, 4)).save(file, exif=exif)
    return file


@pytest.mark.parametrize(
    ("notice", "read"),
    [
        ("Zoë,  CC BY\n4.0 ".encode(), "Zoë, CC BY 4.0"),
        ("Zoë".encode("latin-1"), "Zoë"),
        ("A. Photographer\0An Editor\0", "A. Photographer, An Editor"),
        ("so long a tale " * 40, ("so long a tale " * 40)[:298].rsplit(" ", 1)[0] + " …"),
    ],
)
def test_a_copyright_notice_is_read_as_one_line(tmp_path: Path, notice: Any, read: str):
    assert copyright_notice(with_notice(tmp_path / "one.jpg", notice)) == read


NUMBER_AS_NOTICE = b"Exif\0\0" + struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, ExifTags.Base.Copyright, 3, 1, 5, 0)


@pytest.mark.parametrize("notes", [b"garbage", b"II*\0", b"", NUMBER_AS_NOTICE])
def test_broken_notes_hold_no_copyright_notice(tmp_path: Path, notes: bytes):
    Image.new("RGB", (4, 4)).save(tmp_path / "one.png", exif=notes)

    assert copyright_notice(tmp_path / "one.png") == ""


def test_a_file_that_is_no_image_holds_no_copyright_notice(tmp_path: Path):
    (tmp_path / "one.png").write_bytes(b"no image")

    assert copyright_notice(tmp_path / "one.png") == ""
