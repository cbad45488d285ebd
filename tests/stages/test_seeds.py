"""Several seeds of one recipe, and what they have in common."""

import statistics
import time
from pathlib import Path

import pytest

from captioncrafter import recipe, runs, storage
from captioncrafter.errors import InputError
from captioncrafter.stages.seeds import train_seeds
from captioncrafter.training.loop import FitResult
from tiny import tiny_recipe, write_tiny_dataset


@pytest.fixture(scope="module")
def options(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> recipe.Recipe:
    folder = tmp_path_factory.mktemp("seeds")
    return tiny_recipe(tiny_checkpoint, write_tiny_dataset(folder / "data"), features={"folder": str(folder / "cache")})


@pytest.mark.parametrize("seeds", [(1,), (2, 2)])
def test_seeds_that_make_no_deviation_are_refused(options: recipe.Recipe, tmp_path: Path, seeds: tuple[int, ...]):
    with pytest.raises(InputError, match="give two different seeds or more"):
        train_seeds(options, tmp_path, seeds)


def test_each_seed_has_a_run_of_its_own_and_mean_and_deviation_are_told(options: recipe.Recipe, tmp_path: Path):
    found = train_seeds(options, tmp_path, (3, 4))

    ciders = [found.runs[seed].best_cider for seed in (3, 4)]
    assert (found.mean_cider, found.sd_cider) == (statistics.mean(ciders), statistics.stdev(ciders))
    assert [runs.Run(tmp_path / f"seed-{seed}").recipe()["seed"] for seed in (3, 4)] == [3, 4]
    assert storage.read_json(tmp_path / "seeds.json")["mean_cider"] == found.mean_cider


def test_finished_seeds_are_not_trained_again(
    options: recipe.Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    train_seeds(options, tmp_path, (3, 4))
    capsys.readouterr()

    train_seeds(options, tmp_path, (3, 4, 5), resume=True)

    assert capsys.readouterr().err.count("this run is finished") == 2


def test_a_time_budget_is_that_of_all_seeds_together(
    options: recipe.Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    given: list[float] = []

    def noted(*_: object, stop_after_s: float, **__: object) -> FitResult:
        given.append(stop_after_s)
        time.sleep(0.2)
        return FitResult(best_step=1, best_cider=0.5, steps=1, stopped_early=False)

    monkeypatch.setattr("captioncrafter.stages.seeds.train", noted)

    train_seeds(options, tmp_path, (3, 4, 5), stop_after_s=60.0)

    assert given[0] > given[1] + 0.2 > given[2] + 0.4
