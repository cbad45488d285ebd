"""Which layout a folder has."""

import inspect
from pathlib import Path

import pytest

from captioncrafter.cli.commands import Prepare
from captioncrafter.data.layouts.detect import LAYOUTS, read_source
from captioncrafter.errors import DataError, InputError
from sources import write_flickr8k, write_kaggle


def test_the_captions_file_stands_for_its_folder(tmp_path: Path):
    write_kaggle(tmp_path, count=2)

    assert len(read_source(tmp_path / "captions.txt").examples) == 2


def test_a_relative_path_is_as_good_as_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_kaggle(tmp_path, count=2)
    monkeypatch.chdir(tmp_path)

    assert [len(read_source(Path(path)).examples) for path in (".", "captions.txt")] == [2, 2]


def test_a_captions_file_of_another_name_is_read_when_the_layout_is_named(tmp_path: Path):
    write_kaggle(tmp_path, count=2)
    (tmp_path / "captions.txt").rename(tmp_path / "mine.txt")

    assert len(read_source(tmp_path / "mine.txt", "kaggle").examples) == 2


def test_two_layouts_in_one_folder_are_told_and_one_is_to_be_chosen(tmp_path: Path):
    write_flickr8k(tmp_path)
    write_kaggle(tmp_path, count=2)

    with pytest.raises(DataError) as refused:
        read_source(tmp_path)

    assert str(refused.value) == (
        f"{tmp_path}: laid out in 2 ways: flickr8k (Flickr8k.token.txt); kaggle (captions.txt). Choose one with "
        "--layout."
    )
    assert read_source(tmp_path, "flickr8k").layout == "flickr8k"


def test_no_layout_is_told_with_what_was_looked_for_and_what_is_there(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").touch()

    with pytest.raises(DataError) as refused:
        read_source(tmp_path)

    assert str(refused.value) == (
        f"{tmp_path}: holds no captioned images in a known layout. Looked for\n"
        "  flickr8k: Flickr8k.token.txt\n"
        "  kaggle: captions.txt with the header image,caption\n"
        "  coco: captions_train2014.json or captions_val2014.json, or those of 2017\n"
        "  karpathy: dataset_coco.json, dataset_flickr8k.json or dataset_flickr30k.json\n"
        "Found notes.txt, photos/."
    )


def test_a_dataset_folder_is_said_to_need_no_preparing(tmp_path: Path):
    (tmp_path / "dataset_dict.json").touch()

    with pytest.raises(DataError, match=r"It is a dataset folder already .* data\.path"):
        read_source(tmp_path)


def test_the_help_names_every_layout():
    names = ", ".join(layout.NAME for layout in LAYOUTS)

    assert f"How SOURCE is laid out ({names};" in inspect.getsource(Prepare)


def test_an_empty_folder_is_said_to_hold_nothing(tmp_path: Path):
    with pytest.raises(DataError, match=r"Found nothing\."):
        read_source(tmp_path)


def test_of_many_other_files_twelve_are_named(tmp_path: Path):
    for number in range(15):
        (tmp_path / f"{number:02}.bin").touch()

    with pytest.raises(DataError, match=r"00\.bin, .*11\.bin and 3 more\."):
        read_source(tmp_path)


def test_an_unknown_layout_names_the_nearest(tmp_path: Path):
    with pytest.raises(InputError) as refused:
        read_source(tmp_path, "flikr8k")

    assert str(refused.value) == (
        'no layout is called "flikr8k". There are flickr8k, kaggle, coco, karpathy. Did you mean "flickr8k"?'
    )


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"nowhere: no such file or folder\."):
        read_source(tmp_path / "nowhere")
