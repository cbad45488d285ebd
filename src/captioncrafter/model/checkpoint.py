"""Finds and loads a BLIP-2 checkpoint as Hugging Face ships it: a hub name, a folder or a bundled name.

The loaded model is transformers' `Blip2ForConditionalGeneration`, unmodified, frozen and in eval mode. Safetensors
only; nothing that a checkpoint brings is ever executed.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from captioncrafter import events, runs
from captioncrafter.errors import CheckpointError, closest
from captioncrafter.model import weights
from captioncrafter.model.stock import Blip2, Processor

IMAGE_TOKEN = "<image>"
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]
_HEAD = "language_model.lm_head.weight"
_EMBEDDING = "language_model.shared.weight"


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


def find(name: str, revision: str | None = None) -> Checkpoint:
    """The checkpoint called `name`: a bundled name, a folder, or a hub name (fetched when not yet in the hub cache).

    Raises `CheckpointError` saying what is missing and how to get it.
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
        folder = _fetch(name, revision)
    _check_is_blip2(name, folder)
    return Checkpoint(name, revision if on_hub else None, folder, on_hub)


def _fetch(name: str, revision: str | None) -> Path:
    from huggingface_hub import errors as hub
    from huggingface_hub import snapshot_download

    try:
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
            "and try again: what was fetched is kept. Or give the folder of a copy as model.base."
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

    config = _load_config(checkpoint)
    try:
        with _quiet_transformers():
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


def load_model(checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> Blip2:
    """The whole model, frozen and in eval mode.

    Raises `CheckpointError` when a weight is missing, of another shape or damaged, when the output head is not the
    checkpoint's, or when the language model is not an encoder-decoder.
    """
    from safetensors import SafetensorError
    from transformers import Blip2ForConditionalGeneration

    stored = weights.stored_tensors(checkpoint.folder)
    config = _load_config(checkpoint)
    if config.image_token_index is None:
        # An old copy (transformers#34223): without the id, the stock forward cannot tell where the image goes.
        config.image_token_index = image_token_id(load_processor(checkpoint))
        events.say(
            f"{checkpoint.name}: an old copy whose configuration has no image_token_index; using the processor's."
        )
    if config.use_decoder_only_language_model:
        raise CheckpointError(
            f"{checkpoint.name}: its language model ({config.text_config.model_type}) is decoder-only; CaptionCrafter "
            "tunes encoder-decoder ones (flan-T5), for example Salesforce/blip2-flan-t5-xl."
        )
    try:
        with _quiet_transformers():
            loaded: Any = Blip2ForConditionalGeneration.from_pretrained(
                checkpoint.folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, by name
            )
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{checkpoint.name}: its weights cannot be read ({error}). Fetch them again.") from error
    model, report = loaded
    mismatched = (f"{name} {tuple(found)} for {tuple(wanted)}" for name, found, wanted in report["mismatched_keys"])
    missing = sorted({*report["missing_keys"], *mismatched, *_tied_for_lack_of(config, stored)})
    if missing:
        raise CheckpointError(
            f"{checkpoint.name}: {len(missing)} weights are missing or of another shape, {missing[0]} first: "
            "the checkpoint does not fit its config.json."
        )
    check_head(model, stored, checkpoint.name)
    return model.to(device).eval().requires_grad_(False)


def _tied_for_lack_of(config: Any, stored: dict[str, weights.StoredTensor]) -> list[str]:
    """Names of the head and embedding where a weight of its own is missing, which transformers fills with the other.

    transformers 5 ties both whatever the checkpoint says, and keeps what it said as `scale_decoder_outputs`.
    """
    if getattr(config.text_config, "scale_decoder_outputs", True):
        return []
    return [name for name in (_HEAD, _EMBEDDING) if name not in stored]


def check_head(model: Blip2, stored: dict[str, weights.StoredTensor], name: str) -> None:
    """Raises `CheckpointError` when the checkpoint has an output head of its own and the model does not use it.

    flan-T5's head differs from its embedding, yet transformers 5 sets `tie_word_embeddings` and can tie them in
    silence: fluent training, garbage captions.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if _HEAD not in stored or _EMBEDDING not in stored:
        return
    if head.weight.data_ptr() == embedding.weight.data_ptr():
        raise CheckpointError(f"{name}: the output head was tied to the embedding, but the checkpoint has its own.")
    if not torch.equal(head.weight.detach(), _read(stored[_HEAD]).to(head.weight)):
        raise CheckpointError(f"{name}: the output head in memory is not the checkpoint's {_HEAD}.")


def _read(tensor: weights.StoredTensor) -> torch.Tensor:
    from safetensors import safe_open

    with safe_open(tensor.file, framework="pt") as file:
        return file.get_tensor(tensor.name)


def _load_config(checkpoint: Checkpoint) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import Blip2Config

    try:
        with _quiet_transformers():
            config = Blip2Config.from_pretrained(checkpoint.folder)
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        raise CheckpointError(f"{checkpoint.folder / 'config.json'}: not usable ({error}). Fetch it again.") from error
    assert isinstance(config, Blip2Config)
    return config


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@contextmanager
def _quiet_transformers() -> Iterator[None]:
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
