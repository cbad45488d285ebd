"""What commands print on stdout: tables for people, one JSON object for programs."""

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from captioncrafter import events
from captioncrafter.errors import counted

_SURE_BELOW = 0.05
"""Corrected p-values below it are called a difference."""


def print_json(value: Any) -> None:
    """One JSON object."""
    print_line(json.dumps(value, indent=2, ensure_ascii=False))


def print_line(line: str) -> None:
    """A line as it is, however long."""
    sys.stdout.write(line + "\n")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


_AS_TEXTS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "mean_length": ("words a caption", "{:.1f}".format),
    "vocabulary": ("different words", "{:,}".format),
    "distinct_1": ("distinct-1", _percent),
    "distinct_2": ("distinct-2", _percent),
    "novel_captions": ("new to training, %", _percent),
    "repeated_word": ("repeat a word, %", _percent),
    "repeated_phrase": ("repeat a phrase, %", _percent),
}


def print_scores(systems: Mapping[str, Mapping[str, Any]]) -> None:
    """The metrics × 100 with their 95 % intervals, a column for each system's `scores.json`.

    Below them CIDEr with the same captions dealt out to other images: what captions score that do not look. Then what
    the captions are like as texts.
    """
    first = next(iter(systems.values()))
    split = f" of {first['split']}" if "split" in first else ""
    split += ", a part of all" if "partial" in first else ""
    table = Table(title=f"{counted(first['images'], 'image')}{split}; × 100, with 95 % intervals", title_justify="left")
    table.add_column("metric")
    for name in systems:
        table.add_column(name, justify="right")
    for metric in first["metrics"]:
        table.add_row(metric, *(_cell(scores["metrics"].get(metric)) for scores in systems.values()))
    if any(scores["grounding"] for scores in systems.values()):
        shuffled = (scores["grounding"].get("shuffled_CIDEr") for scores in systems.values())
        table.add_row("CIDEr, shuffled", *("" if one is None else f"{100 * one:.1f}" for one in shuffled))
    table.add_section()
    for name, (label, form) in _AS_TEXTS.items():
        found = [scores["diversity"].get(name) for scores in systems.values()]
        if any(one is not None for one in found):
            table.add_row(label, *("" if one is None else form(one) for one in found))
    _console().print(table)


def print_comparison(found: Mapping[str, Any]) -> None:
    """The metrics × 100 of each system, the differences to the first with their tests, and what they come to.

    What training seeds make of it stands in a table of its own.
    """
    systems = found["systems"]
    metrics = next(iter(systems.values()))["metrics"]
    split = f" of {found['split']}" if "split" in found else ""
    split += " (only a part of them: see --allow-partial)" if "partial" in found else ""
    table = Table(title=f"{found['images']:,} images{split}; × 100, with 95 % intervals", title_justify="left")
    table.add_column("metric")
    for name in systems:
        table.add_column(f"{name} (baseline)" if name == found["baseline"] else name, justify="right")
    for metric in metrics:
        table.add_row(metric, *(_cell(system["metrics"][metric]) for system in systems.values()))
    _console().print(table)
    for name, by_metric in found["differences"].items():
        _print_differences(f"{name} minus {found['baseline']}; × 100", by_metric)
    seeded = {name: system["training_seeds"] for name, system in systems.items() if "training_seeds" in system}
    if seeded:
        _print_over_seeds(seeded, metrics)
    for line in _verdicts(found):
        print_line(line)


def _print_differences(title: str, by_metric: Mapping[str, Mapping[str, float]]) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("metric", no_wrap=True)
    for column in ("difference [95 %]", "p", "p, Holm", "better/same/worse"):
        table.add_column(column, justify="right", no_wrap=True)
    for metric, one in by_metric.items():
        # A zero of either sign is shown without one.
        value, low, high = (f"{round(100 * one[key], 2) + 0.0:+.2f}" for key in ("value", "low", "high"))
        p = (f"{one[key]:.4f}" for key in ("p", "p_holm"))
        images = "/".join(f"{one[key]:,}" for key in ("wins", "ties", "losses"))
        table.add_row(metric, f"{value} [{low}, {high}]", *p, images)
    _console().print(table)


def _print_over_seeds(seeded: Mapping[str, Mapping[str, Any]], metrics: Iterable[str]) -> None:
    table = Table(title="Trainings: mean ± sd; × 100", title_justify="left")
    table.add_column("metric")
    for name, by_metric in seeded.items():
        seeds = len(next(iter(by_metric.values()))["runs"])
        table.add_column(f"{name} ({seeds} seeds)", justify="right")
    for metric in metrics:
        found = (by_metric[metric] for by_metric in seeded.values())
        table.add_row(metric, *(f"{100 * one['mean']:.1f} ± {100 * one['sd']:.1f}" for one in found))
    _console().print(table)


def _verdicts(found: Mapping[str, Any]) -> Iterator[str]:
    tests, resamples = found["correction"]["tests"], found["scorer"]["resamples"]
    yield (
        f"Intervals: paired bootstrap over images, {resamples:,} resamples. p: approximate randomisation, "
        f"{resamples:,} exchanges; Holm's correction over {counted(tests, 'test')}."
    )
    if any("training_seeds" in system for system in found["systems"].values()):
        yield "± is chance in training, from seed to seed; neither intervals nor p-values know of it."
    for name, by_metric in found["differences"].items():
        sure = {metric: one["value"] > 0 for metric, one in by_metric.items() if one["p_holm"] < _SURE_BELOW}
        sides = {"higher": [m for m, up in sure.items() if up], "lower": [m for m, up in sure.items() if not up]}
        told = "; ".join(f"{side} in {', '.join(some)}" for side, some in sides.items() if some)
        pair = f"{name} against {found['baseline']}"
        yield f"{pair}: {told} (corrected p < {_SURE_BELOW})." if told else f"{pair}: no difference shown."


def print_captions(captions: Sequence[Mapping[str, str]]) -> None:
    """Some images with what is said of them, by the names of the rows' entries."""
    table = Table(show_lines=True)
    for column in captions[0]:
        table.add_column(column, overflow="fold")
    for row in captions:
        table.add_row(*row.values())
    _console().print(table)


def print_splits(splits: Mapping[str, tuple[int, int]]) -> None:
    """Images and captions of each split."""
    table = Table()
    for column in ("split", "images", "captions"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, (images, captions) in splits.items():
        table.add_row(name, f"{images:,}", f"{captions:,}")
    _console().print(table)


def print_plan(plan: Mapping[str, Any], *, recipe: str) -> None:
    """Parts of the model, memory by phase, disk and time; last whether it fits, and what to change when it does not."""
    parts = Table(title=f"{plan['base']} in {plan['precision']}", title_justify="left")
    for column in ("part", "parameters (M)", "GB"):
        parts.add_column(column, justify="left" if column == "part" else "right")
    for part in plan["parts"]:
        parts.add_row(part["name"], f"{part['parameters'] / 1e6:,.1f}", _gb(part["bytes"]))
    whole = sum(part["parameters"] for part in plan["parts"])
    parts.add_row("all", f"{whole / 1e6:,.1f}", _gb(sum(part["bytes"] for part in plan["parts"])))
    parts.add_row("adapter (float32, trains)", f"{plan['trained_parameters'] / 1e6:,.1f}", "")
    _console().print(parts)
    phases = Table(title=f"GB in memory on {plan['device']}, phase by phase", title_justify="left")
    for column in ("phase", "images", "base", "adapter, optimizer", "activations", "reserve", "all"):
        phases.add_column(column, justify="left" if column == "phase" else "right")
    for phase in plan["phases"]:
        kinds = [phase[f"{kind}_bytes"] for kind in ("weights", "adapter", "working", "reserve")]
        phases.add_row(phase["name"], str(phase["images"]), *map(_gb, kinds), _gb(sum(kinds)))
    _console().print(phases)
    for line in _plan_lines(plan, recipe):
        print_line(line)


def _plan_lines(plan: Mapping[str, Any], recipe: str) -> list[str]:
    lengths, times = plan["lengths"], plan["times"]
    lines = [
        f"{counted(lengths['images'], 'training image')} x {lengths['captions_per_image']:.1f} captions, "
        f"{lengths['mean_tokens']} tokens an image (longest {lengths['longest_tokens']})",
        f"Features, cut at {plan['cut']}: {_gb(plan['cache_bytes'])} GB on disk",
        *(f"Assumed: {one}" for one in lengths["assumed"]),
    ]
    if not plan["pinned"]:
        kept = "a run keeps the commit that it began with, in its manifest.json and in the adapter"
        here = f", and this is commit {plan['revision']}" if plan["revision"] else ""
        lines.append(f"Revision: none is pinned{here}; {kept}")
    if times is None:
        lines.append("Time: not told, for the device is not here to be measured; --gpu-tflops says what it can do")
    else:
        spans = {"features": "cache_s", "an epoch": "epoch_s", "a validation": "validation_s", "the run": "run_s"}
        told = ", ".join(f"{name} {events.duration(times[key])}" for name, key in spans.items())
        changed = " with the change below" if plan["flags"] else ""
        rate = f"{times['matrix_flop_per_s'] / 1e12:.2f} TFLOP/s in a matrix product"
        lines.append(f"Time{changed}, roughly: {told} ({rate})")
    verdict = f"{_gb(plan['peak_bytes'])} GB at the fullest, and {_gb(plan['limit_bytes'])} GB is {plan['limit_of']}"
    if plan["fits"]:
        return [*lines, f"Fits: {verdict}.", *_room(plan["room"]), *_afterwards(plan)]
    if plan["flags"] is None:
        return [*lines, f"Does not fit, and no change of options makes it: {verdict}."]
    return [
        *lines,
        f"Does not fit: {verdict}. The cheapest change that makes it fit, at {_gb(plan['changed_peak_bytes'])} GB "
        f"with {counted(plan['images_at_once'], 'image')} at once:",
        f"  {program()} train {recipe} {' '.join(plan['flags'])}",
        *(f"  note: {caution}" for caution in plan["cautions"]),
        *_afterwards(plan),
    ]


def _room(room: Mapping[str, Any] | None) -> list[str]:
    if room is None:
        return []
    more, peak = " ".join(room["flags"]), _gb(room["peak_bytes"])
    return [f"Room for more at once, which keeps a fast card busier in steps that stay the same: {more} ({peak} GB)."]


def _afterwards(plan: Mapping[str, Any]) -> list[str]:
    """What is told when the model that was trained in halves is too large as a whole."""
    if plan["captioning_bytes"] <= plan["limit_bytes"]:
        return []
    precision = plan["captioning_precision"]
    coarser = f", or caption with --precision {precision}" if precision else ""
    return [
        f"Captioning afterwards takes the whole model at once, {_gb(plan['captioning_bytes'])} GB: more than there is. "
        f"Give evaluate and caption --device cpu, which is slow{coarser}."
    ]


def _gb(count: float) -> str:
    return f"{count / 1e9:,.2f}"


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
        return f"{_from_here(Path(sys.executable))} -m captioncrafter"
    return _from_here(script)


def _from_here(path: Path) -> str:
    """The path as a shell takes it, short where it leads into the current folder."""
    inside = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return shlex.quote(str(inside) if len(inside.parts) > 1 else f"./{inside}")


def _cell(measured: Mapping[str, float] | None) -> str:
    if measured is None:
        return ""
    value, low, high = (f"{100 * measured[key]:.1f}" for key in ("value", "low", "high"))
    return f"{value}  [{low}, {high}]"


def _console() -> Console:
    return Console(markup=False, highlight=False)
