"""A captioner brings together base, adapter, prompt and decoding, or refuses what does not belong together."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from captioncrafter import Captioner, recipe
from captioncrafter.errors import CheckpointError, DataError, InputError
from captioncrafter.generation.captioner import CAPTIONING, write_captioning
from captioncrafter.model import checkpoint, lora
from tiny import load_tiny, picture, rewrite_tensors, write_tiny_checkpoint

DECODING = recipe.Decoding(num_beams=2, max_new_tokens=7, images_per_batch=2)


def write_adapter(base: checkpoint.Checkpoint, folder: Path) -> Path:
    """An adapter with B other than zero, with all that training writes beside it."""
    model = load_tiny(base.folder)[2]
    tuned = lora.attach(model, recipe.Lora(rank=2), seed=0)
    draw = torch.Generator().manual_seed(2)
    for name, parameter in lora.trainable(tuned).items():
        if ".lora_B." in name:
            parameter.data.normal_(std=0.5, generator=draw)
    lora.save_adapter(tuned, base, folder)
    write_captioning(folder, base, prompt="two dogs", decoding=DECODING, precision="fp32")
    return folder


@pytest.fixture
def adapter(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return write_adapter(checkpoint.find(str(tiny_checkpoint)), tmp_path / "adapter")


def load(*given: str, **named: object) -> Captioner:
    return Captioner.load(*given, device="cpu", **named)


def test_an_adapter_brings_its_base_prompt_decoding_and_precision(adapter: Path):
    captioner = load(adapter=adapter)

    assert captioner.prompt.text == "two dogs"
    assert captioner.decoding == DECODING
    assert captioner.model.language_model.dtype == torch.float32


def test_what_is_given_goes_before_what_the_adapter_brings(tiny_checkpoint: Path, adapter: Path):
    captioner = load(str(tiny_checkpoint), adapter=adapter, prompt="", precision="bf16")

    assert captioner.prompt.text == ""
    assert captioner.model.language_model.dtype == torch.bfloat16


def test_the_adapter_changes_the_captions(tiny_checkpoint: Path, adapter: Path):
    image = picture(1)

    captions = load(adapter=adapter).caption(image)

    assert captions != load(str(tiny_checkpoint), precision="fp32", prompt="two dogs").caption(
        image, **DECODING.model_dump()
    )


def test_without_adapter_the_captions_are_the_bases(tiny_checkpoint: Path, adapter: Path):
    captioner, images = load(adapter=adapter), [picture(number) for number in range(3)]

    with captioner.without_adapter() as base:
        of_base = base.caption(images)

    stock = load(str(tiny_checkpoint), precision="fp32", prompt="two dogs")
    assert of_base == stock.caption(images, **DECODING.model_dump())
    assert captioner.caption(images) != of_base


def test_a_merged_adapter_gives_the_same_captions(adapter: Path):
    images = [picture(number) for number in range(3)]

    merged = load(adapter=adapter, merge=True)

    assert merged.tuned is None
    assert merged.caption(images) == load(adapter=adapter).caption(images)


def test_an_adapter_finds_its_base_from_any_folder(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tiny_checkpoint.parent)
    folder = write_adapter(checkpoint.find(tiny_checkpoint.name), tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)

    assert load(adapter=folder).prompt.text == "two dogs"


def test_a_bundled_base_is_written_by_its_name(tmp_path: Path):
    write_captioning(tmp_path, checkpoint.find("miniature"), prompt="", decoding=DECODING, precision="fp32")

    assert json.loads((tmp_path / CAPTIONING).read_text())["base"] == "miniature"


def test_an_adapter_on_other_weights_of_the_same_shape_is_refused(adapter: Path, tmp_path: Path):
    other = write_tiny_checkpoint(tmp_path / "other", seed=1)

    with pytest.raises(CheckpointError, match=r"tuned on other weights than those of .*Use the base it names"):
        load(str(other), adapter=adapter)


def test_a_base_that_changed_since_is_refused(tiny_checkpoint: Path, tmp_path: Path):
    base = Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))
    adapter = write_adapter(checkpoint.find(str(base)), tmp_path / "adapter")
    rewrite_tensors(base / "model.safetensors", lambda tensors: tensors["query_tokens"].add_(1))

    with pytest.raises(CheckpointError, match="tuned on other weights"):
        load(adapter=adapter)


def test_a_plain_peft_adapter_is_taken_with_the_base_it_names_and_a_warning(
    adapter: Path, capsys: pytest.CaptureFixture[str]
):
    (adapter / CAPTIONING).unlink()

    captioner = load(adapter=adapter, precision="fp32")

    assert captioner.prompt.text == recipe.Model().prompt
    assert f"no {CAPTIONING}; using the default prompt and decoding" in capsys.readouterr().err


def test_a_folder_without_adapter_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no adapter .*Give the adapter folder of a run"):
        load(adapter=tmp_path / "nothing")


@pytest.fixture(scope="module")
def captioner(tiny_checkpoint: Path) -> Captioner:
    return Captioner.load(str(tiny_checkpoint), device="cpu", precision="fp32")


def test_paths_bytes_and_pictures_give_the_same_captions(captioner: Captioner, tmp_path: Path):
    from captioncrafter.data.images import decode_image

    (tmp_path / "a.png").write_bytes(picture(4))
    ways = [tmp_path / "a.png", str(tmp_path / "a.png"), picture(4), decode_image(picture(4))]

    captions = captioner.caption(ways, num_beams=1)

    assert len(captions) == 4
    assert len(set(captions)) == 1


def test_one_image_alone_gives_a_list_of_one(captioner: Captioner):
    assert len(captioner.caption(picture(1), num_beams=1)) == 1


def test_no_images_give_no_captions(captioner: Captioner):
    assert captioner.caption([]) == []


def test_captions_come_in_order_whatever_the_batch_size(captioner: Captioner):
    images = [picture(number) for number in range(5)]

    assert captioner.caption(images, images_per_batch=2) == captioner.caption(images, images_per_batch=5)


def test_a_broken_image_is_named(captioner: Captioner, tmp_path: Path):
    (tmp_path / "bad.png").write_bytes(b"nothing of the kind")

    with pytest.raises(DataError, match=r"bad\.png: not an image"):
        captioner.caption([picture(1), tmp_path / "bad.png"])


def test_an_unknown_decoding_setting_is_refused(captioner: Captioner):
    with pytest.raises(InputError, match='unknown key "num_beam"'):
        captioner.caption(picture(1), num_beam=3)


def test_an_impossible_decoding_setting_is_refused(captioner: Captioner):
    with pytest.raises(InputError, match="num_beams = 0"):
        captioner.caption(picture(1), num_beams=0)


def test_decoding_set_for_one_call_is_not_kept(captioner: Captioner):
    before = captioner.decoding

    captioner.caption(Image.new("RGB", (40, 40)), num_beams=1)

    assert captioner.decoding == before


def test_a_wrong_decoding_beside_an_adapter_is_refused_naming_file_and_key(adapter: Path):
    facts = json.loads((adapter / CAPTIONING).read_text())
    facts["decoding"]["num_beans"] = 3
    (adapter / CAPTIONING).write_text(json.dumps(facts))

    with pytest.raises(InputError, match=r'captioning\.json, decoding: unknown key "num_beans"'):
        load(adapter=adapter)


def test_a_merged_adapter_cannot_be_taken_out(adapter: Path):
    captioner = load(adapter=adapter, merge=True)

    with (
        pytest.raises(InputError, match="merged into the base's weights and cannot be taken out"),
        captioner.without_adapter(),
    ):
        pass


def test_a_base_alone_is_without_adapter_whatever_merge_says(tiny_checkpoint: Path):
    captioner = load(str(tiny_checkpoint), merge=True)

    with captioner.without_adapter() as base:
        assert base is captioner


@pytest.mark.parametrize("text", ["[]", "null", '"words"'])
def test_settings_that_are_no_object_are_refused_naming_the_file(adapter: Path, text: str):
    (adapter / CAPTIONING).write_text(text)

    with pytest.raises(CheckpointError, match=r"captioning\.json: expected a JSON object"):
        load(adapter=adapter)


def test_a_setting_without_effect_is_refused(captioner: Captioner):
    with pytest.raises(InputError, match="temperature needs --sample"):
        captioner.caption(picture(1), temperature=0.5)


def test_an_adapters_own_setting_without_effect_is_taken(adapter: Path):
    facts = json.loads((adapter / CAPTIONING).read_text())
    facts["decoding"]["temperature"] = 0.5
    (adapter / CAPTIONING).write_text(json.dumps(facts))

    assert load(adapter=adapter).with_decoding(num_beams=1).decoding.temperature == 0.5


def test_sampling_draws_anew_for_each_batch(captioner: Captioner):
    sample = {"sample": True, "max_new_tokens": 12, "images_per_batch": 1}

    captions = captioner.caption([picture(1)] * 4, **sample)

    assert len(set(captions)) == 4
    assert captions == captioner.caption([picture(1)] * 4, **sample)
