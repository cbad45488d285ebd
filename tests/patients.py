"""What the doctor says of a patient, and what a folder holds."""

from pathlib import Path

from captioncrafter.stages.ailments.documents import BEFORE
from captioncrafter.stages.ailments.finding import Finding
from captioncrafter.stages.doctor import doctor


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
