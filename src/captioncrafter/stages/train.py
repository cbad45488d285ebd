"""`captioncrafter train`: a recipe becomes an adapter."""

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import captioncrafter
from captioncrafter import events, recipe, runs
from captioncrafter.data.captions import normalise
from captioncrafter.data.splits import CaptionedImages, load_splits
from captioncrafter.errors import DataError
from captioncrafter.features.extract import extract, pixel_values
from captioncrafter.features.key import feature_key
from captioncrafter.features.store import FeatureStore
from captioncrafter.generation.captioner import write_captioning
from captioncrafter.generation.decode import decode
from captioncrafter.metrics.diversity import distinct_captions, mean_length
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import cider_of, shuffled
from captioncrafter.model import checkpoint, hardware, lora, weights
from captioncrafter.model.captioning import Prompt, encode_prompt
from captioncrafter.model.stock import Blip2, Processor, Tuned
from captioncrafter.report.card import write_card
from captioncrafter.stages.run_start import RESULT, begin, finished, located, open_run, refuse_other_inputs
from captioncrafter.training import loop, preflight
from captioncrafter.training.batches import TrainingImages
from captioncrafter.training.packing import encode_captions

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors")
_PROBED_IMAGES = 4


def train(options: recipe.Recipe, out: Path, *, resume: bool = False) -> loop.FitResult:
    """Tunes an adapter as `options` say and keeps everything about it in the run folder `out`.

    A run that is finished is left as it is. Raises `InputError` when `out` holds an unfinished one and `resume` is not
    set, or one of another recipe.
    """
    options = located(options)
    run = open_run(options, out, resume=resume)
    if before := finished(run):
        return before
    splits = load_splits(options.data)
    base = _load_base(options)
    tuned, target_layers = _attach(base, options)
    store = _open_store(base, options)
    facts = _facts(options, base, splits, store)
    refuse_other_inputs(run, facts)
    _extract(base, splits, store, options)
    measured = _preflight(base, tuned, target_layers, splits["train"], store, options)
    _release_frozen_half(base.model)
    images, left_out = _encode(base.processor, splits["train"], options)
    begin(run, options, facts | {"preflight": measured} | left_out)
    validate = _validation(base, splits["validation"], store, options)
    save_best = _saving(base, tuned, options)
    result = loop.fit(tuned, images, store, base.prompt, options, run, validate, save_best=save_best)
    _warn_if_no_better(run, result)
    run.add_to_manifest(**{RESULT: asdict(result)})
    return result


@dataclass(frozen=True)
class _Base:
    checkpoint: checkpoint.Checkpoint
    model: Blip2
    processor: Processor
    prompt: Prompt
    dtype: torch.dtype


def _load_base(options: recipe.Recipe) -> _Base:
    found = checkpoint.find(options.model.base, options.model.revision)
    device = hardware.device_for(options.model.device)
    dtype = hardware.dtype_for(options.model.precision, device)
    processor = checkpoint.load_processor(found)
    model = checkpoint.load_model(found, dtype=dtype, device=device)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    events.say(f"base {found.name}: {millions:,.1f} M parameters in {str(dtype).removeprefix('torch.')} on {device}")
    return _Base(found, model, processor, encode_prompt(processor, options.model.prompt), dtype)


def _attach(base: _Base, options: recipe.Recipe) -> tuple[Tuned, tuple[str, ...]]:
    target_layers = tuple(lora.target_layers(base.model, options.lora))
    tuned = lora.attach(base.model, options.lora, seed=options.seed)
    count = sum(parameter.numel() for parameter in lora.trainable(tuned).values())
    events.say(f"LoRA rank {options.lora.rank} on {len(target_layers)} layers: {count / 1e6:.2f} M parameters train")
    return tuned, target_layers


def _open_store(base: _Base, options: recipe.Recipe) -> FeatureStore:
    key = feature_key(base.checkpoint, base.processor, computed_in=base.dtype, stored_as=options.features.dtype)
    return FeatureStore.open(_cache_folder(options.features), key)


def _extract(base: _Base, splits: dict[str, CaptionedImages], store: FeatureStore, options: recipe.Recipe) -> None:
    wanted = {image.content: image.decode for name in ("train", "validation") for image in splits[name]}
    computed = extract(
        base.model,
        base.processor,
        wanted,
        store,
        images_per_batch=options.features.images_per_batch,
        stored_as=options.features.dtype,
    )
    events.say(f"features of {len(wanted)} images: {computed} computed, {len(wanted) - computed} from {store.folder}")


def _cache_folder(features: recipe.Features) -> Path:
    return runs.user_path(features.folder) if features.folder else runs.cache_folder()


def _preflight(
    base: _Base,
    tuned: Tuned,
    target_layers: tuple[str, ...],
    images: CaptionedImages,
    store: FeatureStore,
    options: recipe.Recipe,
) -> dict[str, Any]:
    chosen = images.first_different(_PROBED_IMAGES)
    if len(chosen) < 2:
        raise DataError("training needs two different images or more; the training split holds one picture only.")
    encoded = [_token_ids(base.processor, image.captions, options)[0] for image in chosen]
    probe = preflight.Probe(
        pixels=pixel_values(base.processor, [image.decode() for image in chosen]),
        features=store.rows([image.content for image in chosen]),
        captions=encoded,
    )
    subject = preflight.Subject(
        tuned=tuned,
        processor=base.processor,
        prompt=base.prompt,
        target_layers=target_layers,
        stored=weights.stored_tensors(base.checkpoint.folder),
        name=base.checkpoint.name,
    )
    measured = preflight.check(subject, probe)
    events.say(
        f"preflight passed: loss {measured['loss']:.3f} a token (stock model {measured['stock_loss']:.3f}), "
        f"{measured['swapped_loss']:.3f} with images swapped"
    )
    return measured


def _release_frozen_half(model: Blip2) -> None:
    """The vision half leaves memory: training reads its features from disk. Key names stay the whole model's."""
    model.vision_model.to("meta")
    model.qformer.to("meta")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _encode(
    processor: Processor, images: CaptionedImages, options: recipe.Recipe
) -> tuple[TrainingImages, dict[str, int]]:
    """The training images with their captions as token ids; how many captions were cut, and how many left out."""
    names, features, captions, cut, wordless = [], [], [], 0, 0
    for image in images:
        ids, long = _token_ids(processor, image.captions, options)
        if not ids:
            raise DataError(f"{image.image_id}: none of its captions has a word in it. Take the image out of the data.")
        names.append(image.image_id)
        features.append(image.content)
        captions.append(ids)
        cut += long
        wordless += len(image.captions[: options.data.captions_per_image]) - len(ids)
    total = sum(map(len, captions))
    note = f"; {cut} cut to {options.training.max_caption_tokens} tokens" if cut else ""
    note += f"; {wordless} left out that are nothing but punctuation" if wordless else ""
    events.say(f"{len(names)} training images with {total} captions{note}")
    return TrainingImages(names, features, captions), {"captions_cut": cut, "captions_without_words": wordless}


def _token_ids(processor: Processor, captions: tuple[str, ...], options: recipe.Recipe) -> tuple[list[list[int]], int]:
    texts = [normalise(caption) for caption in captions][: options.data.captions_per_image]
    worded = [text for text in texts if text]
    if not worded:
        return [], 0
    return encode_captions(processor.tokenizer, worded, max_tokens=options.training.max_caption_tokens)


def _validation(
    base: _Base, images: CaptionedImages, store: FeatureStore, options: recipe.Recipe
) -> Callable[[], loop.Validation]:
    """A call that captions the validation images as the adapter stands and scores them by CIDEr."""
    chosen = list(images)[: options.validation.images]
    references = References({image.image_id: list(image.captions) for image in chosen})
    decoding = options.decoding.model_copy(update={"num_beams": options.validation.num_beams, "sample": False})

    def validate() -> loop.Validation:
        predictions = {}
        for start in range(0, len(chosen), decoding.images_per_batch):
            batch = chosen[start : start + decoding.images_per_batch]
            features = store.rows([image.content for image in batch])
            captions = decode(base.model, base.processor, features, base.prompt, decoding)
            predictions.update(zip((image.image_id for image in batch), captions, strict=True))
        return loop.Validation(
            cider=cider_of(predictions, references),
            shuffled_cider=cider_of(shuffled(predictions, seed=options.evaluation.seed), references),
            distinct=distinct_captions(predictions.values()),
            mean_length=mean_length(predictions.values()),
        )

    return validate


def _warn_if_no_better(run: runs.Run, result: loop.FitResult) -> None:
    """Says it when even the best adapter scored below the base, which is what validation before the first step saw."""
    start = next((row["CIDEr"] for row in run.log() if row["kind"] == "validation" and row["step"] == 0), None)
    if start is not None and result.best_cider < start:
        events.warn(
            f"the best adapter's CIDEr, {100 * result.best_cider:.1f}, is below the base's, {100 * start:.1f}: it "
            "learned nothing that helps. A lower training.learning_rate is the first thing to try."
        )


def _saving(base: _Base, tuned: Tuned, options: recipe.Recipe) -> Callable[[Path], None]:
    """A call that writes the adapter as it stands, with all a user of it needs, into a folder."""

    def save(folder: Path) -> None:
        with runs.replacing_folder(folder) as temporary:
            lora.save_adapter(tuned, base.checkpoint, temporary)
            write_captioning(
                temporary,
                base.checkpoint,
                prompt=options.model.prompt,
                decoding=options.decoding,
                precision=options.model.precision,
            )
            write_card(temporary, base.checkpoint, options, str(base.dtype).removeprefix("torch."))

    return save


def _facts(
    options: recipe.Recipe, base: _Base, splits: dict[str, CaptionedImages], store: FeatureStore
) -> dict[str, Any]:
    return {
        "captioncrafter": captioncrafter.__version__,
        "versions": {name: metadata.version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
        "device": str(base.model.device),
        "precision": str(base.dtype).removeprefix("torch."),
        "checkpoint": base.checkpoint.describe(),
        "data": {name: {"images": len(images), "fingerprint": images.fingerprint()} for name, images in splits.items()},
        "features": {"key": store.folder.name},
        "seed": options.seed,
    }
