"""Repositories of the Hugging Face hub, or of a mirror of it: fetched into the hub cache, or refused with the way out.

All is done by the stock client, so its variables hold: HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from captioncrafter import events
from captioncrafter.errors import CheckpointError

_CONFIG = "config.json"
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]


class Unreachable(CheckpointError):
    """A repository that is not in the hub cache, while nobody answers or nobody may be asked."""


def fetch(name: str, revision: str | None, *, option: str = "model.base", only_config: bool = False) -> Path:
    """The folder in the hub cache with the small files and safetensors of a hub repository, fetched when not there yet.

    With `only_config`, nothing but its `config.json` is. Raises `CheckpointError` saying what is missing and how to get
    it; `option` takes a folder instead.
    """
    from huggingface_hub import errors

    network = (getattr(errors, "HTTPError", OSError), OSError)  # httpx's or httpx2's, as this hub client uses
    try:
        folder = _asked_snapshot(name, revision, [_CONFIG]) if only_config else _told_snapshot(name, revision)
    except errors.HFValidationError as error:
        raise CheckpointError(f"{name}: not a hub name ({_first_line(error)}).") from None
    except network as error:
        _explain(error, name, revision, option)
    if only_config and not (folder / _CONFIG).is_file():
        raise CheckpointError(f"{name}: no {_CONFIG} on {where()}: not a Hugging Face checkpoint.")
    if not only_config and not any(_is_of_weights(file.name) for file in folder.iterdir()):
        raise CheckpointError(_without_weights(name, revision, option))
    return folder


def fetch_file(name: str, revision: str | None, file: str) -> Path | None:
    """A small file of a hub repository, in the hub cache; None where the repository has none, or cannot be asked."""
    from huggingface_hub import errors

    network = (getattr(errors, "HTTPError", OSError), OSError, errors.HFValidationError)
    try:
        found = _asked_snapshot(name, revision, [file]) / file
    except network:
        return None
    return found if found.is_file() else None


def _told_snapshot(name: str, revision: str | None) -> Path:
    """All files of the repository; a line tells when some have to be fetched, bars how far that is on a terminal."""
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    bars = False
    try:
        _snapshot(name, revision, _FILES, local_files_only=True)
    except LocalEntryNotFoundError as lacking:
        if not constants.HF_HUB_OFFLINE:
            events.say(f"{name}: fetching it from {where()}")
        _ask(name, revision, lacking)
        bars = sys.stderr.isatty() and events.is_main_process()
    return _snapshot(name, revision, _FILES, bars=bars)


def _asked_snapshot(name: str, revision: str | None, wanted: list[str]) -> Path:
    """A few small files of the repository; never by hf_hub_download, which asks on as `_ask` says."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        _snapshot(name, revision, wanted, local_files_only=True)
    except LocalEntryNotFoundError as lacking:
        _ask(name, revision, lacking)
    return _snapshot(name, revision, wanted)


def _ask(name: str, revision: str | None, lacking: Exception) -> None:
    """Raises `lacking` where nobody answers.

    For the files of a commit the client (huggingface_hub 2.4) asks five times more, over 23 seconds, with a line each;
    for the repository once.
    """
    from huggingface_hub import HfApi, constants, errors

    if constants.HF_HUB_OFFLINE:
        return
    try:
        HfApi().repo_info(name, revision=revision)
    except errors.HfHubHTTPError:
        return  # somebody does; what the answer means is told by who fetches
    except (getattr(errors, "HTTPError", OSError), OSError) as error:
        raise lacking from error


def _snapshot(
    name: str, revision: str | None, wanted: list[str], *, bars: bool = False, local_files_only: bool = False
) -> Path:
    from huggingface_hub import snapshot_download

    with bars_shown(bars):
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=wanted, local_files_only=local_files_only)
        )


@contextmanager
def bars_shown(shown: bool) -> Iterator[None]:
    """Within, the client draws its bars only where they are `shown`."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hidden = not shown and not are_progress_bars_disabled()
    if hidden:
        disable_progress_bars()
    try:
        yield
    finally:
        if hidden:
            enable_progress_bars()


def _is_of_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".safetensors.index.json"))


def where() -> str:
    """The hub as messages name it: by its address where HF_ENDPOINT names another."""
    from huggingface_hub import constants

    usual = constants.ENDPOINT == "https://huggingface.co"
    return "the hub" if usual else f"the hub at {constants.ENDPOINT} (HF_ENDPOINT)"


def _explain(error: Any, name: str, revision: str | None, option: str) -> NoReturn:
    """Raises the `CheckpointError` that tells what `error` of the hub's client means for a user."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        raise CheckpointError(
            f"{name}: the repository is gated. Accept its terms on {where()}, then `hf auth login`."
        ) from None
    if isinstance(error, errors.RevisionNotFoundError):
        raise CheckpointError(f"{name}: {where()} has no revision {revision}. The newest is called main.") from None
    if isinstance(error, errors.RepositoryNotFoundError):
        raise CheckpointError(
            f"{name}: {where()} has no such repository, or it is private. Check the name, or `hf auth login`."
        ) from None
    lacking = "only partly" if _is_begun(error) else "not"
    elsewhere = f"Or give the folder of a copy as {option}."
    if constants.HF_HUB_OFFLINE:
        raise Unreachable(
            f"{name}: {lacking} in the hub cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set. Connect to the "
            f"network and unset it, or copy the hub cache of a machine that has the model. {elsewhere}"
        ) from error
    raise Unreachable(
        f"{name}: {lacking} in the hub cache, and fetching it from {where()} failed ({reason(error)}). Connect to the "
        f"network and try again: files that are whole already are kept. {elsewhere}"
    ) from error


def _is_begun(error: Exception) -> bool:
    """Whether some files are in the cache; clients before 2.0 cannot tell."""
    from huggingface_hub import errors

    return isinstance(error, getattr(errors, "IncompleteSnapshotError", ()))


def reason(error: BaseException) -> str:
    """The first line of what lies at the bottom: the client wraps what the network said."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return f"{type(error).__name__}: {_first_line(error)}"


def _without_weights(name: str, revision: str | None, option: str) -> str:
    from huggingface_hub import HfApi, constants, errors

    files: list[str] = []
    if not constants.HF_HUB_OFFLINE:
        try:
            files = HfApi().list_repo_files(name, revision=revision)
        except (getattr(errors, "HTTPError", OSError), OSError) as error:
            _explain(error, name, revision, option)
    pickles = [file for file in files if file.endswith((".bin", ".pt", ".pth"))]
    if pickles:
        return (
            f"{name}: the hub has its weights only as {pickles[0]}, a pickle file, which can run code when opened; it "
            "was not fetched. Name a revision that has safetensors. Or, where you trust it, load and save it once with "
            f"transformers' save_pretrained, which writes safetensors, and give that folder as {option}."
        )
    if files:
        return f"{name}: no *.safetensors file on {where()}: not the weights of a model."
    return (
        f"{name}: its weights are not in the hub cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set. Connect "
        f"to the network and unset it. Or give the folder of a copy as {option}."
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
