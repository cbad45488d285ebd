"""Flickr8k as Kaggle hands it out."""

from pathlib import Path

import pytest

from captioncrafter.data.layouts.detect import read_source
from captioncrafter.errors import DataError
from sources import LISTS, write_flickr8k, write_kaggle, write_photos


def captions_of(root: Path, *lines: str, header: str = "image,caption", name: str = "captions.txt") -> tuple[str, ...]:
    """The captions that the first photo gets from a file of these lines."""
    write_photos(root / "Images", 1)
    (root / name).write_text("\n".join([header, *lines]), encoding="utf-8", newline="")
    return read_source(root).examples[0].captions


def test_every_photo_comes_with_its_captions_in_order(tmp_path: Path):
    source = read_source(write_kaggle(tmp_path, count=2))

    assert [(one.image_id, one.captions) for one in source.examples] == [
        ("0.jpg", ("Photo 0 , told 0 .", "Photo 0 , told 1 .")),
        ("1.jpg", ("Photo 1 , told 0 .", "Photo 1 , told 1 .")),
    ]
    assert (source.layout, source.splits_from) == ("kaggle", "")


@pytest.mark.parametrize(
    ("line", "caption"),
    [
        ("0.jpg,A dog runs .", "A dog runs ."),
        ('0.jpg,"A dog , a cat , and grass ."', "A dog , a cat , and grass ."),
        ("0.jpg,A dog , a cat , and grass .", "A dog , a cat , and grass ."),
        ('0.jpg,"A sign reads ""stop"" , in red ."', 'A sign reads "stop" , in red .'),
        ('0.jpg,"A dog', '"A dog'),
        ('0.jpg,"Dog" on a sign', '"Dog" on a sign'),
        ('0.jpg,A sign reads "stop"', 'A sign reads "stop"'),
        ('"0.jpg","A dog ."', "A dog ."),
        ("0.jpg,A dog\u2028runs", "A dog\u2028runs"),
    ],
)
def test_commas_and_quotes_in_captions_stay(tmp_path: Path, line: str, caption: str):
    assert captions_of(tmp_path, line) == (caption,)


def test_a_quote_that_nobody_closed_swallows_no_other_caption(tmp_path: Path):
    assert captions_of(tmp_path, '0.jpg,"A dog', "0.jpg,A cat") == ('"A dog', "A cat")


def test_an_unquoted_caption_that_starts_with_a_quoted_word_keeps_it(tmp_path: Path):
    assert captions_of(tmp_path, '0.jpg,"Stop", a sign says') == ('"Stop", a sign says',)


@pytest.mark.parametrize("header", ["image,caption", "Image, Caption", "\ufeffimage,caption\r", '"image","caption"'])
def test_the_header_is_known_however_it_is_written(tmp_path: Path, header: str):
    assert captions_of(tmp_path, "0.jpg,A dog\r", header=header) == ("A dog",)


def test_the_file_may_be_called_csv(tmp_path: Path):
    assert captions_of(tmp_path, "0.jpg,A dog", name="captions.csv") == ("A dog",)


def test_a_captions_file_with_another_header_is_another_layout(tmp_path: Path):
    with pytest.raises(DataError, match=r"captions\.txt with the header image,caption"):
        captions_of(tmp_path, "0.jpg,A dog", header="id,text")


def test_captions_are_numbered_by_photo_and_name_their_line(tmp_path: Path):
    write_kaggle(tmp_path, count=1)
    with (tmp_path / "captions.txt").open("a") as file:
        file.write("gone.jpg,A dog\ngone.jpg,A cat\n")

    strays = read_source(tmp_path).captions_without_image

    assert [(line.caption_id, line.place) for line in strays] == [
        ("gone.jpg#0", "captions.txt, line 4"),
        ("gone.jpg#1", "captions.txt, line 5"),
    ]


def test_a_line_without_a_comma_is_refused_by_its_number(tmp_path: Path):
    with pytest.raises(DataError) as refused:
        captions_of(tmp_path, "0.jpg,A dog", "and nothing else")

    assert str(refused.value) == (
        f"{tmp_path / 'captions.txt'}, line 3: expected image,caption, found 'and nothing else'."
    )


def test_the_official_lists_decide_the_splits_where_somebody_laid_them_beside(tmp_path: Path):
    write_flickr8k(tmp_path, train=1, validation=1, test=1)
    (tmp_path / "Flickr8k.token.txt").unlink()
    write_kaggle(tmp_path, count=3)

    source = read_source(tmp_path)

    assert [one.split for one in source.examples] == ["train", "validation", "test"]
    assert source.splits_from == ", ".join(LISTS.values())
