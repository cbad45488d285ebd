"""What two processes do side by side in the tests of several processes, and how they are started.

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

import torch
import torch.distributed as dist
from torch import Tensor, nn

from captioncrafter.errors import CaptionCrafterError, InputError
from captioncrafter.training import guard
from captioncrafter.training.processes import Processes, connected

CPU = torch.device("cpu")
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
    """That of the tests, with nothing of a launcher's but `more`."""
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    return kept | {"OMP_NUM_THREADS": "1"} | more


def launch(*launcher: str, task: str, out: Path) -> subprocess.CompletedProcess[str]:
    """`task` under a launcher."""
    return subprocess.run(
        [sys.executable, *launcher, __file__, task, str(out)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
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


TASKS: dict[str, Callable[[str], None]] = {"work": work, "fail": fail, "stop": stop, "tell": tell}

if __name__ == "__main__":
    TASKS[sys.argv[1]](sys.argv[2])
