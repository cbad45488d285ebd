"""JSON goes to disk for people to read, and comes back or is refused by name and line."""

import json
from pathlib import Path
from typing import Any

import pytest

from captioncrafter import storage
from captioncrafter.errors import DataError


def test_json_is_written_for_people(tmp_path: Path):
    storage.write_json(tmp_path / "a.json", {"caption": "ein Hund läuft 🐕"})

    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "caption": "ein Hund läuft 🐕"\n}\n'


def test_what_is_no_json_is_refused_with_its_line(tmp_path: Path):
    (tmp_path / "a.json").write_text('{\n"seed": }')

    with pytest.raises(DataError, match=r"a\.json: not valid JSON \(.*line 2 column 9"):
        storage.read_json(tmp_path / "a.json")


@pytest.mark.parametrize("read", [storage.read_json, storage.read_jsonl])
def test_a_missing_file_is_named(tmp_path: Path, read: Any):
    with pytest.raises(DataError, match=r"a\.json: no such file\."):
        read(tmp_path / "a.json")


@pytest.mark.parametrize("read", [storage.read_json, storage.read_jsonl])
def test_what_is_not_utf8_is_refused_by_name(tmp_path: Path, read: Any):
    (tmp_path / "a.json").write_bytes(b'{"a": "caf\xe9"}')

    with pytest.raises(DataError, match=r"a\.json: not "):
        read(tmp_path / "a.json")


def test_json_lines_are_read_back_whatever_they_hold(tmp_path: Path):
    rows = [{"caption": "a\u2028b\x85c"}, {"caption": "two\nlines"}]
    storage.write_jsonl(tmp_path / "a.jsonl", rows)

    assert storage.read_jsonl(tmp_path / "a.jsonl") == rows


def test_blank_json_lines_are_passed_over_and_counted(tmp_path: Path):
    text = '{"a": 1}\r\n\n  \n{"a": 2}\n'

    assert list(storage.numbered_jsonl(tmp_path / "a.jsonl", text)) == [(1, {"a": 1}), (4, {"a": 2})]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"a": 1', "not valid JSON (Expecting ',' delimiter: line 1 column 8 (char 7))."),
        ("[1]", "expected a JSON object, found list."),
        ("null", "expected a JSON object, found NoneType."),
    ],
)
def test_a_json_line_that_is_no_object_is_refused_by_its_number(tmp_path: Path, line: str, fault: str):
    (tmp_path / "a.jsonl").write_text(json.dumps({"a": 1}) + "\n\n" + line + "\n")

    with pytest.raises(DataError) as refused:
        storage.read_jsonl(tmp_path / "a.jsonl")

    assert str(refused.value) == f"{tmp_path / 'a.jsonl'}, line 3: {fault}"
