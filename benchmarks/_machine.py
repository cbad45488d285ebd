"""What a machine can do and what a computation takes of it: matrix rate, arithmetic counted, memory at its peak."""

import ctypes
import gc
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_LARGE = {"cpu": 2048, "cuda": 8192}
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_COPIED_BYTES = {"cpu": 2**28, "cuda": 2**30}


def use_cores(threads: int) -> None:
    """Computes in `threads` threads on as many cores: threads that load data share them, as on a smaller machine."""
    torch.set_num_threads(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


class MatrixProducts:
    """Large square matrix products, as many as `times` a run: what the machine can do at best."""

    def __init__(self, dtype: torch.dtype, device: torch.device, *, times: int = 4) -> None:
        size = _LARGE.get(device.type, 2048)
        self._left, self._right, self._product = (torch.randn(size, size, device=device).to(dtype) for _ in range(3))
        self.times, self.flops = times, 2 * size**3

    def run(self) -> None:
        """All of them."""
        for _ in range(self.times):
            torch.matmul(self._left, self._right, out=self._product)


class Copies:
    """Copies of a large tensor, as many as `times` a run: how fast memory is at best, reads and writes together."""

    def __init__(self, device: torch.device, *, times: int = 4) -> None:
        size = _COPIED_BYTES.get(device.type, 2**28)
        self._source, self._target = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
        self.times, self.bytes = times, 2 * size

    def run(self) -> None:
        """All of them."""
        for _ in range(self.times):
            self._target.copy_(self._source)


def flops(run: Callable[[], object]) -> int:
    """FLOPs of the matrix products in `run`, forward and backward."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # The formulas do not know the CPU's fused attention (torch 2.13).
    with sdpa_kernel(SDPBackend.MATH), _Counting() as counting:
        run()
    return counting.total


class _Counting(TorchDispatchMode):
    """Sums torch's own formulas; its `FlopCounterMode` refuses autograd within a forward pass (torch 2.13)."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def wait(device: torch.device) -> None:
    """Returns once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def busy_seconds(device: torch.device) -> float:
    """A clock: on a CPU it stands still while the threads wait for a core that others have."""
    return time.perf_counter() if device.type == "cuda" else time.process_time() / torch.get_num_threads()


def give_back_freed_memory() -> None:
    """From now on freed tensors of a MiB or more go back to the system at once, so that peaks are the present ones."""
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


class PeakMemory:
    """Largest memory since `restart`, in MiB: of the device, or (Linux) of this process beyond what it began with."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._before = 0.0 if device.type == "cuda" else _status("VmRSS")

    def restart(self) -> None:
        """Forgets what was used up to now."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")

    def mib(self) -> float:
        """The peak."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return _status("VmHWM") - self._before


def own_memory_mib() -> float:
    """The peak of this process since a `PeakMemory` was last restarted, without what it shares (Linux)."""
    return _status("VmHWM") - _status("RssShmem")


def _status(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")
