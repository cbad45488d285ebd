"""A checkpoint holds all that going on needs, and one that is not whole is passed over."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import xxhash

from captioncrafter.errors import DataError
from captioncrafter.training import checkpoint
from captioncrafter.training.checkpoint import Progress
from little import Little
from tiny import flip_byte

FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from torch import nn, optim
from captioncrafter.training import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
layer = nn.Linear(300, 300)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(Path(sys.argv[1]), checkpoint.Progress(2), dict(layer.named_parameters()),
        optim.AdamW(layer.parameters()), keep=1)
except OSError as error:
    print(error)
"""


@pytest.fixture(autouse=True)
def random_state():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("fused", [True, False])
def test_what_is_restored_goes_on_bit_for_bit(tmp_path: Path, fused: bool):
    first = Little(fused=fused)
    first.train(3)
    path = first.save(tmp_path, 3)
    first.train(4)

    second = Little(fused=fused)
    second.train(1)
    second.restore(path)
    second.train(4)

    assert all(torch.equal(second.parameters[name], tensor) for name, tensor in first.parameters.items())


@pytest.mark.parametrize("fused", [True, False])
def test_the_optimizers_state_comes_back_bit_for_bit_and_in_its_place(tmp_path: Path, fused: bool):
    first, second = Little(fused=fused), Little(fused=fused)
    first.train(3)

    second.restore(first.save(tmp_path, 3))

    for name, parameter in first.parameters.items():
        saved, restored = first.optimizer.state[parameter], second.optimizer.state[second.parameters[name]]
        assert saved.keys() == restored.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(restored[key], value) for key, value in saved.items())
        assert all(restored[key].device == value.device for key, value in saved.items())
        assert all(restored[key].dtype == value.dtype for key, value in saved.items())


@pytest.mark.parametrize(("fused", "place"), [(True, "meta"), (False, "cpu")])
def test_the_step_count_lies_beside_the_weights_for_a_fused_optimizer_only(tmp_path: Path, fused: bool, place: str):
    trained = Little()
    trained.train(1)
    path = trained.save(tmp_path, 1)
    elsewhere = Little()
    elsewhere.layer.to("meta")
    elsewhere.parameters = dict(elsewhere.layer.named_parameters())
    elsewhere.optimizer = torch.optim.AdamW(elsewhere.parameters.values())
    elsewhere.optimizer.param_groups[0]["fused"] = fused

    elsewhere.restore(path)

    state = elsewhere.optimizer.state[elsewhere.parameters["weight"]]
    assert (state["step"].device.type, state["exp_avg"].device.type) == (place, "meta")


def test_a_weight_that_never_had_a_gradient_starts_afresh(tmp_path: Path):
    little, again = Little(), Little()
    little.layer.bias.requires_grad_(False)
    little.train(1)

    again.restore(little.save(tmp_path, 1))
    again.train(1)

    assert again.optimizer.state[again.layer.bias]["step"] == 1
    assert again.optimizer.state[again.layer.weight]["step"] == 2


def test_progress_comes_back(tmp_path: Path):
    little = Little()
    progress = Progress(
        7,
        best_cider=0.1 + 0.2,
        best_step=5,
        validations_without_gain=1,
        finished=True,
        window={"loss": 1e-7 + 1234.5, "tokens": 371, "captions": 40},
        halvings=2,
        skipped=3,
    )
    path = checkpoint.save(tmp_path, progress, little.parameters, little.optimizer, keep=1)

    assert little.restore(path) == progress


def test_the_newest_is_found(tmp_path: Path):
    little = Little()
    paths = [little.save(tmp_path, step, keep=3) for step in (2, 9, 11)]

    assert checkpoint.newest_good(tmp_path) == paths[-1]


def test_the_millionth_step_is_newer_than_the_one_before(tmp_path: Path):
    little = Little()
    before = little.save(tmp_path, 999_999)

    newest = little.save(tmp_path, 1_000_000)

    assert before.exists()
    assert checkpoint.newest_good(tmp_path) == newest


def test_there_is_none_where_nothing_was_saved(tmp_path: Path):
    assert checkpoint.newest_good(tmp_path / "nowhere") is None


@pytest.mark.parametrize("file", FILES)
def test_one_with_a_missing_file_is_passed_over_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
):
    little = Little()
    good, damaged = little.save(tmp_path, 1), little.save(tmp_path, 2)
    (damaged / file).unlink()

    found = checkpoint.newest_good(tmp_path)

    assert found == good
    assert f"{damaged}: not whole" in capsys.readouterr().err


@pytest.mark.parametrize("file", FILES)
def test_one_with_a_flipped_byte_is_passed_over_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
):
    little = Little()
    little.train(1)
    good, damaged = little.save(tmp_path, 1), little.save(tmp_path, 2)
    flip_byte(damaged / file, (damaged / file).stat().st_size // 2)

    found = checkpoint.newest_good(tmp_path)

    assert found == good
    assert f"{damaged}: " in capsys.readouterr().err


def test_a_byte_flipped_anywhere_in_the_state_is_noticed(tmp_path: Path):
    state = Little().save(tmp_path, 3) / "state.json"
    whole = state.read_bytes()
    parsed = [at for at, byte in enumerate(whole) if byte not in b" \n"]

    for at in parsed:
        state.write_bytes(whole)
        flip_byte(state, at)
        assert checkpoint.newest_good(tmp_path) is None, at


def test_all_of_them_damaged_is_none(tmp_path: Path):
    little = Little()
    for step in (1, 2):
        (little.save(tmp_path, step) / "weights.safetensors").write_bytes(b"")

    assert checkpoint.newest_good(tmp_path) is None


def test_the_newest_few_are_kept(tmp_path: Path):
    little = Little()
    for step in range(1, 6):
        little.save(tmp_path, step, keep=2)

    assert names(tmp_path) == ["step-000004", "step-000005"]


def test_the_best_is_kept_however_old(tmp_path: Path):
    little = Little()
    for step in range(1, 6):
        little.save(tmp_path, step, keep=2, best_step=2 if step >= 2 else None)

    assert names(tmp_path) == ["best", "step-000002", "step-000004", "step-000005"]


def test_the_best_of_before_goes_once_another_is_better(tmp_path: Path):
    little = Little()
    for step, best_step in ((1, 1), (2, 1), (3, 3), (4, 3)):
        little.save(tmp_path, step, keep=1, best_step=best_step)

    assert names(tmp_path) == ["best", "step-000003", "step-000004"]


def test_a_stranger_in_the_folder_changes_nothing(tmp_path: Path):
    little = Little()
    path = little.save(tmp_path, 1)
    (path / ".DS_Store").write_bytes(b"a file manager's")
    (tmp_path / "step-by-step.txt").write_text("somebody's notes")

    assert checkpoint.newest_good(tmp_path) == path
    assert little.restore(path) == Progress(1)
    assert little.save(tmp_path, 2, keep=1).is_dir()


def test_one_that_another_version_made_is_passed_over_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = Little().save(tmp_path, 1)
    state = json.loads((path / "state.json").read_text())
    facts = {"progress": state["progress"], "hashes": state["hashes"] | {"random.safetensors": "0"}}
    text = json.dumps(facts, sort_keys=True).encode()
    (path / "state.json").write_text(json.dumps(facts | {"check": xxhash.xxh3_128_hexdigest(text)}))

    assert checkpoint.newest_good(tmp_path) is None
    assert "another version made it, of optimizer.safetensors, random.safetensors" in capsys.readouterr().err


def test_a_disk_that_is_full_leaves_the_checkpoint_of_before(tmp_path: Path):
    before = Little().save(tmp_path, 1)

    done = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=True)

    assert f"{tmp_path}: the checkpoint was not written" in done.stdout
    assert names(tmp_path) == [before.name]
    assert checkpoint.newest_good(tmp_path) == before


def test_saving_behind_a_damaged_one_keeps_what_was_saved(tmp_path: Path):
    little = Little()
    little.save(tmp_path, 3, keep=1)
    damaged = little.save(tmp_path, 9, keep=2)
    (damaged / "weights.safetensors").unlink()

    saved = little.save(tmp_path, 4, keep=1)

    assert names(tmp_path) == ["step-000004"]
    assert checkpoint.newest_good(tmp_path) == saved


def test_saving_a_step_again_replaces_it(tmp_path: Path):
    little = Little()
    little.save(tmp_path, 3)
    little.train(1)

    little.save(tmp_path, 3)

    other = Little()
    other.restore(tmp_path / "step-000003")
    assert names(tmp_path) == ["step-000003"]
    assert torch.equal(other.layer.weight, little.layer.weight)


def test_one_of_another_adapter_is_refused(tmp_path: Path):
    path = Little().save(tmp_path, 1)

    with pytest.raises(DataError, match="made with another adapter than this recipe's"):
        Little(width=5).restore(path)


def test_a_half_written_one_is_never_seen(tmp_path: Path):
    path = Little().save(tmp_path, 1)
    shutil.copytree(path, tmp_path / ".step-000002.77.tmp")

    assert checkpoint.newest_good(tmp_path) == path
