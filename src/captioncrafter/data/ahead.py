"""Work that goes on beside the model: the next items are made ready in threads while this one is used."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


_MOST_THREADS = 8


def decoding_threads() -> int:
    """Threads that decode images beside a model: two at least, then one a core, shared with this machine's processes.

    Of 500 x 375 JPEGs one thread of a machine with an H200 and 16 cores decoded 133 a second, two 233, eight 476,
    sixteen 416.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # as torchrun and accelerate say it
    return max(2, min(_MOST_THREADS, cores // max(1, processes)))


def computed_ahead(
    compute: Callable[[Item], Result], items: Iterable[Item], *, ahead: int = 2, threads: int | None = None
) -> Iterator[Result]:
    """`compute(item)` for each item, in order, at most `ahead` of them before they are asked for, in as many `threads`.

    An exception comes out where its result would have.
    """
    remaining = iter(items)
    with ThreadPoolExecutor(max_workers=threads or ahead) as pool:
        running = [pool.submit(compute, item) for item in islice(remaining, ahead)]
        while running:
            result = running.pop(0).result()
            running.extend(pool.submit(compute, item) for item in islice(remaining, 1))
            yield result
