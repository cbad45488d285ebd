"""Captions from stored features are those that the stock model generates from the pixels."""

from pathlib import Path

import pytest
import torch

from captioncrafter import recipe
from captioncrafter.data.images import decode_image
from captioncrafter.errors import InputError
from captioncrafter.features.extract import pixel_values
from captioncrafter.generation.decode import decode, overridden
from captioncrafter.model.cut import Cut
from captioncrafter.model.prefix import Context, context_of
from captioncrafter.model.prompts import encode_prompt, stacked
from tiny import load_tiny, picture, write_tiny_opt_checkpoint

IMAGES = 6
PROMPT = "a photo of"


class Seeing:
    """The tiny model with its eyes opened: pictures weigh enough for each to get a caption of its own."""

    def __init__(self, folder: Path) -> None:
        _, self.processor, self.model = load_tiny(folder)
        for name, parameter in self.model.qformer.named_parameters():
            if name.endswith(("crossattention.attention.value.weight", "crossattention.output.dense.weight")):
                parameter.mul_(10)
        self.model.language_projection.weight.mul_(4)
        pictures = [decode_image(picture(number)) for number in range(IMAGES)]
        self.inputs = self.processor(images=pictures, text=[PROMPT] * IMAGES, return_tensors="pt")
        prompts = stacked([encode_prompt(self.processor, PROMPT)] * IMAGES, pad_id=0)
        with torch.no_grad():
            self.context = context_of(self.model, pixel_values(self.processor, pictures), Cut.IMAGES, prompts)

    def captions(self, images: slice = slice(None), **decoding: object) -> list[str]:
        settings = recipe.Decoding.model_validate({"max_new_tokens": 12} | decoding)
        context = Context(self.context.states[images], self.context.mask[images])
        return decode(self.model, self.processor, context, settings)

    def stock_captions(self, **options: object) -> list[str]:
        tokens = self.model.generate(**self.inputs, max_new_tokens=12, do_sample=False, **options)
        texts = self.processor.batch_decode(tokens, skip_special_tokens=True)
        # A decoder-only model gives its prompt back in front.
        return [" ".join(text.removeprefix(PROMPT).split()) for text in texts]


@pytest.fixture(scope="module")
def seeing(tiny_checkpoint: Path) -> Seeing:
    return Seeing(tiny_checkpoint)


@pytest.fixture(scope="module")
def seeing_opt(tmp_path_factory: pytest.TempPathFactory) -> Seeing:
    return Seeing(write_tiny_opt_checkpoint(tmp_path_factory.mktemp("opt") / "tiny"))


@pytest.mark.parametrize("settings", [{"num_beams": 1}, {"num_beams": 4}], ids=str)
def test_a_decoder_only_model_gives_what_the_stock_model_generates(seeing_opt: Seeing, settings: dict[str, float]):
    captions = seeing_opt.captions(**settings)

    assert captions == seeing_opt.stock_captions(**settings)
    assert len(set(captions)) >= 2


@pytest.mark.parametrize("family", ["seeing", "seeing_opt"])
def test_prompts_of_different_lengths_are_captioned_as_each_alone(family: str, request: pytest.FixtureRequest):
    one: Seeing = request.getfixturevalue(family)
    prompts = [encode_prompt(one.processor, text) for text in ("a photo of", "question what colour is the dog answer")]
    settings = recipe.Decoding(num_beams=1, max_new_tokens=12)

    def captions(chosen: list[int]) -> list[str]:
        rows = stacked([prompts[number % 2] for number in chosen], pad_id=0)
        pixels = one.inputs.pixel_values[chosen]
        with torch.no_grad():
            return decode(one.model, one.processor, context_of(one.model, pixels, Cut.IMAGES, rows), settings)

    together = captions([0, 1, 2, 3])

    assert together == [caption for number in range(4) for caption in captions([number])]


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 1},
        {"num_beams": 5},
        {"num_beams": 3, "length_penalty": -20.0},
        {"num_beams": 3, "no_repeat_ngram_size": 2},
        {"num_beams": 1, "repetition_penalty": 3.0},
    ],
    ids=str,
)
def test_greedy_and_beam_search_give_what_the_stock_model_generates(seeing: Seeing, settings: dict[str, float]):
    captions = seeing.captions(**settings)

    assert captions == seeing.stock_captions(**settings)
    assert len(set(captions)) >= 2


@pytest.mark.parametrize(
    ("settings", "baseline"),
    [
        ({"num_beams": 5}, {"num_beams": 1}),
        ({"num_beams": 5, "length_penalty": -20.0}, {"num_beams": 5}),
        ({"num_beams": 1, "repetition_penalty": 3.0}, {"num_beams": 1}),
        ({"num_beams": 1, "no_repeat_ngram_size": 1}, {"num_beams": 1}),
        ({"num_beams": 1, "max_new_tokens": 1}, {"num_beams": 1}),
        ({"num_beams": 1, "sample": True}, {"num_beams": 1}),
    ],
    ids=str,
)
def test_each_setting_changes_the_captions(seeing: Seeing, settings: dict[str, float], baseline: dict[str, float]):
    assert seeing.captions(**settings) != seeing.captions(**baseline)


@pytest.mark.parametrize("num_beams", [1, 5])
def test_a_caption_does_not_depend_on_its_batch(seeing: Seeing, num_beams: int):
    together = seeing.captions(num_beams=num_beams)

    alone = [seeing.captions(slice(at, at + 1), num_beams=num_beams)[0] for at in range(IMAGES)]

    assert alone == together


def test_sampling_is_decided_by_its_seed(seeing: Seeing):
    sample = {"sample": True, "num_beams": 1}

    one, same, other = (seeing.captions(**sample, seed=seed) for seed in (3, 3, 4))

    assert one == same
    assert one != other


def test_sampling_leaves_the_global_random_state(seeing: Seeing):
    before = torch.get_rng_state()

    seeing.captions(sample=True, num_beams=1)

    assert torch.equal(torch.get_rng_state(), before)


def test_sampling_does_not_hear_the_global_random_state(seeing: Seeing):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = seeing.captions(sample=True, num_beams=1)
        torch.manual_seed(2)
        other = seeing.captions(sample=True, num_beams=1)

    assert one == other


def test_a_very_low_temperature_is_greedy(seeing: Seeing):
    sampled = seeing.captions(sample=True, num_beams=1, temperature=1e-4)

    assert sampled == seeing.captions(num_beams=1)


def test_a_very_small_nucleus_is_greedy(seeing: Seeing):
    assert seeing.captions(sample=True, num_beams=1, top_p=1e-6) == seeing.captions(num_beams=1)


def test_each_batch_draws_its_own_samples(seeing: Seeing):
    settings = recipe.Decoding(num_beams=1, sample=True, max_new_tokens=12)

    first, second, again = (
        decode(seeing.model, seeing.processor, seeing.context, settings, first=first) for first in (0, 16, 16)
    )

    assert first != second
    assert second == again


def test_a_later_batch_does_not_draw_what_a_larger_seed_draws(seeing: Seeing):
    settings = recipe.Decoding(num_beams=1, sample=True, max_new_tokens=12)

    later = decode(seeing.model, seeing.processor, seeing.context, settings, first=16)

    assert later != seeing.captions(sample=True, num_beams=1, seed=16)


@pytest.mark.parametrize("changes", [{"temperature": 0.5}, {"top_p": 0.9}, {"seed": 0}], ids=str)
def test_a_setting_of_sampling_is_refused_without_sampling(changes: dict[str, float]):
    with pytest.raises(InputError, match=rf"{next(iter(changes))} needs --sample"):
        overridden(recipe.Decoding(), changes)


@pytest.mark.parametrize("changes", [{"temperature": 0.5}, {"top_p": 0.9}, {"seed": 0}], ids=str)
def test_a_setting_of_sampling_is_taken_where_the_adapter_samples(changes: dict[str, float]):
    found = overridden(recipe.Decoding(sample=True, num_beams=1), changes)

    assert found.model_dump().items() >= changes.items()


@pytest.mark.parametrize("changes", [{"num_beams": 1, "length_penalty": 2.0}, {"sample": True, "length_penalty": 2.0}])
def test_a_length_penalty_is_refused_with_one_beam(changes: dict[str, float]):
    with pytest.raises(InputError, match="length_penalty needs a beam search, --num-beams 2 or more"):
        overridden(recipe.Decoding(), changes)


def test_a_stored_setting_that_nothing_reads_is_not_refused():
    stored = recipe.Decoding(temperature=0.5, length_penalty=2.0)

    assert overridden(stored, {"num_beams": 1}).temperature == 0.5


def test_a_whole_decoding_is_taken_as_it_is():
    whole = recipe.Decoding(num_beams=1, temperature=0.5, length_penalty=2.0)

    assert overridden(recipe.Decoding(), whole.model_dump()) == whole


def test_sampling_alone_means_one_beam():
    assert overridden(recipe.Decoding(num_beams=5), {"sample": True}).num_beams == 1


def test_sampling_beside_beams_keeps_the_beams():
    assert overridden(recipe.Decoding(), {"sample": True, "num_beams": 3}).num_beams == 3


def test_no_sampling_goes_before_a_stored_sampling():
    assert not overridden(recipe.Decoding(sample=True, num_beams=1), {"sample": False}).sample
