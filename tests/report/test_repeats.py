"""Several seeds of one recipe: their mean and deviation, and nothing that mixes recipes."""

from captioncrafter.report.content import System
from captioncrafter.report.repeats import repeated


def trained(name: str, seed: int, recipe: str = "a recipe", **values: float) -> System:
    metrics = {metric: {"value": value} for metric, value in values.items()}
    return System(name, {}, {"metrics": metrics}, training=recipe, seed=seed)


def test_trainings_with_other_seeds_give_mean_and_sample_deviation_times_100():
    (found,) = repeated([trained(f"seed-{seed}", seed, CIDEr=cider) for seed, cider in ((0, 0.9), (1, 1.0), (5, 1.1))])

    assert (found.names, found.seeds) == (["seed-0", "seed-1", "seed-5"], [0, 1, 5])
    assert found.rows == [("CIDEr", "100.0", "10.0")]


def test_other_recipes_are_kept_apart():
    systems = [trained("a", 0, CIDEr=0.5), trained("b", 1, "another", CIDEr=0.9), trained("c", 1, CIDEr=0.7)]

    assert [one.names for one in repeated(systems)] == [["a", "c"]]


def test_one_training_has_no_deviation():
    assert repeated([trained("a", 0, CIDEr=0.5), System("base", {}, {"metrics": {"CIDEr": {"value": 0.1}}})]) == []


def test_the_same_seed_twice_is_one_training():
    assert repeated([trained("a", 0, CIDEr=0.5), trained("b", 0, CIDEr=0.7)]) == []


def test_a_metric_that_one_training_lacks_is_left_out():
    systems = [trained("a", 0, CIDEr=0.5, SPICE=0.2), trained("b", 1, CIDEr=0.7)]

    assert [row[0] for row in repeated(systems)[0].rows] == ["CIDEr"]
