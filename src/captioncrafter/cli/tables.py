"""What commands print on stdout: tables for people, one JSON object for programs."""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def print_json(value: Any) -> None:
    """One JSON object."""
    print_line(json.dumps(value, indent=2, ensure_ascii=False))


def print_line(line: str) -> None:
    """A line as it is, however long."""
    sys.stdout.write(line + "\n")


def print_scores(systems: Mapping[str, Mapping[str, Any]]) -> None:
    """The metrics × 100 with their 95 % intervals, a column for each system's `scores.json`.

    Below them CIDEr with the same captions dealt out to other images: what captions score that do not look.
    """
    first = next(iter(systems.values()))
    split = f" of {first['split']}" if "split" in first else ""
    table = Table(title=f"{first['images']:,} images{split}; × 100, with 95 % intervals", title_justify="left")
    table.add_column("metric")
    for name in systems:
        table.add_column(name, justify="right")
    for metric in first["metrics"]:
        table.add_row(metric, *(_cell(scores["metrics"].get(metric)) for scores in systems.values()))
    if any(scores["grounding"] for scores in systems.values()):
        shuffled = (scores["grounding"].get("shuffled_CIDEr") for scores in systems.values())
        table.add_row("CIDEr, shuffled", *("" if one is None else f"{100 * one:.1f}" for one in shuffled))
    _console().print(table)


def print_captions(captions: Sequence[Mapping[str, str]]) -> None:
    """Some images with what the base and the tuned model say of them."""
    table = Table(show_lines=True)
    for column in ("image", "base", "tuned"):
        table.add_column(column, overflow="fold")
    for row in captions:
        table.add_row(row["image"], row["base"], row["tuned"])
    _console().print(table)


def print_splits(splits: Mapping[str, tuple[int, int]]) -> None:
    """Images and captions of each split."""
    table = Table()
    for column in ("split", "images", "captions"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, (images, captions) in splits.items():
        table.add_row(name, f"{images:,}", f"{captions:,}")
    _console().print(table)


def print_next(outcome: str, commands: Mapping[str, str]) -> None:
    """What came of it, and what can be done with it."""
    print_line(f"\n{outcome}\n\nNext:")
    for purpose, command in commands.items():
        print_line(f"  {purpose}:\n    {command}")


def program() -> str:
    """How this user calls us: `captioncrafter` where that is on the PATH, else the path of the script that runs."""
    if shutil.which("captioncrafter"):
        return "captioncrafter"
    script = Path(sys.argv[0])
    if script.name != "captioncrafter":
        return f"{sys.executable} -m captioncrafter"
    return str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)


def _cell(measured: Mapping[str, float] | None) -> str:
    if measured is None:
        return ""
    value, low, high = (f"{100 * measured[key]:.1f}" for key in ("value", "low", "high"))
    return f"{value}  [{low}, {high}]"


def _console() -> Console:
    return Console(markup=False, highlight=False)
