"""The adapter's README: a Hugging Face model card that says what it is, how to use it, and what it scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captioncrafter import runs
from captioncrafter.generation.decode import generate_options
from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.recipe import Decoding, Recipe
from captioncrafter.report.content import hundredfold

_USE = """\
```python
import torch
from peft import PeftModel
from PIL import Image
from transformers import Blip2ForConditionalGeneration, Blip2Processor

base = {base!r}
processor = Blip2Processor.from_pretrained(base{revision})
model = Blip2ForConditionalGeneration.from_pretrained(base{revision}, dtype=torch.{dtype})
model = PeftModel.from_pretrained(model, "path/to/this/folder").eval()
inputs = processor(images=Image.open("photo.jpg").convert("RGB"), text={prompt!r}, return_tensors="pt")
tokens = model.generate(**inputs.to(model.dtype), {decoding})
print(processor.decode(tokens[0], skip_special_tokens=True).strip())
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
    use = _USE.format(
        base=base.loadable_name,
        revision=f", revision={base.revision!r}" if base.revision else "",
        dtype=precision,
        prompt=options.model.prompt,
        decoding=_generate_arguments(options.decoding),
    )
    sections = [
        _metadata(base),
        "# Image captioning adapter",
        f"A LoRA adapter (rank {options.lora.rank}, alpha {options.lora.alpha:g}) for `{base.name}`, tuned with "
        f"CaptionCrafter on {_data(options)}. Where: {options.lora.in_words}.",
        "## Use",
        "With CaptionCrafter: `captioncrafter caption photo.jpg --adapter path/to/this/folder`. Prompt and decoding "
        "come along in `captioning.json`. With transformers and PEFT alone:",
        use,
        "## Scores",
        _scores(scores, base_scores) if scores else "Not evaluated yet: `captioncrafter evaluate --run RUN` does it.",
        "## Limits",
        "It describes images like those it was tuned on, and can be wrong on any of them. What it learned it owes to "
        "the base model and to the captions of its training data: their licences and their biases apply here too.",
    ]
    runs.write_text(adapter / "README.md", "\n\n".join(sections) + "\n")


def _metadata(base: Checkpoint) -> str:
    named = [f"base_model: {base.name}"] if base.on_hub else []
    lines = ["---", *named, "library_name: peft", "pipeline_tag: image-to-text"]
    return "\n".join([*lines, "tags:", "- image-captioning", "- blip-2", "- lora", "---"])


def _data(options: Recipe) -> str:
    """What it was tuned on; of a folder only the name, for a card is published and a path is its writer's own."""
    return f"`{Path(options.data.path).name}`" if options.data.path else "drawn scenes"


def _generate_arguments(decoding: Decoding) -> str:
    """Length and beam width, then whatever else of the decoding is not the usual, as `generate` takes it."""
    usual = generate_options(Decoding())
    chosen = {
        name: value
        for name, value in generate_options(decoding).items()
        if name in ("max_new_tokens", "num_beams") or value != usual.get(name)
    }
    return ", ".join(f"{name}={value!r}" for name, value in chosen.items())


def _scores(scores: Mapping[str, Any], base_scores: Mapping[str, Any] | None) -> str:
    """A table of the metrics × 100 with their intervals, under the protocol in one sentence."""
    columns = [scores["metrics"]] + ([base_scores["metrics"]] if base_scores else [])
    head = ["metric", "this adapter"] + (["base model"] if base_scores else [])
    rows = [
        f"| {metric} | " + " | ".join(_cell(column.get(metric)) for column in columns) + " |"
        for metric in scores["metrics"]
    ]
    table = "\n".join(["| " + " | ".join(head) + " |", "|---|" + "---|" * len(columns), *rows])
    split = f" of the {scores['split']} split" if "split" in scores else ""
    return (
        f"coco-caption's metrics × 100 on {scores['images']:,} images{split}, {scores['references_per_image']} "
        f"references an image, beam width {scores['decoding']['num_beams']}; in brackets the 95 % bootstrap interval "
        "over images.\n\n" + table
    )


def _cell(measured: Mapping[str, float] | None) -> str:
    if measured is None:
        return ""
    value, low, high = (hundredfold(measured[key]) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
