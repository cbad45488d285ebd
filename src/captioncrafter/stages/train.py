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
from captioncrafter.errors import DataError, InputError
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
from captioncrafter.training import loop, preflight
from captioncrafter.training.batches import TrainingImages
from captioncrafter.training.packing import encode_captions

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors")
_PROBED_IMAGES = 4
_RESULT = "result"


def train(options: recipe.Recipe, out: Path, *, resume: bool = False) -> loop.FitResult:
    """Tunes an adapter as `options` say and keeps everything about it in the run folder `out`.

    A run that is finished is left as it is. Raises `InputError` when `out` holds an unfinished one and `resume` is not
    set, or one of another recipe.
    """
    run = _start(options, out, resume=resume)
    if finished := _finished(run):
        return finished
    splits = load_splits(options.data)
    base = _load_base(options)
    tuned, target_layers = _attach(base, options)
    store = _features(base, splits, options)
    measured = _preflight(base, tuned, target_layers, splits["train"], store, options)
    _release_frozen_half(base.model)
    images, cut = _encode(base.processor, splits["train"], options)
    run.add_to_manifest(**_facts(options, base, splits, store), preflight=measured, captions_cut=cut)
    validate = _validation(base, splits["validation"], store, options)
    result = loop.fit(
        tuned, images, store, base.prompt, options, run, validate, save_best=_saving(base, tuned, options)
    )
    run.add_to_manifest(**{_RESULT: asdict(result)})
    return result


def _start(options: recipe.Recipe, out: Path, *, resume: bool) -> runs.Run:
    wanted = options.model_dump(mode="json")
    if not (out / runs.RECIPE).is_file():
        if resume:
            raise InputError(f"{out}: nothing to resume: no run is there. Leave out --resume to start one.")
        runs.write_json(out / runs.RECIPE, wanted)
        return runs.Run(out)
    run = runs.Run(out)
    different = _differences(run.recipe(), wanted)
    if different:
        raise InputError(
            f"{out}: holds a run of another recipe:\n  "
            + "\n  ".join(different)
            + "\nGive the same one to go on with it, or another --out."
        )
    if not resume and _RESULT not in run.manifest():
        raise InputError(f"{out}: an unfinished run is already there. Go on with --resume, or choose another --out.")
    return run


def _finished(run: runs.Run) -> loop.FitResult | None:
    """How the run ended, where it has; that is said, and nothing is done again."""
    result = run.manifest().get(_RESULT)
    if result is None:
        return None
    events.say(f"{run.path}: this run is finished; nothing was done again. Another --out starts a fresh one.")
    return loop.FitResult(**result)


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in {**before, **now}:
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {old!r} in the run, {new!r} now")
    return found


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


def _features(base: _Base, splits: dict[str, CaptionedImages], options: recipe.Recipe) -> FeatureStore:
    stored_as = options.features.dtype
    key = feature_key(base.checkpoint, base.processor, computed_in=base.dtype, stored_as=stored_as)
    store = FeatureStore.open(_cache_folder(options.features), key)
    wanted = {image.content: image.decode for name in ("train", "validation") for image in splits[name]}
    computed = extract(
        base.model,
        base.processor,
        wanted,
        store,
        images_per_batch=options.features.images_per_batch,
        stored_as=stored_as,
    )
    events.say(f"features of {len(wanted)} images: {computed} computed, {len(wanted) - computed} from {store.folder}")
    return store


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


def _encode(processor: Processor, images: CaptionedImages, options: recipe.Recipe) -> tuple[TrainingImages, int]:
    """The training images with their captions as token ids, and how many captions were cut."""
    names, features, captions, cut = [], [], [], 0
    for image in images:
        ids, long = _token_ids(processor, image.captions, options)
        names.append(image.image_id)
        features.append(image.content)
        captions.append(ids)
        cut += long
    total = sum(map(len, captions))
    note = f"; {cut} cut to {options.training.max_caption_tokens} tokens" if cut else ""
    events.say(f"{len(names)} training images with {total} captions{note}")
    return TrainingImages(names, features, captions), cut


def _token_ids(processor: Processor, captions: tuple[str, ...], options: recipe.Recipe) -> tuple[list[list[int]], int]:
    texts = [normalise(caption) for caption in captions][: options.data.captions_per_image]
    return encode_captions(processor.tokenizer, texts, max_tokens=options.training.max_caption_tokens)


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
