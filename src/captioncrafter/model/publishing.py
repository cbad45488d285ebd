"""Puts a folder on the Hugging Face hub, or on a mirror of it, by the stock client; refused with the way out.

Its variables hold: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE.
"""

import sys
from pathlib import Path
from typing import Any, NoReturn

from captioncrafter import events
from captioncrafter.errors import CaptionCrafterError, InputError
from captioncrafter.model.hub import bars_shown, reason, where

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth")
_CONFIGS = ("config.json", "adapter_config.json")


class NotPublished(CaptionCrafterError):
    """The hub could not be asked, or would not take it."""


def check_can_publish(name: str) -> None:
    """Raises before any work is done: for a name that is none, without a token, offline, or when nobody answers."""
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"--push {name}: not a hub name ({_first_line(error)}). Write USER/NAME.") from None
    if name.count("/") != 1:
        raise InputError(f"--push {name}: whose repository is that? Write USER/NAME.")
    if constants.HF_HUB_OFFLINE:
        raise InputError("--push needs the network, and HF_HUB_OFFLINE is set. Unset it, or leave --push out.")
    if get_token() is None:
        raise InputError(
            f"--push {name}: no token for {where()}. `hf auth login` keeps one that may write; HF_TOKEN names one. "
            "Or leave --push out."
        )
    try:
        HfApi().whoami()
    except _refusals() as error:
        _explain(error, name, "Nothing was written.")


def publish(folder: Path, name: str, *, private: bool) -> str:
    """Uploads the files of `folder` into the model repository `name`, which is made where there is none; gives its URL.

    A repository that exists keeps its visibility. Raises `InputError` when it holds weights that `folder` does not
    replace: whoever loads it would get those.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    kept = f"{folder} is whole all the same: `hf upload {name} {folder}` tries again."
    try:
        url = api.create_repo(name, private=private, exist_ok=True)
        _refuse_other_weights(api.list_repo_files(name), folder, name, kept)
        events.say(f"{name}: uploading {folder} to {where()}")
        with bars_shown(sys.stderr.isatty()):
            api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload by captioncrafter export")
    except _refusals() as error:
        _explain(error, name, kept)
    return str(url)


def _refuse_other_weights(there: list[str], folder: Path, name: str, kept: str) -> None:
    here = {file.name for file in folder.iterdir()}
    strange = sorted(file for file in there if file not in here and (file.endswith(_WEIGHTS) or file in _CONFIGS))
    if strange:
        raise InputError(
            f"{name}: the repository holds another model: {', '.join(strange[:3])}"
            + (f" and {len(strange) - 3} more" if len(strange) > 3 else "")
            + f", which this export does not replace. Delete them there, or take another name. {kept}"
        )


def _refusals() -> tuple[type[Exception], ...]:
    """What the client raises when the hub refuses or cannot be reached; uploads of parts raise a RuntimeError."""
    from huggingface_hub import errors

    return (getattr(errors, "HTTPError", OSError), OSError, RuntimeError, ValueError)


def _explain(error: Exception, name: str, kept: str) -> NoReturn:
    """Raises the error that tells what `error` of the hub's client means for a user."""
    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status == 401:
        raise InputError(f"{name}: {where()} does not know this token. `hf auth login` keeps another. {kept}") from None
    if status == 403:
        raise InputError(
            f"{name}: {where()} does not let this token write there. Take a token that may write, and a name of your "
            f"own. {kept}"
        ) from None
    raise NotPublished(f"{name}: {where()} did not take it ({reason(error)}). {kept}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
