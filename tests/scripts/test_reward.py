"""What a caption earns, and how captions are drawn."""

import numpy as np
import pytest
import torch

from captioncrafter.model.cut import Cut
from captioncrafter.model.prefix import Context, context_of
from captioncrafter.model.stock import Blip2, Processor
from miniature.lessons import PROMPT, Lessons, gathered, prompts_of
from miniature.photos import drawn_for
from miniature.reward import CAPTIONS_PER_PHOTO, END, Reward, drawn_captions, over_the_others
from miniature.telling import seen

from .conftest import CAPTIONS, OTHERS

DOGS, BOYS = 0, 79


@pytest.fixture(scope="session")
def reward(lessons: Lessons) -> Reward:
    return Reward(lessons)


def test_what_people_said_of_a_photo_earns_more_than_what_they_said_of_another(reward: Reward):
    (own, other), (others, owns) = reward([DOGS, BOYS], [[f"{CAPTIONS[0]} {END}", f"{OTHERS[0]} {END}"]] * 2)

    assert own > 5 * other and owns > 5 * others


def test_a_caption_that_stops_amid_a_phrase_earns_less(reward: Reward):
    ((whole, cut),) = reward([DOGS], [[f"{CAPTIONS[0]} {END}", CAPTIONS[0]]])

    assert cut < 0.95 * whole


def test_punctuation_costs_a_caption_nothing(reward: Reward):
    ((plain, stopped),) = reward([DOGS], [[f"{CAPTIONS[0]} {END}", f"{CAPTIONS[0]} . {END}"]])

    assert stopped == pytest.approx(plain)


def test_a_caption_gains_what_it_scores_over_the_mean_of_the_others():
    gains = over_the_others(np.array([[1.0, 3.0, 5.0], [2.0, 2.0, 2.0]]))

    assert gains.tolist() == [[-3.0, 0.0, 3.0], [0.0, 0.0, 0.0]]


@pytest.fixture
def context(miniature: Blip2, processor: Processor, lessons: Lessons) -> Context:
    pixels = lessons.views([DOGS, BOYS], drawn_for(1, 0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        queries = gathered(miniature, seen(miniature, pixels))
        return context_of(miniature, queries, Cut.QFORMER, prompts_of(processor, [PROMPT] * 2))


@torch.no_grad()
def test_captions_are_drawn_for_every_photo(miniature: Blip2, context: Context):
    assert [len(row) for row in drawn_captions(miniature, context)] == [CAPTIONS_PER_PHOTO] * 2


@torch.no_grad()
def test_captions_are_drawn_as_likely_as_the_model_thinks_them(miniature: Blip2, context: Context):
    """The first token of a photo's captions, against the odds that the stock decoder gives."""
    torch.manual_seed(0)
    start = torch.full((1, 1), miniature.config.text_config.decoder_start_token_id)
    hidden = miniature.language_model.decoder(
        input_ids=start, encoder_hidden_states=context.states[:1].float(), encoder_attention_mask=context.mask[:1]
    ).last_hidden_state
    odds = miniature.language_model.lm_head(hidden[0, 0]).softmax(-1)
    one = Context(context.states[:1].float().expand(60, -1, -1), context.mask[:1].expand(60, -1))

    first = torch.tensor([ids[0] for row in drawn_captions(miniature, one) for ids in row])

    likeliest = int(odds.argmax())
    assert (first == likeliest).float().mean().item() == pytest.approx(odds[likeliest].item(), abs=0.1)
