"""The command line: one verb a stage, results on stdout, everything else on stderr, one message per failure.

Ends 0 (done), 1 (failed), 2 (wrong usage or input), 3 (done, but some items were set aside), 130/143 (stopped).
Imports torch and transformers only once a verb is at work, so that `--help` answers at once.
"""

import functools
import operator
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import ValidationError
from tyro.conf import AvoidSubcommands, Positional, arg, subcommand

from captioncrafter import __version__, events, recipe
from captioncrafter.errors import CaptionCrafterError, InputError

Text = Annotated[str | None, arg(metavar="TEXT")]
Folder = Annotated[Path | None, arg(metavar="FOLDER")]
File = Annotated[Path | None, arg(metavar="FILE")]
Count = Annotated[int | None, arg(metavar="N")]
Number = Annotated[float | None, arg(metavar="X")]
Json = Annotated[bool, arg(name="json", help="Print one JSON object on stdout instead of tables.")]


@dataclass(frozen=True)
class Quickstart:
    """Fine-tune the embedded miniature on drawn scenes, compare before and after, caption images, write a report.

    Needs no network and no data; takes about two minutes on two CPU cores.
    """

    out: Path = Path("quickstart")
    """Folder for the run; an older quick start there is replaced."""
    json: Json = False


@dataclass(frozen=True)
class Prepare:
    """Read captioned images in any known layout, check every one, write a dataset folder with its audit."""

    source: Positional[Path]
    """Folder (or captions file) of the captioned images."""
    out: Path
    """Dataset folder to write; a Hugging Face dataset that load_from_disk reads."""
    layout: str | None = None
    """How SOURCE is laid out; found by looking when left out."""
    seed: int = 0
    """Decides the splits where SOURCE brings none."""
    overwrite: bool = False
    """Replace a dataset folder that is already there."""
    json: Json = False


@dataclass(frozen=True)
class Train:
    """Fine-tune an adapter as RECIPE says: a bundled recipe's name or a TOML file; options override it."""

    recipe: Positional[str]
    """Bundled recipe or TOML file."""
    out: Path | None = None
    """Run folder; runs/RECIPE by default."""
    resume: bool = False
    """Go on with the run in the run folder."""
    json: Json = False
    options: Annotated[AvoidSubcommands[recipe.Recipe], arg(name="")] = recipe.Recipe()


@dataclass(frozen=True)
class Evaluate:
    """Score captions as coco-caption does: a predictions file, or a run (which captions a split first)."""

    predictions: Positional[Path | None] = None
    """Predictions: JSON lines or COCO results."""
    references: Path | None = None
    """References: JSON lines, COCO annotations or a dataset folder."""
    run: Path | None = None
    """A run folder, instead of PREDICTIONS: caption a split with its adapter, score, rewrite its report."""
    split: Literal["train", "validation", "test"] | None = None
    """The split to caption or to take references from; test where there is one, else validation."""
    base: bool = False
    """With --run: caption and score the base model too, without the adapter."""
    allow_partial: bool = False
    """Score the images that predictions and references share, and say so."""
    out: Path | None = None
    """With PREDICTIONS: write scores.json and image_scores.jsonl into this folder."""
    json: Json = False


@dataclass(frozen=True)
class Caption:
    """Caption image files, folders or globs; one JSON line each on stdout, or in a file that can be gone on with."""

    images: Positional[tuple[str, ...]]
    """Files, folders (searched through) or glob patterns."""
    adapter: Path | None = None
    """Adapter folder; without one the base captions."""
    base: str | None = None
    """Hub name, folder or bundled name; the adapter's base by default, else the embedded miniature."""
    revision: str | None = None
    """Commit of a hub checkpoint."""
    prompt: str | None = None
    """Text after the image; the adapter's by default."""
    out: Path | None = None
    """Write JSON lines here; images already in it are not captioned again."""
    sidecar: bool = False
    """Write each caption beside its image, as NAME.txt."""
    precision: recipe.Precision | None = None
    """Arithmetic of the weights."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    merge: bool = False
    """Add the adapter into the base's weights: faster, with other rounding."""
    num_beams: int | None = None
    """Beam width; 1 is greedy."""
    max_new_tokens: int | None = None
    """Longest caption, in tokens."""
    sample: bool = False
    """Draw tokens instead of searching for the likeliest caption."""
    temperature: float | None = None
    """Sharpness of sampling."""
    top_p: float | None = None
    """Sample among the likeliest tokens that hold this probability."""
    seed: int | None = None
    """What sampling draws."""
    images_per_batch: int | None = None
    """Images captioned at once."""


@dataclass(frozen=True)
class Report:
    """Rebuild a run's report.html, with other runs beside it."""

    runs: Positional[tuple[Path, ...]]
    """Run folders; the page is about the first."""
    out: Path | None = None
    """Where the page goes; into the first run by default."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and ends the process with its status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        status = _run(_parse([word for word in given if word != "--debug"]))
    except CaptionCrafterError as error:
        if debug:
            traceback.print_exc()
        events.fail(str(error))
        status = error.exit_code
    except KeyboardInterrupt:
        events.fail("interrupted")
        status = 130
    sys.exit(status)


def _parse(given: list[str]) -> Any:
    """The command that the words ask for; tyro ends the process itself for `--help` and for wrong usage."""
    if given == ["--version"]:
        sys.stdout.write(f"captioncrafter {__version__}\n")
        sys.exit(0)
    train = _train_defaults(given)
    try:
        command = tyro.cli(
            _commands(train),
            args=given or ["--help"],
            prog="captioncrafter",
            description="Teach BLIP-2 to caption your images. "
            "--version tells the version; --debug, after any command, shows the traceback of an error.",
        )
    except ValidationError as error:
        raise InputError(recipe.explain(error, source="command line")) from None
    if isinstance(command, Train) and command.recipe != train.recipe:
        raise InputError(f"RECIPE comes first: captioncrafter train {command.recipe} …")
    return command


def _train_defaults(given: list[str]) -> Train:
    """What `train RECIPE` starts from, so that its `--help` shows that recipe and options override it."""
    named = len(given) > 1 and given[0] == "train" and not given[1].startswith("-")
    return Train(given[1], options=recipe.load(given[1])) if named else Train("")


def _commands(train: Train) -> Any:
    commands = (
        Annotated[Quickstart, subcommand("quickstart")],
        Annotated[Prepare, subcommand("prepare")],
        Annotated[Train, subcommand("train", default=train)] if train.recipe else Annotated[Train, subcommand("train")],
        Annotated[Evaluate, subcommand("evaluate")],
        Annotated[Caption, subcommand("caption")],
        Annotated[Report, subcommand("report")],
    )
    return functools.reduce(operator.or_, commands)


def _run(command: Any) -> int:
    match command:
        case Prepare():
            return _prepare(command)
        case Train():
            return _train(command)
    return 0


def _train(command):
    print(command)
    return 0
