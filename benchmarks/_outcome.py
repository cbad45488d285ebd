"""What every benchmark prints: a table for people, or one JSON object that names hardware, versions and commit."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_LIBRARIES = ("captioncrafter", "torch", "transformers", "peft", "pycocoevalcap")


def parser(description: str, *, rounds: bool = True) -> argparse.ArgumentParser:
    """The options that every benchmark has; without `rounds`, where nothing is timed."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    if rounds:
        options.add_argument("--rounds", type=int, default=5, help="interleaved rounds; medians are reported")
    return options


def interleaved(contestants: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round; all of them run once a round, in order, so that drift hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def tell(
    benchmark: str,
    baseline: str,
    ratios: Mapping[str, float],
    seconds: Mapping[str, Sequence[float]],
    *,
    as_json: bool,
    columns: Mapping[str, Mapping[str, float]] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Prints the outcome; a ratio above 1 means faster than the baseline.

    `columns` are further figures of a row, `facts` what else was found out.
    """
    further = columns or {}
    rows = [
        {"name": name, "median_s": statistics.median(times), "min_s": min(times), "max_s": max(times)}
        | dict(further.get(name, {}))
        for name, times in seconds.items()
    ]
    if as_json:
        outcome = {
            "benchmark": benchmark,
            "baseline": baseline,
            "ratios": dict(ratios),
            "rows": rows,
            **(facts or {}),
        }
        print(json.dumps(signed(outcome), indent=2))
        return
    print(f"{benchmark}: 1.0 is {baseline}")
    for row in rows:
        told = _told(further.get(str(row["name"]), {}))
        print(f"  {row['name']:28} {row['median_s']:9.3f} s  [{row['min_s']:.3f}, {row['max_s']:.3f}]{told}")
    for name, ratio in ratios.items():
        print(f"  {name:28} {ratio:9.1f} ×")
    for name, fact in (facts or {}).items():
        print(f"  {name}: {json.dumps(fact)}")


def signed(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The outcome with hardware, versions and commit."""
    return {
        **outcome,
        "hardware": _hardware(),
        "versions": {name: metadata.version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
        "commit": _commit(),
    }


def _told(columns: Mapping[str, float]) -> str:
    return "".join(f"  {name} {value:,.4g}" for name, value in columns.items())


def ratio(seconds: Mapping[str, Sequence[float]], baseline: str, contestant: str) -> float:
    """How many times faster, by medians."""
    return statistics.median(seconds[baseline]) / statistics.median(seconds[contestant])


def _hardware() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    card = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {os.cpu_count()} cores{card}"


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
