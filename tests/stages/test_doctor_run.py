"""Every ailment of a run and its features, planted in a finished tiny run and found."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from captioncrafter import runs
from captioncrafter.model import lora
from captioncrafter.stages.doctor import doctor
from captioncrafter.stages.run_lock import held
from captioncrafter.stages.train import train
from captioncrafter.training.processes import Processes
from patients import ailments, changed_files, contents, troubles
from tiny import flip_byte, rewrite_tensors, tiny_recipe, write_tiny_checkpoint, write_tiny_dataset

ADAPTER = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, a dataset, features and a finished run of them."""
    folder = tmp_path_factory.mktemp("world")
    options = tiny_recipe(
        write_tiny_checkpoint(folder / "base"),
        write_tiny_dataset(folder / "data", test=2),
        features={"folder": str(folder / "cache")},
        lora={"rank": 2},
        training={"epochs": 2.0, "keep_checkpoints": 4, "checkpoint_every_steps": 1},
        validation={"patience": 0},
    )
    train(options, folder / "run")
    return folder


@pytest.fixture
def run(world: Path, tmp_path: Path) -> Path:
    """The run of a copy of that folder, to damage."""
    copy = shutil.copytree(world, tmp_path / "world")
    for file in (copy / "run").rglob("*.json"):
        file.write_text(file.read_text().replace(str(world), str(copy)))
    return copy / "run"


def newest(run: Path) -> Path:
    """The newest checkpoint."""
    return max((run / "checkpoints").glob("step-*"))


def best(run: Path) -> Path:
    """The checkpoint of the best validation."""
    return run / "checkpoints" / f"step-{runs.Run(run).manifest()['result']['best_step']:06d}"


def edit(file: Path, **changes: object) -> None:
    """Changes keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_nothing_is_wrong_with_a_sound_run(run: Path):
    assert troubles(run) <= {"no-better", "does-not-look"}  # what so little training comes to


def test_a_checkpoint_or_a_file_of_it_stands_for_the_run(run: Path):
    (newest(run) / "weights.safetensors").unlink()

    for name in (run / "recipe.json", run / "checkpoints", newest(run)):
        assert "torn-checkpoint" in troubles(name)


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_a_torn_checkpoint_is_named(run: Path, file: str):
    path = min((run / "checkpoints").glob("step-*"))
    os.truncate(path / file, 10)

    found = ailments(run)["torn-checkpoint"]

    assert found.where == str(path)
    assert found.severity == "warning"


def test_a_run_without_any_whole_checkpoint_is_an_error(run: Path):
    for path in (run / "checkpoints").iterdir():
        os.truncate(path / "state.json", 5)

    assert ailments(run)["torn-checkpoint"].severity == "error"


def test_damaged_weights_of_the_best_validation_come_back_from_their_copy(run: Path):
    file = best(run) / "weights.safetensors"
    before = contents(run)
    flip_byte(file, file.stat().st_size - 3)
    assert "torn-checkpoint" in troubles(run)

    assert ailments(run, fix=True)["torn-checkpoint"].mended

    assert not changed_files(before, run)
    assert "torn-checkpoint" not in troubles(run)


@pytest.mark.parametrize("harm", [Path.unlink, lambda file: os.truncate(file, 40), lambda file: flip_byte(file, -3)])
def test_a_spoilt_adapter_comes_back_from_the_best_checkpoint(run: Path, harm: Callable[[Path], object]):
    sound = {name: tensor.clone() for name, tensor in lora.stored_adapter(run / "adapter").items()}
    before = contents(run)
    harm(run / ADAPTER)
    assert "not-the-best" in troubles(run)

    assert ailments(run, fix=True)["not-the-best"].mended

    assert changed_files(before, run) <= {ADAPTER}
    now = lora.stored_adapter(run / "adapter")
    assert now.keys() == sound.keys()
    assert all(torch.equal(now[name], sound[name]) for name in sound)
    assert not {"not-the-best", "damaged-weights", "no-weights"} & troubles(run)


def test_an_adapter_of_another_run_in_its_place_is_found(run: Path):
    rewrite_tensors(run / ADAPTER, lambda tensors: [tensor.add_(1) for tensor in tensors.values()])

    assert "not-the-best" in troubles(run)


def test_another_prompt_than_the_one_trained_with_is_found(run: Path):
    edit(run / "adapter" / "captioning.json", prompt="describe this")

    assert "other-prompt" in troubles(run)


def test_another_base_under_the_same_name_is_found(run: Path):
    shutil.rmtree(run.parent / "base")
    write_tiny_checkpoint(run.parent / "base", seed=1)

    found = troubles(run)

    assert {"base-mismatch", "stale-features"} <= found


def test_other_data_under_the_same_name_are_found(run: Path):
    shutil.rmtree(run.parent / "data")
    write_tiny_dataset(run.parent / "data", train=5, test=2)

    told = [finding.what for finding in doctor(str(run)).findings if finding.ailment == "other-data"]

    assert "train has changed since: 6 images then, 5 now" in told


def test_data_that_are_gone_are_found(run: Path):
    shutil.rmtree(run.parent / "data")

    assert "no-dataset" in troubles(run)


def test_a_base_that_is_gone_is_found(run: Path):
    shutil.rmtree(run.parent / "base")

    assert "base-absent" in troubles(run)


def test_damaged_features_are_named(run: Path):
    (part,) = (run.parent / "cache").rglob("*.safetensors")
    flip_byte(part, part.stat().st_size - 3)

    found = ailments(run)["damaged-features"]

    assert found.where == str(part)
    assert "1 of 10 rows" in found.what


def test_features_that_are_gone_are_a_note(run: Path):
    shutil.rmtree(run.parent / "cache")

    assert ailments(run)["no-features"].severity == "note"


@pytest.mark.parametrize("inner", ["", "features"])
def test_a_folder_of_features_tells_its_damaged_parts_and_strange_keys(run: Path, inner: str):
    cache = run.parent / "cache"
    (part,) = cache.rglob("*.safetensors")
    os.truncate(part, 100)
    edit(part.with_name("key.json"), cut="elsewhere")

    assert troubles(cache / inner) == {"damaged-features", "stale-features"}


def test_what_a_killed_process_left_is_cleaned_up(run: Path):
    before = contents(run)
    (run / ".scores.json.999999.tmp").write_text("{")
    (run / "adapter").rename(run / ".adapter.999999.old")
    assert "left-behind" in troubles(run)

    assert ailments(run, fix=True)["left-behind"].mended

    assert not changed_files(before, run)


def test_a_run_at_work_is_told_and_left_alone(run: Path):
    before = contents(run)
    (run / ".scores.json.999999.tmp").write_text("{")

    with held(run, Processes(torch.device("cpu"))):
        found = ailments(run, fix=True)

    assert "at-work" in found
    assert "left-behind" not in found
    assert changed_files(before, run) == {".scores.json.999999.tmp"}


def test_a_damaged_log_is_named_with_the_line(run: Path):
    file = run / "log.jsonl"
    file.write_bytes(file.read_bytes().replace(b"{", b"", 1))

    assert ailments(run)["damaged-log"].details == ("line 1",)


def test_captions_that_do_not_depend_on_the_image_are_found(run: Path):
    row = {"kind": "validation", "step": 4, "CIDEr": 0.3, "shuffled_CIDEr": 0.29, "best": True}
    (run / "log.jsonl").write_text(json.dumps(row | {"step": 0, "CIDEr": 0.4}) + "\n" + json.dumps(row) + "\n")

    assert {"no-better", "does-not-look"} <= troubles(run)


def test_what_nobody_foresaw_is_a_finding_and_no_traceback(run: Path):
    rows = [{"kind": "validation", "step": 0, "CIDEr": "high"}, {"kind": "validation", "step": 1, "CIDEr": 0.3}]
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    found = ailments(run)["damaged"]

    assert (found.severity, found.where) == ("error", str(run))
    assert "cannot be examined any further" in found.what


def test_a_runs_own_captions_are_looked_at(run: Path):
    rows = [{"image_id": f"{number}", "caption": "a dog on grass"} for number in range(12)]
    (run / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "one-for-many" in troubles(run)

    (run / "predictions.jsonl").write_text("{")
    assert "caption-file" in troubles(run)


def test_other_versions_are_a_note_that_names_them(run: Path):
    edit(run / "manifest.json", versions={"torch": "1.0"})

    assert ailments(run)["versions"].details[0].startswith("torch 1.0, now")


def test_a_run_that_did_not_end_or_has_no_adapter_yet_is_a_note(run: Path):
    shutil.rmtree(run / "adapter")
    edit(run / "manifest.json", result=None)

    found = ailments(run)

    assert (found["unfinished"].severity, found["no-adapter"].severity) == ("note", "note")


def test_a_finished_run_without_checkpoints_is_a_note(run: Path):
    shutil.rmtree(run / "checkpoints")

    assert ailments(run)["no-checkpoint"].severity == "note"


@pytest.mark.parametrize("file", ["recipe.json", "manifest.json"])
def test_a_file_without_which_it_cannot_go_on_is_missed(run: Path, file: str):
    (run / file).unlink()

    assert f"no-{file.removesuffix('.json')}" in troubles(run)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]"])
def test_damage_to_a_file_is_found(run: Path, content: bytes):
    names = (
        "recipe.json",
        "manifest.json",
        "log.jsonl",
        ADAPTER,
        "adapter/captioning.json",
        "adapter/adapter_config.json",
    )
    files = [run / name for name in names] + [newest(run) / "state.json", newest(run) / "weights.safetensors"]

    for file in [*files, *(run.parent / "cache").rglob("key.json")]:
        kept = file.read_bytes()
        file.write_bytes(content)
        assert troubles(run) or file.name == "log.jsonl", file
        file.write_bytes(kept)


def test_a_base_is_mended_where_it_is_examined_itself(run: Path):
    file = run.parent / "base" / "processor_config.json"
    edit(file, processor_class="BlipProcessor")
    before = contents(run.parent)

    found = ailments(run, fix=True)["processor-class"]

    assert f"captioncrafter doctor {run.parent / 'base'} --fix" in found.mend
    assert not changed_files(before, run.parent)


def test_every_run_of_several_seeds_is_looked_at(run: Path):
    shutil.copytree(run, run.parent / "seeds" / "seed-1")
    (run.parent / "seeds" / "seed-1" / "manifest.json").unlink()

    assert "no-manifest" in troubles(run.parent / "seeds")
