"""Whether the features that a run trained on are still those of its base, and whole."""

from typing import Any

from captioncrafter import recipe, storage
from captioncrafter.features.key import feature_key
from captioncrafter.model import checkpoint, weights
from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.model.cut import Cut, parts_before
from captioncrafter.stages.ailments.feature_store import KEY, examine_store
from captioncrafter.stages.ailments.finding import Record

_READ_AT_MOST = 2 * 1000**3


def examine_features(record: Record, options: recipe.Recipe, manifest: dict[str, Any], found: Checkpoint) -> None:
    """The store that the manifest names; its key is worked out again where that reads no more than some gigabytes."""
    told = manifest.get("features")
    if not isinstance(told, dict) or not told.get("key"):
        return
    root = storage.user_path(options.features.folder) if options.features.folder else storage.cache_folder()
    folder = root / "features" / str(told["key"])
    if not (folder / KEY).is_file():
        record.note("no-features", folder, "its features are not here any more", "They are computed again when needed.")
        return
    part = Record("store", str(folder))
    examine_store(part, folder)
    record.absorb(part, "features")
    cut = Cut(told["cut"])
    if part.has("damaged-json") or not _is_quick(found, cut):
        return
    facts = storage.read_json(folder / KEY)
    now = feature_key(
        found,
        checkpoint.load_processor(found),
        cut,
        computed_in=str(manifest.get("precision", facts.get("computed_in"))),
        stored_as=options.features.dtype,
    )
    different = sorted(key for key in {**facts, **now.facts} if facts.get(key) != now.facts.get(key))
    if different:
        record.warning(
            "stale-features",
            folder,
            f"of another base or other settings than the recipe's now: {', '.join(different)} differ",
            "Nothing to do: they are never used for these, and computed again when needed.",
        )


def _is_quick(found: Checkpoint, cut: Cut) -> bool:
    parts = parts_before(cut)
    stored = weights.stored_tensors(found.folder).values()
    return sum(one.end - one.start for one in stored if one.name.startswith(parts)) <= _READ_AT_MOST
