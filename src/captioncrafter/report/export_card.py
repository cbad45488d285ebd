"""The card of what is exported: an adapter's own, or that of a merged model, made of the adapter's.

What stands in an adapter's README, by `write_card` or by hand, goes on to the merged model's: scores, limits, licence.
"""

from pathlib import Path
from typing import Any

from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.recipe import Decoding
from captioncrafter.report.card import code, generate_arguments, use, with_base
from captioncrafter.report.card_metadata import TASK, public_name

README = "README.md"

_TAGS = ["image-captioning", "blip-2", "captioncrafter"]
_USE_MERGED = """\
With CaptionCrafter, prompt and decoding come along in `captioning.json`:

```bash
captioncrafter caption photo.jpg --base path/to/this/folder
```

With transformers alone:

```python
import torch
from PIL import Image
from transformers import Blip2ForConditionalGeneration, Blip2Processor

folder = "path/to/this/folder"
processor = Blip2Processor.from_pretrained(folder)
model = Blip2ForConditionalGeneration.from_pretrained(folder, dtype=torch.{dtype}).eval()
inputs = processor(images=Image.open("photo.jpg").convert("RGB"), text={prompt!r}, return_tensors="pt")
tokens = model.generate(**inputs.to(model.dtype), {decoding})
print(processor.decode(tokens[0], skip_special_tokens=True).strip())
```"""


def plain_adapter_card(base: Checkpoint, *, prompt: str, decoding: Decoding, dtype: str) -> str:
    """The card of an adapter that came without one: how to use it, and that nothing else is known."""
    return _joined(
        _metadata(base, {}, merged=False),
        "# Image captioning adapter",
        f"A LoRA adapter for {code(public_name(base))}. It came to CaptionCrafter without a card: what it was tuned "
        "on, and under which licence it may be used, is not known here.",
        *use(base, prompt=prompt, decoding=decoding, dtype=dtype),
    )


def renamed_base(card: str, before: str, base: Checkpoint) -> str:
    """An adapter's card with another name for its base, which was called `before` (nothing where nobody named it)."""
    data, text = _parts(card)
    # A card calls a base of the hub by its name, and a folder by the last part of its path.
    for old in {before, Path(before).name} - {""}:
        text = text.replace(code(old), code(public_name(base)))
    return _joined(_metadata(base, data, merged=False), with_base(text, base))


def merged_card(card: str | None, base: Checkpoint, *, prompt: str, decoding: Decoding, dtype: str) -> str:
    """The card of `base` with an adapter in its weights; `card` is the adapter's, None where it has none."""
    data, text = _parts(card or "")
    told, sections = _sections(text)
    rounded = (
        f"Taken with the adapter beside its base, before merging rounded the weights to {dtype}: single captions can "
        "differ.\n\n"
    )
    return _joined(
        _metadata(base, data, merged=True),
        "# Image captioning model",
        f"{code(public_name(base))} with a LoRA adapter merged into its weights by CaptionCrafter, in {dtype}.",
        "## Use",
        _USE_MERGED.format(dtype=dtype, prompt=prompt, decoding=generate_arguments(decoding)),
        *(["## The adapter", told] if told else []),
        *(
            f"## {title}\n\n{rounded if title == 'Scores' and '|' in body else ''}{body}"
            for title, body in sections
            if title != "Use"
        ),
    )


def _parts(card: str) -> tuple[dict[str, Any], str]:
    """The metadata and the text of a card; no metadata where there is none that can be read."""
    from huggingface_hub import ModelCard

    try:
        read = ModelCard(card, ignore_metadata_errors=True)
        return read.data.to_dict(), read.text.strip()
    except (ValueError, TypeError):
        return {}, card.strip()


def _metadata(base: Checkpoint, known: dict[str, Any], *, merged: bool) -> str:
    """What the adapter's card says, with this base; for a merged model as of a whole model of transformers."""
    from huggingface_hub import ModelCardData

    tags = [tag for tag in known.get("tags") or _TAGS if not (merged and tag == "lora")]
    kept = {name: value for name, value in known.items() if not name.startswith("base_model")}
    kept |= {"tags": tags, "pipeline_tag": kept.get("pipeline_tag", TASK)}
    kept["library_name"] = "transformers" if merged else "peft"
    if base.on_hub:
        kept |= {"base_model": base.name, "base_model_relation": "finetune" if merged else "adapter"}
    return f"---\n{ModelCardData(**kept).to_yaml()}\n---"


def _sections(text: str) -> tuple[str, list[tuple[str, str]]]:
    """What stands before the first section, without the title, and each section by its own title."""
    blocks: list[tuple[str, list[str]]] = [("", [])]
    in_code = False
    for line in text.split("\n"):
        in_code ^= line.startswith("```")
        if line.startswith("## ") and not in_code:
            blocks.append((line.removeprefix("## ").strip(), []))
        elif not (line.startswith("# ") and len(blocks) == 1 and not in_code):
            blocks[-1][1].append(line)
    (_, first), *others = blocks
    return "\n".join(first).strip(), [(title, "\n".join(lines).strip()) for title, lines in others]


def _joined(*sections: str) -> str:
    return "\n\n".join(sections) + "\n"
