"""What went into a dataset and what did not."""

import json
from pathlib import Path

import pytest

from captioncrafter.data.audit import Audit, Range, SplitCounts, audit
from captioncrafter.data.example import CaptionLine, Example, SetAside, Source
from captioncrafter.data.inspection import Inspected


def image(name: str, *captions: str, content: str = "", more_frames: bool = False) -> Inspected:
    return Inspected(Example(name, Path(name), captions or ("a dog",)), content or name, 1, more_frames)


@pytest.fixture
def captions_file(tmp_path: Path) -> Path:
    (tmp_path / "captions.txt").write_bytes(b"abc")
    return tmp_path / "captions.txt"


def audited(captions_file: Path, splits: dict[str, list[Inspected]], *, splits_from: str = "lists") -> Audit:
    source = Source(
        layout="kaggle",
        licence="research only",
        read_from=(captions_file,),
        image_folder=captions_file.parent / "Images",
        splits_from=splits_from,
        examples=(),
        captions_without_image=[CaptionLine("x.jpg#0", "a dog", "captions.txt, line 2")],
    )
    return audit(captions_file.parent, source, splits, [SetAside("y.jpg", "empty file")], seed=4)


def test_each_split_is_counted_with_ranges(captions_file: Path):
    found = audited(captions_file, {"train": [image("a", "one", "one two"), image("b", "one two three four")]})

    assert found.splits["train"] == SplitCounts(2, 3, Range(1, 1.5, 2), Range(1, 2.33, 4))


def test_a_split_that_holds_nothing_is_counted_too(captions_file: Path):
    assert audited(captions_file, {"train": [image("a")]}).splits["test"] == SplitCounts(0, 0, None, None)


def test_caption_files_are_pinned_by_their_sha256(captions_file: Path):
    assert audited(captions_file, {}).files == {
        "captions.txt": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    }


def test_exact_copies_are_grouped_and_those_across_splits_are_leaks(captions_file: Path):
    found = audited(
        captions_file,
        {
            "train": [image("a", content="1"), image("b", content="1"), image("c", content="2"), image("d")],
            "test": [image("e", content="2")],
        },
    )

    assert found.identical_images == ({"a": "train", "b": "train"}, {"c": "train", "e": "test"})
    assert found.leaks == ({"c": "train", "e": "test"},)


def test_animations_are_named(captions_file: Path):
    assert audited(captions_file, {"train": [image("a.gif", more_frames=True), image("b")]}).first_frame_only == (
        "a.gif",
    )


def test_drawn_splits_say_their_seed(captions_file: Path):
    drawn = audited(captions_file, {}, splits_from="")

    assert (drawn.splits_from, drawn.seed) == ("seed 4, by image", 4)


def test_the_sources_own_splits_have_no_seed(captions_file: Path):
    assert (audited(captions_file, {}).splits_from, audited(captions_file, {}).seed) == ("lists", None)


def test_the_audit_is_plain_json_with_what_was_left_out(captions_file: Path):
    values = json.loads(json.dumps(audited(captions_file, {"train": [image("a")]}).to_json()))

    assert values["images"] == 1
    assert values["images_set_aside"] == [{"image": "y.jpg", "reason": "empty file"}]
    assert values["captions_without_image"] == [
        {"caption_id": "x.jpg#0", "text": "a dog", "place": "captions.txt, line 2"}
    ]
    assert values["leaks"] == []
