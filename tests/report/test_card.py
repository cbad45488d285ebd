"""The adapter's model card: metadata that Hugging Face reads, and code that runs as it stands."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from captioncrafter.generation.captioner import Captioner, write_captioning
from captioncrafter.model import lora
from captioncrafter.model.checkpoint import Checkpoint
from captioncrafter.recipe import Recipe
from captioncrafter.report.card import write_card
from tiny import load_tiny, picture

HUB = Checkpoint("Salesforce/blip2-flan-t5-xl", None, Path("unused"), on_hub=True)
SCORES = {
    "images": 1000,
    "references_per_image": 5,
    "split": "test",
    "decoding": {"num_beams": 5},
    "metrics": {
        "BLEU-4": {"value": 0.36821, "low": 0.35, "high": 0.38},
        "CIDEr": {"value": 1.0784, "low": 1.03, "high": 1.12},
    },
}


def card(folder: Path, base: Checkpoint = HUB, scores: Any = None, base_scores: Any = None, **sections: Any) -> str:
    options = Recipe.model_validate(sections)
    write_card(folder, base, options, "bfloat16", scores=scores, base_scores=base_scores)
    return (folder / "README.md").read_text(encoding="utf-8")


def code_of(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return code


@pytest.mark.parametrize("decoding", [{"num_beams": 1}, {"num_beams": 3, "length_penalty": 2.0}])
def test_the_code_of_the_card_captions_as_the_captioner_does(
    decoding: dict[str, Any], tiny_checkpoint: Path, tmp_path: Path
):
    base, _, model = load_tiny(tiny_checkpoint)
    options = Recipe.model_validate({"decoding": decoding | {"max_new_tokens": 6}})
    adapter, photo = tmp_path / "adapter", tmp_path / "picture.png"
    tuned = lora.attach(model, options.lora, seed=0)
    for name, parameter in lora.trainable(tuned).items():
        if ".lora_B." in name:
            parameter.data.normal_(std=0.5, generator=torch.Generator().manual_seed(2))
    lora.save_adapter(tuned, base, adapter)
    write_captioning(adapter, base, prompt="a photo of", decoding=options.decoding, precision="fp32")
    write_card(adapter, base, options, "float32")
    photo.write_bytes(picture(3))
    code = code_of((adapter / "README.md").read_text(encoding="utf-8"))
    code = code.replace("path/to/this/folder", str(adapter)).replace("photo.jpg", str(photo))

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})

    (expected,) = Captioner.load(adapter=adapter, device="cpu").caption([Image.open(photo)])
    assert expected
    assert printed.getvalue().strip() == expected


def test_hugging_face_reads_the_metadata(tmp_path: Path):
    card(tmp_path)

    data = ModelCard.load(tmp_path / "README.md").data.to_dict()

    assert data == {
        "base_model": "Salesforce/blip2-flan-t5-xl",
        "library_name": "peft",
        "pipeline_tag": "image-to-text",
        "tags": ["image-captioning", "blip-2", "lora"],
    }


def test_a_base_that_is_not_on_the_hub_is_not_named_to_it(tmp_path: Path):
    card(tmp_path, Checkpoint("my/blip2", None, tmp_path))

    assert ModelCard.load(tmp_path / "README.md").data.base_model is None


def test_a_pinned_revision_is_loaded(tmp_path: Path):
    pinned = Checkpoint(HUB.name, "0eb0d3b", Path("unused"), on_hub=True)

    assert code_of(card(tmp_path, pinned)).count("base, revision='0eb0d3b'") == 2


def test_usual_decoding_is_not_spelled_out(tmp_path: Path):
    assert "max_new_tokens=30, num_beams=5)" in code_of(card(tmp_path))


def test_decoding_that_changes_captions_is_spelled_out(tmp_path: Path):
    decoding = {"length_penalty": 0.5, "no_repeat_ngram_size": 3, "repetition_penalty": 1.2}

    code = code_of(card(tmp_path, decoding=decoding))

    assert all(f"{name}={value}" in code for name, value in decoding.items())


def test_sampling_is_spelled_out(tmp_path: Path):
    code = code_of(card(tmp_path, decoding={"sample": True, "num_beams": 1, "top_p": 0.9}))

    assert "do_sample=True, temperature=1.0, top_p=0.9, top_k=0" in code


def test_a_prompt_with_quotes_is_still_python(tmp_path: Path):
    code = code_of(card(tmp_path, model={"prompt": 'what\'s "this"? '}))

    compile(code, "card", "exec")
    assert repr('what\'s "this"? ') in code


def test_scores_are_shown_times_100_with_their_intervals(tmp_path: Path):
    text = card(tmp_path, scores=SCORES)

    assert "| BLEU-4 | 36.8 [35.0, 38.0] |" in text
    assert "| CIDEr | 107.8 [103.0, 112.0] |" in text
    assert "on 1,000 images of the test split, 5 references an image, beam width 5" in text


def test_the_bases_scores_stand_beside_them(tmp_path: Path):
    base = SCORES | {"metrics": {"CIDEr": {"value": 0.95, "low": 0.9, "high": 0.99}}}

    text = card(tmp_path, scores=SCORES, base_scores=base)

    assert "| CIDEr | 107.8 [103.0, 112.0] | 95.0 [90.0, 99.0] |" in text
    assert "| BLEU-4 | 36.8 [35.0, 38.0] |  |" in text


def test_an_adapter_that_was_not_evaluated_says_so(tmp_path: Path):
    assert "Not evaluated yet" in card(tmp_path)


def test_the_folders_above_the_data_are_not_published(tmp_path: Path):
    text = card(tmp_path, data={"path": "/home/somebody/secret/flickr8k"})

    assert "`flickr8k`" in text
    assert "somebody" not in text
