"""What stands in an adapter's card stands in the merged model's, too, and whatever no longer holds does not."""

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.recipe import Decoding
from captioncrafter.report.card_metadata import public_name
from captioncrafter.report.export_card import merged_card, plain_adapter_card, renamed_base

HUB = Checkpoint("Salesforce/blip2-flan-t5-xl", "abc", Path("unused"), on_hub=True)
OTHER = Checkpoint("someone/copy", "def", Path("unused"), on_hub=True)
FOLDER = Checkpoint("/data/blip2", None, Path("unused"))
MINIATURE = Checkpoint("miniature", None, Path("unused"))
CARD = """\
---
base_model: other/name
base_model_relation: adapter
license: mit
library_name: peft
pipeline_tag: image-to-text
tags:
- image-captioning
- lora
- mine
model-index:
- name: blip2, LoRA on Flickr8k
  results:
  - task:
      type: image-to-text
      name: Image captioning
    dataset:
      type: flickr8k
      name: Flickr8k
    metrics:
    - type: cider
      value: 107.8
      name: CIDEr
---

# Image captioning adapter

A LoRA adapter for `blip2`, tuned on beaches.

## Use

```python
## this is a comment
base = 'path/to/blip2'
model = Blip2ForConditionalGeneration.from_pretrained(base, dtype=torch.bfloat16)
```

## Scores

| metric | this adapter |
|---|---|
| CIDEr | 107.8 |

## My notes

Beaches only.
"""


def merged(card: str | None, base: Checkpoint = HUB) -> ModelCard:
    return ModelCard(merged_card(card, base, prompt="a photo of", decoding=Decoding(), dtype="bfloat16"))


def test_metadata_of_a_merged_model_is_that_of_a_whole_model_with_what_was_known_of_the_adapter():
    data = merged(CARD).data.to_dict()

    assert (data["library_name"], data["base_model_relation"], data["base_model"]) == (
        "transformers",
        "finetune",
        "Salesforce/blip2-flan-t5-xl",
    )
    assert data["license"] == "mit"
    assert data["tags"] == ["image-captioning", "mine"]
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"] == 107.8


def test_sections_written_by_hand_stay_and_the_adapters_use_goes():
    text = merged(CARD).text

    assert "A LoRA adapter for `blip2`, tuned on beaches." in text
    assert "## My notes\n\nBeaches only." in text
    assert text.count("## Use") == 1
    assert "PeftModel" not in text
    assert "path/to/blip2" not in text


def test_scores_taken_before_merging_are_called_that():
    assert "## Scores\n\nTaken with the adapter beside its base, before merging rounded the weights to bfloat16" in (
        merged(CARD).text
    )


def test_an_adapter_without_a_card_gives_a_model_with_one():
    text = merged(None).text

    assert "captioncrafter caption photo.jpg --base path/to/this/folder" in text
    assert "## Scores" not in text


def test_a_base_in_a_folder_is_named_without_its_path():
    card = merged_card(CARD, FOLDER, prompt="a photo of", decoding=Decoding(), dtype="bfloat16")

    assert "/data/blip2" not in card
    assert "base_model" not in ModelCard(card).data.to_dict()


def test_another_name_for_the_base_stands_wherever_the_old_one_did():
    card = ModelCard(renamed_base(CARD, "/data/blip2", HUB))

    assert card.data.to_dict()["base_model"] == "Salesforce/blip2-flan-t5-xl"
    assert "base = 'Salesforce/blip2-flan-t5-xl'" in card.text
    assert "from_pretrained(base, revision='abc', dtype=torch.bfloat16)" in card.text
    assert "adapter for `Salesforce/blip2-flan-t5-xl`, tuned on beaches" in card.text
    assert "## My notes" in card.text


@pytest.mark.parametrize("before", [HUB, FOLDER, MINIATURE])
@pytest.mark.parametrize("after", [OTHER, FOLDER, MINIATURE])
def test_the_code_of_a_renamed_card_is_that_of_the_new_base(before: Checkpoint, after: Checkpoint):
    def card(base: Checkpoint) -> str:
        return plain_adapter_card(base, prompt="a photo of", decoding=Decoding(), dtype="bfloat16")

    renamed = renamed_base(card(before), before.name, after)

    assert code_of(renamed) == code_of(card(after))
    assert f"A LoRA adapter for `{public_name(after)}`." in renamed


def test_a_card_whose_adapter_named_no_base_keeps_its_fences():
    renamed = renamed_base(CARD, "", HUB)

    assert re.findall("`{2,}.*", renamed) == re.findall("`{2,}.*", CARD)


def code_of(card: str) -> str:
    """The lines for transformers and PEFT alone."""
    (block,) = [text for text in re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE) if "peft" in text]
    return block


def test_a_card_whose_head_cannot_be_read_keeps_its_text():
    text = merged("---\n- a list\n---\n\n## My notes\n\nBeaches only.\n").text

    assert "Beaches only." in text


def test_an_adapter_of_others_gets_a_card_that_claims_nothing():
    card = ModelCard(plain_adapter_card(HUB, prompt="a photo of", decoding=Decoding(), dtype="bfloat16"))

    assert "is not known here" in card.text
    assert "license" not in card.data.to_dict()
