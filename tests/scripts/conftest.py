"""A handful of photos and scenes, and the finished miniature in the place of one in the making."""

from pathlib import Path

import pytest
import torch
from transformers import Blip2ForConditionalGeneration, Blip2Processor

import captioncrafter
from captioncrafter.model.stock import Blip2, Processor
from miniature.drawings import Scenes, scenes
from miniature.lessons import Lessons
from miniature.photos import KEPT_SIZE, Photos

FOLDER = Path(captioncrafter.__file__).parent / "assets" / "miniature"
CAPTIONS = ("a dog runs on grass", "a brown dog is running", "the dog runs fast")
OTHERS = ("two boys play soccer", "boys in red kick a ball", "a soccer game")


@pytest.fixture(scope="session")
def miniature() -> Blip2:
    return Blip2ForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def processor() -> Processor:
    return Blip2Processor.from_pretrained(FOLDER)


@pytest.fixture(scope="session")
def photos() -> Photos:
    """Eighty photos of noise; the first half are of dogs, if their captions are believed."""
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (80, 3, KEPT_SIZE, KEPT_SIZE), dtype=torch.uint8, generator=noise)
    captions = [CAPTIONS if number < 40 else OTHERS for number in range(80)]
    return Photos(pixels, captions, [str(number) for number in range(80)])


@pytest.fixture(scope="session")
def drawn() -> Scenes:
    return scenes(8, 0, "train")


@pytest.fixture(scope="session")
def lessons(miniature: Blip2, processor: Processor, photos: Photos, drawn: Scenes) -> Lessons:
    return Lessons(miniature, processor, photos, drawn, seed=1)
