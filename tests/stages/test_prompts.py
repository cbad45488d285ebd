"""A dataset whose rows bring prompts of their own: trained, captioned and scored with them."""

from pathlib import Path

import datasets
import pytest

from captioncrafter import runs
from captioncrafter.data.dataset import PROMPTED_FEATURES
from captioncrafter.stages.evaluate import evaluate_run
from captioncrafter.stages.train import train
from tiny import picture, tiny_recipe

ANSWERS = {"question what colour is the dog answer": "red", "two": "a cat"}


def write_questions(folder: Path, images: int = 6) -> Path:
    """Two questions about each picture, in every split; the answer is the question's."""
    rows = [
        (f"{number}/{kind}", number, question, answer)
        for number in range(images)
        for kind, (question, answer) in enumerate(ANSWERS.items())
    ]
    columns = {
        "image": [{"bytes": picture(number), "path": None} for _, number, _, _ in rows],
        "image_id": [name for name, _, _, _ in rows],
        "captions": [[answer] for _, _, _, answer in rows],
        "prompt": [question for _, _, question, _ in rows],
    }
    split = datasets.Dataset.from_dict(columns, features=PROMPTED_FEATURES)
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": split, "validation": split, "test": split}).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module", params=["fast", "efficient"])
def run(request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> runs.Run:
    folder = tmp_path_factory.mktemp(request.param)
    options = tiny_recipe(
        tiny_checkpoint,
        write_questions(folder / "data"),
        lora={"preset": request.param, "dropout": 0.0, "targets": ["q", "k", "v", "o", "wi_0", "wi_1", "wo"]},
        features={"folder": str(folder / "cache")},
        training={"epochs": 20.0, "learning_rate": 2e-2},
        validation={"patience": 0, "every_epochs": 20.0},
    )
    train(options, folder / "run")
    return runs.Run(folder / "run")


def test_the_answer_depends_on_the_question(run: runs.Run):
    tuned, _ = evaluate_run(run.path, split="test")

    # Each image has two answers: without reading the question, half of them are right at best.
    assert tuned.scores["metrics"]["exact match"]["value"] == 1.0


def test_features_of_an_image_serve_all_its_questions_where_they_do_not_depend_on_them(run: runs.Run):
    cut = run.manifest()["features"]["cut"]
    store = Path(run.recipe()["features"]["folder"]) / "features" / run.manifest()["features"]["key"]

    from safetensors import safe_open

    stored = 0
    for file in store.glob("*.safetensors"):
        with safe_open(file, framework="pt") as part:
            stored += part.get_slice("features").get_shape()[0]

    assert stored == {"encoder": 12, "qformer": 6}[cut]
