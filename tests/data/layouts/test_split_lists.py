"""Flickr8k's published split lists."""

from pathlib import Path

import pytest

from captioncrafter.data.layouts.split_lists import find_split_lists
from captioncrafter.errors import DataError


def test_each_listed_image_gets_the_split_of_its_list(tmp_path: Path):
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("a.jpg\nb.jpg\n")
    (tmp_path / "Flickr_8k.devImages.txt").write_text("c.jpg\n")
    (tmp_path / "Flickr_8k.testImages.txt").write_text("d.jpg")

    lists = find_split_lists(tmp_path)

    assert lists is not None
    assert lists.split_of == {"a.jpg": "train", "b.jpg": "train", "c.jpg": "validation", "d.jpg": "test"}
    assert lists.names == "Flickr_8k.trainImages.txt, Flickr_8k.devImages.txt, Flickr_8k.testImages.txt"


def test_lists_saved_on_windows_name_the_same_images(tmp_path: Path):
    (tmp_path / "Flickr_8k.trainImages.txt").write_bytes(b"\xef\xbb\xbfa.jpg \r\nb.jpg\r\n")

    lists = find_split_lists(tmp_path)

    assert lists is not None
    assert list(lists.split_of) == ["a.jpg", "b.jpg"]


def test_no_list_is_none(tmp_path: Path):
    assert find_split_lists(tmp_path) is None


def test_an_image_in_two_lists_is_refused_with_both_places(tmp_path: Path):
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("a.jpg\nb.jpg\n")
    (tmp_path / "Flickr_8k.testImages.txt").write_text("c.jpg\nb.jpg\n")

    with pytest.raises(DataError) as refused:
        find_split_lists(tmp_path)

    assert str(refused.value) == (
        f"{tmp_path / 'Flickr_8k.testImages.txt'}, line 2: b.jpg is also in Flickr_8k.trainImages.txt. An image "
        "belongs to one split; delete it from one of the two lists."
    )


def test_an_image_twice_in_one_list_is_no_conflict(tmp_path: Path):
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("a.jpg\na.jpg\n")

    lists = find_split_lists(tmp_path)

    assert lists is not None
    assert lists.split_of == {"a.jpg": "train"}
