"""`captioncrafter train`: a recipe becomes an adapter."""

import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import captioncrafter
from captioncrafter import events, recipe, runs, storage
from captioncrafter.data.splits import CaptionedImages, load_splits
from captioncrafter.errors import DataError, InputError, counted
from captioncrafter.features.store import FeatureStore
from captioncrafter.generation.captioner import write_captioning
from captioncrafter.metrics import java
from captioncrafter.model import hardware, lora
from captioncrafter.model.stock import Tuned
from captioncrafter.report.card import write_card
from captioncrafter.stages import room, run_lock
from captioncrafter.stages.base import Base
from captioncrafter.stages.frozen_half import caption_ids, extract_and_observe, open_store, source_of
from captioncrafter.stages.run_start import (
    RESULT,
    begin,
    finished,
    located,
    of_the_same_commit,
    open_run,
    refuse_other_adapter,
    refuse_other_inputs,
    stop_before_the_first_step,
    tell_commit,
)
from captioncrafter.stages.validation import validation
from captioncrafter.training import checkpoint, guard, loop, preflight
from captioncrafter.training.batches import TrainingImages
from captioncrafter.training.probe import Probe, stock_loss
from captioncrafter.training.processes import Processes, connected

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors")


def train(
    options: recipe.Recipe,
    out: Path,
    *,
    resume: bool = False,
    branch: Path | None = None,
    stop_after_s: float | None = None,
) -> loop.FitResult:
    """Tunes an adapter as `options` say and keeps everything about it in the run folder `out`.

    A run that is finished is left as it is. With `branch`, the adapter starts from that of another run instead of
    afresh. After `stop_after_s` seconds the run stops at the next step or batch of features, as after a signal. Raises
    `InputError` when `out` holds an unfinished run and `resume` is not set, one of another recipe, or one that is being
    trained.
    """
    stop = guard.StopRequest(None if stop_after_s is None else time.monotonic() + stop_after_s)
    device = hardware.device_for(options.model.device)
    with connected(device) as processes, run_lock.held(out, processes):
        options = located(options)
        java.choose(options.evaluation.java)
        run = open_run(options, out, resume=resume, branch=branch)
        if before := finished(run):
            return before
        stop_before_the_first_step(stop, processes)
        splits = load_splits(options.data)
        base = Base.of(of_the_same_commit(options, run), processes.device)
        tell_commit(base.checkpoint, options.model)
        if branch is not None:
            refuse_other_adapter(branch, options, base)
        store = open_store(base, options.features)
        facts = _facts(options, base, splits, store, processes, branch)
        refuse_other_inputs(run, facts)
        settled = room.settled(options, base, splits, run.manifest(), processes)
        facts[room.IMAGES_AT_ONCE] = settled.training.images_per_batch
        probe = extract_and_observe(base, splits, store, options, processes, stop)
        tuned, measured = _attached(base, probe, options, branch)
        facts["start"] = lora.start_fingerprint(tuned)
        refuse_other_inputs(run, facts)
        images, left_out = _encoded(base, splits["train"], options)
        if processes.is_main:
            begin(run, options, facts | {"preflight": measured} | left_out)
        processes.barrier()
        source = source_of(base, splits["train"], images.prompts, store, options)
        known = [caption for image in splits["train"] for caption in image.captions]
        model = tuned.get_base_model()
        result = loop.fit(
            loop.Trainee(tuned, base.cut, images, source, processes.device),
            settled,
            run,
            validation(base, model, splits["validation"], known, store, options, processes),
            save_best=_saving(base, tuned, options),
            processes=processes,
            stop_after_s=None if stop.deadline is None else stop.deadline - time.monotonic(),
        )
        if processes.is_main:
            _warn_if_no_better(run, result)
            run.add_to_manifest(**{RESULT: asdict(result)})
        return result


def _attached(
    base: Base, probe: Probe, options: recipe.Recipe, branch: Path | None
) -> tuple[Tuned, dict[str, float | int]]:
    """The trained half with a fresh adapter that passed every check, or with that of the run it branches off."""
    model = base.load_trained()
    stock = stock_loss(model, probe, base.device)
    tuned = lora.attach(model, options.lora, seed=options.seed)
    count = sum(parameter.numel() for parameter in lora.trainable(tuned).values())
    events.say(
        f"{counted(len(base.layers), 'layer trains', 'layers train')} with {count / 1e6:.2f} M parameters; features "
        f"are cut at: {base.cut}"
    )
    subject = preflight.Subject(
        tuned=tuned,
        target_layers=base.layers,
        stored=base.stored,
        name=base.checkpoint.name,
        stock_loss=stock,
        exact_start=lora.exact_start(tuned, options.lora),
        device=base.device,
    )
    measured = preflight.check(subject, probe)
    events.say(
        f"preflight passed: loss {measured['loss']:.3f} a token (stock model {measured['stock_loss']:.3f}), "
        f"{measured['swapped_loss']:.3f} with images swapped"
    )
    if branch is not None:
        _start_from(branch, tuned)
    return tuned, measured


def _start_from(branch: Path, tuned: Tuned) -> None:
    """Puts the best adapter of another run in place of the fresh one."""
    origin = runs.Run.open(branch)
    path = checkpoint.best_good(origin.path / runs.CHECKPOINTS)
    if path is None:
        raise InputError(f"{branch}: no checkpoint to branch off. It has to have come to its first one.")
    if origin.manifest().get("start") != lora.start_fingerprint(tuned):
        raise InputError(
            f"{branch}: its lora.init changed the base that its adapter belongs to, and in this run changes it "
            "otherwise. Give the seed that it had, on a machine like its own."
        )
    checkpoint.copy_weights(path, lora.trainable(tuned))
    events.say(f"the adapter starts as that of {path}")


def _encoded(base: Base, images: CaptionedImages, options: recipe.Recipe) -> tuple[TrainingImages, dict[str, int]]:
    """The training images with their captions as token ids; how many captions were cut, and how many left out."""
    names, captions, prompts, cut, wordless = [], [], [], 0, 0
    for image in images:
        ids, long = caption_ids(base, image, options)
        if not ids:
            raise DataError(f"{image.image_id}: none of its captions has a word in it. Take the image out of the data.")
        names.append(image.image_id)
        captions.append(ids)
        prompts.append(base.prompt_of(image))
        cut += long
        wordless += len(image.captions[: options.data.captions_per_image]) - len(ids)
    total = sum(map(len, captions))
    note = f"; {cut} cut to {options.training.max_caption_tokens} tokens" if cut else ""
    note += (
        f"; {counted(wordless, 'left out that is', 'left out that are')} nothing but punctuation" if wordless else ""
    )
    events.say(f"{counted(len(names), 'training image')} with {counted(total, 'caption')}{note}")
    return TrainingImages(names, captions, prompts), {"captions_cut": cut, "captions_without_words": wordless}


def _warn_if_no_better(run: runs.Run, result: loop.FitResult) -> None:
    """Says it when even the best adapter scored below the base, which is what validation before the first step saw."""
    start = next((row["CIDEr"] for row in run.log() if row["kind"] == "validation" and row["step"] == 0), None)
    if start is not None and result.best_cider < start:
        events.warn(
            f"the best adapter's CIDEr, {100 * result.best_cider:.1f}, is below the base's, {100 * start:.1f}: it "
            "learned nothing that helps. A lower training.learning_rate is the first thing to try."
        )


def _saving(base: Base, tuned: Tuned, options: recipe.Recipe) -> Callable[[Path], None]:
    """A call that writes the adapter as it stands, with all a user of it needs, into a folder."""

    def save(folder: Path) -> None:
        with storage.replacing_folder(folder) as temporary:
            lora.save_adapter(tuned, base.checkpoint, temporary)
            write_captioning(
                temporary,
                base.checkpoint,
                prompt=options.model.prompt,
                decoding=options.decoding,
                precision=options.model.precision,
            )
            write_card(temporary, base.checkpoint, options, str(base.arithmetic.dtype).removeprefix("torch."))

    return save


def _facts(
    options: recipe.Recipe,
    base: Base,
    splits: dict[str, CaptionedImages],
    store: FeatureStore | None,
    processes: Processes,
    branch: Path | None,
) -> dict[str, Any]:
    return {
        "captioncrafter": captioncrafter.__version__,
        "versions": {name: metadata.version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
        "device": str(base.device),
        "processes": processes.world,
        "precision": base.arithmetic.name,
        "checkpoint": base.checkpoint.describe(),
        "data": {name: {"images": len(images), "fingerprint": images.fingerprint()} for name, images in splits.items()},
        "features": {"cut": str(base.cut), "key": store.folder.name if store is not None else None},
        "seed": options.seed,
        "branched_from": str(branch.absolute()) if branch is not None else None,
    }
