"""Several processes train as one would, stop as one, and none waits for another that has ended."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from captioncrafter.errors import InputError
from captioncrafter.training.processes import Processes, connected
from side_by_side import (
    ACCELERATE,
    AS_JSON,
    CPU,
    LAUNCHED,
    SAID,
    TOKENS_OF_IMAGES,
    TORCHRUN,
    free_port,
    gradient,
    launch,
    little,
    pair,
    summed_loss,
)

ALONE = Processes(CPU)


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes under torchrun found out."""
    out = tmp_path_factory.mktemp("processes") / "facts.json"
    done = launch(*TORCHRUN, free_port(), task="work", out=out)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def test_each_process_knows_its_number_and_one_is_main(facts: dict[str, Any]):
    assert [(one["rank"], one["main"]) for one in facts["every"]] == [(0, True), (1, False)]


def test_summed_gradients_of_uneven_shares_are_those_of_one_process(facts: dict[str, Any]):
    images = list(range(len(TOKENS_OF_IMAGES)))

    expected, _, loss = gradient(ALONE, images, divided_by=sum(TOKENS_OF_IMAGES))

    assert torch.allclose(torch.tensor(facts["every"][0]["gradient"]), expected, rtol=1e-6)
    assert facts["every"][0]["loss"] == pytest.approx(loss.item(), rel=1e-6)


def test_a_mean_of_means_would_be_another_gradient(facts: dict[str, Any]):
    one = facts["every"][0]

    assert not torch.allclose(torch.tensor(one["mean_of_means"]), torch.tensor(one["gradient"]), rtol=0.05)


def test_every_process_ends_up_with_the_same_bits(facts: dict[str, Any]):
    first, second = facts["every"]

    assert (first["gradient"], first["loss"]) == (second["gradient"], second["loss"])


def test_a_process_without_images_takes_part(facts: dict[str, Any]):
    expected, _, _ = gradient(ALONE, [0], divided_by=1)

    assert [one["lonely"] for one in facts["every"]] == [expected.tolist()] * 2


def test_a_parameter_that_nowhere_has_a_gradient_gets_zeros(facts: dict[str, Any]):
    assert facts["every"][0]["unused"] == [0.0] * 4


def test_the_greatest_of_each_value_is_agreed_on(facts: dict[str, Any]):
    assert [one["agreed"] for one in facts["every"]] == [[1, 0, 7]] * 2


def test_agreeing_leaves_what_was_asked_alone(facts: dict[str, Any]):
    assert [one["asked"] for one in facts["every"]] == [[0, 0, 7], [1, -1, 7]]


def test_all_get_what_the_main_process_said(facts: dict[str, Any]):
    assert [one["broadcast"] for one in facts["every"]] == [AS_JSON] * 2


def test_values_of_any_length_come_together_in_order(facts: dict[str, Any]):
    assert [one["lengths"] for one in facts["every"]] == [["x", "x" * 1001]] * 2


def test_the_main_process_goes_first(facts: dict[str, Any]):
    assert [one["second"] for one in facts["every"]] == [False, True]


def test_the_group_made_within_is_gone_afterwards(facts: dict[str, Any]):
    assert facts["gone"]


def test_another_group_can_be_made_after_one_is_gone(facts: dict[str, Any]):
    assert facts["again"] == [0, 1]


def test_a_group_that_accelerate_made_before_is_used_and_left(facts: dict[str, Any]):
    assert facts["accelerate"] == {"ranks": [0, 1], "left": True}


def test_an_error_in_one_process_ends_the_one_that_waits_for_it(tmp_path: Path):
    first, second = pair("fail", tmp_path / "said")

    told = [process.communicate(timeout=60)[1] for process in (first, second)]

    assert "another process of this run has ended" in (tmp_path / "said").read_text()
    assert "a fault of the second process" in told[1]
    assert first.returncode != 0
    assert second.returncode != 0


def test_those_that_stop_together_leave_together(tmp_path: Path):
    for process in pair("stop", tmp_path / "said"):
        process.communicate(timeout=60)

    assert (tmp_path / "said.left").read_text() == "after"


def test_accelerate_launch_that_starts_one_process_instead_of_two_is_refused(tmp_path: Path):
    done = launch(*ACCELERATE, "--cpu", task="tell", out=tmp_path / "said")

    assert done.returncode != 0
    assert "InputError: several processes were asked for, and this one stands alone" in done.stderr
    assert not (tmp_path / "said").exists()


def test_what_the_refusal_names_instead_starts_two(tmp_path: Path):
    done = launch(*ACCELERATE, "--multi_gpu", "--main_process_port", free_port(), task="tell", out=tmp_path / "said")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "said").read_text() == "2"


def test_several_processes_without_an_address_are_refused(monkeypatch: pytest.MonkeyPatch):
    alone_here(monkeypatch)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")

    with (
        pytest.raises(InputError, match="WORLD_SIZE is 2, but the environment has no LOCAL_RANK, MASTER_ADDR, MASTER"),
        connected(CPU),
    ):
        pass


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch):
    number = torch.cuda.device_count()
    for name, value in zip(LAUNCHED, (str(number), str(number), "99", "127.0.0.1", "1"), strict=True):
        monkeypatch.setenv(name, value)

    with (
        pytest.raises(InputError, match=f"process {number + 1} of this machine has no GPU of its own"),
        connected(torch.device("cuda")),
    ):
        pass


def test_one_process_starts_nothing(monkeypatch: pytest.MonkeyPatch):
    alone_here(monkeypatch)

    with connected(CPU) as processes:
        assert processes == Processes(CPU, rank=0, world=1)
        assert not dist.is_initialized()


def test_one_process_keeps_its_gradients_and_loss_as_they_are():
    parameters, loss = little(), torch.tensor(3.0)
    summed_loss(parameters, 1).backward()
    before = parameters["used"].grad

    assert ALONE.sum_gradients(parameters.values(), loss) is loss
    assert parameters["used"].grad is before
    assert parameters["unused"].grad is None


def test_one_process_gets_back_what_several_would_get():
    assert ALONE.everywhere(SAID) == [AS_JSON]
    assert ALONE.broadcast(SAID) == AS_JSON


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shares_are_even_and_hold_every_item_once(world: int):
    shares = [Processes(CPU, rank, world).share("abcde") for rank in range(world)]

    assert sorted(item for share in shares for item in share) == list("abcde")
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def alone_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
