"""Large JSON files, entry by entry."""

import json
import tracemalloc
from pathlib import Path

import pytest

from captioncrafter.data.layouts import json_arrays
from captioncrafter.data.layouts.json_arrays import array_entries
from captioncrafter.errors import DataError

VALUE = {
    "info": {"images": [1, 2], "text": 'a ] and a } and a \\" quote'},
    "others": [[1], {"id": 7}],
    "images": [{"id": 12345, "name": "é 🙂 \\u00e9", "inner": [{"id": "x"}]}, {"id": -3, "name": ""}],
    "last": 12.5,
}


def written(folder: Path, text: str) -> Path:
    file = folder / "file.json"
    file.write_bytes(text.encode("utf-8", errors="surrogateescape"))
    return file


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
@pytest.mark.parametrize("indent", [None, 3])
def test_entries_are_the_same_wherever_the_file_is_parted(
    chunk: int, indent: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(json_arrays, "_CHUNK", chunk)
    file = written(tmp_path, "\ufeff" + json.dumps(VALUE, indent=indent))

    found = [
        (entry.array, entry.place, entry.identity("id"), entry.text("name"))
        for entry in array_entries(file, ["images"])
    ]

    assert found == [
        ("images", "entry 1 of images", "12345", "é 🙂 \\u00e9"),
        ("images", "entry 2 of images", "-3", ""),
    ]


def test_a_file_takes_no_more_memory_than_a_part_of_it(tmp_path: Path):
    row = json.dumps({"id": 1, "text": "x" * 1000})
    file = written(tmp_path, '{"images": [' + ", ".join([row] * 20_000) + "]}")

    tracemalloc.start()
    count = sum(1 for _ in array_entries(file, ["images"]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert count == 20_000
    assert peak < file.stat().st_size / 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cut off at its start"),
        ("[]", 'not JSON at its start ("{" was to come)'),
        ('{"images": [{"id": 1}, {"id": 2', "cut off at entry 2 of images"),
        ('{"images": [{"id": "tw', "cut off at entry 1 of images"),
        ('{"images": [{"id": 1}', "cut off at entry 2 of images"),
        ('{"images": [{"id": 1}, {id: 2}]}', "not JSON at entry 2 of images"),
        ('{"images": {}}', "has no array called images: not a captions file of this layout"),
        ('{"images": [{"id": "\udcff"}]}', "not UTF-8 text"),
    ],
)
def test_a_damaged_file_is_told_with_the_place(text: str, words: str, tmp_path: Path):
    file = written(tmp_path, text)

    with pytest.raises(DataError) as refused:
        list(array_entries(file, ["images"]))

    assert str(refused.value).startswith(f"{file}: {words}")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path):
    with pytest.raises(DataError, match=r"none\.json: cannot be read \(No such file"):
        list(array_entries(tmp_path / "none.json", ["images"]))
