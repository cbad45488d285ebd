"""Lines of text files from strangers."""

from pathlib import Path

import pytest

from captioncrafter.data.layouts.lines import numbered_lines
from captioncrafter.errors import DataError


def lines_of(file: Path, content: bytes) -> list[tuple[int, str]]:
    file.write_bytes(content)
    return list(numbered_lines(file))


def test_lines_are_numbered_from_one_and_blank_ones_counted_but_left_out(tmp_path: Path):
    assert lines_of(tmp_path / "f", b"one\n\n  \ntwo") == [(1, "one"), (4, "two")]


def test_windows_line_ends_leave_nothing_behind(tmp_path: Path):
    assert lines_of(tmp_path / "f", b"one\r\ntwo\r\n") == [(1, "one"), (2, "two")]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path):
    assert lines_of(tmp_path / "f", b"\xef\xbb\xbfone\ntwo") == [(1, "one"), (2, "two")]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_line_feeds_end_a_line(tmp_path: Path, mark: str):
    assert lines_of(tmp_path / "f", f"a dog{mark}runs\n".encode()) == [(1, f"a dog{mark}runs")]


def test_text_that_is_not_utf8_is_refused_with_file_line_byte_and_the_way_out(tmp_path: Path):
    file = tmp_path / "captions.txt"

    with pytest.raises(DataError) as refused:
        lines_of(file, "one\ncafé\n".encode("latin-1"))

    assert str(refused.value) == (
        f"{file}, line 2: not UTF-8 text (byte 0xe9). Save the file as UTF-8; from Latin-1: "
        "iconv -f latin1 -t utf-8 captions.txt > captions.utf8.txt"
    )


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"captions\.txt: cannot be read"):
        list(numbered_lines(tmp_path / "captions.txt"))
