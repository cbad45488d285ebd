"""Flickr8k as its authors published it."""

from pathlib import Path

import pytest

from captioncrafter.data.layouts.detect import read_source
from captioncrafter.errors import DataError
from sources import LISTS, add_lines, write_flickr8k, write_photos


def test_every_photo_comes_with_its_captions_in_order_and_its_official_split(tmp_path: Path):
    source = read_source(write_flickr8k(tmp_path, train=1, validation=1, test=1))

    assert [(one.image_id, one.captions, one.split) for one in source.examples] == [
        ("0.jpg", ("Photo 0 , told 0 .", "Photo 0 , told 1 ."), "train"),
        ("1.jpg", ("Photo 1 , told 0 .", "Photo 1 , told 1 ."), "validation"),
        ("2.jpg", ("Photo 2 , told 0 .", "Photo 2 , told 1 ."), "test"),
    ]


def test_the_source_says_what_it_was_read_from(tmp_path: Path):
    source = read_source(write_flickr8k(tmp_path))

    assert source.layout == "flickr8k"
    assert [file.name for file in source.read_from] == ["Flickr8k.token.txt", *LISTS.values()]
    assert source.splits_from == ", ".join(LISTS.values())
    assert "non-commercial" in source.licence


def test_texts_and_photos_are_found_where_the_two_archives_unpack(tmp_path: Path):
    texts = write_flickr8k(tmp_path / "Flickr8k_text", images="../Flickr8k_Dataset/Flicker8k_Dataset")
    write_photos(tmp_path / "__MACOSX", 0)

    assert [len(read_source(path).examples) for path in (tmp_path, texts, texts / "Flickr8k.token.txt")] == [5, 5, 5]


def test_flickr30ks_captions_are_read_alike(tmp_path: Path):
    write_flickr8k(tmp_path, images="flickr30k-images")
    (tmp_path / "Flickr8k.token.txt").rename(tmp_path / "results_20130124.token")

    assert len(read_source(tmp_path).examples) == 5


def test_without_lists_nobody_has_decided_the_splits(tmp_path: Path):
    write_flickr8k(tmp_path)
    for name in LISTS.values():
        (tmp_path / name).unlink()

    source = read_source(tmp_path)

    assert source.splits_from == ""
    assert {one.split for one in source.examples} == {None}


def test_a_tab_and_a_hash_in_a_caption_belong_to_it(tmp_path: Path):
    write_flickr8k(tmp_path, train=1, validation=0, test=0)
    add_lines(tmp_path / "Flickr8k.token.txt", "0.jpg#2\tNumber #1\ton the left")

    assert read_source(tmp_path).examples[0].captions[-1] == "Number #1\ton the left"


def test_a_hash_in_a_photos_name_belongs_to_it(tmp_path: Path):
    write_flickr8k(tmp_path, train=1, validation=0, test=0)
    (tmp_path / "Flicker8k_Dataset" / "0.jpg").rename(tmp_path / "Flicker8k_Dataset" / "#1#.jpg")
    (tmp_path / "Flickr8k.token.txt").write_text("#1#.jpg#0\tA dog .\n")
    (tmp_path / LISTS["train"]).write_text("#1#.jpg\n")

    assert read_source(tmp_path).examples[0].image_id == "#1#.jpg"


@pytest.mark.parametrize("line", ["0.jpg a dog", "0.jpg\ta dog", "0.jpg#x\ta dog", "0.jpg#1 a dog"])
def test_a_line_that_is_written_otherwise_is_refused_by_its_number(tmp_path: Path, line: str):
    write_flickr8k(tmp_path)
    add_lines(tmp_path / "Flickr8k.token.txt", line)

    with pytest.raises(DataError) as refused:
        read_source(tmp_path)

    assert str(refused.value) == (
        f"{tmp_path / 'Flickr8k.token.txt'}, line 11: expected an image name, #, a number, a tab and a caption, found "
        f"{line!r}."
    )


def test_captions_may_hold_any_letters(tmp_path: Path):
    write_flickr8k(tmp_path, train=1, validation=0, test=0)
    add_lines(tmp_path / "Flickr8k.token.txt", "0.jpg#2\tein Hund läuft\u2028über Gras 🐕")

    assert read_source(tmp_path).examples[0].captions[-1] == "ein Hund läuft\u2028über Gras 🐕"
