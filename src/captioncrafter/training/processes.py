"""The processes of one training run, and the few things they tell each other.

Every process knows the whole step and takes its part of it by rank; what has to be the same everywhere is summed,
agreed on or sent here. A run of one process starts nothing: what it gives comes back to it. Only tensors travel:
other values go as the bytes of their JSON, never pickled.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from captioncrafter.errors import CaptionCrafterError, InputError
from captioncrafter.training import guard

PATIENCE = timedelta(hours=2)
"""How long one process waits for another that is alive.

One that dies ends the others sooner: its connections break, and torchrun and accelerate launch end the rest. So this
is for one that hangs, and has to be longer than any honest wait: for features or a validation of the main process.
"""

_STARTED_RIGHT = (
    "`torchrun --nproc-per-node 2 -m captioncrafter train …` or `accelerate launch --multi_gpu --num_processes 2 "
    "-m captioncrafter train …` (both start two processes, also where there is no GPU)"
)

_GROUPS = itertools.count()

Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    """This process among those of the run: number `rank` of `world`, at work on `device`.

    Except `share`, a method is called by every process at the same point of its work, and raises
    `CaptionCrafterError` where another process has ended.
    """

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This process's part of `items`, every `world`-th: the parts differ by one item at most."""
        return list(items[self.rank :: self.world])

    def sum_gradients(self, parameters: Iterable[nn.Parameter], loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Each gradient becomes its sum over the processes, in place, the same bits in all of them; so does the loss.

        All of them travel as one float32 vector. A parameter without a gradient counts as zero: a process with no
        images in a step takes part. For the gradient of a mean over the whole step, each process divides its summed
        loss by the count of the whole step before. On a GPU nothing is waited for.
        """
        if self.world == 1:
            return loss
        trained = list(parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        vector = torch.cat([part.flatten().to(self.device, torch.float32) for part in (*gradients, loss)])
        _together(lambda: dist.all_reduce(vector))
        *sums, total = vector.split([part.numel() for part in (*gradients, loss)])
        for parameter, gradient, summed in zip(trained, gradients, sums, strict=True):
            parameter.grad = gradient.copy_(summed.view_as(gradient))
        return total.view(())

    def agree(self, values: Int[Tensor, " value"]) -> Int[Tensor, " value"]:
        """The greatest of each value over the processes; `values` stay as they are."""
        if self.world == 1:
            return values.clone()
        greatest = values.to(self.device, copy=True)
        _together(lambda: dist.all_reduce(greatest, dist.ReduceOp.MAX))
        return greatest.to(values.device)

    def everywhere(self, value: Any) -> list[Any]:
        """What each process gave, in order of rank, in all of them; as JSON has it (tuples are lists, keys strings)."""
        sent = _bytes_of(value)
        if self.world == 1:
            return [_value_of(sent)]
        own = torch.tensor([len(sent)])
        lengths = [int(length) for length in self._all(own)]
        padded = nn.functional.pad(sent, (0, max(lengths) - len(sent)))
        return [_value_of(got[:length]) for got, length in zip(self._all(padded), lengths, strict=True)]

    def broadcast(self, value: Any) -> Any:
        """What the main process gave, as JSON has it; what the others give is not looked at."""
        return self.everywhere(value if self.is_main else None)[0]

    def barrier(self) -> None:
        """Returns once every process has come here."""
        self.agree(torch.zeros(1, dtype=torch.int64)).tolist()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process does what is within while the others wait; then they do it, and find it done."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def _all(self, tensor: Tensor) -> list[Tensor]:
        own = tensor.to(self.device)
        received = [torch.empty_like(own) for _ in range(self.world)]
        _together(lambda: dist.all_gather(received, own))
        return [one.cpu() for one in received]


@contextmanager
def connected(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun or accelerate launch started, connected; this one alone where nothing did.

    Each works on a GPU of its own where `device` is one. A group that is there already (accelerate makes one with its
    first `Accelerator`) is used, with accelerate's patience, and left; one made within is gone at the end, once all
    processes have come there. Raises `InputError` where fewer processes run than were asked for.
    """
    refuse_smaller_world()
    found = dist.is_initialized()
    processes = _join(device)
    together = False
    try:
        yield processes
        together = True
    except guard.Stopped:
        together = True
        raise
    finally:
        # After an error of its own a process must not wait for the others: its end is what ends them.
        if together and not found and dist.is_initialized():
            processes.barrier()
            dist.destroy_process_group()


def refuse_smaller_world() -> None:
    """Raises `InputError` where several processes were asked for and the launcher did not start them as a group.

    `accelerate launch --cpu --num_processes 2` starts one, with MASTER_ADDR but no WORLD_SIZE in its environment
    (accelerate 1.15, utils.launch.prepare_simple_launcher_cmd_env).
    """
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise InputError(
            "several processes were asked for, and this one stands alone: MASTER_ADDR is set, WORLD_SIZE is not, as "
            f"`accelerate launch --cpu --num_processes 2` leaves it. What works: {_STARTED_RIGHT}. For one process, "
            "unset MASTER_ADDR."
        )
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and missing:
        raise InputError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but the environment has no {', '.join(missing)}. "
            f"What sets them all: {_STARTED_RIGHT}. For one process, unset WORLD_SIZE."
        )


def _join(device: torch.device) -> Processes:
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(device)
    own = _own(device)
    if not dist.is_initialized():
        _make_group(own)
    return Processes(own, dist.get_rank(), dist.get_world_size())


def _make_group(own: torch.device) -> None:
    store, rank, world = next(rendezvous("env://", timeout=PATIENCE))
    # torchrun's store outlives a group: a second one under the same name finds the first one's addresses (torch 2.13).
    store = dist.PrefixStore(f"captioncrafter-{next(_GROUPS)}", store)  # pyright: ignore[reportPrivateImportUsage]
    backend, bound_to = ("nccl", own) if own.type == "cuda" else ("gloo", None)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE, device_id=bound_to)


def _own(device: torch.device) -> torch.device:
    if device.type != "cuda":
        return device
    number, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= count:
        raise InputError(
            f"process {number + 1} of this machine has no GPU of its own: {count} can be seen here. Give torchrun "
            "--nproc-per-node (accelerate launch: --num_processes) the number of GPUs."
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def _together(exchange: Callable[[], object]) -> None:
    try:
        exchange()
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = str(error).strip().splitlines()[-1]
        raise CaptionCrafterError(
            f"another process of this run has ended or hangs; if it said why, that is the fault to mend ({reason})."
        ) from error


def _bytes_of(value: Any) -> UInt8[Tensor, " byte"]:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _value_of(sent: UInt8[Tensor, " byte"]) -> Any:
    return json.loads(sent.numpy().tobytes())
