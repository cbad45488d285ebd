"""The adapter's model card: metadata that Hugging Face reads, and code that runs as it stands."""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image

from captioncrafter.generation.captioner import Captioner, write_captioning
from captioncrafter.model import checkpoint, lora
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
    """The code for transformers and PEFT alone."""
    _, code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
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
    code = code.replace(f"path/to/{tiny_checkpoint.name}", str(tiny_checkpoint))

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})

    (expected,) = Captioner.load(adapter=adapter, device="cpu").caption([Image.open(photo)])
    assert expected
    assert printed.getvalue().strip() == expected


def metadata(folder: Path) -> Any:
    return ModelCard.load(folder / "README.md").data


def test_the_code_of_the_card_for_captioncrafter_captions_too(tiny_checkpoint: Path, tmp_path: Path, photos: Path):
    base, _, model = load_tiny(tiny_checkpoint)
    tuned = lora.attach(model, Recipe().lora, seed=0)
    lora.save_adapter(tuned, base, tmp_path / "adapter")
    write_captioning(tmp_path / "adapter", base, prompt="a photo of", decoding=Recipe().decoding, precision="fp32")
    write_card(tmp_path / "adapter", base, Recipe(), "float32")
    code, _ = re.findall(r"```python\n(.*?)```", (tmp_path / "adapter" / "README.md").read_text(), re.DOTALL)
    code = code.replace("path/to/this/folder", str(tmp_path / "adapter")).replace("photo.jpg", str(photos / "0.png"))

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})

    assert printed.getvalue().startswith("['")


def test_hugging_face_reads_the_metadata(tmp_path: Path):
    card(tmp_path)

    assert metadata(tmp_path).to_dict() == {
        "base_model": "Salesforce/blip2-flan-t5-xl",
        "base_model_relation": "adapter",
        "language": "en",
        "library_name": "peft",
        "pipeline_tag": "image-to-text",
        "tags": ["image-captioning", "blip-2", "lora", "captioncrafter"],
    }


def test_hugging_face_reads_the_scores(tmp_path: Path):
    card(tmp_path, scores=SCORES, data={"path": "/data/Flickr8k"})

    data = metadata(tmp_path)

    assert data.model_name == "blip2-flan-t5-xl, LoRA on Flickr8k"
    assert data.metrics == ["bleu", "cider"]
    assert [(one.metric_type, one.metric_name, one.metric_value) for one in data.eval_results] == [
        ("bleu", "BLEU-4", 36.82),
        ("cider", "CIDEr", 107.84),
    ]
    assert {(one.task_type, one.dataset_type, one.dataset_name, one.dataset_split) for one in data.eval_results} == {
        ("image-to-text", "flickr8k", "Flickr8k", "test")
    }


def test_metrics_of_all_kinds_keep_their_names_in_the_metadata(tmp_path: Path):
    names = ["BLEU-1", "METEOR", "ROUGE-L", "CLIPScore", "RefCLIPScore", "SPICE", "exact match", "VQA accuracy"]
    measured = {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in reversed(names)}

    card(tmp_path, scores=SCORES | {"metrics": measured})

    assert [one.metric_name for one in metadata(tmp_path).eval_results] == names


@pytest.mark.parametrize(
    "doubt", [{"partial": {"images_without_prediction": 3}}, {"seen_in_training": {"images": 2, "image_ids": ["a"]}}]
)
def test_scores_in_doubt_are_in_the_text_with_the_doubt_and_not_in_the_metadata(tmp_path: Path, doubt: dict[str, Any]):
    text = card(tmp_path, scores=SCORES | doubt)

    assert metadata(tmp_path).eval_results is None
    assert "| CIDEr | 107.8 [103.0, 112.0] |" in text
    assert "They are not in this card's metadata: see the limits below." in text
    assert "3 images without prediction" in text or "2 of the 1,000 evaluated images were in training" in text


def write_audit(folder: Path, **entries: Any) -> Path:
    folder.mkdir()
    (folder / "audit.json").write_text(json.dumps(entries))
    return folder


def test_a_published_dataset_is_named_and_its_licence_told(tmp_path: Path):
    files = {"Flickr8k.token.txt": "a hash"}
    folder = write_audit(tmp_path / "mine", files=files, licence="For non-commercial research [only].")

    text = card(tmp_path, data={"path": str(folder)})

    assert (metadata(tmp_path).datasets, metadata(tmp_path).language) == (["flickr8k"], "en")
    assert "Of its training data `mine` this is known: For non-commercial research \\[only\\]." in text


def test_of_a_folder_that_nobody_knows_neither_dataset_nor_language_is_claimed(tmp_path: Path):
    text = card(tmp_path, data={"path": str(write_audit(tmp_path / "squad", files={"captions.txt": "a hash"}))})

    assert (metadata(tmp_path).datasets, metadata(tmp_path).language) == (None, None)
    assert "The licence of its training data, `squad`, is not known to CaptionCrafter." in text
    assert text.endswith("where they are known: `license`, `language`, `datasets`.\n")


def test_a_damaged_audit_costs_the_card_its_licence_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "audit.json").write_text("{")

    text = card(tmp_path, data={"path": str(tmp_path / "mine")})

    assert "is not known to CaptionCrafter" in text
    assert "the model card tells nothing of the data's licence" in capsys.readouterr().err


def test_no_licence_is_chosen_for_anybody(tmp_path: Path):
    text = card(tmp_path)

    assert metadata(tmp_path).license is None
    assert "whoever publishes the adapter chooses one" in text


def test_a_base_that_is_not_on_the_hub_is_not_named_to_it(tmp_path: Path):
    card(tmp_path, Checkpoint("my/blip2", None, tmp_path))

    assert metadata(tmp_path).base_model is None


HOSTILE = (
    "a`b``c\n---\nlicense: mit\n---\n# Owned\n<img src=x onerror=alert(1)> <b> | [x](http://example.org/x) "
    "![x](http://example.org/x) ~~x~~ <http://example.org> \u2028 \x1b[31m: {"
)


def kinds(markdown: str) -> set[str]:
    """The kinds of everything in a Markdown text, raw HTML among them."""
    blocks = MarkdownIt("commonmark").enable("table").parse(markdown)
    return {one.type for block in blocks for one in (block, *(block.children or ()))}


def test_hostile_names_stay_names(tmp_path: Path):
    measured = {HOSTILE: {"value": 0.5, "low": 0.4, "high": 0.6}}
    scores = SCORES | {"metrics": measured, "split": HOSTILE, "prompt": HOSTILE, "precision": HOSTILE}
    scores |= {"seen_in_training": {"images": 1, "image_ids": [HOSTILE]}}
    audited = write_audit(tmp_path / HOSTILE.replace("/", ""), files={}, licence=HOSTILE)

    text = card(
        tmp_path, Checkpoint(HOSTILE, None, tmp_path), scores, model={"prompt": HOSTILE}, data={"path": str(audited)}
    )

    body = ModelCard(text).text
    assert metadata(tmp_path).license is None
    assert not kinds(body) & {"html_inline", "html_block", "image", "link_open", "hr", "s_open"}
    assert re.findall("^#.*", body, re.MULTILINE) == [
        "# Image captioning adapter", "## Use", "## Scores", "## Limits", "## Licence",
    ]  # fmt: skip
    assert "\x1b" not in text
    compile(code_of(text), "card", "exec")


def test_hostile_names_stay_names_in_the_metadata(tmp_path: Path):
    scores = SCORES | {"metrics": {HOSTILE: {"value": 0.5, "low": 0.4, "high": 0.6}}, "split": HOSTILE}

    card(tmp_path, Checkpoint("x/y", None, tmp_path, on_hub=True), scores, data={"path": f"/data/{HOSTILE}"})

    (result,) = metadata(tmp_path).eval_results
    assert metadata(tmp_path).license is None
    assert result.dataset_split == HOSTILE
    assert result.metric_name.startswith("a`b``c --- license: mit --- # Owned <img src=x")


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


def test_no_folder_of_the_writers_machine_is_published(tmp_path: Path):
    base = Checkpoint("/home/somebody/secret/blip2", None, Path("/home/somebody/secret/blip2"))

    text = card(tmp_path, base, data={"path": "/home/somebody/secret/flickr8k"})

    assert "`flickr8k`" in text
    assert "base = 'path/to/blip2'" in text
    assert "somebody" not in text


def test_the_code_of_a_bundled_base_finds_it_in_the_package(tmp_path: Path):
    code = code_of(card(tmp_path, checkpoint.find("miniature")))
    found: dict[str, Any] = {}

    exec("\n".join(line for line in code.splitlines() if line.startswith(("import importlib", "base ="))), found)

    assert (Path(found["base"]) / "config.json").is_file()


def test_the_protocol_is_told_with_the_scores(tmp_path: Path):
    scorer = {"pycocoevalcap": "1.2", "METEOR": "1.5", "bootstrap_resamples": 1000}
    scorer |= {"document_frequencies": "evaluated references"}

    text = card(tmp_path, scores=SCORES | {"prompt": "a photo of", "precision": "bfloat16", "scorer": scorer})

    assert "bootstrap interval over images (1,000 resamples). Prompt: `a photo of`. Scorers: pycocoevalcap 1.2" in text
    assert "CIDEr's document frequencies are those of the evaluated references." in text


def test_what_the_evaluation_found_is_among_the_limits(tmp_path: Path):
    text = card(tmp_path, scores=SCORES | {"grounding": {"CIDEr": 0.5, "shuffled_CIDEr": 0.45}})

    assert "\n- The captions hardly depend on the images: with images shuffled CIDEr is 45.0" in text
