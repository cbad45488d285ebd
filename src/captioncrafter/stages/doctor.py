"""`captioncrafter doctor`: what a checkpoint, adapter, dataset, recipe or run is, what is wrong with it, and the mend.

Reads configurations and headers, of datasets the images too; loads no model, and changes nothing unless asked to.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from captioncrafter import recipe, runs, storage
from captioncrafter.data.layouts.detect import read_source
from captioncrafter.errors import CaptionCrafterError, DataError, InputError, closest
from captioncrafter.model import checkpoint
from captioncrafter.model.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from captioncrafter.stages.ailments.adapter import examine_adapter
from captioncrafter.stages.ailments.caption_file import examine_caption_file
from captioncrafter.stages.ailments.checkpoint import examine_checkpoint
from captioncrafter.stages.ailments.dataset import examine_dataset
from captioncrafter.stages.ailments.feature_store import examine_stores, stores_in
from captioncrafter.stages.ailments.finding import BROKEN, Finding, Record, Severity
from captioncrafter.stages.ailments.hub import examine_hub_name
from captioncrafter.stages.ailments.machine import examine_machine
from captioncrafter.stages.ailments.recipe_file import examine_recipe
from captioncrafter.stages.ailments.run import examine_run
from captioncrafter.stages.ailments.source import examine_source

_KNOWN = (
    "a hub name, a checkpoint's folder, an adapter, a dataset, a folder of captioned images, a recipe, a run, a file "
    "of captions, or a folder of features"
)


@dataclass(frozen=True)
class Examination:
    """What the doctor found: `kind` of patient, its `name`, `facts` of what it is, `findings`, worst first."""

    kind: str
    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def count(self, severity: Severity) -> int:
        """How many findings of that kind are not mended."""
        return sum(finding.severity is severity and not finding.mended for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        counts = {f"{severity}s": self.count(severity) for severity in Severity}
        findings = [finding.to_json() for finding in self.findings]
        return {"kind": self.kind, "path": self.name, "facts": self.facts} | counts | {"findings": findings}


def doctor(name: str, *, fix: bool = False) -> Examination:
    """Examines what `name` names; with `fix`, mends what can be mended without losing anything.

    What is broken is a finding, never an exception. Raises `InputError` only where `name` names nothing that can be
    examined.
    """
    record = _examined(name)
    tried = [_tried(finding) for finding in record.findings if finding.fixable] if fix else []
    left = record.findings
    if tried:
        record = _examined(name)  # what is told is what is true now
        failed = {(one.ailment, one.where): one for one in tried if not one.mended}
        left = [failed.get((one.ailment, one.where), one) for one in record.findings]
    mended = [one for one in tried if one.mended]
    worst_first = sorted([*left, *mended], key=lambda finding: list(Severity).index(finding.severity))
    return Examination(record.kind, name, record.facts, tuple(worst_first))


def _tried(finding: Finding) -> Finding:
    """The finding with what was done about it, or why nothing could be."""
    assert finding.repair is not None
    try:
        return replace(finding, mended=finding.repair(), repair=None)
    except (CaptionCrafterError, *BROKEN) as error:
        return replace(finding, what=f"{finding.what}; --fix failed ({error})", repair=None)


def _examined(name: str) -> Record:
    kind, examine = _patient(name)
    record = Record(kind, name)
    try:
        examine(record)
    except Exception as error:  # noqa: BLE001 # whatever a patient does to a library, its user reads a finding
        first = (str(error) or type(error).__name__).splitlines()[0]
        record.error("damaged", name, f"cannot be examined any further ({first})", "Copy or fetch it again.")
    return record


def _patient(name: str) -> tuple[str, Callable[[Record], None]]:
    """What kind of thing `name` is, and how to examine it."""
    path = storage.user_path(name)
    if name in recipe.bundled() and not path.exists():
        return "recipe", lambda record: examine_recipe(record, name)
    if name in checkpoint.bundled():
        return "checkpoint", lambda record: _examine_base(record, name)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _file(path)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return "checkpoint", lambda record: examine_hub_name(record, name)
    near = closest(name, [*recipe.bundled(), *checkpoint.bundled()])
    raise InputError(f"{name}: no such file or folder.{near} The doctor looks at {_KNOWN}.")


def _folder(path: Path) -> tuple[str, Callable[[Record], None]]:
    def holds(*names: str) -> bool:
        return any((path / name).exists() for name in names)

    if runs.CHECKPOINTS in (path.name, path.parent.name):
        return _folder(path.parent if path.name == runs.CHECKPOINTS else path.parent.parent)
    if holds(runs.RECIPE, runs.CHECKPOINTS, runs.MANIFEST):
        return "run", lambda record: examine_run(record, path)
    if holds(runs.SEEDS) or any(path.glob(f"seed-*/{runs.RECIPE}")):
        return "runs", lambda record: _examine_runs(record, path)
    if holds(ADAPTER_CONFIG, ADAPTER_WEIGHTS, "adapter_model.bin"):
        return "adapter", lambda record: examine_adapter(record, path)
    if holds("dataset_dict.json", "dataset_info.json", "state.json"):
        return "dataset", lambda record: _examine_data(record, path)
    if stores := stores_in(path):
        return "features", lambda record: examine_stores(record, stores)
    if holds("config.json", "preprocessor_config.json", "processor_config.json") or any(path.glob("*.safetensors")):
        return "checkpoint", lambda record: _examine_base(record, str(path))
    try:
        source = read_source(path)
    except (DataError, OSError) as error:
        raise InputError(f"{error}\nThe doctor looks at {_KNOWN}.") from None
    return "captioned images", lambda record: examine_source(record, path, source, decode=True)


def _file(path: Path) -> tuple[str, Callable[[Record], None]]:
    if path.suffix == ".toml":
        return "recipe", lambda record: examine_recipe(record, str(path))
    of_a_folder = (runs.RECIPE, runs.MANIFEST, ADAPTER_CONFIG, "config.json", "dataset_dict.json")
    if path.name in of_a_folder or path.suffix == ".safetensors":
        return _folder(path.parent)
    if path.suffix in (".json", ".jsonl"):
        return "captions", lambda record: examine_caption_file(record, path)
    try:
        source = read_source(path)
    except (DataError, OSError) as error:
        raise InputError(f"{error}\nThe doctor looks at {_KNOWN}.") from None
    return "captioned images", lambda record: examine_source(record, path, source, decode=True)


def _examine_base(record: Record, name: str) -> None:
    bundled = name in checkpoint.bundled()
    folder = checkpoint.find(name).folder if bundled else storage.user_path(name)
    examine_checkpoint(record, checkpoint.Checkpoint(name, None, folder))
    examine_machine(record)


def _examine_data(record: Record, path: Path) -> None:
    examine_dataset(record, path, decode=True)


def _examine_runs(record: Record, path: Path) -> None:
    for folder in sorted(path.glob("seed-*")):
        part = Record("run", str(folder))
        examine_run(part, folder)
        record.absorb(part, folder.name)
