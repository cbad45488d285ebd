"""Several processes train as one would, stop as one, and none waits for another that has ended.

Run as a script, this file is what each of the processes does.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from captioncrafter.errors import CaptionCrafterError, InputError
from captioncrafter.training import guard
from captioncrafter.training.processes import Processes, connected

CPU = torch.device("cpu")
ALONE = Processes(CPU)
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port")
ACCELERATE = ("-m", "accelerate.commands.launch", "--num_processes", "2")
SAID = {"caption": "ein Hündchen 🐕", "score": 0.1 + 0.2, "none": None, "pair": (1, 2), 3: "three"}
AS_JSON = {"caption": "ein Hündchen 🐕", "score": 0.1 + 0.2, "none": None, "pair": [1, 2], "3": "three"}
TOKENS_OF_IMAGES = (1, 9, 2, 7, 3)
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def little() -> nn.ParameterDict:
    """Weights that each image's loss depends on, and some that none does."""
    weights = torch.arange(6, dtype=torch.float32).view(3, 2) / 7
    return nn.ParameterDict({"used": nn.Parameter(weights), "unused": nn.Parameter(torch.ones(4))})


def summed_loss(parameters: nn.ParameterDict, image: int) -> Tensor:
    tokens = torch.arange(TOKENS_OF_IMAGES[image] * 3, dtype=torch.float32).view(-1, 3).cos() * (image + 1)
    return (tokens @ parameters["used"]).square().sum()


def gradient(processes: Processes, images: list[int], *, divided_by: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of this process's share of `images`, summed over processes; so with the loss."""
    parameters, loss = little(), torch.zeros(())
    for image in processes.share(images):
        one = summed_loss(parameters, image)
        (one / divided_by).backward()
        loss += one.detach()
    loss = processes.sum_gradients(parameters.values(), loss)
    unused = parameters["unused"].grad
    assert parameters["used"].grad is not None
    return parameters["used"].grad, torch.empty(0) if unused is None else unused, loss


def work(out: str) -> None:
    """What the processes of `facts` do."""
    with connected(CPU) as processes:
        images = list(range(len(TOKENS_OF_IMAGES)))
        whole, unused, loss = gradient(processes, images, divided_by=sum(TOKENS_OF_IMAGES))
        own_tokens = sum(TOKENS_OF_IMAGES[image] for image in processes.share(images))
        means, _, _ = gradient(processes, images, divided_by=own_tokens * processes.world)
        lonely, _, _ = gradient(processes, images[:1], divided_by=1)
        mine = torch.tensor([processes.rank, -processes.rank, 7])
        own = {
            "rank": processes.rank,
            "main": processes.is_main,
            "gradient": whole.tolist(),
            "unused": unused.tolist(),
            "loss": loss.item(),
            "mean_of_means": means.tolist(),
            "lonely": lonely.tolist(),
            "agreed": processes.agree(mine).tolist(),
            "asked": mine.tolist(),
            "broadcast": processes.broadcast(SAID if processes.is_main else "nothing"),
            "lengths": processes.everywhere("x" * (1 + 1000 * processes.rank)),
            "second": second_finds(processes, Path(f"{out}.first")),
        }
        every = processes.everywhere(own)
    own_group_is_gone = not dist.is_initialized()
    after = after_accelerate()
    with connected(CPU) as processes:
        again = processes.everywhere(processes.rank)
    if processes.is_main:
        facts = {"every": every, "gone": own_group_is_gone, "accelerate": after, "again": again}
        Path(out).write_text(json.dumps(facts))


def second_finds(processes: Processes, made: Path) -> bool:
    """Whether the other process came once the main one had made a file."""
    with processes.main_first():
        found = made.exists()
        if processes.is_main:
            time.sleep(0.3)
            made.touch()
    return found


def after_accelerate() -> dict[str, Any]:
    """How a group goes on that accelerate had made before."""
    from accelerate import Accelerator

    Accelerator(cpu=True)
    with connected(CPU) as processes:
        ranks = processes.everywhere(processes.rank)
    left = dist.is_initialized()
    dist.destroy_process_group()
    return {"ranks": ranks, "left": left}


def fail(out: str) -> None:
    """The second process ends with an error of its own while the main one waits for it."""
    with connected(CPU) as processes:
        processes.barrier()
        if not processes.is_main:
            raise InputError("a fault of the second process")
        try:
            processes.barrier()
        except CaptionCrafterError as error:
            Path(out).write_text(str(error))
            raise


def stop(out: str) -> None:
    """All stop at once, and the main process is slow to tidy up."""
    main = os.environ["RANK"] == "0"
    try:
        with connected(CPU):
            try:
                raise guard.Stopped("stopped", guard.OUT_OF_TIME)
            finally:
                if main:
                    time.sleep(0.3)
                    Path(out).write_text("tidied up")
    except guard.Stopped:
        if not main:
            Path(f"{out}.left").write_text("after" if Path(out).exists() else "before")


def tell(out: str) -> None:
    """Says how many processes there are."""
    with connected(CPU) as processes:
        if processes.is_main:
            Path(out).write_text(str(processes.world))


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    return kept | {"OMP_NUM_THREADS": "1"} | more


def launch(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )


def free_port() -> str:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return str(opened.getsockname()[1])


def pair(task: str, out: Path) -> list[subprocess.Popen[str]]:
    """Two processes at `task`, without a launcher that would end one when the other fails."""
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [
        subprocess.Popen(
            [sys.executable, __file__, task, str(out)],
            env=environment(RANK=rank, LOCAL_RANK=rank, **group),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes under torchrun found out."""
    out = tmp_path_factory.mktemp("processes") / "facts.json"
    done = launch(*TORCHRUN, free_port(), __file__, "work", str(out))
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
    done = launch(*ACCELERATE, "--cpu", __file__, "tell", str(tmp_path / "said"))

    assert done.returncode != 0
    assert "InputError: several processes were asked for, and this one stands alone" in done.stderr
    assert not (tmp_path / "said").exists()


def test_what_the_refusal_names_instead_starts_two(tmp_path: Path):
    done = launch(
        *ACCELERATE, "--multi_gpu", "--main_process_port", free_port(), __file__, "tell", str(tmp_path / "said")
    )

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


TASKS: dict[str, Callable[[str], None]] = {"work": work, "fail": fail, "stop": stop, "tell": tell}

if __name__ == "__main__":
    TASKS[sys.argv[1]](sys.argv[2])
