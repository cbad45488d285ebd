"""The second stage: Q-Former and language model learn to say what the vision tower sees, and to answer questions.

Photos and their captions are most of it; drawn scenes with terse captions, and a few kinds of questions about them,
stand in every step, so that the miniature keeps both worlds and reads more than one prompt.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from captioncrafter.data.scenes import wording
from captioncrafter.data.scenes.picture import draw
from captioncrafter.data.scenes.questions import ask
from captioncrafter.data.scenes.world import Scene, Split, draw_scene
from captioncrafter.generation.decode import decode
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import cider_of, shuffled
from captioncrafter.model.captioning import PackedCaptions, target_states
from captioncrafter.model.cut import Cut
from captioncrafter.model.prefix import context_of
from captioncrafter.model.prompts import Prompts, encode_prompt, stacked
from captioncrafter.model.stock import Blip2, Processor
from captioncrafter.recipe import Decoding, Model
from captioncrafter.training.packing import TokenIds, encode_captions, pack

from .album import Album, Look
from .descent import Stage, descend
from .model import IMAGE_SIZE
from .photos import photos_of
from .words import WordReader, named_in, telling_words

PHOTOS_PER_STEP = 8
SCENES_PER_STEP = 8
ASKED_PER_STEP = 6
SCENES_WEIGHT, QUESTIONS_WEIGHT = 1.0, 0.5
"""What the mean costs of scenes' captions and of answers count beside that of photos' captions."""

ASKED = frozenset({"colour", "shape", "background", "colour-yes-no"})
"""The kinds of questions it learns here; the others are left for the recipe `scenes-vqa`."""

PROMPT = Model().prompt
MAX_TOKENS = 32
WORDS_WEIGHT = 0.02
"""What finding a picture's words in the Q-Former's outputs counts beside telling them, per nat and picture."""


@dataclass(frozen=True)
class Lesson:
    """What a step reads and is to say: for each row vision tokens, a prompt, captions, and what each caption counts.

    Where the vision tower learns along, pixels stand in place of its tokens.
    """

    shown: Float[Tensor, "row ..."]
    prompts: Prompts
    captions: PackedCaptions
    weights: Float[Tensor, " target"]
    captions_of: Sequence[Sequence[str]]
    """The captions of each row."""


def learn_to_tell(
    model: Blip2, processor: Processor, albums: tuple[Album, Album], look: Look, *,
    steps: int, rate: float, seed: int, checkpoint: Path,
) -> None:  # fmt: skip
    """Trains Q-Former, projection and language model on the first album, showing how they do on the second.

    `look` is how the vision tower sees drawn scenes. What the Q-Former gathers is read by word detectors as well, which
    are thrown away afterwards: without them it has to wait for the language model to ask.
    """
    torch.manual_seed(seed)
    train, validation = albums
    words = sorted({*telling_words(train.captions), *_scene_words(seed)})
    reader = WordReader(len(words))

    def batch(step: int) -> Lesson:
        dice = random.Random(f"{seed}/telling/{step}")
        photos = photos_of(step, len(train), seed, at_once=PHOTOS_PER_STEP)
        parts = [Part(train.shown(photos, dice), [PROMPT] * len(photos), [train.captions[one] for one in photos], 1.0)]
        return lesson(model, processor, parts + scene_parts(look, step, seed))

    def loss(lesson: Lesson) -> Tensor:
        queries = gathered(model, lesson.shown)
        captioned = lesson.captions_of[: PHOTOS_PER_STEP + SCENES_PER_STEP]
        named = torch.stack([named_in(captions, words) for captions in captioned])
        found = reader(queries[: len(named)].float(), named)
        return (costs(model, lesson, queries) * lesson.weights).sum() + WORDS_WEIGHT * found

    def tell() -> None:
        told(model, processor, validation, look)

    model.eval()  # no dropout: with it, it took twice the steps to see, and there are few epochs to learn by heart in
    learner = torch.nn.ModuleDict({"model": model, "reader": reader})
    groups = [{"params": [*telling_weights(model), *reader.parameters()], "peak": rate}]
    descend(Stage("telling", steps, learner, groups, batch, loss, look_every=1000), seed, checkpoint, tell)


def telling_weights(model: Blip2) -> list[torch.nn.Parameter]:
    """The weights of the language half and of the Q-Former."""
    parts = (model.qformer, model.language_projection, model.language_model)
    return [*(weight for part in parts for weight in part.parameters()), model.query_tokens]


@dataclass(frozen=True)
class Part:
    """Rows of one kind in a lesson, which together count `weight`."""

    shown: Float[Tensor, "row ..."]
    prompts: Sequence[str]
    captions: Sequence[Sequence[str]]
    weight: float


def lesson(model: Blip2, processor: Processor, parts: Sequence[Part]) -> Lesson:
    """The parts in one batch; each token of a part counts the same."""
    rows: list[list[TokenIds]] = []
    weights: list[float] = []
    for part in parts:
        encoded = [_encoded(model, processor, captions) for captions in part.captions]
        counts = [len(ids) for row in encoded for ids in row]
        weights += [part.weight / sum(counts)] * sum(counts)
        rows += encoded
    prompts = prompts_of(processor, [prompt for part in parts for prompt in part.prompts])
    shown = torch.cat([part.shown for part in parts])
    texts = [captions for part in parts for captions in part.captions]
    return Lesson(shown, prompts, pack(rows, model.config, prompts), torch.tensor(weights), texts)


def _encoded(model: Blip2, processor: Processor, captions: Sequence[str]) -> list[TokenIds]:
    return encode_captions(processor.tokenizer, captions, model.config, prompt=PROMPT, max_tokens=MAX_TOKENS)[0]


def prompts_of(processor: Processor, texts: Sequence[str]) -> Prompts:
    """One prompt a row."""
    return stacked([encode_prompt(processor, text) for text in texts], pad_id=0)


def scene_parts(look: Callable[[Sequence[Image.Image]], Tensor], step: int, seed: int) -> list[Part]:
    """Training scenes with their terse captions, and others with questions and answers."""
    told = [draw_scene(seed, "train", step * SCENES_PER_STEP + number) for number in range(SCENES_PER_STEP)]
    questions: list[tuple[Scene, str, str]] = []
    number = step * ASKED_PER_STEP
    while len(questions) < ASKED_PER_STEP:
        scene = draw_scene(seed + 1, "train", number)
        known = [question for question in ask(scene, 5) if question.kind in ASKED]
        questions += [(scene, question.prompt, question.answers[0]) for question in known[:2]]
        number += 1
    questions = questions[:ASKED_PER_STEP]
    shown = look([draw(scene, IMAGE_SIZE) for scene in [*told, *(scene for scene, _, _ in questions)]])
    return [
        Part(shown[: len(told)], [PROMPT] * len(told), [wording.terse(scene) for scene in told], SCENES_WEIGHT),
        Part(
            shown[len(told) :],
            [prompt for _, prompt, _ in questions],
            [[answer] for _, _, answer in questions],
            QUESTIONS_WEIGHT,
        ),
    ]


def _scene_words(seed: int) -> set[str]:
    scenes = [draw_scene(seed, "train", number) for number in range(400)]
    return {word for scene in scenes for text in wording.terse(scene) for word in text.split()}


def gathered(model: Blip2, tokens: Float[Tensor, "row token width"]) -> Float[Tensor, "row query width"]:
    """What the Q-Former makes of vision tokens."""
    queries = model.query_tokens.expand(len(tokens), -1, -1)
    with torch.autocast("cpu", torch.bfloat16):
        return model.qformer(query_embeds=queries, encoder_hidden_states=tokens).last_hidden_state


def costs(
    model: Blip2, lesson: Lesson, queries: Float[Tensor, "row query width"], *, smoothing: float = 0.0
) -> Float[Tensor, " target"]:
    """Negative log-likelihood of each caption token, in nats, from what the Q-Former `gathered`."""
    with torch.autocast("cpu", torch.bfloat16):
        context = context_of(model, queries, Cut.QFORMER, lesson.prompts)
        states = target_states(model, context, lesson.captions)
    logits: Any = model.get_output_embeddings()(states.float())
    return functional.cross_entropy(logits, lesson.captions.targets, reduction="none", label_smoothing=smoothing)


GREEDY = Decoding(num_beams=1, max_new_tokens=24)


def told(
    model: Blip2, processor: Processor, album: Album, look: Look, *, photos: int = 250,
    decoding: Decoding = GREEDY, show: int = 3,
) -> float:  # fmt: skip
    """Prints what the model says of the album's first `photos`, and of scenes; gives CIDEr of the photos' captions."""
    captions: dict[str, str] = {}
    for start in range(0, min(photos, len(album)), 50):
        numbers = range(start, min(start + 50, photos, len(album)))
        said = say(model, processor, album.tokens[0, list(numbers)].float(), [PROMPT] * len(numbers), decoding)
        captions |= {album.image_ids[number]: caption for number, caption in zip(numbers, said, strict=True)}
    people = References({image: album.captions[number] for number, image in enumerate(captions)})
    cider, blind = cider_of(captions, people), cider_of(shuffled(captions, seed=0), people)
    print(
        f"  CIDEr {100 * cider:.1f}, images shuffled {100 * blind:.1f}, distinct {len(set(captions.values()))}",
        flush=True,
    )
    for caption in list(captions.values())[:show]:
        print(f"    {caption}", flush=True)
    new, unseen = _right(model, processor, look, "train"), _right(model, processor, look, "validation")
    print(f"  word for word a reference: {new:.0%} of new scenes, {unseen:.0%} of held-out ones", flush=True)
    print(f"  right answers to questions of known kinds: {_answered(model, processor, look):.0%}", flush=True)
    return cider


@torch.no_grad()
def say(
    model: Blip2, processor: Processor, tokens: Float[Tensor, "row token width"], prompts: Sequence[str],
    decoding: Decoding,
) -> list[str]:  # fmt: skip
    """A caption or an answer for each row."""
    with torch.autocast("cpu", torch.bfloat16):
        context = context_of(model, gathered(model, tokens), Cut.QFORMER, prompts_of(processor, prompts))
    return decode(model, processor, context, decoding)


def _right(model: Blip2, processor: Processor, look: Look, split: Split) -> float:
    """Share of 100 scenes of another seed whose greedy caption is, word for word, one of their references."""
    scenes = [draw_scene(0, split, number) for number in range(100)]
    tokens = look([draw(scene, IMAGE_SIZE) for scene in scenes])
    said = say(model, processor, tokens, [PROMPT] * len(scenes), GREEDY)
    return sum(caption in wording.terse(scene) for caption, scene in zip(said, scenes, strict=True)) / len(scenes)


def _answered(model: Blip2, processor: Processor, look: Look) -> float:
    """Share of questions of the learned kinds, about 100 validation scenes, that are answered rightly."""
    scenes = [draw_scene(0, "validation", number) for number in range(100)]
    asked = [(scene, one) for scene in scenes for one in ask(scene, 5) if one.kind in ASKED]
    tokens = look([draw(scene, IMAGE_SIZE) for scene, _ in asked])
    said = say(model, processor, tokens, [question.prompt for _, question in asked], GREEDY)
    return sum(answer in question.answers for answer, (_, question) in zip(said, asked, strict=True)) / len(asked)
