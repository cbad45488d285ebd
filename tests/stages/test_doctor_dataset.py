"""Every ailment of captioned images, planted in a tiny dataset, a source folder or a file of captions, and found."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from patients import ailments, changed_files, contents, troubles
from tiny import captions_of_picture, picture, write_tiny_dataset

Row = dict[str, Any]


def rows(first: int, count: int) -> list[Row]:
    """Sound rows: picture n with captions that name its number."""
    return [
        {
            "image": picture(n),
            "image_id": f"{n}.png",
            "captions": [f"{text} number {n}" for text in captions_of_picture(n)],
        }
        for n in range(first, first + count)
    ]


def write(folder: Path, **splits: list[Row]) -> Path:
    """A dataset folder of these rows."""
    import datasets

    from captioncrafter.data.dataset import FEATURES, without_progress_bars

    made = {}
    for name, split in splits.items():
        columns = {key: [row[key] for row in split] for key in ("image_id", "captions")}
        columns["image"] = [{"bytes": row["image"], "path": None} for row in split]
        made[name] = datasets.Dataset.from_dict(columns, features=FEATURES)
    with without_progress_bars():
        datasets.DatasetDict(made).save_to_disk(folder)
    return folder


@pytest.fixture
def splits() -> dict[str, list[Row]]:
    """Sound splits, to plant something in."""
    return {"train": rows(0, 4), "validation": rows(4, 2), "test": rows(6, 2)}


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_nothing_is_found_of_a_sound_dataset(splits: dict[str, list[Row]], tmp_path: Path):
    assert ailments(write(tmp_path / "data", **splits)) == {}


def test_unreadable_images_are_named_with_the_reason(splits: dict[str, list[Row]], tmp_path: Path):
    splits["test"][1]["image"] = picture(7)[:90]
    splits["train"][0]["image"] = b"<html>"

    found = ailments(write(tmp_path / "data", **splits))

    assert set(found) == {"unreadable-images"}
    assert [line.split(":")[:2] for line in found["unreadable-images"].details] == [
        ["train", " 0.png"],
        ["test", " 7.png"],
    ]


def test_the_same_image_in_two_splits_is_found(splits: dict[str, list[Row]], tmp_path: Path):
    splits["test"][0]["image"] = picture(1)

    found = ailments(write(tmp_path / "data", **splits))

    assert set(found) == {"image-in-two-splits"}
    assert found["image-in-two-splits"].details == ("train: 1.png, test: 6.png",)


def test_the_same_image_stored_anew_is_found_by_its_captions(splits: dict[str, list[Row]], tmp_path: Path):
    splits["test"][0]["captions"] = [text.upper() for text in reversed(splits["train"][1]["captions"])]

    assert troubles(write(tmp_path / "data", **splits)) == {"captions-in-two-splits"}


def test_captions_that_many_images_of_two_splits_share_are_found(splits: dict[str, list[Row]], tmp_path: Path):
    splits["test"][0]["captions"] = ["a dog", *(row["captions"][0] for row in splits["train"])]

    assert troubles(write(tmp_path / "data", **splits)) == {"shared-captions"}


def test_one_shared_caption_is_a_note(splits: dict[str, list[Row]], tmp_path: Path):
    splits["test"][0]["captions"][0] = splits["train"][1]["captions"][0]

    found = ailments(write(tmp_path / "data", **splits))

    assert found["shared-captions"].severity == "note"


def test_a_row_for_each_caption_of_an_image_is_found(splits: dict[str, list[Row]], tmp_path: Path):
    splits["train"] = [
        {"image": row["image"], "image_id": f"{row['image_id']}#{number}", "captions": [caption]}
        for row in splits["train"]
        for number, caption in enumerate(row["captions"])
    ]

    assert troubles(write(tmp_path / "data", **splits)) == {"row-a-caption", "one-caption"}


def test_one_caption_of_five_is_found(splits: dict[str, list[Row]], tmp_path: Path):
    for row in splits["test"]:
        row["captions"] = row["captions"][:1]

    assert troubles(write(tmp_path / "data", **splits)) == {"one-caption"}


@pytest.mark.parametrize(
    ("captions", "ailment"),
    [
        ([], "no-captions"),
        (["a dog one", "  "], "empty-captions"),
        (["a dog one", "..."], "wordless-captions"),
        (["a dog one", " ".join(f"word{n}" for n in range(40))], "long-captions"),
        (["a dog one", "a dog\u2028on grass"], "line-separators"),
        (["a dog one", "a dog\x85on grass"], "line-separators"),
        (["a dog one", "a dog\non grass"], "line-separators"),
        (["a dog one", "a <b>dog</b> on grass"], "markup"),
        (["a dog one", "a dog</s> on grass"], "markup"),
    ],
)
def test_an_odd_caption_is_found(splits: dict[str, list[Row]], captions: list[str], ailment: str, tmp_path: Path):
    splits["train"][2]["captions"] = captions

    found = ailments(write(tmp_path / "data", **splits))

    assert set(found) == {ailment}
    assert "2.png" in found[ailment].details[0]


def test_a_caption_given_twice_is_a_note(splits: dict[str, list[Row]], tmp_path: Path):
    splits["train"][2]["captions"][1] = splits["train"][2]["captions"][0] + " ."

    assert ailments(write(tmp_path / "data", **splits))["repeated-captions"].severity == "note"


def test_a_train_only_copy_is_found(splits: dict[str, list[Row]], tmp_path: Path):
    assert troubles(write(tmp_path / "data", train=splits["train"])) == {"train-only"}


def test_a_split_under_another_name_is_found(splits: dict[str, list[Row]], tmp_path: Path):
    found = ailments(write(tmp_path / "data", train=splits["train"], dev=splits["validation"], test=splits["test"]))

    assert set(found) == {"other-split", "no-split"}
    assert '"validation"' in found["other-split"].mend


def test_a_dataset_without_test_split_is_a_note(splits: dict[str, list[Row]], tmp_path: Path):
    del splits["test"]

    assert set(ailments(write(tmp_path / "data", **splits))) == {"no-test"}


def test_one_split_on_its_own_is_found(splits: dict[str, list[Row]], tmp_path: Path):
    data = write(tmp_path / "data", **splits)

    assert troubles(data / "train") == {"no-splits", "train-only"}


def test_a_dataset_whose_rows_are_gone_is_found(splits: dict[str, list[Row]], tmp_path: Path):
    data = write(tmp_path / "data", **splits)
    for file in (data / "test").glob("*.arrow"):
        file.unlink()

    assert troubles(data) == {"damaged-dataset"}


def test_the_same_image_twice_in_a_split_is_a_note(splits: dict[str, list[Row]], tmp_path: Path):
    splits["train"][0]["image"] = picture(1)

    assert ailments(write(tmp_path / "data", **splits))["same-image"].details == ("train: 0.png, train: 1.png",)


def test_rows_without_id_are_found(splits: dict[str, list[Row]], tmp_path: Path):
    splits["train"][0]["image_id"] = None

    assert troubles(write(tmp_path / "data", **splits)) == {"no-id"}


def test_ids_that_stand_twice_are_found(splits: dict[str, list[Row]], tmp_path: Path):
    splits["train"][0]["image_id"] = "1.png"

    assert troubles(write(tmp_path / "data", **splits)) == {"id-twice"}


@pytest.mark.parametrize("name", ["../../passwd", "/etc/passwd", "..\\passwd"])
def test_ids_that_lead_out_are_found(splits: dict[str, list[Row]], tmp_path: Path, name: str):
    splits["train"][0]["image_id"] = name

    assert troubles(write(tmp_path / "data", **splits)) == {"id-leads-out"}


def test_pictures_that_other_programs_show_wrongly_are_notes(splits: dict[str, list[Row]], tmp_path: Path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    splits["train"][0]["image"] = encoded(Image.new("RGB", (9, 5), "red"), "JPEG", exif=exif)
    splits["train"][1]["image"] = encoded(Image.fromarray(np.full((5, 5), 9000, np.uint16)))
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    splits["train"][2]["image"] = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])

    found = ailments(write(tmp_path / "data", **splits))

    assert set(found) == {"turned-images", "deep-images", "more-frames"}
    assert {finding.severity for finding in found.values()} == {"note"}


def test_prompts_that_hold_image_positions_are_found(splits: dict[str, list[Row]], tmp_path: Path):
    import datasets

    found = datasets.load_from_disk(str(write(tmp_path / "data", **splits)))
    asked = found.map(lambda row: {"prompt": "<image> what is it" if row["image_id"] == "1.png" else "what is it"})
    asked.save_to_disk(tmp_path / "asked")

    positions = ailments(tmp_path / "asked")["positions"]

    assert positions.details == ("<image> what is it",)


def test_other_columns_are_found(tmp_path: Path):
    import datasets

    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"image": ["a"], "caption_0": ["b"]})}).save_to_disk(
        tmp_path / "data"
    )

    assert {"columns", "train-only"} <= troubles(tmp_path / "data")


def test_a_dataset_that_holds_paths_in_place_of_images_is_found(splits: dict[str, list[Row]], tmp_path: Path):
    import pyarrow as pa

    data = write(tmp_path / "data", **splits)
    (file,) = (data / "train").glob("*.arrow")
    table = pa.ipc.open_stream(file.read_bytes()).read_all()
    paths = pa.array([{"bytes": None, "path": "/gone.png"}] * len(table), table.schema.field("image").type)
    changed = table.set_column(table.schema.get_field_index("image"), table.schema.field("image"), paths)
    with pa.OSFile(str(file), "wb") as opened, pa.ipc.new_stream(opened, table.schema) as stream:
        stream.write_table(changed)

    assert troubles(data) == {"unreadable-images"}


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xfe"])
def test_damage_to_a_file_is_found(tmp_path: Path, content: bytes):
    data = write_tiny_dataset(tmp_path / "data")

    for file in sorted(path for path in data.rglob("*") if path.is_file()):
        kept = file.read_bytes()
        file.write_bytes(content)
        # The Arrow files tell their columns themselves: without them in dataset_info.json nothing is lost.
        assert troubles(data) or (file.name, content) == ("dataset_info.json", b"{}"), file
        file.write_bytes(kept)


def test_a_source_is_judged_before_it_is_prepared(tmp_path: Path):
    (tmp_path / "Images").mkdir()
    for number in range(3):
        (tmp_path / "Images" / f"{number}.png").write_bytes(picture(number)[: None if number else 50])
    lines = [f"{number}.png,a dog {number}" for number in (0, 1, 7)]
    (tmp_path / "captions.txt").write_text("image,caption\n" + "\n".join(lines) + "\n")

    found = ailments(tmp_path)

    assert {"unreadable-images", "captions-without-image", "images-without-captions", "not-prepared"} <= set(found)


def write_lines(file: Path, rows: list[Row], *, ascii_only: bool = False) -> Path:
    """A JSON lines file."""
    file.write_text("".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("ascii_only", [True, False])
def test_line_separators_in_references_become_spaces(tmp_path: Path, ascii_only: bool):
    odd = [{"image_id": str(n), "captions": [f"a dog\u2028on {n}\n", "a \\u2028 cat", "sky\x85"]} for n in range(2)]
    file = write_lines(tmp_path / "references.jsonl", odd, ascii_only=ascii_only)
    before = contents(tmp_path)
    assert troubles(file) == {"line-separators"}

    assert ailments(file, fix=True)["line-separators"].mended

    assert changed_files(before, tmp_path) == {"references.jsonl"}
    kept = [json.loads(line)["captions"] for line in file.read_text().split("\n") if line]
    assert kept == [[f"a dog on {n} ", "a \\u2028 cat", "sky "] for n in range(2)]
    assert troubles(file) == set()


def test_empty_predictions_are_found(tmp_path: Path):
    file = write_lines(tmp_path / "p.jsonl", [{"image_id": "1", "caption": " "}, {"image_id": "2", "caption": "a dog"}])

    assert ailments(file)["empty-captions"].details == ("1",)


@pytest.mark.parametrize("text", ["", "{", '{"image_id": 1}', "[3]", '{"image_id": "1", "caption": "\\ud83d"}'])
def test_a_file_that_holds_no_captions_is_found(tmp_path: Path, text: str):
    file = tmp_path / "captions.json"
    file.write_text(text)

    assert troubles(file) == {"caption-file"}


def test_one_caption_for_most_images_is_found(tmp_path: Path):
    def captioned(alike: int) -> Path:
        texts = ["A dog on grass." if number < alike else f"a cat {number}" for number in range(20)]
        rows = [{"image_id": str(number), "caption": text} for number, text in enumerate(texts)]
        return write_lines(tmp_path / f"{alike}.jsonl", rows)

    assert troubles(captioned(10)) == set()
    assert troubles(captioned(11)) == {"one-for-many"}


def test_the_same_answer_to_most_questions_is_no_ailment(tmp_path: Path):
    rows = [{"image_id": str(n), "caption": "yes"} for n in range(12)]

    assert troubles(write_lines(tmp_path / "answers.jsonl", rows)) == set()


@pytest.mark.parametrize("text", ["ssssssssssss", "a dog dog dog dog on grass", "a dog, dog, dog, dog"])
def test_captions_that_say_one_thing_over_and_over_are_found(text: str, tmp_path: Path):
    rows = [{"image_id": "1", "caption": "a very very good dog"}, {"image_id": "2", "caption": text}]

    assert ailments(write_lines(tmp_path / "p.jsonl", rows))["stutter"].details == (f"2: {text}",)
