"""Drawn pictures by the thousand, made once by all processors: collages to see, scenes and questions to tell.

They are drawn by forks of this process, so before anything of it is on a GPU.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from captioncrafter.data.scenes import wording
from captioncrafter.data.scenes.picture import draw
from captioncrafter.data.scenes.questions import ask
from captioncrafter.data.scenes.world import Scene, Split, draw_scene

from .collages import collage, under_cells
from .model import IMAGE_SIZE, SIDE

ASKED = frozenset({"colour", "shape", "background", "colour-yes-no"})
"""The kinds of questions it learns here; the others are left for the recipe `scenes-vqa`."""

PER_SCENE = 2
"""Questions asked about a scene, at most."""

AT_ONCE = 50
"""Pictures that a process draws in a row."""

Pixels = UInt8[Tensor, "picture channel y x"]
Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class Collages:
    """Pictures full of shapes, and what covers each patch: the indices of its colour, shape and size."""

    pixels: Pixels
    under: Int[Tensor, "picture patch kind"]

    def to(self, device: torch.device) -> "Collages":
        """The same collages on `device`."""
        return replace(self, pixels=self.pixels.to(device), under=self.under.to(device))

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True)
class Scenes:
    """Scenes, their terse captions, and questions of `ASKED` about them, each with its answers."""

    pixels: Pixels
    captions: Sequence[Sequence[str]]
    asked: Sequence[Sequence[tuple[str, Sequence[str]]]]

    def to(self, device: torch.device) -> "Scenes":
        """The same scenes on `device`."""
        return replace(self, pixels=self.pixels.to(device))

    def __len__(self) -> int:
        return len(self.pixels)

    def questions(self) -> list[tuple[int, str, Sequence[str]]]:
        """Every question, after the number of its scene."""
        return [(scene, *question) for scene, some in enumerate(self.asked) for question in some]


def collages(count: int, seed: int) -> Collages:
    """`count` collages of a seed."""
    drawn = _by_all(partial(_collage, seed), count)
    return Collages(_pixels([picture for picture, _ in drawn]), torch.tensor([under for _, under in drawn]))


def scenes(count: int, seed: int, split: Split) -> Scenes:
    """The first `count` scenes of a seed and split."""
    drawn = _by_all(partial(_scene, seed, split), count)
    return Scenes(_pixels([one[0] for one in drawn]), [one[1] for one in drawn], [one[2] for one in drawn])


def _by_all(draw_one: Callable[[int], Drawn], count: int) -> list[Drawn]:
    if count <= AT_ONCE:
        return [draw_one(number) for number in range(count)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool:
        return list(pool.map(draw_one, range(count), chunksize=AT_ONCE))


def _collage(seed: int, number: int) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    one = collage(f"{seed}/collage/{number}")
    return np.asarray(one.picture), under_cells(one, SIDE)


def _scene(seed: int, split: Split, number: int) -> tuple[np.ndarray, list[str], list[tuple[str, Sequence[str]]]]:
    scene = draw_scene(seed, split, number)
    return np.asarray(draw(scene, IMAGE_SIZE)), list(wording.terse(scene)), _questions(scene)


def _questions(scene: Scene) -> list[tuple[str, Sequence[str]]]:
    known = [question for question in ask(scene, 5) if question.kind in ASKED]
    return [(question.prompt, tuple(question.answers)) for question in known[:PER_SCENE]]


def _pixels(pictures: Sequence[np.ndarray]) -> Pixels:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
