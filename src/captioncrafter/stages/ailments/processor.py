"""The processor beside a checkpoint: its class, its tokenizer, its pictures, and whether it fits the model."""

from pathlib import Path
from typing import Any

from captioncrafter.model import checkpoint
from captioncrafter.model.checkpoint import IMAGE_TOKEN, Checkpoint
from captioncrafter.model.stock import Processor
from captioncrafter.stages.ailments.documents import edit, read_object
from captioncrafter.stages.ailments.finding import Record

PROCESSOR, PREPROCESSOR, TOKENIZER = "processor_config.json", "preprocessor_config.json", "tokenizer_config.json"
ADDED = "added_tokens.json"
_CLASS = "Blip2Processor"
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def examine_processor(record: Record, found: Checkpoint, config: Any, again: str) -> Processor | None:
    """The processor where it can be read and fits, else None; what is wrong with it is in the record."""
    folder, may_edit = found.folder, not found.on_hub
    written = {name: read_object(record, folder / name, mend=again) for name in (PROCESSOR, PREPROCESSOR, TOKENIZER)}
    for name, values in written.items():
        _examine_class(record, folder / name, values, may_edit=may_edit)
    queries = written[PROCESSOR]
    if queries is None and written[PREPROCESSOR] is not None and not record.has("damaged-json"):
        queries = {}  # copies of 2023 have no such file
    _examine_queries(record, folder / PROCESSOR, queries, config, may_edit=may_edit)
    _examine_size(record, folder, written, config.vision_config.image_size)
    if record.has("positions", "image-size"):
        return None
    processor = None
    with record.attempt("processor-unreadable", found.folder, again):
        processor = checkpoint.load_processor(found)
    if processor is None:
        return None
    _examine_image_token(record, folder, processor, may_edit=may_edit)
    _examine_tokenizer(record, folder, processor, config)
    _examine_pictures(record, folder, processor)
    return processor


def _examine_class(record: Record, file: Path, values: dict[str, Any] | None, *, may_edit: bool) -> None:
    named = values.get("processor_class") if values else None
    if named in (None, _CLASS):
        return
    record.warning(
        "processor-class",
        file,
        f'processor_class "{named}": AutoProcessor would give that, without the image positions that a {_CLASS} '
        "writes. Here the right one is used all the same",
        f'Set it to "{_CLASS}".',
        repair=edit(file, processor_class=_CLASS) if may_edit else None,
    )


def _examine_queries(record: Record, file: Path, values: dict[str, Any] | None, config: Any, *, may_edit: bool) -> None:
    """`num_query_tokens`: with none, stock transformers writes no image positions, and the image is never seen."""
    queries = values.get("num_query_tokens") if values else None
    named = {"num_query_tokens": config.num_query_tokens, "processor_class": _CLASS}
    repair = edit(file, **named) if may_edit and values is not None else None
    if values is not None and queries is None:
        record.note(
            "old-layout",
            file,
            "an old copy without num_query_tokens (transformers#34223): filled in each time it is loaded",
            "--fix writes it down; without it stock transformers trains and captions without the image.",
            repair=repair,
        )
    elif queries is not None and queries != config.num_query_tokens:
        record.error(
            "positions",
            file,
            f"num_query_tokens {queries}, and the model has {config.num_query_tokens} queries: with too few image "
            "positions the image is dropped in silence",
            f"Set it to {config.num_query_tokens}.",
            repair=repair,
        )


def _examine_image_token(record: Record, folder: Path, processor: Processor, *, may_edit: bool) -> None:
    """Old tokenizers have no piece for an image position; the stock processor adds one behind the last."""
    files = [folder / name for name in ("tokenizer.json", ADDED, TOKENIZER)]
    if any(f'"{IMAGE_TOKEN}"' in file.read_text(encoding="utf-8") for file in files if file.is_file()):
        return
    image = checkpoint.image_token_id(processor)
    record.note(
        "old-layout",
        folder / ADDED,
        f"an old copy without {IMAGE_TOKEN} (transformers#42203): added as id {image} each time it is loaded",
        "--fix writes it down.",
        repair=edit(folder / ADDED, **{IMAGE_TOKEN: image}) if may_edit else None,
    )


def _examine_tokenizer(record: Record, folder: Path, processor: Processor, config: Any) -> None:
    tokenizer, rows = processor.tokenizer, config.text_config.vocab_size
    image = checkpoint.image_token_id(processor)
    record.facts["vocabulary"] = f"{len(tokenizer):,} pieces, {rows:,} rows; {IMAGE_TOKEN} is {image}"
    if image >= rows or len(tokenizer) > rows:
        record.error(
            "vocabulary",
            folder,
            f"the tokenizer has {len(tokenizer)} pieces ({IMAGE_TOKEN} is {image}) and the embedding {rows} rows: a "
            "tokenizer of another model, or one that was added to",
            "Take the tokenizer files of this checkpoint.",
        )
    # Not the end: blip2-opt's captions end with a line feed, which its tokenizer does not call its end.
    mine, models = tokenizer.pad_token_id, getattr(config.text_config, "pad_token_id", None)
    if models is not None and mine != models:
        record.warning(
            "special-tokens",
            folder,
            f"padding is {mine} in the tokenizer and {models} in the model: padding would not be masked",
            "Take the tokenizer files of this checkpoint.",
        )


def _examine_size(record: Record, folder: Path, written: dict[str, dict[str, Any] | None], wanted: int) -> None:
    """The pixels that pictures are brought to, in the file of old copies or in that of new ones."""
    for name in (PREPROCESSOR, PROCESSOR):
        values = written[name] or {}
        images = values.get("image_processor", values)
        size = images.get("size") if isinstance(images, dict) else None
        if not isinstance(size, dict) or not {"height", "width"} <= size.keys():
            continue
        if (size["height"], size["width"]) != (wanted, wanted):
            record.error(
                "image-size",
                folder / name,
                f"pictures become {size['height']}x{size['width']}, and the vision transformer takes {wanted}x{wanted}",
                f"Set size to {wanted} x {wanted}, or take the processor files of this checkpoint.",
            )
        return


def _examine_pictures(record: Record, folder: Path, processor: Processor) -> None:
    images = processor.image_processor
    kind = type(images).__name__
    size = dict(getattr(images, "size", None) or {})
    record.facts["pictures"] = f"{size.get('height')}x{size.get('width')} by {kind}"
    if not kind.startswith("Blip"):
        record.warning(
            "image-processor",
            folder,
            f"{kind} prepares the pictures; BLIP-2 was trained with BlipImageProcessor (squashed, not cropped)",
            f'Set image_processor_type to "BlipImageProcessor" in {PREPROCESSOR}.',
        )
    mean, std = getattr(images, "image_mean", None), getattr(images, "image_std", None)
    if not (_near(mean, _MEAN) and _near(std, _STD)):
        record.warning(
            "normalisation",
            folder,
            f"colours are normalised by mean {mean} and deviation {std}, not by CLIP's, as every published BLIP-2 has",
            "Unless the model was trained so: take the processor files of its source.",
        )


def _near(found: Any, wanted: tuple[float, ...]) -> bool:
    values = list(found or ())
    return len(values) == 3 and all(abs(one - two) < 1e-4 for one, two in zip(values, wanted, strict=True))
