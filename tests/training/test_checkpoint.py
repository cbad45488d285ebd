"""A checkpoint holds all that going on needs, and one that is not whole is passed over."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from captioncrafter.errors import DataError
from captioncrafter.training import checkpoint
from captioncrafter.training.checkpoint import Progress
from tiny import flip_byte

CPU = torch.device("cpu")
FILES = ("weights.safetensors", "optimizer.safetensors", "random.safetensors", "state.json")


class Little:
    """A layer that trains under dropout, so that weights, moments and random state all matter."""

    def __init__(self, *, width: int = 4) -> None:
        self.layer = nn.Linear(width, 3)
        self.parameters = dict(self.layer.named_parameters())
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=0.1)

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            nn.functional.dropout(self.layer(torch.randn(2, 4)), 0.5).square().sum().backward()
            self.optimizer.step()

    def save(self, folder: Path, step: int, *, keep: int = 2) -> Path:
        return checkpoint.save(folder, Progress(step), self.parameters, self.optimizer, CPU, keep=keep)

    def restore(self, path: Path) -> Progress:
        return checkpoint.restore(path, self.parameters, self.optimizer, CPU)


@pytest.fixture(autouse=True)
def random_state():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_restored_goes_on_bit_for_bit(tmp_path: Path):
    first = Little()
    first.train(3)
    path = first.save(tmp_path, 3)
    first.train(4)

    second = Little()
    second.train(1)
    second.restore(path)
    second.train(4)

    assert all(torch.equal(second.parameters[name], tensor) for name, tensor in first.parameters.items())


def test_the_optimizers_state_comes_back_bit_for_bit(tmp_path: Path):
    first, second = Little(), Little()
    first.train(3)

    second.restore(first.save(tmp_path, 3))

    for name, parameter in first.parameters.items():
        saved, restored = first.optimizer.state[parameter], second.optimizer.state[second.parameters[name]]
        assert saved.keys() == restored.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(restored[key], value) for key, value in saved.items())


def test_the_random_state_comes_back(tmp_path: Path):
    little = Little()
    path = little.save(tmp_path, 1)
    expected = torch.rand(5)

    little.restore(path)

    assert torch.equal(torch.rand(5), expected)


def test_progress_comes_back(tmp_path: Path):
    little = Little()
    progress = Progress(7, best_cider=0.1 + 0.2, best_step=5, validations_without_gain=1, finished=True)
    path = checkpoint.save(tmp_path, progress, little.parameters, little.optimizer, CPU, keep=1)

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
