"""What the doctor says of a patient, what a folder holds, and an adapter to examine."""

from pathlib import Path

import torch

from captioncrafter import recipe
from captioncrafter.generation.captioner import write_captioning
from captioncrafter.model import lora
from captioncrafter.stages.ailments.documents import BEFORE
from captioncrafter.stages.ailments.finding import Finding
from captioncrafter.stages.doctor import doctor
from tiny import load_tiny


def ailments(patient: str | Path, *, fix: bool = False) -> dict[str, Finding]:
    """What is found of `patient`, by the names of the ailments."""
    return {finding.ailment: finding for finding in doctor(str(patient), fix=fix).findings}


def troubles(patient: str | Path) -> set[str]:
    """Names of the errors and warnings."""
    return {name for name, finding in ailments(patient).items() if finding.severity != "note"}


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file under `folder`, without the copies that the doctor keeps."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(BEFORE))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def changed_files(before: dict[str, bytes], folder: Path) -> set[str]:
    """Names of the files under `folder` that are new, gone or of other bytes than before."""
    now = contents(folder)
    return {name for name in {**before, **now} if before.get(name) != now.get(name)}


def write_adapter(base: Path, folder: Path, **options: object) -> Path:
    """A trained-looking adapter of rank 2 on the language model, with what `train` writes beside it."""
    found, _, model = load_tiny(base)
    tuned = lora.attach(model, recipe.Lora.model_validate({"rank": 2} | options), seed=0)
    for name, parameter in lora.trainable(tuned).items():
        if ".lora_B." in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    folder.mkdir()
    lora.save_adapter(tuned, found, folder)
    write_captioning(folder, found, prompt="a photo of", decoding=recipe.Decoding(), precision="fp32")
    return folder
