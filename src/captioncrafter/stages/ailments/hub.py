"""A checkpoint on the hub: its small files are fetched, of its weights the headers alone."""

from pathlib import Path
from typing import Any

from captioncrafter.errors import CheckpointError
from captioncrafter.model import hub as model_hub
from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.model.weights import StoredTensor
from captioncrafter.stages.ailments.adapter import examine_adapter
from captioncrafter.stages.ailments.checkpoint import examine_checkpoint
from captioncrafter.stages.ailments.finding import BROKEN, Record

_CHECK = "Check the name and the network; there is no folder of that name here either."
_SMALL = ["*.json", "*.txt", "*.model", "adapter_model.safetensors"]


def examine_hub_name(record: Record, name: str) -> None:
    """What the hub, or its cache on this disk, has under `name`: a base or an adapter."""
    folder = _small_files(record, name)
    if folder is None:
        return
    record.facts["revision"] = folder.name
    if (folder / "adapter_config.json").is_file():
        record.kind = "adapter"
        examine_adapter(record, folder)
        return
    found = Checkpoint(name, None, folder, on_hub=True)
    if any(folder.glob("*.safetensors")):
        record.facts["weights"] = "on this disk"
        examine_checkpoint(record, found)
        return
    headers = _headers(record, name)
    record.facts["weights"] = "on the hub, not fetched"
    examine_checkpoint(record, found, weights_here=False, headers=headers)


def _small_files(record: Record, name: str) -> Path | None:
    """The folder in the hub cache with the small files, fetched where there is a network."""
    from huggingface_hub import snapshot_download

    try:
        model_hub.fetch(name, None, option="PATH", only_config=True)
    except CheckpointError as error:
        # Adapters have no config.json, so that one is looked for all the same.
        refusal = str(error).removeprefix(f"{name}: ")
    else:
        refusal = ""
    try:
        folder = Path(snapshot_download(name, allow_patterns=_SMALL))
    except BROKEN as error:
        refusal = refusal or (str(error) or type(error).__name__).splitlines()[0]
        record.error("not-to-be-had", name, refusal, _CHECK)
        return None
    if not any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
        record.error("not-to-be-had", name, refusal, _CHECK)
        return None
    return folder


def _headers(record: Record, name: str) -> dict[str, StoredTensor] | None:
    """The headers of the hub's safetensors, some hundred kB; None where they cannot be had."""
    from huggingface_hub import HfApi, errors

    try:
        told = HfApi().get_safetensors_metadata(name)
    except errors.NotASafetensorsRepoError:
        record.error(
            "no-weights",
            name,
            "the hub has no safetensors of it: its weights are a pickle, which is not opened, or not there",
            "Take a revision that has safetensors, or another copy.",
        )
    except (getattr(errors, "HTTPError", OSError), errors.SafetensorsParsingError, *BROKEN) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        record.note("weights-not-seen", name, f"nothing is said of its weights: {first}")
    else:
        return _tensors(told)
    return None


def _tensors(told: Any) -> dict[str, StoredTensor]:
    return {
        tensor: StoredTensor(tensor, Path(file), facts.dtype, tuple(facts.shape), *facts.data_offsets)
        for file, header in told.files_metadata.items()
        for tensor, facts in header.tensors.items()
    }
