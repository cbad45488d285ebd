"""Predictions and references as files."""

import json
from pathlib import Path

import pytest

from captioncrafter.data.caption_files import named, read_file_names, read_predictions, read_references
from captioncrafter.errors import DataError
from tiny import captions_of_picture, write_tiny_dataset


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "captions.json"
    path.write_text(text, encoding="utf-8")
    return path


def write_lines(tmp_path: Path, *rows: object) -> Path:
    return write(tmp_path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def test_predictions_are_read_from_json_lines_in_order(tmp_path: Path):
    path = write_lines(tmp_path, {"image_id": "b.jpg", "caption": "a dog"}, {"image_id": "a.jpg", "caption": ""})

    assert list(read_predictions(path).items()) == [("b.jpg", "a dog"), ("a.jpg", "")]


def test_predictions_are_read_from_coco_results(tmp_path: Path):
    path = write(tmp_path, json.dumps([{"image_id": 42, "caption": "a dog"}, {"image_id": 7, "caption": "a cat"}]))

    assert read_predictions(path) == {"42": "a dog", "7": "a cat"}


def test_indented_coco_results_are_read_too(tmp_path: Path):
    path = write(tmp_path, json.dumps([{"image_id": 42, "caption": "a dog"}], indent=2))

    assert read_predictions(path) == {"42": "a dog"}


def test_other_keys_of_a_row_are_left_alone(tmp_path: Path):
    path = write_lines(tmp_path, {"image_id": "1", "caption": "a dog", "log_probability": -3.5})

    assert read_predictions(path) == {"1": "a dog"}


def test_a_single_line_is_one_prediction(tmp_path: Path):
    assert read_predictions(write(tmp_path, '{"image_id": "1", "caption": "a dog"}')) == {"1": "a dog"}


def test_empty_lines_are_passed_over(tmp_path: Path):
    path = write(tmp_path, '\n{"image_id": "1", "caption": "a dog"}\n\n{"image_id": "2", "caption": "a cat"}\n \n')

    assert read_predictions(path) == {"1": "a dog", "2": "a cat"}


def test_a_line_separator_inside_a_caption_ends_no_line(tmp_path: Path):
    path = write_lines(
        tmp_path, {"image_id": "1", "caption": "a dog\u2028runs"}, {"image_id": "2", "caption": "x\x85y"}
    )

    assert read_predictions(path) == {"1": "a dog\u2028runs", "2": "x\x85y"}


def test_a_byte_order_mark_is_passed_over(tmp_path: Path):
    path = write(tmp_path, '\ufeff{"image_id": "1", "caption": "a dog"}\n')

    assert read_predictions(path) == {"1": "a dog"}


def test_windows_line_ends_are_read(tmp_path: Path):
    path = tmp_path / "captions.jsonl"
    path.write_bytes(b'{"image_id": "1", "caption": "a dog"}\r\n{"image_id": "2", "caption": "a cat"}\r\n')

    assert read_predictions(path) == {"1": "a dog", "2": "a cat"}


def test_two_predictions_of_one_image_are_refused_by_name(tmp_path: Path):
    rows = [{"image_id": image, "caption": "a dog"} for image in ("1", "2", "3", "2", "3", "3")]

    with pytest.raises(DataError, match=r"2 images have two predictions or more \(2, 3\)"):
        read_predictions(write_lines(tmp_path, *rows))


def test_an_id_as_number_and_as_text_is_the_same_image(tmp_path: Path):
    path = write_lines(tmp_path, {"image_id": 2, "caption": "a dog"}, {"image_id": "2", "caption": "a cat"})

    with pytest.raises(DataError, match=r"two predictions or more \(2\)"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"image_id": "2"}, r"line 2: expected \{\"image_id\": …, \"caption\": \"…\"\}, found \{\"image_id\": \"2\"\}"),
        ({"image_id": "2", "caption": None}, "line 2: expected"),
        ({"image_id": "2", "caption": ["a dog"]}, "line 2: expected"),
        ({"caption": "a dog"}, "line 2: no image_id in"),
        ({"image_id": True, "caption": "a dog"}, "line 2: no image_id in"),
        ({"image_id": 1.5, "caption": "a dog"}, "line 2: no image_id in"),
        (["2", "a dog"], "line 2: expected a JSON object, found list"),
    ],
)
def test_a_line_that_is_no_prediction_is_refused_with_its_place(tmp_path: Path, row: object, complaint: str):
    path = write_lines(tmp_path, {"image_id": "1", "caption": "a dog"}, row)

    with pytest.raises(DataError, match=complaint):
        read_predictions(path)


def test_an_entry_that_is_no_prediction_is_refused_with_its_place(tmp_path: Path):
    path = write(tmp_path, json.dumps([{"image_id": 1, "caption": "a dog"}, "a cat"]))

    with pytest.raises(DataError, match=r'entry 2: expected a JSON object, found "a cat"'):
        read_predictions(path)


def test_a_long_row_is_shortened_in_the_message(tmp_path: Path):
    path = write_lines(tmp_path, {"image_id": "1", "caption": ["word"] * 1000})

    with pytest.raises(DataError, match="…") as caught:
        read_predictions(path)
    assert len(str(caught.value)) < len(str(path)) + 200


def test_a_torn_line_is_refused_with_its_place(tmp_path: Path):
    path = write(tmp_path, '{"image_id": "1", "caption": "a dog"}\n{"image_id": "2", "cap')

    with pytest.raises(DataError, match="line 2: not valid JSON"):
        read_predictions(path)


def test_half_a_character_is_refused_with_its_place(tmp_path: Path):
    path = write(tmp_path, '{"image_id": "1", "caption": "a dog"}\n{"image_id": "2", "caption": "a \\ud83d"}\n')

    with pytest.raises(DataError, match=r"line 2: .*half a character \('\\ud83d'\)"):
        read_predictions(path)


def test_half_a_character_in_references_is_refused_too(tmp_path: Path):
    path = write(tmp_path, '{"image_id": "1", "captions": ["a dog", "a \\ud83d"]}\n')

    with pytest.raises(DataError, match=r"line 1: .*half a character"):
        read_references(path)


def test_an_escaped_emoji_is_whole(tmp_path: Path):
    path = write(tmp_path, '{"image_id": "1", "caption": "a \\ud83d\\udc15"}\n')

    assert read_predictions(path) == {"1": "a 🐕"}


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path):
    path = tmp_path / "captions.jsonl"
    path.write_bytes('{"image_id": "1", "caption": "café"}'.encode("latin-1"))

    with pytest.raises(DataError, match="not UTF-8 text"):
        read_predictions(path)


@pytest.mark.parametrize("read", [read_predictions, read_references])
def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path, read):
    with pytest.raises(DataError, match=r"nothing\.jsonl: no such file"):
        read(tmp_path / "nothing.jsonl")


@pytest.mark.parametrize("text", ["", "\n\n", "[]"])
@pytest.mark.parametrize(("read", "what"), [(read_predictions, "predictions"), (read_references, "references")])
def test_a_file_that_holds_nothing_is_refused(tmp_path: Path, text: str, read, what: str):
    with pytest.raises(DataError, match=f"holds no {what}"):
        read(write(tmp_path, text))


def test_references_are_read_from_json_lines(tmp_path: Path):
    path = write_lines(
        tmp_path, {"image_id": "1", "captions": ["a dog", "one dog"]}, {"image_id": 2, "captions": ["b"]}
    )

    assert read_references(path) == {"1": ["a dog", "one dog"], "2": ["b"]}


def test_references_are_gathered_from_coco_annotations(tmp_path: Path):
    annotations = [
        {"id": 1, "image_id": 42, "caption": "a dog"},
        {"id": 2, "image_id": 7, "caption": "a cat"},
        {"id": 3, "image_id": 42, "caption": "one dog"},
    ]
    path = write(tmp_path, json.dumps({"images": [{"id": 42}, {"id": 7}], "annotations": annotations}))

    assert read_references(path) == {"42": ["a dog", "one dog"], "7": ["a cat"]}


def test_predictions_files_serve_as_references(tmp_path: Path):
    assert read_references(write_lines(tmp_path, {"image_id": "1", "caption": "a dog"})) == {"1": ["a dog"]}


def test_an_image_with_two_lists_of_references_is_refused_by_name(tmp_path: Path):
    rows = [{"image_id": image, "captions": ["a dog"]} for image in ("1", "2", "2", "3")]

    with pytest.raises(DataError, match=r"1 image has two rows or more \(2\)"):
        read_references(write_lines(tmp_path, *rows))


def test_an_annotation_given_twice_is_refused_with_its_place(tmp_path: Path):
    annotations = [{"id": number, "image_id": 42, "caption": "a dog"} for number in (1, 2, 1)]

    with pytest.raises(DataError, match="entry 3: a second annotation with the id 1"):
        read_references(write(tmp_path, json.dumps({"annotations": annotations})))


def test_coco_annotations_tell_the_files_of_their_images(tmp_path: Path):
    images = [{"id": 42, "file_name": "000042.jpg"}, {"id": 7}, "odd"]

    assert read_file_names(write(tmp_path, json.dumps({"images": images, "annotations": []}))) == {"42": "000042.jpg"}


@pytest.mark.parametrize(
    "text", ['{"image_id": "1", "captions": ["a dog"]}', '{"a": 1}\n{"a": 2}', "[]", '{"images": 3}']
)
def test_other_files_tell_no_file_names(tmp_path: Path, text: str):
    assert read_file_names(write(tmp_path, text)) == {}


def test_at_most_a_few_images_are_named():
    assert named(map(str, range(9))) == "0, 1, 2, 3, 4 …"


@pytest.mark.parametrize("captions", [[], None, "a dog", ["a dog", None], [1]])
def test_references_that_are_no_list_of_texts_are_refused_with_their_place(tmp_path: Path, captions: object):
    path = write_lines(tmp_path, {"image_id": "1", "captions": ["a dog"]}, {"image_id": "2", "captions": captions})

    with pytest.raises(DataError, match="line 2: expected"):
        read_references(path)


def test_a_dataset_folder_gives_its_test_split(tmp_path: Path):
    folder = write_tiny_dataset(tmp_path / "data", train=2, validation=2, test=1)

    assert read_references(folder) == {"picture-4.png": captions_of_picture(4)}


def test_a_dataset_folder_without_test_images_gives_its_validation_split(tmp_path: Path):
    folder = write_tiny_dataset(tmp_path / "data", train=2, validation=1)

    assert read_references(folder) == {"picture-2.png": captions_of_picture(2)}


def test_a_named_split_of_a_dataset_folder_is_read(tmp_path: Path):
    folder = write_tiny_dataset(tmp_path / "data", train=1, validation=2, test=1)

    assert list(read_references(folder, "train")) == ["picture-0.png"]


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path):
    folder = write_tiny_dataset(tmp_path / "data", train=2, validation=1)

    with pytest.raises(DataError, match=r"no images in the test split; it has train \(2 images\), validation \(1 im"):
        read_references(folder, "test")


def test_a_split_of_a_file_is_refused(tmp_path: Path):
    path = write_lines(tmp_path, {"image_id": "1", "captions": ["a dog"]})

    with pytest.raises(DataError, match="--split chooses a split of a dataset folder"):
        read_references(path, "test")


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path):
    with pytest.raises(DataError):
        read_references(tmp_path)
