"""What old copies of a checkpoint lack, put in place in memory: the files stay as they are.

Copies of BLIP-2 from before transformers 4.46 have no `<image>` token, and neither processor nor configuration says how
an image stands in a prompt (transformers#34223, #42203). The stock forward then drops the image, or refuses.
"""

from functools import cache
from pathlib import Path
from typing import Any

from captioncrafter import events
from captioncrafter.errors import CheckpointError
from captioncrafter.model.stock import Processor

IMAGE_TOKEN = "<image>"
_TOKENIZER_FILES = ("tokenizer.json", "added_tokens.json", "tokenizer_config.json")


def mend(config: Any, processor: Processor, *, name: str, folder: Path) -> None:
    """Gives a `Blip2Config` and a processor what an old copy lacks, and says once which of it that was.

    The stock processor adds `<image>` itself, behind the tokenizer's last token. Raises `CheckpointError` when the two
    contradict each other, or when `<image>` has no place in the vocabulary.
    """
    token = int(processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    lacking = []
    if processor.num_query_tokens is None:
        processor.num_query_tokens = config.num_query_tokens
        lacking.append(f"num_query_tokens in the processor ({config.num_query_tokens}, as the model has it)")
    if not _has_image_token(folder):
        lacking.append(f"{IMAGE_TOKEN} in the tokenizer (added as id {token})")
    if config.image_token_index is None:
        config.image_token_index = token
        lacking.append(f"image_token_index in config.json ({token}, as the tokenizer has it)")
    _check_fit(config, processor, token, name)
    if lacking:
        _say_once(f"{name}: an old copy, mended in memory. It lacks {'; '.join(lacking)}.", folder)


def _check_fit(config: Any, processor: Processor, token: int, name: str) -> None:
    if processor.num_query_tokens != config.num_query_tokens or config.image_token_index != token:
        raise CheckpointError(
            f"{name}: processor and model disagree (queries {processor.num_query_tokens} and "
            f"{config.num_query_tokens}; {IMAGE_TOKEN} is id {token} and {config.image_token_index}). Take both from "
            "one source."
        )
    if token >= (known := config.text_config.vocab_size):
        raise CheckpointError(
            f"{name}: {IMAGE_TOKEN} is id {token}, but the language model knows {known} tokens only: the tokenizer "
            "belongs to another model. Take both from one source."
        )
    pixels = config.vision_config.image_size
    sides = (pixels, pixels) if isinstance(pixels, int) else tuple(pixels)
    size = processor.image_processor.size
    made = (size.get("height"), size.get("width"))
    if made != sides:
        raise CheckpointError(
            f"{name}: its preprocessor makes images of {made[0]} × {made[1]} pixels, and its model takes {sides[0]} × "
            f"{sides[1]}. Take both from one source."
        )


@cache
def _say_once(line: str, folder: Path) -> None:
    # A training loads its base in two halves, and each would say it.
    del folder
    events.say(line)


def _has_image_token(folder: Path) -> bool:
    files = (folder / file for file in _TOKENIZER_FILES)
    return any(f'"{IMAGE_TOKEN}"' in file.read_text(encoding="utf-8") for file in files if file.is_file())
