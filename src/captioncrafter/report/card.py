"""The adapter's README: a Hugging Face model card that says what it is, how to use it, and what it scores.

It is published, so it holds no path of its writer's machine, and whatever a folder, a base or a prompt is called stays
a name in it: never markup, never another field of the metadata.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captioncrafter import storage
from captioncrafter.errors import counted
from captioncrafter.generation.decode import generate_options
from captioncrafter.model.checkpoint import Checkpoint, bundled
from captioncrafter.recipe import Decoding, Recipe
from captioncrafter.report.card_metadata import Origin, comparable, metadata, one_line, public_name
from captioncrafter.report.content import hundredfold, in_order, number
from captioncrafter.report.findings import sentences

_IMPORT = "import importlib.resources\n\n"
_USE = """\
```python
{imports}import torch
from peft import PeftModel
from PIL import Image
from transformers import Blip2ForConditionalGeneration, Blip2Processor

base = {base}
processor = Blip2Processor.from_pretrained(base{revision})
model = Blip2ForConditionalGeneration.from_pretrained(base{revision}, dtype=torch.{dtype})
model = PeftModel.from_pretrained(model, "path/to/this/folder").eval()
inputs = processor(images=Image.open("photo.jpg").convert("RGB"), text={prompt!r}, return_tensors="pt")
tokens = model.generate(**inputs.to(model.dtype), {decoding})
print(processor.decode(tokens[0], skip_special_tokens=True).strip())
```"""

_USE_OURS = """\
With CaptionCrafter, prompt and decoding come along in `captioning.json`:

```bash
captioncrafter caption photo.jpg --adapter path/to/this/folder
```

or, in Python:

```python
from captioncrafter import Captioner

print(Captioner.load(adapter="path/to/this/folder").caption(["photo.jpg"]))
```"""


def write_card(
    adapter: Path,
    base: Checkpoint,
    options: Recipe,
    precision: str,
    *,
    scores: Mapping[str, Any] | None = None,
    base_scores: Mapping[str, Any] | None = None,
) -> None:
    """Writes README.md into the folder `adapter`.

    `precision` is the dtype it was trained over. `scores` are the content of `scores.json` once the adapter was
    evaluated, `base_scores` the base's own on the same images.
    """
    origin = Origin.of(options.data)
    sections = [
        metadata(base, origin, scores),
        "# Image captioning adapter",
        f"A LoRA adapter (rank {options.lora.rank}, alpha {options.lora.alpha:g}) for {code(public_name(base))}, "
        f"tuned with CaptionCrafter on {_named(origin, options)}. Where: {code(options.lora.in_words)}.",
        *use(base, prompt=options.model.prompt, decoding=options.decoding, dtype=precision),
        "## Scores",
        _scores(scores, base_scores) if scores else "Not evaluated yet: `captioncrafter evaluate --run RUN` does it.",
        "## Limits",
        *_limits(scores),
        "## Licence",
        _licence(base, origin, options),
    ]
    storage.write_text(adapter / "README.md", "\n\n".join(sections) + "\n")


def use(base: Checkpoint, *, prompt: str, decoding: Decoding, dtype: str) -> list[str]:
    """The section on how to load the adapter, with CaptionCrafter and without."""
    stock = _USE.format(**_naming(base), dtype=dtype, prompt=prompt, decoding=generate_arguments(decoding))
    return ["## Use", _USE_OURS, "With transformers and PEFT alone:", stock]


def with_base(text: str, base: Checkpoint) -> str:
    """A card's text whose code loads `base` in place of the base that it names; all else stays."""
    names = _naming(base)
    text = re.sub(r"^base = .*$", lambda _: f"base = {names['base']}", text, flags=re.MULTILINE)
    text = re.sub(r"(from_pretrained\(base)(, revision='[^']*')?", lambda of: of[1] + names["revision"], text)
    return re.sub(r"^import torch$", f"{names['imports']}import torch", text.replace(_IMPORT, ""), flags=re.MULTILINE)


def _naming(base: Checkpoint) -> dict[str, str]:
    """What `_USE` says of the base."""
    return {
        "base": _loadable(base),
        "revision": f", revision={base.revision!r}" if base.revision else "",
        "imports": _IMPORT if base.name in bundled() else "",
    }


def _named(origin: Origin, options: Recipe) -> str:
    return origin.name if options.data.path is None else code(origin.name)


def _loadable(base: Checkpoint) -> str:
    """What stands for the base in the code: its hub name, where the package keeps it, or its folder's name alone."""
    if base.on_hub:
        return repr(base.name)
    if base.name in bundled():
        return f'str(importlib.resources.files("captioncrafter") / "assets" / {base.name!r})'
    return repr(f"path/to/{public_name(base)}")


def code(text: str) -> str:
    """The text as a code span, in which nothing is markup; its fence is longer than any run of backticks in it."""
    shown = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    room = " " if "`" in shown else ""
    return f"{fence}{room}{shown}{room}{fence}"


def generate_arguments(decoding: Decoding) -> str:
    """Length and beam width, then whatever else of the decoding is not the usual, as `generate` takes it."""
    usual = generate_options(Decoding())
    chosen = {
        name: value
        for name, value in generate_options(decoding).items()
        if name in ("max_new_tokens", "num_beams") or value != usual.get(name)
    }
    return ", ".join(f"{name}={value!r}" for name, value in chosen.items())


def _scores(scores: Mapping[str, Any], base_scores: Mapping[str, Any] | None) -> str:
    """A table of the metrics × 100 with their intervals, under the protocol."""
    columns = [scores["metrics"]] + ([base_scores["metrics"]] if base_scores else [])
    head = ["metric", "this adapter"] + (["base model"] if base_scores else [])
    rows = [
        f"| {_words(metric)} | " + " | ".join(_cell(column.get(metric)) for column in columns) + " |"
        for metric in in_order(scores["metrics"])
    ]
    table = "\n".join(["| " + " | ".join(head) + " |", "|---|" + "---|" * len(columns), *rows])
    in_head = "" if comparable(scores) else "\n\nThey are not in this card's metadata: see the limits below."
    return f"{_protocol(scores)}\n\n{table}{in_head}"


def _protocol(scores: Mapping[str, Any]) -> str:
    """How the scores were taken, in sentences: images, references, prompt, decoding, scorers, intervals."""
    split = f" of the {_words(scores['split'])} split" if "split" in scores else ""
    decoding, scorer = scores["decoding"], scores.get("scorer", {})
    resamples, references = scorer.get("bootstrap_resamples"), scores["references_per_image"]
    told = [
        f"coco-caption's metrics × 100 on {counted(scores['images'], 'image')}{split}, "
        f"{references} reference{'' if references == 1 else 's'} an image, beam width {decoding['num_beams']}; in "
        "brackets the 95 % bootstrap interval over images"
        + (f" ({number(resamples)} resamples)." if resamples else "."),
    ]
    if "prompt" in scores:
        told.append(f"Prompt: {code(scores['prompt'])}.")
    versions = [f"{name} {scorer[name]}" for name in ("pycocoevalcap", "METEOR", "PTB tokenizer") if name in scorer]
    if versions:
        told.append(f"Scorers: {', '.join(map(_words, versions))}.")
    if "document_frequencies" in scorer:
        own = scorer["document_frequencies"] == "evaluated references"
        told.append(f"CIDEr's document frequencies are those of {'the evaluated' if own else 'other'} references.")
    if "precision" in scores:
        told.append(f"Captions were generated in {_words(scores['precision'])}.")
    return " ".join(told)


def _words(text: str) -> str:
    """Words of a table or a sentence, in which nothing is markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", one_line(text))


def _cell(measured: Mapping[str, float] | None) -> str:
    if measured is None:
        return ""
    value, low, high = (hundredfold(measured[key]) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _limits(scores: Mapping[str, Any] | None) -> list[str]:
    """What holds for every such adapter, then what the evaluation found."""
    found = sentences(scores) if scores else []
    general = (
        "It describes images like those it was tuned on, and can be wrong on any of them: it may name what is not "
        "there, miscount, or guess a person's sex, age or occupation. What it learned it owes to the base model and to "
        "the captions of its training data, whose biases are its own. Do not rely on it where a wrong caption harms."
    )
    return [general, *(["\n".join(f"- {_words(sentence)}" for sentence in found)] if found else [])]


def _licence(base: Checkpoint, origin: Origin, options: Recipe) -> str:
    """Why the metadata states none, and what whoever publishes the adapter has to look at."""
    data = (
        "Its training data were drawn by CaptionCrafter."
        if options.data.path is None
        else f"Of its training data {code(origin.name)} this is known: {_words(origin.licence)}"
        if origin.licence
        else f"The licence of its training data, {code(origin.name)}, is not known to CaptionCrafter."
    )
    missing = [
        name
        for name, stated in (
            ("license", False),
            ("language", origin.language),
            ("datasets", origin.dataset or options.data.path is None),
        )
        if not stated
    ]
    return (
        "The metadata states no licence: whoever publishes the adapter chooses one, within what the licences of the "
        f"base model {code(public_name(base))} and of the training data allow. {data} "
        f"To be added to the metadata by hand where they are known: {', '.join(f'`{name}`' for name in missing)}."
    )
