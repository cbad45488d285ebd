"""Finds a BLIP-2 checkpoint as Hugging Face ships it: a hub name, a folder or a bundled name; reads its small files.

Its weights are `loading`'s. Safetensors only; nothing that a checkpoint brings is ever executed.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from captioncrafter import events, storage
from captioncrafter.errors import CheckpointError, closest
from captioncrafter.model import weights
from captioncrafter.model.hub import Unreachable, fetch
from captioncrafter.model.mending import IMAGE_TOKEN, mend
from captioncrafter.model.stock import Processor

_COMMIT = re.compile("[0-9a-f]{7,40}")
_OTHER_KINDS = {
    "instructblip": "an InstructBLIP, whose Q-Former reads the prompt too: another model class, with features that "
    "depend on the prompt. Its BLIP-2 is Salesforce/blip2-flan-t5-xl",
    "blip": "a BLIP, the smaller predecessor. Its successors are Salesforce/blip2-flan-t5-xl and others",
}
"""Kinds of checkpoints that are taken for a BLIP-2 by their name, and what to take instead."""


@dataclass(frozen=True)
class Checkpoint:
    """A BLIP-2 on this disk: the `name` the user gave, the `folder` that holds it, and of the hub its `revision`.

    That is the commit which the folder in the hub cache is of, whatever the user called it.
    """

    name: str
    revision: str | None
    folder: Path
    on_hub: bool = False

    @property
    def loadable_name(self) -> str:
        """What stock `from_pretrained` takes to load it: its hub name, else its folder."""
        return self.name if self.on_hub else str(self.folder.resolve())

    def is_pinned_by(self, revision: str | None) -> bool:
        """Whether `revision`, as the user gave it, names the same files tomorrow: a commit, and no branch.

        Files that are not of the hub are what they are.
        """
        return not self.on_hub or (revision is not None and _COMMIT.fullmatch(revision) is not None)

    def describe(self) -> dict[str, Any]:
        """What tells this checkpoint from every other, and finds it again from any folder of this machine."""
        base = self.name if self.name in bundled() else self.loadable_name
        return {"base": base, "revision": self.revision, "weights": weights.quick_fingerprint(self.folder)}


def bundled() -> list[str]:
    """Names of the checkpoints inside the package, sorted."""
    return sorted(path.parent.name for path in _assets().glob("*/config.json"))


def published_files(name: str) -> Path | None:
    """The folder in the package with the small files of the hub's `name`, for some checkpoints: never its weights."""
    folder = _assets() / "published" / name
    return folder if (folder / "config.json").is_file() else None


def _assets() -> Path:
    return Path(str(resources.files("captioncrafter"))) / "assets"


def find(name: str, revision: str | None = None, *, only_config: bool = False) -> Checkpoint:
    """The checkpoint called `name`: a bundled name, a folder, or a hub name (fetched when not yet in the hub cache).

    With `only_config`, nothing but `config.json` is fetched, and other files may be missing; while the hub cannot be
    reached, the package's own copy stands in where it has one, and a line says so. Raises `CheckpointError` saying what
    is missing and how to get it.
    """
    if name in bundled():
        return Checkpoint(name, None, _assets() / name)
    folder = storage.user_path(name)
    on_hub = not folder.is_dir()
    if on_hub:
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise CheckpointError(
                f'"{name}" is neither a folder, nor a hub name like Salesforce/blip2-flan-t5-xl, nor a bundled '
                f"checkpoint ({', '.join(bundled())}).{closest(name, bundled())}"
            )
        # Alone first: another kind of model is told before gigabytes of it were fetched.
        folder = _configuration(name, revision, shipped=published_files(name) if only_config else None)
    _check_is_blip2(name, folder)
    if on_hub and not only_config:
        folder = fetch(name, revision)
    return Checkpoint(name, (_commit_of(folder) or revision) if on_hub else None, folder, on_hub)


def _commit_of(folder: Path) -> str | None:
    """The commit of a folder of the hub cache, which lies at `snapshots/COMMIT`."""
    return folder.name if folder.parent.name == "snapshots" else None


def _configuration(name: str, revision: str | None, *, shipped: Path | None) -> Path:
    """The folder in the hub cache with the configuration; `shipped`, where given, while the hub cannot be reached."""
    try:
        return fetch(name, revision, only_config=True)
    except Unreachable:
        if shipped is None:
            raise
        events.say(f"{name}: not in the hub cache; its configuration as it came with CaptionCrafter is taken")
        return shipped


def _check_is_blip2(name: str, folder: Path) -> None:
    import json

    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(f"{name}: no config.json in {folder}: not a Hugging Face checkpoint.")
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise CheckpointError(f"{config}: not a JSON object ({error}). Fetch it again.") from None
    if kind != "blip-2":
        other = _OTHER_KINDS.get(kind)
        raise CheckpointError(
            f'{name}: its config.json says model_type "{kind}"; CaptionCrafter tunes "blip-2" models.'
            + (f" This is {other}." if other else "")
        )


def load_processor(checkpoint: Checkpoint) -> Processor:
    """The checkpoint's own processor; what an old copy lacks is mended, and a line says so.

    Raises `CheckpointError` when it cannot be read, or does not fit the model's configuration.
    """
    return load_small_parts(checkpoint)[1]


def load_small_parts(checkpoint: Checkpoint) -> tuple[Any, Processor]:
    """The checkpoint's `Blip2Config` and its processor, mended together; raises as `load_processor` does."""
    from transformers import Blip2Processor

    config = load_config(checkpoint)
    try:
        with quiet_transformers():
            processor = Blip2Processor.from_pretrained(checkpoint.folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.name}: its processor cannot be read ({_first_line(error)}). The preprocessor, processor and "
            f"tokenizer files belong beside config.json in {checkpoint.folder}."
        ) from error
    assert isinstance(processor, Blip2Processor)
    mend(config, processor, name=checkpoint.name, folder=checkpoint.folder)
    return config, processor


def image_token_id(processor: Processor) -> int:
    """The id of the `<image>` placeholder in the processor's tokenizer."""
    return int(processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))


def load_config(checkpoint: Checkpoint) -> Any:
    """The checkpoint's `Blip2Config` as its file has it; raises `CheckpointError` when it cannot be used."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import Blip2Config

    try:
        with quiet_transformers():
            config = Blip2Config.from_pretrained(checkpoint.folder)
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        raise CheckpointError(f"{checkpoint.folder / 'config.json'}: not usable ({error}). Fetch it again.") from error
    assert isinstance(config, Blip2Config)
    return config


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within, transformers neither warns nor draws bars."""
    # Loading a checkpoint with a head of its own warns that it is not tied, each time: `check_head` settles that.
    loggers = [logging.getLogger(name) for name in ("transformers", "transformers.modeling_utils")]
    levels = [logger.level for logger in loggers]
    from transformers.utils import logging as hf_logging

    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()
