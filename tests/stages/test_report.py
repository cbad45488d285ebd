"""The page of a run folder: what is there is shown, what is not is said, what does not compare is refused."""

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from captioncrafter.errors import DataError
from captioncrafter.stages.report import report
from pages import of_class, read, system, texts
from tiny import tiny_recipe, write_tiny_dataset

IMAGES = 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training and four validation images."""
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "pictures", train=6, validation=IMAGES)


def write_scored(folder: Path, caption: str, cider: float, **scores: Any) -> None:
    """Predictions and scores as `evaluate` writes them, of the validation images."""
    captions = {f"picture-{number}.png": caption for number in range(6, 6 + IMAGES)}
    made = system("", captions, [cider] * IMAGES, cider=cider, split="validation", **scores)
    rows = [{"image_id": image, **values} for image, values in made.image_scores.items()]
    predictions = [{"image_id": image, "caption": text} for image, text in captions.items()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(made.scores))
    for name, lines in (("image_scores.jsonl", rows), ("predictions.jsonl", predictions)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_run(
    folder: Path, dataset: Path, caption: str = "a dog", cider: float = 0.7, seed: int = 0, **scores: Any
) -> Path:
    """A run folder without a model: recipe, log, manifest, and an evaluation of the validation images."""
    write_scored(folder, caption, cider, **scores)
    options = tiny_recipe(Path("a/checkpoint"), dataset).model_copy(update={"seed": seed})
    (folder / "recipe.json").write_text(json.dumps(options.model_dump(mode="json")))
    (folder / "manifest.json").write_text(json.dumps({"data": {"train": {"images": 6}}, "device": "cpu"}))
    (folder / "log.jsonl").write_text(json.dumps({"kind": "step", "step": 1, "loss": 2.5, "epoch": 1.0}) + "\n")
    return folder


def test_the_page_of_a_run_shows_its_images_captions_and_references(tmp_path: Path, dataset: Path):
    page = report([write_run(tmp_path / "mine", dataset)])

    root = read(page.read_text(encoding="utf-8"))
    assert page == tmp_path / "mine" / "report.html"
    cards = root.findall(".//div[@id='cards']/article")
    assert [card.get("aria-label") for card in cards] == [f"picture-{number}.png" for number in range(6, 10)]
    assert all(len(of_class(card, "references")[0].findall("li")) == 5 for card in cards)
    assert all(str(one.get("src")).startswith("data:image/jpeg;base64,") for one in root.iter("img"))


def test_the_page_shows_the_scores_of_the_run_times_100(tmp_path: Path, dataset: Path):
    root = read(report([write_run(tmp_path / "mine", dataset, cider=0.7)]).read_text(encoding="utf-8"))

    assert texts(root, ".//table[@class='scores']/tbody/tr/td[1]")[-1] == "70.065.0 – 75.0"


def test_the_base_stands_beside_the_run(tmp_path: Path, dataset: Path):
    run = write_run(tmp_path / "mine", dataset, cider=0.7)
    write_scored(run / "base", "a photo", 0.25)

    root = read(report([run]).read_text(encoding="utf-8"))

    assert texts(root, ".//table[@class='scores']/thead//th[@class]")[:2] == ["mine", "base"]
    assert "CIDEr rises from 25.0 (base) to 70.0" in texts(root, ".//p[@class='meaning']")[0]


def test_other_runs_stand_side_by_side(tmp_path: Path, dataset: Path):
    runs = [write_run(tmp_path / name, dataset, caption=f"a {name}") for name in ("dog", "cat", "man")]

    root = read(report(runs).read_text(encoding="utf-8"))

    assert texts(root, ".//table[@class='scores']/thead//th[@class]")[:3] == ["dog", "cat", "man"]
    assert texts(root, ".//div[@id='cards']/article[1]//p[@class='caption']") == ["a dog", "a cat", "a man"]
    assert not (runs[1] / "report.html").exists()


def test_runs_in_folders_of_one_name_are_told_apart(tmp_path: Path, dataset: Path):
    runs = [write_run(tmp_path / name / "out", dataset) for name in ("dog", "cat")]

    root = read(report(runs).read_text(encoding="utf-8"))

    assert texts(root, ".//table[@class='scores']/thead//th[@class]")[:2] == ["dog/out", "cat/out"]


def test_a_run_in_a_folder_called_base_is_told_from_the_base(tmp_path: Path, dataset: Path):
    run = write_run(tmp_path / "base", dataset)
    write_scored(run / "base", "a photo", 0.25)

    root = read(report([run]).read_text(encoding="utf-8"))

    assert texts(root, ".//table[@class='scores']/thead//th[@class]")[:2] == [f"{tmp_path.name}/base", "base"]


def test_runs_that_differ_in_their_seed_have_a_mean_and_a_deviation(tmp_path: Path, dataset: Path):
    runs = [write_run(tmp_path / f"seed-{seed}", dataset, cider=0.5 + 0.1 * seed, seed=seed) for seed in (0, 1, 2)]

    root = read(report(runs).read_text(encoding="utf-8"))

    assert texts(root, ".//table[@class='trainings']//td")[-1] == "60.0 ± 10.0"


def test_a_folder_of_seeds_stands_for_its_runs(tmp_path: Path, dataset: Path):
    for seed in (3, 11):
        write_run(tmp_path / "mine" / f"seed-{seed}", dataset, seed=seed)
    (tmp_path / "mine" / "seeds.json").write_text(json.dumps({"runs": {"3": {}, "11": {}}}))

    page = report([tmp_path / "mine"])

    assert page == tmp_path / "mine" / "report.html"
    root = read(page.read_text(encoding="utf-8"))
    assert texts(root, ".//table[@class='scores']/thead//th[@class]")[:2] == ["seed-3", "seed-11"]


def test_runs_are_compared_image_by_image(tmp_path: Path, dataset: Path):
    runs = [write_run(tmp_path / name, dataset, cider=cider) for name, cider in (("one", 0.7), ("two", 0.5))]

    root = read(report(runs).read_text(encoding="utf-8"))

    assert texts(root, ".//table[@class='tested']/thead//th")[1:] == ["METEOR", "CIDEr"]
    assert [cell[:5] for cell in texts(root, ".//table[@class='tested']//td")] == ["+10.0", "+20.0"]


def test_an_image_with_a_prompt_of_its_own_shows_it(tmp_path: Path):
    questions = {"scenes": {"train": 2, "validation": 2, "test": 2, "task": "questions", "questions_per_scene": 2}}
    run = write_run(tmp_path / "mine", tmp_path)
    saved = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(saved | {"data": questions}))
    from captioncrafter.data.splits import load_splits
    from captioncrafter.recipe import Data

    asked = {image.image_id: image.prompt for image in load_splits(Data.model_validate(questions))["validation"]}
    rows = [json.dumps({"image_id": image, "caption": "two"}) + "\n" for image in asked]
    (run / "predictions.jsonl").write_text("".join(rows))

    root = read(report([run]).read_text(encoding="utf-8"))

    assert texts(root, ".//div[@id='cards']//p[@class='prompt']") == list(asked.values())
    assert all(asked.values())


def test_the_page_goes_where_it_is_told(tmp_path: Path, dataset: Path):
    run = write_run(tmp_path / "mine", dataset)

    page = report([run], out=tmp_path / "elsewhere" / "page.html")

    assert page == tmp_path / "elsewhere" / "page.html"
    assert page.is_file()
    assert not (run / "report.html").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="not a run folder"):
        report([tmp_path])


@pytest.mark.parametrize("place", [0, 1])
def test_a_run_that_was_not_evaluated_is_refused(place: int, tmp_path: Path, dataset: Path):
    runs = [write_run(tmp_path / name, dataset) for name in ("one", "two")]
    (runs[place] / "predictions.jsonl").unlink()

    with pytest.raises(DataError, match=rf"{runs[place]}: nothing to show yet. `captioncrafter evaluate --run"):
        report(runs)


def test_a_run_over_other_images_is_refused(tmp_path: Path, dataset: Path):
    runs = [write_run(tmp_path / name, dataset) for name in ("one", "two")]
    lines = (runs[1] / "predictions.jsonl").read_text().splitlines()
    (runs[1] / "predictions.jsonl").write_text("\n".join(lines[1:]) + "\n")

    with pytest.raises(DataError, match=rf"{runs[1]}: was evaluated on other images than one \(3 and 4\)"):
        report(runs)


def test_a_run_over_other_data_of_the_same_names_is_refused(tmp_path: Path, dataset: Path):
    from captioncrafter.data.splits import load_splits
    from captioncrafter.recipe import Data

    fingerprint = load_splits(Data(path=str(dataset)))["validation"].fingerprint()
    runs = [write_run(tmp_path / name, dataset, data=data) for name, data in (("one", fingerprint), ("two", "f00"))]

    with pytest.raises(DataError, match="images or their references differ"):
        report(runs)


def test_without_its_data_a_run_still_has_a_page(tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]):
    run = write_run(tmp_path / "mine", shutil.copytree(dataset, tmp_path / "data"))
    shutil.rmtree(tmp_path / "data")

    root = read(report([run]).read_text(encoding="utf-8"))

    assert "the page has no images and no references" in capsys.readouterr().err
    assert not list(root.iter("img"))
    assert texts(root, ".//div[@id='cards']//p[@class='caption']") == ["a dog"] * IMAGES


def test_data_that_has_changed_since_is_not_shown(tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]):
    run = write_run(tmp_path / "mine", dataset, data="another fingerprint")

    root = read(report([run]).read_text(encoding="utf-8"))

    assert "no longer what was evaluated" in capsys.readouterr().err
    assert not list(root.iter("img"))


def test_thumbnails_are_small_and_whole(tmp_path: Path, dataset: Path):
    root = read(report([write_run(tmp_path / "mine", dataset)]).read_text(encoding="utf-8"))

    source = str(next(root.iter("img")).get("src"))
    with Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,")))) as thumbnail:
        assert thumbnail.format == "JPEG"
        assert thumbnail.size == (40, 40)


@pytest.fixture
def run_with_pictures(tmp_path: Path, dataset: Path) -> Path:
    """A run in which a beach and a dog lie beside the data, captioned with and without the adapter."""
    run = write_run(tmp_path / "mine", dataset)
    write_scored(run / "base", "a photo", 0.25)
    (run / "pictures").mkdir()
    for name in ("beach.png", "dog.png"):
        Image.new("RGB", (400, 300), "tan").save(run / "pictures" / name)
    rows = [{"image": f"{name}.png", "tuned": f"my {name}", "base": f"a {name}"} for name in ("beach", "dog")]
    (run / "pictures" / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_pictures_beside_the_data_are_shown_with_their_captions(run_with_pictures: Path):
    root = read(report([run_with_pictures]).read_text(encoding="utf-8"))

    assert texts(root, ".//section[@id='pictures']//p[@class='caption']") == [
        "my beach", "a beach", "my dog", "a dog",
    ]  # fmt: skip
    assert len(root.findall(".//section[@id='pictures']//img")) == 2


def test_a_picture_tells_whose_it_is(run_with_pictures: Path):
    exif = Image.Exif()
    exif[ExifTags.Base.Copyright] = "A. Painter, CC BY 4.0"
    Image.new("RGB", (40, 30)).save(run_with_pictures / "pictures" / "dog.png", exif=exif)

    root = read(report([run_with_pictures]).read_text(encoding="utf-8"))

    assert texts(root, ".//section[@id='pictures']//p[@class='name credit']") == ["A. Painter, CC BY 4.0"]


def test_a_picture_that_is_gone_or_damaged_is_left_out_and_said(
    run_with_pictures: Path, capsys: pytest.CaptureFixture[str]
):
    (run_with_pictures / "pictures" / "beach.png").unlink()
    (run_with_pictures / "pictures" / "dog.png").write_bytes(b"no picture")

    root = read(report([run_with_pictures]).read_text(encoding="utf-8"))

    said = capsys.readouterr().err
    assert "beach.png" in said and "dog.png" in said
    assert root.findall(".//section[@id='pictures']") == []


def test_a_picture_outside_of_the_run_is_not_read(run_with_pictures: Path):
    Image.new("RGB", (40, 30), "red").save(run_with_pictures.parent / "secret.png")
    row = {"image": "../../secret.png", "tuned": "a secret", "base": "a secret"}
    (run_with_pictures / "pictures" / "captions.jsonl").write_text(json.dumps(row))

    root = read(report([run_with_pictures]).read_text(encoding="utf-8"))

    assert root.findall(".//section[@id='pictures']") == []


def test_a_picture_may_be_captioned_by_the_base_alone(run_with_pictures: Path):
    row = {"image": "dog.png", "base": "a dog"}
    (run_with_pictures / "pictures" / "captions.jsonl").write_text(json.dumps(row))

    root = read(report([run_with_pictures]).read_text(encoding="utf-8"))

    assert texts(root, ".//section[@id='pictures']//p[@class='who']") == ["base"]


@pytest.mark.parametrize(
    "row",
    [
        {"tuned": "a dog"},
        {"image": "dog.png"},
        {"image": 5, "base": "a dog"},
        {"image": "dog.png", "base": None},
        {"image": "dog\0.png", "base": "a dog"},
        {"image": "dog.png", "base": "half a \ud800"},
    ],
)
def test_rows_of_other_pictures_that_make_no_sense_are_refused_by_their_number(
    run_with_pictures: Path, row: dict[str, Any]
):
    good = {"image": "dog.png", "base": "a dog"}
    (run_with_pictures / "pictures" / "captions.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(row))

    with pytest.raises(DataError, match=r"captions\.jsonl, row 2: expected a file's name as image"):
        report([run_with_pictures])


def test_a_base_that_was_not_scored_says_something_of_pictures_all_the_same(run_with_pictures: Path):
    shutil.rmtree(run_with_pictures / "base")

    root = read(report([run_with_pictures]).read_text(encoding="utf-8"))

    assert texts(root, ".//section[@id='pictures']//p[@class='who']") == ["mine", "base"] * 2
