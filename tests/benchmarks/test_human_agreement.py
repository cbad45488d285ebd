"""Agreement with people, on invented annotations in the published format."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from captioncrafter.errors import DataError
from captioncrafter.metrics.references import References
from captioncrafter.metrics.rouge import rouge_l
from captioncrafter.metrics.tokenizer import tokenize
from captioncrafter.recipe import Evaluation
from clip import write_tiny_clip
from tiny import picture

CAPTIONS = {
    "1.jpg": ["A red dog runs .", "a dog in the park"],
    "2.jpg": ["Two cats sleep .", "cats on grass"],
    "3.jpg": ["A red dog runs .", "a man with a ball"],
}
# Image, caption id, three experts. The second and third name a reference of their image, the third by its words alone.
EXPERT = [
    ("1.jpg", "3.jpg#1", 2, 1, 2),
    ("1.jpg", "1.jpg#1", 4, 4, 4),
    ("1.jpg", "3.jpg#0", 4, 4, 3),
    ("2.jpg", "1.jpg#1", 1, 1, 1),
    ("2.jpg", "3.jpg#1", 1, 1, 2),
]
# Image, caption id, share of yes, yes, no.
CROWD = [
    ("1.jpg", "1.jpg#0", "1", 3, 0),
    ("1.jpg", "2.jpg#0", "0", 0, 3),
    ("2.jpg", "1.jpg#1", "0.333333333333", 1, 2),
]


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        import human_agreement

        yield human_agreement
        for name in ("human_agreement", "_judgements", "_outcome"):
            sys.modules.pop(name, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokens = [f"{image}#{number}\t{text}" for image, texts in CAPTIONS.items() for number, text in enumerate(texts)]
    write(tmp_path, "Flickr8k.token.txt", tokens)
    write(tmp_path, "ExpertAnnotations.txt", ["\t".join(map(str, row)) for row in EXPERT])
    write(tmp_path, "CrowdFlowerAnnotations.txt", ["\t".join(map(str, row)) for row in CROWD])
    return tmp_path


def write(folder: Path, name: str, lines: list[str]) -> None:
    (folder / name).write_text("".join(f"{line}\n" for line in lines))


def test_experts_do_not_judge_captions_that_are_references_of_the_image(bench: ModuleType, folder: Path):
    judgements = bench.read_expert(folder)

    assert [(one.image, one.caption) for one in judgements.judged] == [
        ("1.jpg", "a man with a ball"),
        ("2.jpg", "a dog in the park"),
        ("2.jpg", "a man with a ball"),
    ]
    assert judgements.describe() == {"images": 2, "captions": 3, "judgements": 9, "captions_left_out": 2}


def test_a_caption_that_the_crowd_judged_is_no_reference_of_its_image(bench: ModuleType, folder: Path):
    judgements = bench.read_crowdflower(folder)

    assert judgements.references == {"1.jpg": ("a dog in the park",), "2.jpg": ("Two cats sleep .", "cats on grass")}
    assert [one.ratings for one in judgements.judged] == [(1.0,), (0.0,), (0.333333333333,)]


def test_an_image_that_loses_its_last_reference_is_left_out(bench: ModuleType, folder: Path):
    rows = [*CROWD, ("1.jpg", "1.jpg#1", "1", 3, 0)]
    write(folder, "CrowdFlowerAnnotations.txt", ["\t".join(map(str, row)) for row in rows])

    judgements = bench.read_crowdflower(folder)

    assert [one.image for one in judgements.judged] == ["2.jpg"]
    assert judgements.left_out == 3


def test_every_judged_caption_is_scored_against_the_references_of_its_image(bench: ModuleType, folder: Path):
    judgements = bench.read_expert(folder)

    scores = bench.score_judged(judgements, Evaluation(), None)

    expected = [
        rouge_l(tokenize([one.caption]), References({one.image: judgements.references[one.image]}))[0]
        for one in judgements.judged
    ]
    assert scores["ROUGE-L"].tolist() == expected
    assert all(np.isfinite(values).all() for values in scores.values())


def test_agreement_is_kendalls_over_all_judgements(bench: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]):
    bench.main(["--annotations", str(folder), "--json"])

    told = json.loads(capsys.readouterr().out)
    rouge = next(row for row in told["rows"] if row["name"] == "ROUGE-L")
    # The first of the three captions shares a word with a reference of its image, the others none: it alone is above 0.
    # Judgements are 2 1 2 of the first, 1 1 1 and 1 1 2 of the others. Of the 3 x 6 pairs across, 2 x 5 agree and one
    # does not: tau-c = 2 (10 - 1) 2 / (81 x 1).
    assert rouge["expert_tau_c"] == pytest.approx(2 * 9 * 2 / 81)
    assert told["judgements"]["ExpertAnnotations.txt"]["judgements"] == 9
    assert {"hardware", "versions", "commit"} <= told.keys()


def test_a_metric_that_gives_all_the_same_has_no_agreement(
    bench: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
):
    write(folder, "ExpertAnnotations.txt", ["2.jpg\t1.jpg#1\t1\t2\t1", "2.jpg\t3.jpg#1\t1\t1\t1"])
    (folder / "CrowdFlowerAnnotations.txt").unlink()

    bench.main(["--annotations", str(folder), "--json"])

    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["ROUGE-L"] == {"name": "ROUGE-L", "expert_tau_c": None}


def test_clip_score_is_held_against_people_too_when_asked_for(
    bench: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
):
    clip = write_tiny_clip(folder / "clip")
    (folder / "photos").mkdir()
    for number in (1, 2, 3):
        (folder / "photos" / f"{number}.jpg").write_bytes(picture(number))

    bench.main(["--annotations", str(folder), "--clip-model", str(clip), "--images", str(folder / "photos")])

    shown = capsys.readouterr().out
    assert "RefCLIPScore" in shown
    assert "ExpertAnnotations.txt: 2 images, 3 captions, 9 judgements, 2 captions left out" in shown


def test_without_the_files_it_says_which_are_needed(bench: ModuleType, tmp_path: Path):
    with pytest.raises(SystemExit, match=r"neither ExpertAnnotations\.txt nor CrowdFlowerAnnotations\.txt is there"):
        bench.main(["--annotations", str(tmp_path)])


def test_without_the_captions_it_says_so(bench: ModuleType, folder: Path):
    (folder / "Flickr8k.token.txt").unlink()

    with pytest.raises(DataError, match=r"Flickr8k\.token\.txt: no such file"):
        bench.read_expert(folder)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("1.jpg\t3.jpg#1\t2\t1", "line 1: expected image, caption id and three scores"),
        ("1.jpg\t3.jpg#1\t2\t1\t5", "three scores from 1 to 4"),
        ("1.jpg\t3.jpg#1\t2\t1\tgood", "parted by tabs"),
        ("1.jpg 3.jpg#1 2 1 1", "parted by tabs"),
        ("9.jpg\t3.jpg#1\t2\t1\t1", r"Flickr8k\.token\.txt has no 9\.jpg"),
        ("1.jpg\t3.jpg#7\t2\t1\t1", r"Flickr8k\.token\.txt has no 3\.jpg#7"),
        ("1.jpg\t1.jpg#1\t2\t1\t1", "holds no judgement"),
    ],
)
def test_a_line_that_is_no_judgement_is_refused_with_its_place(
    bench: ModuleType, folder: Path, line: str, complaint: str
):
    write(folder, "ExpertAnnotations.txt", [line])

    with pytest.raises(DataError, match=complaint):
        bench.read_expert(folder)
