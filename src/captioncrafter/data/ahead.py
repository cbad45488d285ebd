"""Work that goes on beside the model: the next items are made ready in threads while this one is used."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def computed_ahead(compute: Callable[[Item], Result], items: Iterable[Item], *, ahead: int = 2) -> Iterator[Result]:
    """`compute(item)` for each item, in order, at most `ahead` of them before they are asked for.

    An exception comes out where its result would have.
    """
    remaining = iter(items)
    with ThreadPoolExecutor(max_workers=ahead) as pool:
        running = [pool.submit(compute, item) for item in islice(remaining, ahead)]
        while running:
            result = running.pop(0).result()
            running.extend(pool.submit(compute, item) for item in islice(remaining, 1))
            yield result
