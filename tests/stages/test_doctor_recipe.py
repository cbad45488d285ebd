"""Every ailment of a recipe, of this machine and of a name on the hub, planted and found."""

import json
from pathlib import Path

import pytest
import torch

from captioncrafter.stages.ailments import hub, machine
from captioncrafter.stages.doctor import doctor
from patients import ailments, troubles
from tiny import changed_copy, write_tiny_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "data", test=2)


@pytest.fixture
def write(tiny_checkpoint: Path, data: Path, tmp_path: Path):
    """Writes a recipe of the tiny base and dataset; sections are added or, as whole, replaced."""

    def written(**sections: str) -> Path:
        told = {"model": f'base = "{tiny_checkpoint}"', "data": f'path = "{data}"', "lora": "rank = 2"}
        file = tmp_path / "mine.toml"
        file.write_text(
            "".join(f"[{name}]\n{told.get(name, '')}\n{sections.get(name, '')}\n" for name in {**told, **sections})
        )
        return file

    return written


def test_nothing_is_found_of_a_sound_recipe_and_its_layers_are_told(write):
    found = doctor(str(write()))

    assert found.findings == ()
    assert len(found.facts["layers"]) == 12
    assert found.facts["adapter"] == ("12 layers train: 4 in language_model.encoder, 8 in language_model.decoder")


def test_nothing_is_found_of_the_embedded_recipe():
    assert ailments("miniature") == {}


@pytest.mark.parametrize(
    ("sections", "ailment", "said"),
    [
        ({"lora": 'targets = ["q_prj"]'}, "dead-targets", 'Closest: "q"'),
        ({"lora": 'pattern = "q_proj"'}, "dead-targets", "matches no linear layer"),
        ({"lora": 'pattern = ".*\\\\.(q|v|qkv)"'}, "stray-layers", "2 in vision_model"),
        ({"model": 'prompt = "<image> a photo"'}, "positions", "<image>"),
        ({"model": 'prompt = "a daguerreotype of"'}, "prompt", "does not know daguerreotype"),
        ({"model": 'precision = "fp16"'}, "recipe", "transformers#9295"),
        ({"model": 'device = "cuda:99"'}, "no-device", "cuda:99"),
        ({"data": "captions_per_image = 1"}, "one-caption", "1 of up to 5 captions"),
        ({"training": "max_caption_tokens = 5"}, "long-captions", "more than 5 tokens"),
        ({"training": "epocs = 3"}, "recipe", 'Did you mean "epochs"?'),
        ({"data": "= nonsense"}, "recipe", "not valid TOML"),
    ],
)
def test_what_a_recipe_says_is_judged(write, sections: dict[str, str], ailment: str, said: str):
    found = ailments(write(**sections))

    assert said in found[ailment].what


def test_a_dead_target_lists_the_layers_there_are(write):
    found = ailments(write(lora='targets = ["q_prj"]'))

    listed = found["dead-targets"].details
    assert "language_model.decoder.block.*.layer.*.SelfAttention.q (2 layers)" in listed
    assert listed[0].startswith("language_model.")
    assert any(line.startswith("qformer.") for line in listed)


def test_layers_that_no_image_reaches_are_found(write, tiny_checkpoint: Path, tmp_path: Path):
    text = json.loads((tiny_checkpoint / "config.json").read_text())["qformer_config"] | {
        "use_qformer_text_input": True
    }
    other = changed_copy(tiny_checkpoint, tmp_path / "other", "config.json", qformer_config=text)
    mine = write(lora='pattern = "(qformer|language_model)\\\\..*"')
    mine.write_text(mine.read_text().replace(str(tiny_checkpoint), str(other)))

    found = ailments(mine)["dead-layers"]

    assert "qformer.encoder.layer.*.intermediate.dense (2 layers)" in found.details


def test_a_base_on_the_hub_that_is_not_pinned_or_fetched_is_a_note(
    write, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = snapshot(tmp_path / "hub", monkeypatch)
    for file in tiny_checkpoint.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    mine = write()
    mine.write_text(mine.read_text().replace(str(tiny_checkpoint), "some/base"))

    found = ailments(mine)

    assert set(found) == {"not-pinned", "not-fetched"}
    assert 'revision = "0123abc"' in found["not-pinned"].mend


def test_of_a_base_with_its_configuration_alone_on_this_disk_no_processor_is_judged(
    write, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = snapshot(tmp_path / "hub", monkeypatch)
    mine = write()
    mine.write_text(mine.read_text().replace(str(tiny_checkpoint), "some/base"))

    for files in ("config.json", "processor_config.json"):
        (folder / files).write_bytes((tiny_checkpoint / files).read_bytes())
        assert set(ailments(mine)) == {"not-pinned", "not-fetched"}


def test_a_base_that_is_neither_pinned_nor_in_the_hub_cache_gets_no_commit_from_the_files_that_ship(
    write, tiny_checkpoint: Path
):
    mine = write()
    mine.write_text(mine.read_text().replace(str(tiny_checkpoint), "Salesforce/blip2-flan-t5-xl"))

    assert ailments(mine)["not-pinned"].mend == (
        "Set model.revision to a commit of it, as its page on the hub lists them."
    )


def test_more_training_images_than_there_are_is_a_note(write):
    assert ailments(write(data="train_images = 100"))["train-images"].severity == "note"


def test_what_is_wrong_with_base_and_data_is_found_by_the_recipe(tmp_path: Path):
    mine = tmp_path / "mine.toml"
    mine.write_text('[model]\nbase = "/no/such/base"\n[data]\npath = "/no/such/data"\n')

    assert troubles(mine) == {"base-absent", "no-data"}


def test_a_recipe_without_data_is_found(tiny_checkpoint: Path, tmp_path: Path):
    mine = tmp_path / "mine.toml"
    mine.write_text(f'[model]\nbase = "{tiny_checkpoint}"\n')

    assert "no-data" in troubles(mine)


def test_hardware_without_bfloat16_is_told(write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)

    assert ailments(write(model='device = "cpu"'))["no-bf16"].severity == "note"
    assert ailments(write(model='device = "cpu"\nprecision = "bf16"'))["no-bf16"].severity == "warning"


def test_quantisation_without_its_library_is_found(write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("captioncrafter.model.hardware.importlib.util.find_spec", lambda name: None)

    assert "no-quantisation" in troubles(write(model='device = "cpu"\nprecision = "nf4"'))


def test_a_library_that_is_too_old_and_a_torchvision_of_another_build_are_found(monkeypatch: pytest.MonkeyPatch):
    versions = {"torch": "2.13.0+cpu", "torchvision": "0.28.0", "peft": "0.1.0"}
    real = machine.version_of
    monkeypatch.setattr(machine, "version_of", lambda name: versions.get(name) or real(name))

    found = ailments("miniature")

    assert "peft 0.1.0" in found["versions"].what
    assert found["torchvision"].severity == "warning"


def snapshot(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository some/base in a hub cache of its own."""
    folder = root / "models--some--base" / "snapshots" / "0123abc"
    folder.mkdir(parents=True)
    (root / "models--some--base" / "refs").mkdir()
    (root / "models--some--base" / "refs" / "main").write_text("0123abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    return folder


def test_a_name_that_is_not_in_the_hub_cache_is_a_finding_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    assert set(ailments("nobody/nothing")) == {"not-to-be-had"}
    assert set(ailments("no body/nothing")) == {"not-to-be-had"}


def test_small_files_whose_weights_the_hub_does_not_show_are_judged_and_that_is_told(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = snapshot(tmp_path, monkeypatch)
    for file in tiny_checkpoint.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())

    found = ailments("some/base")

    assert {name: finding.severity for name, finding in found.items()} == {"weights-not-seen": "note"}


def test_a_whole_checkpoint_in_the_hub_cache_is_examined(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = snapshot(tmp_path, monkeypatch)
    for file in tiny_checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *given, **options: str(folder))

    found = doctor("some/base")

    assert found.findings == ()
    assert found.facts["revision"] == "0123abc"


def test_of_weights_that_were_not_fetched_the_headers_are_judged(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from captioncrafter.model import weights

    folder = snapshot(tmp_path, monkeypatch)
    for file in tiny_checkpoint.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *given, **options: str(folder))
    headers = weights.stored_tensors(tiny_checkpoint)
    del headers["query_tokens"]
    monkeypatch.setattr(hub, "_headers", lambda record, name: headers)

    found = ailments("some/base")

    assert set(found) == {"missing-weights"}
    assert found["missing-weights"].details == ("query_tokens",)
