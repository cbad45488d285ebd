"""The miniature's two stages of training: to read pictures, then to caption them."""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from PIL import Image
from torch.nn import functional

from captioncrafter.data.ahead import computed_ahead
from captioncrafter.data.scenes import wording
from captioncrafter.data.scenes.picture import PAINT, RADIUS, WALL, Colour, Placed, draw, paint, place_at
from captioncrafter.data.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_COLOURS,
    SHAPES,
    SIZES,
    Scene,
    Split,
    any_thing,
    draw_scene,
)
from captioncrafter.features.extract import pixel_values
from captioncrafter.generation.decode import decode
from captioncrafter.model.captioning import PackedCaptions, caption_loss
from captioncrafter.model.cut import Cut
from captioncrafter.model.prefix import context_of, features_at
from captioncrafter.model.prompts import Prompts, encode_prompt, stacked
from captioncrafter.model.stock import Blip2, Processor
from captioncrafter.recipe import Decoding, Model
from captioncrafter.training.packing import encode_captions, pack
from miniature_model import IMAGE_SIZE, QUERY_SIDE, SIDE, WIDTH

IGNORE = -100
"""A label that carries no weight, as `cross_entropy` has it."""

COLLAGES_PER_STEP = 32
SCENES_PER_STEP = 16
GREY_SHARE = 0.25
ODD_SHARE = 0.5
CLEARANCE = 90.0
"""How far, in RGB, an odd paint keeps from the held-out colours of a shape, and from the wall behind it."""

MISHEARD = 0.3
"""Share of the decoder's input words that are exchanged for others while captions are learned."""

KEEP_EVERY = 200
PROMPT = Model().prompt


Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Options:
    """One training; what it makes is a function of these."""

    reading_steps: int
    reading_rate: float
    captioning_steps: int
    captioning_rate: float
    seed: int


def learn_to_represent(model: Blip2, processor: Processor, options: Options, checkpoint: Path) -> None:
    """Trains the vision tower and the Q-Former on collages, until each place knows what lies there.

    Two linear readers ask it of every patch, and of every query for its sixteenth of the picture; they are thrown
    away afterwards.
    """
    torch.manual_seed(options.seed)
    learner = torch.nn.ModuleDict(
        {"vision": model.vision_model, "qformer": model.qformer, "patches": _Reader(), "queries": _Reader()}
    )
    learner.register_parameter("query_tokens", model.query_tokens)

    def loss(collages: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        pixels, under_patches, under_queries = collages
        patches = model.vision_model(pixels).last_hidden_state
        queries = model.qformer(
            query_embeds=model.query_tokens.expand(len(pixels), -1, -1), encoder_hidden_states=patches
        ).last_hidden_state
        return learner["patches"](patches[:, 1:], under_patches) + learner["queries"](queries, under_queries)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        numbers = range(step * COLLAGES_PER_STEP, (step + 1) * COLLAGES_PER_STEP)
        collages = [_collage(f"{options.seed}/collage/{number}") for number in numbers]
        return (
            pixel_values(processor, [collage.picture for collage in collages]),
            torch.tensor([_under_cells(collage, SIDE) for collage in collages]),
            torch.tensor([_under_cells(collage, QUERY_SIDE) for collage in collages]),
        )

    model.eval()  # no dropout: every picture is new
    groups = [{"params": list(learner.parameters()), "peak": options.reading_rate}]
    _descend(_Stage("reading", options.reading_steps, learner, groups, batch, loss), options, checkpoint)


class _Reader(torch.nn.Module):
    """Tells from a position's output the colour, shape and size of what lies there; the last class is: nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList(torch.nn.Linear(WIDTH, len(kind) + 1) for kind in (COLOURS, SHAPES, SIZES))

    def forward(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy over [image, position] outputs; positions with and without a thing weigh the same in sum."""
        outputs, labels = outputs.flatten(0, 1), labels.flatten(0, 1)
        covered = labels[:, 1] < len(SHAPES)
        weights = torch.where(covered, 0.5 / covered.sum(), 0.5 / (~covered).sum())
        losses = [
            functional.cross_entropy(head(outputs), labels[:, column], ignore_index=IGNORE, reduction="none")
            for column, head in enumerate(self.heads)
        ]
        return (torch.stack(losses).sum(dim=0) * weights).sum()


@dataclass(frozen=True)
class _Collage:
    picture: Image.Image
    copies: list[Placed]
    named_colours: bool


def _collage(seed: str) -> _Collage:
    """As many single things as fit: ten times as much to read as in a scene.

    No held-out colour of a shape occurs. Half of the collages are in odd paints, a quarter are drained of colour, so
    that shapes are told apart by their form: from named colours alone a reader learns which shapes a colour comes in,
    and takes a held-out black triangle for a star.
    """
    dice = random.Random(seed)
    background = dice.choice(BACKGROUNDS)
    kind = dice.random()
    odd, grey = kind < ODD_SHARE, ODD_SHARE <= kind < ODD_SHARE + GREY_SHARE
    copies: list[Placed] = []
    for _ in range(40):
        thing = any_thing(dice, background)
        reach = RADIUS[thing.size]
        copy = place_at((dice.uniform(reach, 1 - reach), dice.uniform(reach, 1 - reach)), thing, dice)
        apart = all(math.dist(copy.centre, other.centre) > 1.05 * (copy.radius + other.radius) for other in copies)
        if apart and odd:
            copies.append(replace(copy, paint=_odd_paint(thing.shape, background, dice)))
        elif apart and (thing.shape, thing.colour) not in HELD_OUT_COLOURS:
            copies.append(copy)
    picture = paint(copies, background, IMAGE_SIZE, light=dice.getrandbits(32))
    return _Collage(picture.convert("L").convert("RGB") if grey else picture, copies, not (odd or grey))


def _odd_paint(shape: str, background: str, dice: random.Random) -> Colour:
    """Any colour that is neither near a held-out one of the shape nor near the wall's."""
    shunned = [PAINT[colour] for held_out, colour in HELD_OUT_COLOURS if held_out == shape] + [WALL[background]]
    while True:
        colour = (dice.randrange(256), dice.randrange(256), dice.randrange(256))
        if all(math.dist(colour, other) > CLEARANCE for other in shunned):
            return colour


def _under_cells(collage: _Collage, side: int) -> list[tuple[int, int, int]]:
    """For each cell of a `side` × `side` grid, row by row, the indices of colour, shape and size of what covers it."""
    labels = []
    for cell in range(side * side):
        middle = ((cell % side + 0.5) / side, (cell // side + 0.5) / side)
        nearest = min(collage.copies, key=lambda copy: math.dist(copy.centre, middle) - copy.radius)
        thing = nearest.thing
        if math.dist(nearest.centre, middle) > nearest.radius + (0.3 / SIDE if side == SIDE else 0.0):
            labels.append((len(COLOURS), len(SHAPES), len(SIZES)))
        else:
            colour = COLOURS.index(thing.colour) if collage.named_colours else IGNORE
            labels.append((colour, SHAPES.index(thing.shape), SIZES.index(thing.size)))
    return labels


def learn_to_caption(model: Blip2, processor: Processor, options: Options, checkpoint: Path) -> None:
    """Trains projection and language model on training scenes and their terse captions, five in one decoder row.

    What the vision half has learned stays as it is.
    """
    prompts = _prompts(processor, SCENES_PER_STEP)

    def batch(step: int) -> tuple[torch.Tensor, PackedCaptions]:
        numbers = range(step * SCENES_PER_STEP, (step + 1) * SCENES_PER_STEP)
        scenes = [draw_scene(options.seed, "train", number) for number in numbers]
        rows = [
            encode_captions(processor.tokenizer, wording.terse(scene), model.config, prompt=PROMPT, max_tokens=32)[0]
            for scene in scenes
        ]
        captions = _misheard(pack(rows, model.config, prompts), torch.Generator().manual_seed(options.seed + step))
        return pixel_values(processor, _pictures(scenes)), captions

    def loss(captioned: tuple[torch.Tensor, PackedCaptions]) -> torch.Tensor:
        pixels, captions = captioned
        features = features_at(model, pixels, Cut.QFORMER, prompts)
        context = context_of(model, features, Cut.QFORMER, prompts)
        return caption_loss(model, context, captions) / len(captions.targets)

    def look() -> None:
        new, unseen = _right(model, processor, "train"), _right(model, processor, "validation")
        print(f"  word for word a reference: {new:.0%} of new scenes, {unseen:.0%} of held-out ones", flush=True)

    model.eval()  # no dropout: every scene is new
    telling = [*model.language_projection.parameters(), *model.language_model.parameters()]
    groups = [{"params": telling, "peak": options.captioning_rate}]
    _descend(_Stage("captioning", options.captioning_steps, model, groups, batch, loss), options, checkpoint, look)


def _misheard(captions: PackedCaptions, dice: torch.Generator) -> PackedCaptions:
    """The captions with some of the words that the decoder has just "said" exchanged for others of the batch.

    A decoder that trusts every word before it learns that no star follows "purple" where purple stars are held out; one
    that cannot looks at the picture. After word dropout (Bowman et al., 2016).
    """
    said = captions.token_ids
    words = said[said > 1]
    others = words[torch.randint(len(words), said.shape, generator=dice)]
    misheard = (said > 1) & (torch.rand(said.shape, generator=dice) < MISHEARD)
    return replace(captions, token_ids=torch.where(misheard, others, said))


def _prompts(processor: Processor, rows: int) -> Prompts:
    return stacked([encode_prompt(processor, PROMPT)] * rows, pad_id=0)


def _pictures(scenes: list[Scene]) -> list[Image.Image]:
    return [draw(scene, IMAGE_SIZE) for scene in scenes]


@torch.no_grad()
def _right(model: Blip2, processor: Processor, split: Split) -> float:
    """Share of 100 scenes of another seed whose greedy caption is, word for word, one of their references."""
    scenes = [draw_scene(0, split, number) for number in range(100)]
    pixels = pixel_values(processor, _pictures(scenes))
    context = context_of(model, pixels, Cut.IMAGES, _prompts(processor, len(scenes)))
    captions = decode(model, processor, context, Decoding(num_beams=1, max_new_tokens=24))
    return sum(caption in wording.terse(scene) for caption, scene in zip(captions, scenes, strict=True)) / len(scenes)


@dataclass(frozen=True)
class _Stage(Generic[Batch]):
    """What is trained, at which peak rates, on what, for how many steps; `batch` gives the data of a step."""

    name: str
    steps: int
    learner: torch.nn.Module
    groups: list[dict[str, Any]]
    batch: Callable[[int], Batch]
    loss: Callable[[Batch], torch.Tensor]


def _descend(stage: _Stage[Batch], options: Options, checkpoint: Path, look: Callable[[], None] = lambda: None) -> None:
    optimizer = torch.optim.AdamW(stage.groups, betas=(0.9, 0.98), weight_decay=0.05)
    identity = {"stage": stage.name, "steps": stage.steps, "peaks": [group["peak"] for group in stage.groups]}
    identity["seed"] = options.seed
    first = _restore(stage.learner, optimizer, identity, checkpoint)
    started, since = time.monotonic(), []
    for step, data in enumerate(computed_ahead(stage.batch, range(first, stage.steps), ahead=1), start=first):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * _rate(step, stage.steps)
        loss = stage.loss(data)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(stage.learner.parameters(), 1.0)
        optimizer.step()
        since.append(loss.item())
        if (step + 1) % 50 == 0:
            minutes, mean = (time.monotonic() - started) / 60, sum(since) / len(since)
            print(f"{stage.name} {step + 1}/{stage.steps}  loss {mean:.3f}  {minutes:.1f} min", flush=True)
            since.clear()
        if (step + 1) % KEEP_EVERY == 0 or step + 1 == stage.steps:
            _keep(stage.learner, optimizer, identity, step + 1, checkpoint)
            look()


def _rate(step: int, steps: int) -> float:
    """Linear warm-up over 60 steps, then half a cosine down to nothing."""
    return min(1.0, (step + 1) / 60) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _restore(
    learner: torch.nn.Module, optimizer: torch.optim.Optimizer, identity: dict[str, Any], checkpoint: Path
) -> int:
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    if state["identity"] != identity:
        raise SystemExit(f"{checkpoint} is of {state['identity']}: remove it, or give the same options.")
    learner.load_state_dict(state["learner"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def _keep(
    learner: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any],
    step: int,
    checkpoint: Path,
) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "identity": identity,
        "step": step,
        "learner": learner.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, checkpoint.with_suffix(".tmp"))
    checkpoint.with_suffix(".tmp").replace(checkpoint)
