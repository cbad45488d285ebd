"""The third stage: the language half is rewarded for captions that people's captions agree with.

Self-critical sequence training (Rennie et al., 2017) with the mean of the other samples of a photo as the baseline
(Luo, 2020): a caption drawn is made likelier by as much as its CIDEr-D lies above that of its siblings. Scenes and
questions go on as before, so that nothing of them is forgotten.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from captioncrafter.data.captions import normalise
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import ciders_of
from captioncrafter.model.captioning import PackedCaptions
from captioncrafter.model.stock import Blip2, Processor
from captioncrafter.recipe import Decoding

from .album import Album, Look
from .descent import Stage, descend
from .telling import (
    PHOTOS_PER_STEP,
    PROMPT,
    Lesson,
    Part,
    costs,
    gathered,
    lesson,
    photos_of,
    say,
    scene_parts,
    telling_weights,
    told,
)

SAMPLES = 5
SAMPLING = Decoding(num_beams=1, max_new_tokens=24, sample=True)
SCENES_SHARE = 0.5
"""What scenes and questions count beside the reward."""

END = "endofcaption"
"""Stands behind each caption when it is scored, so that a caption that breaks off is worth less than a whole one."""


@dataclass(frozen=True)
class _Tried:
    """What was drawn for some photos, with how much better than its siblings each token's caption was."""

    lesson: Lesson
    advantages: Float[Tensor, " target"]


def learn_from_reward(
    model: Blip2, processor: Processor, albums: tuple[Album, Album], look: Look, *,
    steps: int, rate: float, seed: int, checkpoint: Path,
) -> None:  # fmt: skip
    """Trains Q-Former, projection and language model on the first album, showing how they do on the second."""
    train, validation = albums
    people = {image: [_ended(text) for text in train.captions[number]] for number, image in enumerate(train.image_ids)}
    corpus = References(people)

    def batch(step: int) -> int:
        return step  # what is drawn depends on the weights of the step itself

    def loss(step: int) -> Tensor:
        scenes = lesson(model, processor, scene_parts(look, step, seed))
        tried = _try(model, processor, train, corpus, people, step, seed)
        of_scenes = (costs(model, scenes, gathered(model, scenes.tokens)) * scenes.weights).sum()
        of_photos = (costs(model, tried.lesson, gathered(model, tried.lesson.tokens)) * tried.advantages).mean()
        return of_photos + SCENES_SHARE * of_scenes

    def tell() -> None:
        told(model, processor, validation, look)

    model.eval()  # no dropout: what is rewarded is what was drawn
    weights = telling_weights(model)
    descend(
        Stage("rewarding", steps, model, [{"params": weights, "peak": rate}], batch, loss, look_every=300),
        seed,
        checkpoint,
        tell,
    )


def _try(
    model: Blip2, processor: Processor, train: Album, corpus: References, people: Mapping[str, list[str]], step: int,
    seed: int,
) -> _Tried:  # fmt: skip
    photos = photos_of(step, len(train), seed)
    assert len(photos) == PHOTOS_PER_STEP
    tokens = train.shown(photos, random.Random(f"{seed}/rewarding/{step}"))
    sampling = SAMPLING.model_copy(update={"seed": step})
    drawn = say(model, processor, tokens.repeat_interleave(SAMPLES, 0), [PROMPT] * len(photos) * SAMPLES, sampling)
    captions = [normalise(caption) for caption in drawn]
    rewards = _rewards(captions, [train.image_ids[photo] for photo in photos], corpus, people)
    advantages = (rewards - rewards.mean(1, keepdim=True)) * SAMPLES / (SAMPLES - 1)
    rows = [captions[start : start + SAMPLES] for start in range(0, len(captions), SAMPLES)]
    tried = lesson(model, processor, [Part(tokens, [PROMPT] * len(photos), rows, 1.0)])
    return _Tried(tried, advantages.flatten()[_caption_of_each(tried.captions)])


def _rewards(
    captions: list[str], images: list[str], corpus: References, people: Mapping[str, list[str]]
) -> Float[Tensor, "photo sample"]:
    """CIDEr-D of each caption as a fraction, with the document frequencies of all training captions."""
    names = [f"{image}/{sample}" for image in images for sample in range(SAMPLES)]
    said = {name: _ended(caption) for name, caption in zip(names, captions, strict=True)}
    theirs = {name: people[name.rsplit("/", 1)[0]] for name in names}
    found = ciders_of(said, References(theirs, document_frequencies=corpus))
    return torch.from_numpy(found).float().view(len(images), SAMPLES)


def _ended(caption: str) -> str:
    return f"{caption} {END}"


def _caption_of_each(captions: PackedCaptions) -> Tensor:
    """For each target the number of its caption, counted through all rows: a caption ends with token 1."""
    ends = captions.targets == 1
    return torch.cumsum(ends.long(), 0) - ends.long()
