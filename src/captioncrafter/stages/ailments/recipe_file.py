"""A recipe: its words, the layers it reaches in its base, its data, and whether this machine can do it."""

from collections.abc import Callable
from typing import Any

from captioncrafter import recipe, storage
from captioncrafter.errors import RecipeError, counted
from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.model.stock import Blip2
from captioncrafter.model.targets import linear_layers, planned_layers, reach_of
from captioncrafter.stages.ailments.adapter import Named, base_on_disk, examine_prompt
from captioncrafter.stages.ailments.captions import Splits, words
from captioncrafter.stages.ailments.checkpoint import Base, examine_checkpoint
from captioncrafter.stages.ailments.dataset import examine_dataset
from captioncrafter.stages.ailments.finding import Record
from captioncrafter.stages.ailments.layer_names import by_part, condensed, part_of, text_way
from captioncrafter.stages.ailments.machine import examine_machine


def examine_recipe(record: Record, name: str) -> None:
    """The recipe called `name`, with its base and its data as far as they are on this disk."""
    try:
        options = recipe.load(name)
    except RecipeError as error:
        for line in str(error).splitlines():
            record.error(
                "recipe",
                name,
                line.removeprefix(f"{name}: "),
                "Correct it; `captioncrafter train RECIPE --help` shows every option.",
            )
        return
    found = base_on_disk(record, Named(options.model.base, options.model.revision, None))
    base = _examine_base(record, found, options) if found is not None else None
    examine_prompt(record, f"{name}, model.prompt", options.model.prompt)
    if base is not None and base.model is not None:
        _examine_layers(record, name, base.config, base.model, options)
    if base is not None and base.processor is not None:
        _examine_prompt_words(record, name, base, options.model.prompt)
    _examine_data(record, name, options, _length(base))
    part = Record("machine", "this machine")
    examine_machine(part, precision=options.model.precision, device=options.model.device)
    record.absorb(part, "machine")


def _examine_base(record: Record, found: Checkpoint, options: recipe.Recipe) -> Base:
    here = not found.on_hub or any(found.folder.glob("*.safetensors"))
    part = Record("checkpoint", found.name)
    base = examine_checkpoint(part, found, weights_here=here)
    record.absorb(part, "base", lies_elsewhere=True)
    if found.on_hub and not here:
        record.note("not-fetched", found.name, "its weights are not on this disk yet; training fetches them")
    if not found.is_pinned_by(options.model.revision):
        record.note(
            "not-pinned",
            found.name,
            "model.revision names no commit: another day another checkpoint could stand under this name",
            f'Set model.revision = "{found.revision}".'
            if found.is_pinned_by(found.revision)
            else "Set model.revision to a commit of it, as its page on the hub lists them.",
        )
    return base


def _examine_layers(record: Record, name: str, config: Any, model: Blip2, options: recipe.Recipe) -> None:
    where = f"{name}, [lora]"
    try:
        layers = planned_layers(config, options.lora)
    except RecipeError as error:
        record.error(
            "dead-targets",
            where,
            str(error),
            "Name layers that exist; they are listed below.",
            details=condensed(_meant_first(config, model, options.lora)),
        )
        return
    record.facts["adapter"] = f"{counted(len(layers), 'layer trains', 'layers train')}: {by_part(layers)}"
    record.facts["layers"] = layers
    if dead := text_way(layers):
        record.warning(
            "dead-layers",
            where,
            f"{counted(len(dead), 'layer lies', 'layers lie')} on the Q-Former's way for text, which no image goes: "
            "nothing is learned there",
            "Leave them out: query and value are the Q-Former's usual targets.",
            details=condensed(dead),
        )
    front = [layer for layer in layers if part_of(layer) in ("vision_model", "qformer")]
    stray = options.lora.pattern is not None and front and len(front) < len(layers)
    if stray:
        record.warning(
            "stray-layers",
            where,
            f'lora.pattern "{options.lora.pattern}" reaches {by_part(front)} too',
            r"Where only the language model is meant, begin it with language_model\.",
            details=condensed(front),
        )


def _meant_first(config: Any, model: Blip2, lora: recipe.Lora) -> list[str]:
    """Layers that can carry an adapter, those of the parts that the recipe means before the others."""
    try:
        parts = reach_of(config, lora).parts
    except RecipeError:
        parts = ()
    return sorted(linear_layers(model), key=lambda name: not name.startswith(tuple(f"{part}." for part in parts)))


def _examine_prompt_words(record: Record, name: str, base: Base, prompt: str) -> None:
    tokenizer = base.processor.tokenizer
    unknown = [word for word in prompt.split() if tokenizer.unk_token_id in tokenizer(word).input_ids]
    if tokenizer.unk_token_id is not None and unknown:
        record.warning(
            "prompt",
            f"{name}, model.prompt",
            f"the base's tokenizer does not know {', '.join(unknown)}: it reads the same unknown piece for each",
            "Say it in other words.",
        )


def _length(base: Base | None) -> Callable[[str], int]:
    """How many tokens training makes of a caption: exact where the tokenizer is here, else its words."""
    if base is None or base.processor is None:
        return words
    tokenizer = base.processor.tokenizer
    from captioncrafter.data.captions import normalise

    return lambda caption: len(tokenizer(normalise(caption)).input_ids)


def _examine_data(record: Record, name: str, options: recipe.Recipe, length: Callable[[str], int]) -> None:
    data = options.data
    if data.path is None:
        if data.scenes is None:
            record.error("no-data", name, "names no data", "Set data.path, or [data.scenes].")
        else:
            record.facts["data"] = "drawn scenes"
        return
    folder = storage.user_path(data.path)
    if not folder.is_dir():
        record.error("no-data", data.path, "no such dataset folder", f"captioncrafter prepare SOURCE --out {data.path}")
        return
    part = Record("dataset", data.path)
    splits = examine_dataset(part, folder, decode=False, length=length, limit=options.training.max_caption_tokens)
    record.absorb(part, "data", lies_elsewhere=True)
    _examine_use(record, name, data, splits)


def _examine_use(record: Record, name: str, data: recipe.Data, splits: Splits) -> None:
    training = splits.get("train", ())
    most = max((len(image.texts) for image in training), default=0)
    if data.captions_per_image is not None and data.captions_per_image < most:
        record.warning(
            "one-caption",
            f"{name}, data.captions_per_image",
            f"trains on {data.captions_per_image} of up to {most} captions of each image",
            "Leave it out: packed, the other captions cost next to nothing.",
        )
    if data.train_images is not None and data.train_images >= len(training) > 0:
        record.note(
            "train-images", f"{name}, data.train_images", f"{data.train_images} asked for, {len(training)} are there"
        )
