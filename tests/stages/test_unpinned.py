"""A base of the hub that no recipe pins: the run and its adapter keep the commit that it turned out to be."""

import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from captioncrafter import recipe, runs, storage
from captioncrafter.generation.captioner import CAPTIONING
from captioncrafter.model import checkpoint
from captioncrafter.model.adapters import ADAPTER_CONFIG
from captioncrafter.stages import remedies
from captioncrafter.stages.plan import plan
from captioncrafter.stages.train import train
from tiny import tiny_recipe, write_tiny_dataset

NAME = "some/base"
FIRST, NEWER = "1" * 40, "2" * 40


@pytest.fixture
def repository(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository in a hub cache as the stock client keeps it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--some--base"
    shutil.copytree(tiny_checkpoint, folder / "snapshots" / FIRST)
    point_to(folder, FIRST)
    return folder


def point_to(repository: Path, commit: str) -> None:
    """What the hub calls main is `commit` now."""
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)


@pytest.fixture
def options(repository: Path, tmp_path: Path) -> recipe.Recipe:
    given = tiny_recipe(tmp_path, write_tiny_dataset(tmp_path / "data"), training={"epochs": 1.0})
    found = remedies.changed(given, {"model.base": NAME})
    assert found is not None
    return found


def test_the_manifest_and_the_adapter_name_the_commit(
    options: recipe.Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    train(options, tmp_path / "run")

    run = runs.Run(tmp_path / "run")
    assert run.manifest()["checkpoint"]["revision"] == FIRST
    told = [storage.read_json(run.adapter / name)["revision"] for name in (CAPTIONING, ADAPTER_CONFIG)]
    assert told == [FIRST, FIRST]
    assert f"revision='{FIRST}'" in (run.adapter / "README.md").read_text(encoding="utf-8")
    assert f"{NAME}: model.revision pins no commit; this is commit {FIRST}, which the run's" in capsys.readouterr().err


def _interrupted(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


def test_a_run_goes_on_with_its_commit_after_the_hub_has_a_newer_one(
    options: recipe.Recipe, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted.setattr("captioncrafter.training.loop.fit", _interrupted)
        train(options, tmp_path / "run")
    newer = Path(shutil.copytree(repository / "snapshots" / FIRST, repository / "snapshots" / NEWER))
    storage.write_json(newer / "generation_config.json", {})
    point_to(repository, NEWER)

    train(options, tmp_path / "run", resume=True)

    assert checkpoint.find(NAME).revision == NEWER
    assert storage.read_json(tmp_path / "run" / "adapter" / CAPTIONING)["revision"] == FIRST


def test_a_plan_tells_the_commit_and_that_no_revision_is_pinned(options: recipe.Recipe):
    pinned, moving = (remedies.changed(options, {"model.revision": name}) for name in (FIRST, "main"))
    assert pinned is not None
    assert moving is not None

    assert [(found.revision, found.pinned) for found in (plan(options), plan(moving), plan(pinned))] == [
        (FIRST, False),
        (FIRST, False),
        (FIRST, True),
    ]
