"""`captioncrafter export`: a run's adapter, or the whole model with it merged in, as a folder to hand on."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from captioncrafter import events, runs, storage
from captioncrafter.errors import CheckpointError, DataError, InputError
from captioncrafter.generation.captioner import check_base
from captioncrafter.generation.origin import CAPTIONING, Origin
from captioncrafter.model import checkpoint, lora, publishing, weights
from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.model.laid_over import laid_over
from captioncrafter.model.memory import meta_model
from captioncrafter.report.export_card import README, plain_adapter_card, renamed_base
from captioncrafter.stages.disk import refuse_full_disk, size_in_words
from captioncrafter.stages.export_folder import BESIDE_WEIGHTS_BYTES, EXPORT, refuse_occupied, written_to
from captioncrafter.stages.export_merged import Dtype, export_merged
from captioncrafter.stages.run_start import RESULT


@dataclass(frozen=True)
class Exported:
    """What lies in `folder` now; `told` is its `export.json`, `url` where it was published, too."""

    folder: Path
    told: dict[str, Any]
    url: str | None = None

    @property
    def kind(self) -> Literal["adapter", "merged"]:
        """An adapter to lay over its base, or a whole model."""
        return self.told["kind"]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {"folder": str(self.folder)} | self.told | {"url": self.url}


@dataclass(frozen=True)
class Repository:
    """Where on the hub an export goes, too; a repository that is new is private unless `public`."""

    name: str
    public: bool = False


def export(
    source: Path,
    to: Path,
    *,
    merge: Dtype | None = None,
    base: str | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    push: Repository | None = None,
) -> Exported:
    """Writes the adapter of the run or folder `source` into the folder `to`; with `merge` the base with it merged in.

    `merge` is the dtype of the merged weights. `base` stands in place of the base that the adapter names. Raises
    `InputError` when `to` holds anything that would be lost, `CheckpointError` when adapter and base do not fit or what
    was written does not read back.
    """
    if push is not None:
        publishing.check_can_publish(push.name)
    adapter = _adapter_in(source)
    if to.resolve() == adapter.resolve():
        raise InputError(f"{to}: is the adapter itself. Choose another --to.")
    refuse_occupied(to, overwrite=overwrite)
    origin = Origin.of(base, adapter=adapter, revision=revision)
    if merge is not None:
        export_merged(adapter, origin, to, merge)
    else:
        renamed = base is not None or revision is not None
        _export_adapter(adapter, origin, to, renamed=renamed, published=push is not None)
    told = storage.read_json(to / EXPORT)
    size = sum(file["bytes"] for file in told["files"].values())
    events.say(f"{to}: written and read back, {len(told['files'])} files, {size_in_words(size)}")
    return Exported(to, told, publishing.publish(to, push.name, private=not push.public) if push else None)


def _adapter_in(source: Path) -> Path:
    """The folder of the adapter that `source` names: a run's best, or that folder itself."""
    if (source / lora.ADAPTER_CONFIG).is_file() or (source / lora.ADAPTER_WEIGHTS).is_file():
        return source
    if not (source / runs.RECIPE).is_file():
        if (source / runs.SEEDS).is_file():
            seeds = ", ".join(f"{source}/seed-{seed}" for seed in storage.read_json(source / runs.SEEDS)["runs"])
            raise InputError(f"{source}: several runs, one for each seed. Export one of them: {seeds}.")
        raise DataError(
            f"{source}: neither a run nor an adapter ({runs.RECIPE} or {lora.ADAPTER_CONFIG} would be there). Give "
            "the folder of a run, for example runs/NAME, or of an adapter."
        )
    run = runs.Run.open(source)
    if not run.adapter.is_dir():
        raise DataError(f"{source}: no adapter yet: its training has not come to a validation. Go on with --resume.")
    if RESULT not in run.manifest():
        events.warn(f"{source}: its training is not finished; this is its best adapter so far.")
    return run.adapter


def _export_adapter(adapter: Path, origin: Origin, to: Path, *, renamed: bool, published: bool) -> None:
    base = _named_base(adapter, origin)
    if not base.on_hub and base.name not in checkpoint.bundled():
        _tell_that_the_base_is_here(to, base, published=published)
    needed = sum(file.stat().st_size for file in adapter.iterdir() if file.is_file()) + BESIDE_WEIGHTS_BYTES
    refuse_full_disk(to, needed, what="the export", option="a --to")
    with written_to(to, "adapter", base) as export:
        folder = export.folder
        _copy_weights(adapter, folder)
        _write_settings(adapter, folder, origin, base)
        _write_card(adapter, folder, origin, base, renamed=renamed)
        others = sorted({file.name for file in adapter.iterdir()} - {file.name for file in folder.iterdir()} - {EXPORT})
        if others:
            events.say(f"{adapter}: left out, being no part of the adapter: {', '.join(others)}")
        _check(folder, origin, base)


def _named_base(adapter: Path, origin: Origin) -> Checkpoint:
    """The base as the export names it: a bundled name, a folder of this machine or a hub name; nothing is fetched."""
    name: str | None = origin.base
    if not name:
        raise InputError(f"{adapter}: names no base. --base OWNER/NAME does.")
    folder = storage.user_path(name)
    if name in checkpoint.bundled() or name.startswith((".", "/", "~")) or folder.is_dir():
        return Checkpoint(name if name in checkpoint.bundled() else str(folder.resolve()), None, folder)
    if name.count("/") != 1:
        raise InputError(
            f'"{name}" is neither a folder, nor a hub name like Salesforce/blip2-flan-t5-xl, nor a bundled checkpoint '
            f"({', '.join(checkpoint.bundled())})."
        )
    return Checkpoint(name, origin.revision, folder, on_hub=True)


def _tell_that_the_base_is_here(to: Path, base: Checkpoint, *, published: bool) -> None:
    if published:
        raise InputError(
            f"--push: the base, {base.name}, is a folder of this machine, which nobody who fetches the adapter has. "
            "Name it as the hub does: --base OWNER/NAME."
        )
    events.warn(f"{to} names a folder of this machine as its base, {base.name}; --base OWNER/NAME names the hub's.")


def _copy_weights(adapter: Path, folder: Path) -> None:
    """Copies the weights, and holds the copy, and what it was made of, to the hash taken before."""
    file, copy = adapter / lora.ADAPTER_WEIGHTS, folder / lora.ADAPTER_WEIGHTS
    before = storage.sha256_of(file)
    shutil.copyfile(file, copy)
    if not before == storage.sha256_of(copy) == storage.sha256_of(file):
        raise CheckpointError(f"{file}: changed while it was copied. Give the command again.")


def _write_settings(adapter: Path, folder: Path, origin: Origin, base: Checkpoint) -> None:
    """PEFT's configuration and ours, which name the base as anyone would load it."""
    stock = storage.read_json(adapter / lora.ADAPTER_CONFIG)
    named = {"base_model_name_or_path": base.name, "revision": base.revision}
    storage.write_json(folder / lora.ADAPTER_CONFIG, stock | named)
    kept = storage.read_json(adapter / CAPTIONING) if (adapter / CAPTIONING).is_file() else {}
    settings = {"prompt": origin.prompt, "precision": origin.precision, "decoding": origin.decoding.model_dump()}
    storage.write_json(folder / CAPTIONING, kept | {"base": base.name, "revision": base.revision} | settings)


def _write_card(adapter: Path, folder: Path, origin: Origin, base: Checkpoint, *, renamed: bool) -> None:
    if not (adapter / README).is_file():
        card = plain_adapter_card(base, prompt=origin.prompt, decoding=origin.decoding, dtype="bfloat16")
    else:
        card = (adapter / README).read_text(encoding="utf-8")
        if renamed:
            before = storage.read_json(adapter / lora.ADAPTER_CONFIG).get("base_model_name_or_path")
            card = renamed_base(card, str(before or ""), base)
    storage.write_text(folder / README, card)


def _check(folder: Path, origin: Origin, base: Checkpoint) -> None:
    """Lays the copy over its base, without memory, as far as the base is to be had without fetching its weights."""
    lora.stored_adapter(folder)
    try:
        found = checkpoint.find(base.name, base.revision, only_config=True)
        model = meta_model(checkpoint.load_config(found), torch.float32)
    except CheckpointError as error:
        events.warn(f"whether the adapter fits its base was not looked at: {error}")
        return
    laid_over(model, folder)
    try:
        weights.stored_tensors(found.folder)
    except CheckpointError:
        return  # not on this disk; whoever loads it is told by captioning.json
    check_base(found, origin)
