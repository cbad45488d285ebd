"""Where caption files and image folders are looked for."""

import os
from pathlib import Path

import pytest

from captioncrafter.data.layouts.looking import find_file, find_images, list_images
from captioncrafter.errors import DataError
from sources import write_photos

NAMES = ["0.jpg", "1.jpg", "2.jpg"]


@pytest.mark.parametrize(
    "place",
    [
        "Images",
        "images",
        "Flicker8k_Dataset",
        "Flickr8k_Dataset",
        "Flickr8k_Dataset/Flicker8k_Dataset",
        "flickr30k-images",
        "my photos",
        "archive/my photos",
        ".",
    ],
)
def test_photos_are_found_in_the_folder(tmp_path: Path, place: str):
    photos = write_photos(tmp_path / place, 3)

    assert find_images(tmp_path, NAMES, captions="c.txt").files == {name: photos / name for name in NAMES}


@pytest.mark.parametrize("place", ["Flicker8k_Dataset", "Images", "Flickr8k_Dataset/Flicker8k_Dataset"])
def test_photos_are_found_beside_the_folder_of_texts(tmp_path: Path, place: str):
    photos = write_photos(tmp_path / place, 3)
    texts = tmp_path / "Flickr8k_text"
    texts.mkdir()

    assert find_images(texts, NAMES, captions="c.txt").path.resolve() == photos


def test_a_folder_of_a_usual_name_is_taken_before_one_that_holds_more(tmp_path: Path):
    usual = write_photos(tmp_path / "Images", 2)
    write_photos(tmp_path / "backup", 3)

    assert find_images(tmp_path, NAMES, captions="c.txt").path == usual


def test_the_folder_that_holds_the_most_is_taken(tmp_path: Path):
    write_photos(tmp_path / "examples", 1)
    most = write_photos(tmp_path / "photos", 3)

    assert find_images(tmp_path, NAMES, captions="c.txt").path == most


def test_no_photos_at_all_are_refused_with_every_place_looked_in(tmp_path: Path):
    (tmp_path / "Images").mkdir()

    with pytest.raises(DataError) as refused:
        find_images(tmp_path, NAMES, captions="Flickr8k.token.txt")

    assert str(refused.value) == (
        f"{tmp_path}: none of the 3 images that Flickr8k.token.txt names was found (the first: 0.jpg). Looked in "
        f"{tmp_path / 'Images'}, {tmp_path}. Put them into {tmp_path / 'Images'}."
    )


def test_what_is_hidden_or_no_image_is_left_out(tmp_path: Path):
    photos = write_photos(tmp_path / "Images", 1)
    for name in ("._0.jpg", "Thumbs.db", "notes.txt"):
        (photos / name).write_bytes(b"x")

    assert list(list_images(photos).files) == ["0.jpg"]


def test_a_mac_archives_hidden_twins_are_not_taken_for_the_photos(tmp_path: Path):
    write_photos(tmp_path / "__MACOSX" / "Flicker8k_Dataset", 1)
    photos = write_photos(tmp_path / "Flicker8k_Dataset", 3)

    assert find_images(tmp_path, NAMES, captions="c.txt").path == photos


def test_suffixes_count_whatever_their_case(tmp_path: Path):
    (tmp_path / "A.JPG").write_bytes(b"x")

    assert "A.JPG" in list_images(tmp_path).files


def test_deep_listings_name_images_by_their_path_within_the_folder(tmp_path: Path):
    write_photos(tmp_path / "a" / "b", 1)

    assert list(list_images(tmp_path, deep=True).files) == ["a/b/0.jpg"]


def test_a_link_that_leads_out_of_the_folder_is_told_apart(tmp_path: Path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"x")
    photos = write_photos(tmp_path / "Images", 1)
    (photos / "out.jpg").symlink_to(secret)

    listing = list_images(photos)

    assert (set(listing.files), listing.outside) == ({"0.jpg"}, {"out.jpg"})


def test_a_link_within_the_folder_is_an_image_like_any_other(tmp_path: Path):
    photos = write_photos(tmp_path / "Images", 1)
    (photos / "same.jpg").symlink_to("0.jpg")

    assert set(list_images(photos).files) == {"0.jpg", "same.jpg"}


def test_a_link_to_itself_is_no_image(tmp_path: Path):
    photos = write_photos(tmp_path / "Images", 1)
    (photos / "loop.jpg").symlink_to("loop.jpg")

    assert set(list_images(photos).files) == {"0.jpg"}


def test_the_image_folder_itself_may_be_a_link(tmp_path: Path):
    write_photos(tmp_path / "disk", 3)
    root = tmp_path / "root"
    root.mkdir()
    (root / "Images").symlink_to(tmp_path / "disk")

    listing = find_images(root, NAMES, captions="c.txt")

    assert (set(listing.files), listing.outside) == (set(NAMES), set())


def test_a_name_that_is_not_utf8_is_spelled_out(tmp_path: Path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"x")

    names = list(list_images(tmp_path).files)

    assert names == ["caf\\xe9.jpg"]


def test_the_nearest_caption_file_is_taken(tmp_path: Path):
    for place in ("a/b", "a"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "captions.txt").touch()

    assert find_file(tmp_path, ["captions.txt"]) == tmp_path / "a" / "captions.txt"


def test_file_names_are_found_whatever_their_case_and_earlier_ones_win(tmp_path: Path):
    for name in ("CAPTIONS.CSV", "Captions.txt"):
        (tmp_path / name).touch()

    assert find_file(tmp_path, ["captions.txt", "captions.csv"]) == tmp_path / "Captions.txt"


def test_nothing_is_looked_for_in_hidden_folders_or_too_deep(tmp_path: Path):
    for place in (".git", "a/b/c"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "captions.txt").touch()

    assert find_file(tmp_path, ["captions.txt"]) is None
