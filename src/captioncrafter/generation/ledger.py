"""What the captions in a file come of, kept beside it in `FILE.meta.json`: their origin, and each image's path.

The file itself stays plain predictions. The ledger is written whole before the first caption is, so a stop at any
moment leaves no caption that it does not know.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captioncrafter import storage
from captioncrafter.errors import InputError
from captioncrafter.generation.bulk import ImageFile, read_finished

_SUFFIX = ".meta.json"


def ledger_of(out: Path) -> Path:
    """Where the ledger of `out` lies."""
    return out.with_name(out.name + _SUFFIX)


def finished(out: Path, origin: dict[str, Any], images: Sequence[ImageFile]) -> frozenset[str]:
    """Ids of the images that `out` already has a caption of, all of this `origin` and of these very files.

    Raises `InputError` naming what is otherwise: a folder, captions of another origin or of another image by the same
    id, or a file without a ledger, which something else wrote.
    """
    if out.is_dir():
        raise InputError(f"{out}: a folder, and --out takes the file to write, for example {out / 'captions.jsonl'}.")
    if not out.is_file() or out.stat().st_size == 0:
        return frozenset()
    known = _read(out)
    differing = _differences(known["origin"], origin)
    if differing:
        raise InputError(f"{out}: holds captions of another {differing}. {_way_out(out)}")
    already = read_finished(out)
    paths = known["images"]
    for image_id in already - paths.keys():
        raise InputError(f"{out}: {ledger_of(out).name} knows nothing of its caption of {image_id}. {_way_out(out)}")
    for image in images:
        if image.image_id in already and paths[image.image_id] != _path_of(image):
            raise InputError(
                f"{out}: its caption of {image.image_id} is of {paths[image.image_id]}, not of {_path_of(image)}. "
                f"{_way_out(out)}"
            )
    return already


def write_ledger(out: Path, origin: dict[str, Any], images: Sequence[ImageFile], already: frozenset[str]) -> None:
    """Writes down `origin` and the paths of `images`, beside those of the captions that are `already` in `out`."""
    old = _read(out)["images"] if already else {}
    kept = {image_id: path for image_id, path in old.items() if image_id in already}
    paths = kept | {image.image_id: _path_of(image) for image in images}
    storage.write_json(ledger_of(out), {"origin": origin, "images": paths})


def _read(out: Path) -> dict[str, dict[str, Any]]:
    file = ledger_of(out)
    if not file.is_file():
        raise InputError(
            f"{out}: there is no {file.name} beside it to say what its captions come of, so they cannot be gone on "
            f"with. {_way_out(out)}"
        )
    known = storage.read_json(file)
    if not (isinstance(known, dict) and all(isinstance(known.get(key), dict) for key in ("origin", "images"))):
        raise InputError(f"{file}: not what was written beside {out.name}. {_way_out(out)}")
    return known


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs, as `name (old there, new now)`; the same weights are the same wherever they lie."""
    names = [name for name in now if before.get(name) != now[name]]
    if now.get("weights") is not None and "weights" not in names:
        names = [name for name in names if name not in ("base", "revision")]
    if "adapter_weights" not in names:
        names = [name for name in names if name != "adapter"]
    return ", ".join(f"{name} ({_short(before.get(name), now[name])})" for name in names)


def _short(before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        return ", ".join(
            f"{key} {before.get(key)} there, {value} now" for key, value in now.items() if before.get(key) != value
        )
    return f"{before!r} there, {now!r} now"


def _way_out(out: Path) -> str:
    return f"Give another --out, or remove {out.name} to caption all anew."


def _path_of(image: ImageFile) -> str:
    return str(image.path.resolve())
