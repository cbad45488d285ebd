"""Finds a BLIP-2 checkpoint as Hugging Face ships it: a hub name, a folder or a bundled name; reads its small files.

Its weights are `loading`'s. Safetensors only; nothing that a checkpoint brings is ever executed.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from captioncrafter import events, runs
from captioncrafter.errors import CheckpointError, closest
from captioncrafter.model import weights
from captioncrafter.model.stock import Processor

IMAGE_TOKEN = "<image>"
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]


@dataclass(frozen=True)
class Checkpoint:
    """A BLIP-2 on this disk: the `name` and `revision` the user gave, and the `folder` that holds it."""

    name: str
    revision: str | None
    folder: Path
    on_hub: bool = False

    @property
    def loadable_name(self) -> str:
        """What stock `from_pretrained` takes to load it: its hub name, else its folder."""
        return self.name if self.on_hub else str(self.folder.resolve())

    def describe(self) -> dict[str, Any]:
        """What tells this checkpoint from every other, and finds it again from any folder of this machine."""
        base = self.name if self.name in bundled() else self.loadable_name
        return {"base": base, "revision": self.revision, "weights": weights.quick_fingerprint(self.folder)}


def bundled() -> list[str]:
    """Names of the checkpoints inside the package, sorted."""
    return sorted(path.parent.name for path in _assets().glob("*/config.json"))


def _assets() -> Path:
    return Path(str(resources.files("captioncrafter"))) / "assets"


def find(name: str, revision: str | None = None, *, only_config: bool = False) -> Checkpoint:
    """The checkpoint called `name`: a bundled name, a folder, or a hub name (fetched when not yet in the hub cache).

    With `only_config`, nothing but `config.json` is fetched, and other files may be missing. Raises `CheckpointError`
    saying what is missing and how to get it.
    """
    if name in bundled():
        return Checkpoint(name, None, _assets() / name)
    folder = runs.user_path(name)
    on_hub = not folder.is_dir()
    if on_hub:
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise CheckpointError(
                f'"{name}" is neither a folder, nor a hub name like Salesforce/blip2-flan-t5-xl, nor a bundled '
                f"checkpoint ({', '.join(bundled())}).{closest(name, bundled())}"
            )
        folder = fetch(name, revision, only_config=only_config)
    _check_is_blip2(name, folder)
    return Checkpoint(name, revision if on_hub else None, folder, on_hub)


def fetch(name: str, revision: str | None, *, option: str = "model.base", only_config: bool = False) -> Path:
    """The folder in the hub cache with the small files and safetensors of a hub repository, fetched when not there yet.

    With `only_config`, nothing but its `config.json` is. Raises `CheckpointError` saying what is missing and how to get
    it; `option` takes a folder instead.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        if only_config:
            return Path(hf_hub_download(name, "config.json", revision=revision)).parent
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except hub.GatedRepoError:
        raise CheckpointError(
            f"{name}: the repository is gated. Accept its terms on the hub, then `hf auth login`."
        ) from None
    except hub.RevisionNotFoundError:
        raise CheckpointError(f"{name}: the hub has no revision {revision}. Leave it out to take the newest.") from None
    except hub.RepositoryNotFoundError:
        raise CheckpointError(
            f"{name}: the hub has no such repository, or it is private. Check the name, or `hf auth login`."
        ) from None
    except hub.HFValidationError as error:
        raise CheckpointError(f"{name}: not a hub name ({error}).") from None
    except (
        hub.LocalEntryNotFoundError,
        hub.OfflineModeIsEnabled,
        hub.HfHubHTTPError,
        getattr(hub, "HTTPError", OSError),  # httpx's or httpx2's, as this hub client uses
        OSError,
    ) as error:
        raise CheckpointError(
            f"{name}: not in the hub cache, and fetching it failed ({type(error).__name__}). Connect to the network "
            f"and try again: what was fetched is kept. Or give the folder of a copy as {option}."
        ) from error


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
        raise CheckpointError(
            f'{name}: its config.json says model_type "{kind}"; CaptionCrafter tunes "blip-2" models.'
        )


def load_processor(checkpoint: Checkpoint) -> Processor:
    """The checkpoint's own processor.

    Old copies lack `num_query_tokens` (transformers#34223); it is filled in from the model's configuration, and a
    line says so. Raises `CheckpointError` when `<image>` is another id there than in the model's configuration.
    """
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
    if processor.num_query_tokens is None:
        processor.num_query_tokens = config.num_query_tokens
        events.say(f"{checkpoint.name}: an old copy whose processor has no num_query_tokens; using the model's.")
    expected, found = config.image_token_index, image_token_id(processor)
    if processor.num_query_tokens != config.num_query_tokens or (expected is not None and expected != found):
        raise CheckpointError(
            f"{checkpoint.name}: processor and model disagree (queries {processor.num_query_tokens} and "
            f"{config.num_query_tokens}; {IMAGE_TOKEN} is id {found} and {expected}). Take both from one source."
        )
    return processor


def image_token_id(processor: Processor) -> int:
    """The id of the `<image>` placeholder in the processor's tokenizer."""
    return int(processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))


def load_config(checkpoint: Checkpoint) -> Any:
    """The checkpoint's `Blip2Config`; raises `CheckpointError` when it cannot be used."""
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
