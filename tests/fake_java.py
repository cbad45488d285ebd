"""A script in Java's place: for what a real one does too rarely to be waited for."""

from pathlib import Path

ECHO = 'while read verb count; do read line; printf "=1\\n=%s\\n" "$line"; done'
"""What answers each question of one line with that line."""


def write_fake_java(folder: Path, body: str = "exit 1", *, version: str = "17.0.1") -> str:
    """An executable `java` in `folder` that names `version` when asked for it and else runs the shell lines `body`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "java"
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = -version ]; then echo \'openjdk version "{version}"\' >&2; exit; fi\n{body}\n'
    )
    path.chmod(0o755)
    return str(path)
