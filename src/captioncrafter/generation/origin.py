"""What captions come of: base, adapter, prompt and decoding, told from small files before anything is loaded."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from captioncrafter import events, recipe, storage
from captioncrafter.errors import CheckpointError
from captioncrafter.generation.decode import overridden
from captioncrafter.model import checkpoint, hub, lora

CAPTIONING = "captioning.json"
DEFAULT_BASE = "miniature"


@dataclass(frozen=True)
class Origin:
    """The base by name, the adapter's folder if any, and all that decides the captions they give.

    `tuned_on` is the fingerprint of the base's weights that the adapter asks for; None where it asks for none.
    """

    base: str
    revision: str | None
    adapter: Path | None
    prompt: str
    precision: recipe.Precision
    decoding: recipe.Decoding
    tuned_on: str | None = None

    @classmethod
    def of(
        cls,
        base: str | None = None,
        *,
        adapter: str | Path | None = None,
        revision: str | None = None,
        prompt: str | None = None,
        precision: recipe.Precision | None = None,
    ) -> "Origin":
        """What is given, and for the rest what the adapter was tuned with, else the defaults.

        Without an adapter, the rest is what the base itself was tuned with where it keeps that: one that an adapter was
        merged into. Raises `CheckpointError` for a folder without an adapter, or one whose settings cannot be used.
        """
        settings = _settings(Path(adapter)) if adapter is not None else _settings_of_base(base, revision)
        return cls(
            base=base or settings.get("base", DEFAULT_BASE),
            revision=revision or (settings.get("revision") if base is None else None),
            adapter=Path(adapter) if adapter is not None else None,
            prompt=prompt if prompt is not None else settings.get("prompt", recipe.Model().prompt),
            precision=precision or settings.get("precision", "auto"),
            decoding=recipe.check_decoding(
                settings.get("decoding", {}), source=f"{adapter or base}/{CAPTIONING}, decoding"
            ),
            tuned_on=settings.get("weights"),
        )

    def with_decoding(self, **decoding: Any) -> "Origin":
        """The same with some decoding settings replaced, as `Captioner.with_decoding` does."""
        return replace(self, decoding=overridden(self.decoding, decoding))

    def describe(self) -> dict[str, Any]:
        """What tells these captions from any others, for JSON; reads the adapter's bytes, loads and fetches nothing.

        How many images share a batch is left out: it is a matter of memory. The weights of a hub checkpoint without
        adapter are None: its name and revision have to do.
        """
        is_here = self.base in checkpoint.bundled() or storage.user_path(self.base).is_dir()
        base = checkpoint.find(self.base, self.revision).describe() if is_here else {"base": self.base}
        stored = self.adapter / lora.ADAPTER_WEIGHTS if self.adapter is not None else None
        return {
            "base": base["base"],
            "revision": self.revision,
            "weights": base.get("weights", self.tuned_on),
            "adapter": str(self.adapter.resolve()) if self.adapter is not None else None,
            "adapter_weights": storage.sha256_of(stored) if stored is not None else None,
            "prompt": self.prompt,
            "decoding": self.decoding.model_dump(exclude={"images_per_batch"}),
        }


def _settings(adapter: Path) -> dict[str, Any]:
    # First, so that a folder without an adapter is told as one whatever else it lacks.
    lora.stored_adapter(adapter)
    file = adapter / CAPTIONING
    if file.is_file():
        return _read(file)
    events.warn(f"{adapter}: no {CAPTIONING}; using the default prompt and decoding, and the base that is named.")
    named = json.loads((adapter / lora.ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return {"base": named["base_model_name_or_path"], "revision": named.get("revision")}


def _settings_of_base(base: str | None, revision: str | None) -> dict[str, Any]:
    """What a base keeps of the adapter that was merged into it; nothing for any other base."""
    if base is None or base in checkpoint.bundled():
        return {}
    folder = storage.user_path(base)
    file: Path | None = folder / CAPTIONING
    if not folder.is_dir():
        file = hub.fetch_file(base, revision, CAPTIONING) if base.count("/") == 1 else None
    settings = _read(file) if file is not None and file.is_file() else {}
    return {name: settings[name] for name in ("prompt", "precision", "decoding") if name in settings}


def _read(file: Path) -> dict[str, Any]:
    settings = storage.read_json(file)
    if not isinstance(settings, dict):
        raise CheckpointError(
            f"{file}: expected a JSON object, found {type(settings).__name__}. Copy the folder again, or remove this "
            "file to use the default prompt and decoding."
        )
    return settings
