"""How many captions a recipe trains on and how long they are: of its data where that is there, else what is usual."""

from collections.abc import Callable
from dataclasses import dataclass, field

from captioncrafter import recipe
from captioncrafter.data.captions import normalise
from captioncrafter.data.splits import CaptionedImages, load_splits
from captioncrafter.errors import DataError
from captioncrafter.model import checkpoint
from captioncrafter.model.stock import Processor

_SAMPLED_IMAGES = 2000

# Flickr8k under flan-T5's tokenizer: 6,000 images for training and 1,000 for validation, five captions of 11.8 words
# or 14.9 tokens, their end counted; the longest image has 135.
_USUAL_IMAGES, _USUAL_VALIDATION_IMAGES = 6000, 1000
_USUAL_CAPTIONS, _USUAL_TOKENS, _USUAL_LONGEST = 5, 15, 27
_TOKENS_PER_WORD = 1.2


@dataclass(frozen=True)
class CaptionLengths:
    """Numbers of images, the caption tokens of an image (mean and longest), and of a prompt; `assumed` says of what.

    All tokens of an image stand in one decoder row.
    """

    images: int
    validation_images: int
    captions_per_image: float
    mean_tokens: int
    longest_tokens: int
    prompt_tokens: int
    assumed: tuple[str, ...] = field(default=())

    @property
    def shown_images(self) -> int:
        """Images whose features are stored."""
        return self.images + self.validation_images


def caption_lengths(options: recipe.Recipe, found: checkpoint.Checkpoint) -> CaptionLengths:
    """Those of the recipe's data, counted by the checkpoint's tokenizer, or guessed from words where it is not here."""
    try:
        splits = load_splits(options.data)
    except DataError as error:
        count, guesses = _counter(found)
        reason = f"usual captions, Flickr8k's, for the data cannot be read ({_first_sentence(error)})"
        return _usual(options, max(1, count(options.model.prompt)), (*guesses, reason))
    return lengths_of(splits, options, found)


def _usual(options: recipe.Recipe, prompt_tokens: int, assumed: tuple[str, ...]) -> CaptionLengths:
    captions = min(_USUAL_CAPTIONS, options.data.captions_per_image or _USUAL_CAPTIONS)
    limit = options.training.max_caption_tokens
    return CaptionLengths(
        images=min(_USUAL_IMAGES, options.data.train_images or _USUAL_IMAGES),
        validation_images=min(_USUAL_VALIDATION_IMAGES, options.validation.images or _USUAL_VALIDATION_IMAGES),
        captions_per_image=captions,
        mean_tokens=captions * min(_USUAL_TOKENS, limit),
        longest_tokens=captions * min(_USUAL_LONGEST, limit),
        prompt_tokens=prompt_tokens,
        assumed=assumed,
    )


def lengths_of(
    splits: dict[str, CaptionedImages], options: recipe.Recipe, found: checkpoint.Checkpoint
) -> CaptionLengths:
    """Those of the images of `splits`, of which some thousand are looked at."""
    count, guesses = _counter(found)
    prompt_tokens = max(1, count(options.model.prompt))
    every = max(1, len(splits["train"]) // _SAMPLED_IMAGES)
    limit = options.training.max_caption_tokens
    captions, tokens, prompts = 0, [], [prompt_tokens]
    for image in list(splits["train"])[::every]:
        texts = [text for text in map(normalise, image.captions[: options.data.captions_per_image]) if text]
        captions += len(texts)
        tokens.append(sum(min(limit, count(text)) for text in texts))
        if image.prompt is not None:
            prompts.append(count(image.prompt))
    return CaptionLengths(
        images=len(splits["train"]),
        validation_images=len(splits["validation"]),
        captions_per_image=captions / len(tokens),
        mean_tokens=max(1, round(sum(tokens) / len(tokens))),
        longest_tokens=max(1, *tokens),
        prompt_tokens=max(prompts),
        assumed=guesses,
    )


def _counter(found: checkpoint.Checkpoint) -> tuple[Callable[[str], int], tuple[str, ...]]:
    """What counts the tokens of a text, its end among them; and what is guessed in doing so."""
    if not any((found.folder / name).is_file() for name in ("tokenizer.json", "spiece.model", "vocab.json")):
        guess = f"{_TOKENS_PER_WORD} tokens a word, for {found.name}'s tokenizer is not on this disk"
        return lambda text: round(_TOKENS_PER_WORD * len(text.split())) + 1, (guess,)
    processor: Processor = checkpoint.load_processor(found)
    return lambda text: len(processor.tokenizer(text).input_ids), ()


def _first_sentence(error: Exception) -> str:
    return str(error).split(". ")[0].rstrip(".")
