"""Looks at every image before it enters a dataset: can it be decoded, and has it been seen before."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from captioncrafter import events
from captioncrafter.data.example import Example, SetAside
from captioncrafter.data.images import as_rgb, has_more_frames, image_hash, open_image, read_image_file
from captioncrafter.errors import ImageError

_SUBMITTED_AT_ONCE = 1024


@dataclass(frozen=True)
class Inspected:
    """An example whose image decodes; `content` is the hash of its bytes, of which there are `size`."""

    example: Example
    content: str
    size: int
    more_frames: bool


def inspect(examples: Sequence[Example]) -> tuple[list[Inspected], list[SetAside]]:
    """Decodes every image once, in full, on all cores; what cannot be shown to a model comes back with its reason."""
    good: list[Inspected] = []
    bad: list[SetAside] = []
    # Entered here and not in the threads: filters are the whole process's. What Pillow warns about either decodes or
    # is set aside by name.
    with warnings.catch_warnings(), events.progress("images checked", len(examples)) as bar:
        warnings.simplefilter("ignore")
        for result in _in_threads(examples):
            if isinstance(result, Inspected):
                good.append(result)
            else:
                bad.append(result)
            bar.advance(note=f"{len(bad)} set aside" if bad else "")
    return good, bad


def _in_threads(examples: Iterable[Example]) -> Iterator[Inspected | SetAside]:
    """In order. Pillow decodes without holding the interpreter, so threads use all cores and copy nothing."""
    remaining = iter(examples)
    with ThreadPoolExecutor(max_workers=_cores()) as pool:
        while chunk := list(islice(remaining, _SUBMITTED_AT_ONCE)):
            yield from pool.map(_inspect_one, chunk)


def _inspect_one(example: Example) -> Inspected | SetAside:
    try:
        data = read_image_file(example.file, example.image_id)
        image = open_image(data, example.image_id)
        as_rgb(image, example.image_id)
    except ImageError as error:
        return SetAside(example.image_id, error.reason)
    return Inspected(example, image_hash(data), len(data), has_more_frames(image))


def _cores() -> int:
    """Those this process may use: in a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
