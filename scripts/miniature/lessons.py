"""What a step of telling reads and is to say: photos with their captions, drawn scenes with theirs, and questions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from captioncrafter.model.captioning import PackedCaptions, target_states
from captioncrafter.model.cut import Cut
from captioncrafter.model.prefix import context_of
from captioncrafter.model.prompts import Prompts, encode_prompt, stacked
from captioncrafter.model.stock import Blip2, Processor
from captioncrafter.recipe import Model
from captioncrafter.training.packing import TokenIds, encode_captions, pack

from .dice import drawn_for
from .drawings import Scenes
from .model import IMAGE_SIZE
from .photos import Photos, photos_of, some_views, whole
from .seeing import model_pixels
from .words import named_in, telling_words

PHOTOS_PER_STEP = 8
SCENES_PER_STEP = 8
ASKED_PER_STEP = 6
SCENES_WEIGHT, QUESTIONS_WEIGHT = 1.0, 0.5
"""What the mean costs of scenes' captions and of answers count beside that of photos' captions."""

SMALLEST_CROP = 0.7
"""The least share of a photo that a view shows whose captions are to stay true."""

PROMPT = Model().prompt
MAX_TOKENS = 32


@dataclass(frozen=True)
class Part:
    """Rows of one kind in a lesson, which together count `weight`."""

    pixels: Float[Tensor, "row channel y x"]
    prompts: Sequence[str]
    captions: Sequence[Sequence[TokenIds]]
    weight: float


@dataclass(frozen=True)
class Lesson:
    """What a step reads and is to say: for each row pixels, a prompt, captions, and what each of their tokens counts.

    The first rows are photos, then come scenes with captions, then scenes with questions. `named` says which words
    stand in the captions of photos and scenes.
    """

    pixels: Float[Tensor, "row channel y x"]
    prompts: Prompts
    captions: PackedCaptions
    weights: Float[Tensor, " target"]
    named: Float[Tensor, "captioned word"]


class Lessons:
    """The training photos and drawn scenes, step by step."""

    def __init__(self, model: Blip2, processor: Processor, photos: Photos, scenes: Scenes, seed: int) -> None:
        self._photos = photos
        self._config, self._processor, self._scenes, self._seed = model.config, processor, scenes, seed
        in_scenes = {word for captions in scenes.captions for text in captions for word in text.split()}
        self.words = sorted({*telling_words(photos.captions), *in_scenes})
        self._told = [self.encoded(captions) for captions in photos.captions]
        self._told_of_scenes = [self.encoded(captions) for captions in scenes.captions]
        self._questions = scenes.questions()
        self._named = _named_in(photos.captions, self.words)
        self._named_of_scenes = _named_in(scenes.captions, self.words)

    @torch.no_grad()
    def at(self, step: int, *, misheard: float = 0.0) -> Lesson:
        """The lesson of a step; of the words that the decoder reads the share `misheard` is replaced by any others."""
        dice = drawn_for(self._seed, step)
        numbers = photos_of(step, len(self._photos), self._seed, at_once=PHOTOS_PER_STEP)
        scenes = torch.randint(len(self._scenes), (SCENES_PER_STEP,), generator=dice)
        told = [self._told[number] for number in numbers]
        part = Part(self.views(numbers, dice), [PROMPT] * len(numbers), told, 1.0)
        named = torch.cat([self._named[numbers], self._named_of_scenes[scenes]])
        lesson = self._lesson([part, self._of_scenes(scenes), self._of_questions(dice)], named)
        return replace(lesson, captions=misread(lesson.captions, misheard, dice, len(self._processor.tokenizer)))

    def views(self, numbers: Sequence[int], dice: torch.Generator) -> Float[Tensor, "photo channel y x"]:
        """A view of each of the training photos, as the model reads it."""
        views = some_views(len(numbers), dice, smallest=SMALLEST_CROP)
        return model_pixels(
            self._processor, views.to(self._photos.pixels.device).of(self._photos.pixels[list(numbers)], IMAGE_SIZE)
        )

    def _lesson(self, parts: Sequence[Part], named: Float[Tensor, "captioned word"]) -> Lesson:
        """The parts in one batch; each token of a part counts the same."""
        weights: list[float] = []
        for part in parts:
            count = sum(len(ids) for row in part.captions for ids in row)
            weights += [part.weight / count] * count
        prompts = prompts_of(self._processor, [prompt for part in parts for prompt in part.prompts])
        rows = [row for part in parts for row in part.captions]
        device = self._photos.pixels.device
        return Lesson(
            torch.cat([part.pixels for part in parts]),
            prompts.to(device),
            pack(rows, self._config, prompts).to(device),
            torch.tensor(weights, device=device),
            named.to(device),
        )

    def _of_scenes(self, scenes: Tensor) -> Part:
        told = [self._told_of_scenes[scene] for scene in scenes.tolist()]
        return Part(self._scene_pixels(scenes), [PROMPT] * len(told), told, SCENES_WEIGHT)

    def _of_questions(self, dice: torch.Generator) -> Part:
        drawn = torch.randint(len(self._questions), (ASKED_PER_STEP,), generator=dice)
        questions = [self._questions[number] for number in drawn.tolist()]
        answers = [self.encoded([answers[0]]) for _, _, answers in questions]
        pixels = self._scene_pixels(torch.tensor([scene for scene, _, _ in questions]))
        return Part(pixels, [prompt for _, prompt, _ in questions], answers, QUESTIONS_WEIGHT)

    def _scene_pixels(self, scenes: Tensor) -> Float[Tensor, "scene channel y x"]:
        pixels = self._scenes.pixels
        return model_pixels(self._processor, whole(pixels[scenes.to(pixels.device)], IMAGE_SIZE))

    def encoded(self, captions: Sequence[str]) -> list[TokenIds]:
        """The ids of each caption, its end last."""
        tokenizer = self._processor.tokenizer
        return encode_captions(tokenizer, captions, self._config, prompt=PROMPT, max_tokens=MAX_TOKENS)[0]


def misread(captions: PackedCaptions, share: float, dice: torch.Generator, words: int) -> PackedCaptions:
    """The captions with a share of the words that the decoder reads replaced by any; what it is to say stays."""
    ids = captions.token_ids
    wrong = torch.rand(ids.shape, generator=dice).to(ids.device) < share
    others = torch.randint(1, words, ids.shape, generator=dice).to(ids.device)
    return replace(captions, token_ids=torch.where(wrong & (ids > 0), others, ids))  # 0 begins a caption, and pads


def _named_in(captions: Sequence[Sequence[str]], words: Sequence[str]) -> Float[Tensor, "picture word"]:
    return torch.stack([named_in(texts, words) for texts in captions])


def prompts_of(processor: Processor, texts: Sequence[str]) -> Prompts:
    """One prompt a row."""
    return stacked([encode_prompt(processor, text) for text in texts], pad_id=0)


def gathered(model: Blip2, tokens: Float[Tensor, "row token width"]) -> Float[Tensor, "row query width"]:
    """What the Q-Former makes of vision tokens."""
    queries = model.query_tokens.expand(len(tokens), -1, -1)
    with torch.autocast(model.device.type, torch.bfloat16):
        return model.qformer(query_embeds=queries, encoder_hidden_states=tokens).last_hidden_state


def costs(
    model: Blip2, prompts: Prompts, captions: PackedCaptions, queries: Float[Tensor, "row query width"], *,
    smoothing: float = 0.0,
) -> Float[Tensor, " target"]:  # fmt: skip
    """Negative log-likelihood of each caption token, in nats, from what the Q-Former `gathered`."""
    with torch.autocast(model.device.type, torch.bfloat16):
        context = context_of(model, queries, Cut.QFORMER, prompts)
        states = target_states(model, context, captions)
    logits: Any = model.get_output_embeddings()(states.float())
    return functional.cross_entropy(logits, captions.targets, reduction="none", label_smoothing=smoothing)
