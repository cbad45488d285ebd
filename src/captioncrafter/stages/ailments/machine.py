"""What this machine can do with a patient: versions of the libraries, precision, device."""

from importlib import metadata

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from captioncrafter.errors import InputError
from captioncrafter.model import hardware
from captioncrafter.recipe import Precision
from captioncrafter.stages.ailments.finding import Record


def examine_machine(record: Record, *, precision: Precision = "auto", device: str = "auto") -> None:
    """Whether the installed libraries and the device do what `precision` asks for."""
    _examine_libraries(record)
    _examine_torchvision(record)
    try:
        found = hardware.device_for(device)
    except InputError as error:
        record.error("no-device", "this machine", str(error), "Set model.device to auto, or use a machine that has it.")
        return
    try:
        arithmetic = hardware.arithmetic_for(precision, found)
    except InputError as error:
        record.error("no-quantisation", "this machine", str(error), 'pip install "captioncrafter[quant]"')
        return
    plain = hardware.arithmetic_for("auto", found)
    record.facts["device"] = f"{found}, {arithmetic.name}"
    if plain.name == "bfloat16":
        return
    if precision == "bf16":
        record.warning(
            "no-bf16",
            "this machine",
            f"{found} has no bfloat16 units: bf16 is imitated there and slower than float32",
            "Set model.precision to auto, which takes float32 here. Never float16: T5 overflows in it.",
        )
    else:
        record.note("no-bf16", "this machine", f"{found} has no bfloat16 units: {plain.name} is computed in")


def _examine_libraries(record: Record) -> None:
    """Holds what is installed against what the package asks for."""
    try:
        wanted = metadata.requires("captioncrafter") or []
    except metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = version_of(requirement.name)
        if installed is None or not requirement.specifier.contains(installed, prereleases=True):
            record.error(
                "versions",
                "this machine",
                f"{requirement.name} {installed or 'is not installed'}, and {requirement} is needed",
                f'pip install "{requirement}"',
            )


def _examine_torchvision(record: Record) -> None:
    """A torchvision of another build than torch's fails when it is imported, and transformers imports it."""
    torch, vision = version_of("torch"), version_of("torchvision")
    if torch is None or vision is None or Version(torch).local == Version(vision).local:
        return
    record.warning(
        "torchvision",
        "this machine",
        f"torch {torch} and torchvision {vision} are of different builds: importing both can fail",
        "pip uninstall torchvision: it is not needed here.",
    )


def version_of(library: str) -> str | None:
    """The installed version; None where it is not installed."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def tell_writer(record: Record, where: object, version: object, library: str, mend: str) -> None:
    """Takes down by which version of `library` a file says it was written, and notes one newer than that here."""
    record.facts["written by"] = f"{library} {version}"
    if _is_newer(version, library):
        told = f"written by {library} {version}, newer than {version_of(library)} here"
        record.note("versions", where, told, mend)


def _is_newer(version: object, library: str) -> bool:
    installed = version_of(library)
    try:
        return installed is not None and Version(str(version)).release[:2] > Version(installed).release[:2]
    except InvalidVersion:
        return False
