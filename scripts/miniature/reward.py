"""The last stage: the model learns from what its own captions score, as self-critical training does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from captioncrafter.metrics.cider import cider_d
from captioncrafter.metrics.references import References
from captioncrafter.metrics.tokenizer import tokenize
from captioncrafter.model.captioning import PackedCaptions
from captioncrafter.model.cut import Cut
from captioncrafter.model.prefix import Context, context_of
from captioncrafter.model.prompts import Prompts
from captioncrafter.model.stock import Blip2, Processor
from captioncrafter.training.packing import TokenIds, pack

from .descent import Schedule, Stage, descend
from .lessons import PROMPT, Lesson, Lessons, costs, gathered, prompts_of
from .photos import drawn_for, photos_of
from .seeing import plain_attention
from .telling import OTHER_LESSONS, TOWER_RATE, seen, telling_weights

PHOTOS_PER_STEP = 32
CAPTIONS_PER_PHOTO = 5
MAX_TOKENS = 20
DRAWN_WEIGHT = 1.0
"""What telling drawn scenes costs, beside the reward of photos' captions."""

END = "endofcaption"
"""Stands behind each caption that has ended, and behind people's: else a caption may stop amid a phrase at no cost."""


@dataclass(frozen=True)
class _Batch:
    photos: Sequence[int]
    pixels: Float[Tensor, "photo channel y x"]
    prompts: Prompts
    drawn: Lesson


def learn_from_reward(
    model: Blip2, processor: Processor, lessons: Lessons, tell: Callable[[], None], schedule: Schedule
) -> None:
    """Raises CIDEr-D of captions that the model draws of training photos, over what its other captions of them score.

    Self-critical sequence training (Rennie et al., 2017) with the mean of a photo's other captions as the baseline
    (Luo, 2020). Scenes and questions are told as before.
    """
    torch.manual_seed(schedule.seed)
    reward = Reward(lessons)
    end = model.config.text_config.eos_token_id

    def batch(step: int) -> _Batch:
        step += 3 * OTHER_LESSONS
        numbers = photos_of(step, len(lessons.photos), schedule.seed, at_once=PHOTOS_PER_STEP)
        pixels = lessons.views(numbers, drawn_for(schedule.seed, step))
        prompts = prompts_of(processor, [PROMPT] * len(numbers))
        return _Batch(numbers, pixels, prompts.to(model.device), lessons.drawn(step))

    def loss(batch: _Batch) -> Tensor:
        queries = gathered(model, seen(model, torch.cat([batch.pixels, batch.drawn.pixels])))
        of_photos, of_drawn = queries.split([len(batch.pixels), len(batch.drawn.pixels)])
        drawn = costs(model, batch.drawn.prompts, batch.drawn.captions, of_drawn)
        with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16):
            context = context_of(model, of_photos, Cut.QFORMER, batch.prompts)
            said = drawn_captions(model, context)
        scored = reward(batch.photos, [[_text(processor, ids, end) for ids in row] for row in said])
        gain = over_the_others(scored)
        captions: PackedCaptions = pack(said, model.config, batch.prompts).to(model.device)
        lengths = [len(ids) for row in said for ids in row]
        gains = torch.from_numpy(np.repeat(gain.flatten(), lengths)).float().to(model.device)
        nats = costs(model, batch.prompts, captions, of_photos)
        return (gains * nats).sum() / sum(lengths) + DRAWN_WEIGHT * (drawn * batch.drawn.weights).sum()

    def look() -> None:
        print(f"  reward of the last steps {np.mean(reward.given):.3f}", flush=True)
        reward.given.clear()
        tell()

    model.eval()
    groups = [
        {"params": telling_weights(model), "peak": schedule.rate},
        {"params": list(model.vision_model.parameters()), "peak": TOWER_RATE * schedule.rate},
    ]
    stage = Stage("reward", model, groups, batch, loss, look_every=100)
    with plain_attention(model):
        descend(stage, schedule, look)


def over_the_others(scores: Float[np.ndarray, "photo caption"]) -> Float[np.ndarray, "photo caption"]:
    """By how much each caption scores more than the photo's others do on average."""
    others = scores.sum(1, keepdims=True) - scores
    return scores - others / (scores.shape[1] - 1)


class Reward:
    """CIDEr-D against people's captions of training photos, whose document frequencies weigh the words."""

    def __init__(self, lessons: Lessons) -> None:
        captions = zip(lessons.photos.image_ids, lessons.photos.captions, strict=True)
        self._references = References({image: [f"{text} {END}" for text in texts] for image, texts in captions})
        self.given: list[float] = []

    def __call__(self, photos: Sequence[int], said: Sequence[Sequence[str]]) -> Float[np.ndarray, "photo caption"]:
        """What each of some captions of each photo scores."""
        tokens = iter(tokenize([text for captions in said for text in captions]))
        by_turn = zip(*([next(tokens) for _ in captions] for captions in said), strict=True)
        turns: list[np.ndarray] = []
        for captions in by_turn:
            predictions = [""] * len(self._references)
            for photo, caption in zip(photos, captions, strict=True):
                predictions[photo] = caption
            turns.append(cider_d(predictions, self._references)[list(photos)])
        scores = np.stack(turns, axis=1)
        self.given.append(float(scores.mean()))
        return scores


def drawn_captions(model: Blip2, context: Context) -> list[list[TokenIds]]:
    """`CAPTIONS_PER_PHOTO` captions for each row, drawn token by token as likely as the model thinks them."""
    text = model.config.text_config
    states, mask = (part.repeat_interleave(CAPTIONS_PER_PHOTO, dim=0) for part in (context.states, context.mask))
    ids: Int[Tensor, "caption token"] = torch.full((len(states), 1), text.decoder_start_token_id, device=states.device)
    ended = torch.zeros(len(states), dtype=torch.bool, device=states.device)
    for _ in range(MAX_TOKENS):
        hidden = model.language_model.get_decoder()(
            input_ids=ids, encoder_hidden_states=states, encoder_attention_mask=mask, use_cache=False
        ).last_hidden_state[:, -1]
        if model.language_model.config.scale_decoder_outputs:
            hidden = hidden * model.language_model.model_dim**-0.5
        with torch.autocast(hidden.device.type, enabled=False):  # as costs are worked out
            odds = model.get_output_embeddings()(hidden.float()).softmax(-1)
        drawn = torch.multinomial(odds, 1)[:, 0].masked_fill(ended, text.pad_token_id)
        ended |= drawn == text.eos_token_id
        ids = torch.cat([ids, drawn[:, None]], dim=1)
    rows = [_until(text.eos_token_id, row) for row in ids[:, 1:].tolist()]
    return [rows[start : start + CAPTIONS_PER_PHOTO] for start in range(0, len(rows), CAPTIONS_PER_PHOTO)]


def _until(end: int, ids: TokenIds) -> TokenIds:
    return ids[: ids.index(end) + 1] if end in ids else ids


def _text(processor: Processor, ids: TokenIds, end: int) -> str:
    text = " ".join(processor.tokenizer.decode(ids, skip_special_tokens=True).split())
    return f"{text} {END}" if ids[-1] == end else text
