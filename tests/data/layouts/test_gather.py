"""Caption files and image folders that do not fit together: everything left over is kept by kind."""

from pathlib import Path

import pytest

from captioncrafter.data.example import CaptionLine, Described
from captioncrafter.data.layouts.detect import read_source
from captioncrafter.data.layouts.gather import gather
from captioncrafter.data.layouts.looking import list_images
from captioncrafter.errors import DataError
from sources import LISTS, add_lines, write_flickr8k


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_flickr8k(tmp_path, images="Images")


def test_white_space_around_a_caption_goes_and_the_rest_stays(root: Path):
    add_lines(root / "Flickr8k.token.txt", "0.jpg#2\t  A  Dog \u2028 runs !  ")

    assert read_source(root).examples[0].captions[-1] == "A  Dog \u2028 runs !"


def test_captions_without_a_photo_are_kept_with_their_place(root: Path):
    add_lines(root / "Flickr8k.token.txt", "0.jpg.1#0\tA dog .")

    (line,) = read_source(root).captions_without_image

    assert (line.caption_id, line.text, line.place) == ("0.jpg.1#0", "A dog .", "Flickr8k.token.txt, line 11")


def test_a_blank_caption_is_kept_apart_from_the_photos_others(root: Path):
    add_lines(root / "Flickr8k.token.txt", "0.jpg#2\t   ")

    source = read_source(root)

    assert [line.caption_id for line in source.blank_captions] == ["0.jpg#2"]
    assert len(source.examples[0].captions) == 2


def test_a_photo_whose_captions_are_all_blank_has_none(root: Path):
    (root / "Images" / "9.jpg").write_bytes((root / "Images" / "0.jpg").read_bytes())
    add_lines(root / "Flickr8k.token.txt", "9.jpg#0\t ")
    add_lines(root / LISTS["train"], "9.jpg")

    source = read_source(root)

    assert source.images_without_captions == ["9.jpg"]
    assert "9.jpg" not in [one.image_id for one in source.examples]


def test_a_photo_that_no_caption_names_is_kept_by_name(root: Path):
    (root / "Images" / "holiday.png").write_bytes(b"x")

    assert read_source(root).images_without_captions == ["holiday.png"]


def test_a_captioned_photo_in_no_list_is_kept_by_name(root: Path):
    (root / LISTS["test"]).write_text("")

    source = read_source(root)

    assert source.images_in_no_split == ["4.jpg"]
    assert len(source.examples) == 4


def test_a_listed_photo_that_is_not_there_is_kept_by_name(root: Path):
    (root / "Images" / "0.jpg").unlink()
    add_lines(root / LISTS["train"], "never.jpg")

    source = read_source(root)

    assert source.listed_images_absent == ["0.jpg", "never.jpg"]
    assert [line.caption_id for line in source.captions_without_image] == ["0.jpg#0", "0.jpg#1"]


def test_a_photo_that_is_a_link_to_another_place_is_set_aside(root: Path, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "secret.jpg"
    elsewhere.write_bytes((root / "Images" / "0.jpg").read_bytes())
    (root / "Images" / "0.jpg").unlink()
    (root / "Images" / "0.jpg").symlink_to(elsewhere)

    source = read_source(root)

    assert [(one.image, one.reason) for one in source.set_aside] == [
        ("0.jpg", "is a link to a place outside the image folder; copy the file itself there")
    ]
    assert "0.jpg" not in [one.image_id for one in source.examples]


@pytest.mark.parametrize("name", ["../secret.jpg", "{root}/secret.jpg"])
def test_no_name_in_a_caption_file_reaches_outside_the_image_folder(root: Path, name: str):
    (root / "secret.jpg").write_bytes(b"x")
    name = name.format(root=root)
    add_lines(root / "Flickr8k.token.txt", f"{name}#0\tA secret .")
    add_lines(root / LISTS["train"], name)

    source = read_source(root)

    assert source.listed_images_absent == [name]
    assert all(one.file.parent == root / "Images" for one in source.examples)


def test_files_that_do_not_belong_together_are_refused(root: Path):
    for name in LISTS.values():
        (root / name).write_text("other.jpg\n" if name == LISTS["train"] else "")

    with pytest.raises(DataError) as refused:
        read_source(root)

    assert str(refused.value) == (
        f"{root / 'Images'}: none of its 5 images has both a caption and a split in Flickr8k.token.txt, "
        f"{', '.join(LISTS.values())}. Check that these files belong together."
    )


def test_an_id_that_two_photos_share_is_refused(root: Path):
    caption = CaptionLine("7#0", "A dog .", "captions.json")
    described = [Described(name, image_id="7", captions=[caption]) for name in ("0.jpg", "1.jpg")]

    with pytest.raises(DataError) as refused:
        gather(
            described,
            list_images(root / "Images"),
            layout="other",
            licence="",
            read_from=(root / "captions.json",),
            splits_from="",
        )

    assert str(refused.value) == (
        f"{root / 'captions.json'}: 1 image id stands for more than one image, the first: 7. "
        "Predictions could not be told apart; make the ids unique."
    )
