"""What is exported is whole, reads back, captions as the adapter does, and never takes the place of anything else."""

import contextlib
import hashlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import Blip2ForConditionalGeneration

from captioncrafter import Captioner, runs
from captioncrafter.errors import CaptionCrafterError, CheckpointError, DataError, InputError
from captioncrafter.generation.captioner import CAPTIONING
from captioncrafter.model import lora
from captioncrafter.model.weights import WHOLE
from captioncrafter.stages import export_merged
from captioncrafter.stages.export import Repository, export
from captioncrafter.stages.export_folder import EXPORT
from captioncrafter.stages.train import train
from hub_layouts import OF_2023, write_published
from patients import ailments, contents, troubles, write_adapter
from tiny import picture, tiny_recipe, write_tiny_checkpoint, write_tiny_dataset, write_tiny_opt_checkpoint

PICTURES = [picture(number) for number in range(4)]
HUB = "someone/blip2-tiny"


@pytest.fixture(scope="module")
def run(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny checkpoint, with a prompt and a decoding of its own."""
    folder = tmp_path_factory.mktemp("run")
    options = tiny_recipe(
        tiny_checkpoint,
        write_tiny_dataset(folder / "data"),
        model={"prompt": "two dogs"},
        decoding={"num_beams": 2},
        features={"folder": str(folder / "cache")},
    )
    train(options, folder / "run")
    return folder / "run"


def captions(**how: Any) -> list[str]:
    return Captioner.load(device="cpu", **how).caption(PICTURES, max_new_tokens=6)


def test_an_exported_adapter_is_the_runs_best_and_captions_the_same(run: Path, tmp_path: Path):
    done = export(run, tmp_path / "out")

    assert done.kind == "adapter"
    weights = lora.ADAPTER_WEIGHTS
    assert (done.folder / weights).read_bytes() == (run / "adapter" / weights).read_bytes()
    assert {file.name for file in done.folder.iterdir()} == {
        weights,
        lora.ADAPTER_CONFIG,
        CAPTIONING,
        "README.md",
        EXPORT,
    }
    assert captions(adapter=done.folder) == captions(adapter=run / "adapter")
    assert troubles(done.folder) == set()


def test_stock_peft_loads_an_exported_adapter(run: Path, tiny_checkpoint: Path, tmp_path: Path):
    folder = export(run, tmp_path / "out").folder

    stock = PeftModel.from_pretrained(Blip2ForConditionalGeneration.from_pretrained(tiny_checkpoint), folder)

    stored = lora.stored_adapter(folder)
    held = {name.replace(".default", ""): tensor for name, tensor in stock.state_dict().items() if "lora_" in name}
    assert held.keys() == stored.keys()
    assert all(torch.equal(held[name], stored[name]) for name in stored)


@pytest.mark.parametrize("merge", [None, "bf16"])
def test_the_hashes_of_every_file_stand_in_the_export(run: Path, tmp_path: Path, merge: Any):
    folder = export(run, tmp_path / "out", merge=merge).folder

    told = json.loads((folder / EXPORT).read_text())["files"]
    found = {
        file.name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in folder.iterdir()
        if file.name != EXPORT
    }
    assert told == found


def test_a_base_on_the_hub_is_named_in_every_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = export(run, tmp_path / "out", base=HUB, revision="abc").folder

    stock, ours = (json.loads((folder / name).read_text()) for name in (lora.ADAPTER_CONFIG, CAPTIONING))
    assert (stock["base_model_name_or_path"], stock["revision"]) == (HUB, "abc")
    assert (ours["base"], ours["revision"], ours["prompt"]) == (HUB, "abc", "two dogs")
    card = ModelCard.load(folder / "README.md")
    assert card.data.to_dict()["base_model"] == HUB
    assert f"base = '{HUB}'" in card.text
    assert "from_pretrained(base, revision='abc')" in card.text
    assert "whether the adapter fits its base was not looked at" in capsys.readouterr().err
    written = "".join(file.read_text() for file in folder.iterdir() if file.suffix in (".json", ".md"))
    assert str(run.parents[1]) not in written


def test_a_base_of_this_machine_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    export(run, tmp_path / "out")

    assert "names a folder of this machine as its base" in capsys.readouterr().err


def test_a_base_with_other_weights_is_refused(run: Path, tmp_path: Path):
    other = write_tiny_checkpoint(tmp_path / "other", seed=1)

    for merge in (None, "bf16"):
        with pytest.raises(CheckpointError, match="tuned on other weights than those of"):
            export(run, tmp_path / "out", base=str(other), merge=merge)  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_others_gets_settings_and_a_card(tiny_checkpoint: Path, tmp_path: Path):
    adapter = write_adapter(tiny_checkpoint, tmp_path / "adapter")
    (adapter / CAPTIONING).unlink()

    folder = export(adapter, tmp_path / "out").folder

    assert json.loads((folder / CAPTIONING).read_text())["prompt"] == "a photo of"
    assert ModelCard.load(folder / "README.md").data.to_dict()["library_name"] == "peft"
    assert captions(adapter=folder, base=str(tiny_checkpoint))


def test_a_file_that_is_no_part_of_the_adapter_is_left_out_and_named(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    adapter = write_adapter(tiny_checkpoint, tmp_path / "adapter")
    (adapter / "optimizer.bin").write_bytes(b"moments")

    folder = export(adapter, tmp_path / "out").folder

    assert not (folder / "optimizer.bin").exists()
    assert "left out, being no part of the adapter: optimizer.bin" in capsys.readouterr().err


@pytest.mark.parametrize("write", [write_tiny_checkpoint, write_tiny_opt_checkpoint])
def test_a_merged_model_captions_as_base_and_adapter_do(write: Any, tmp_path: Path):
    base = write(tmp_path / "base")
    adapter = write_adapter(base, tmp_path / "adapter")

    done = export(adapter, tmp_path / "out", merge="fp32")

    assert done.kind == "merged"
    ours = captions(adapter=adapter)
    assert captions(base=str(done.folder)) == ours
    assert captions(base=str(base), precision="fp32") != ours
    assert troubles(done.folder) == set()


def test_the_same_holds_for_a_copy_of_2023_which_is_mended(tmp_path: Path):
    base = write_published(tmp_path / "base", OF_2023)
    adapter = write_adapter(base, tmp_path / "adapter")

    folder = export(adapter, tmp_path / "out", merge="fp32").folder

    assert captions(base=str(folder)) == captions(adapter=adapter)
    assert "old-layout" in ailments(base)
    assert ailments(folder).keys() <= {"no-bf16"}


def test_prompt_and_decoding_come_along_with_a_merged_model(run: Path, tmp_path: Path):
    folder = export(run, tmp_path / "out", merge="bf16").folder

    captioner = Captioner.load(str(folder), device="cpu")

    assert captioner.prompt.text == "two dogs"
    assert captioner.decoding.num_beams == 2
    assert Captioner.load(str(folder), device="cpu", prompt="a cat").prompt.text == "a cat"


def test_the_code_of_a_merged_models_card_captions_as_the_captioner_does(run: Path, tmp_path: Path):
    folder = export(run, tmp_path / "out", merge="fp32").folder
    photo = tmp_path / "photo.png"
    photo.write_bytes(PICTURES[1])
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code.replace("path/to/this/folder", str(folder)).replace("photo.jpg", str(photo)), {})

    assert printed.getvalue().strip() == Captioner.load(str(folder), device="cpu").caption(photo)[0]


def test_a_merged_model_names_no_path_of_this_machine(run: Path, tmp_path: Path):
    folder = export(run, tmp_path / "out", merge="bf16").folder

    written = "".join(file.read_text() for file in folder.iterdir() if file.suffix in (".json", ".md"))
    assert str(tmp_path.parent) not in written
    assert str(run.parents[1]) not in written


def test_what_was_tuned_over_four_bits_is_merged_into_the_whole_weights_and_told(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    adapter = write_adapter(tiny_checkpoint, tmp_path / "adapter")
    settings = json.loads((adapter / CAPTIONING).read_text())
    plain = export(adapter, tmp_path / "plain", merge="fp32").folder
    (adapter / CAPTIONING).write_text(json.dumps(settings | {"precision": "nf4"}))

    folder = export(adapter, tmp_path / "out", merge="fp32").folder

    assert "tuned over nf4 weights, merged into the unquantised ones" in capsys.readouterr().err
    assert json.loads((folder / CAPTIONING).read_text())["precision"] == "auto"
    assert (folder / WHOLE).read_bytes() == (plain / WHOLE).read_bytes()


def test_a_folder_with_anything_else_in_it_is_refused(run: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter.txt").write_text("dear sir")

    for overwrite in (False, True):
        with pytest.raises(InputError, match="not empty, and not an export of CaptionCrafter"):
            export(run, out, overwrite=overwrite)
    assert contents(out) == {"letter.txt": b"dear sir"}


def test_an_older_export_is_replaced_only_when_that_is_asked_for(run: Path, tmp_path: Path):
    out = export(run, tmp_path / "out", merge="bf16").folder
    before = contents(out)

    with pytest.raises(InputError, match=r"an older export is there\. --overwrite replaces it"):
        export(run, out)
    assert contents(out) == before
    export(run, out, overwrite=True)

    assert not (out / WHOLE).exists()
    assert json.loads((out / EXPORT).read_text())["kind"] == "adapter"


def test_a_users_file_beside_an_older_export_is_never_lost(run: Path, tmp_path: Path):
    out = export(run, tmp_path / "out").folder
    (out / "notes.txt").write_text("mine")

    with pytest.raises(InputError, match=r"files that are not of it, notes\.txt first, and would be lost"):
        export(run, out, overwrite=True)

    assert (out / "notes.txt").read_text() == "mine"


def test_a_file_in_the_way_is_refused(run: Path, tmp_path: Path):
    (tmp_path / "out").write_text("")

    with pytest.raises(InputError, match="is a file"):
        export(run, tmp_path / "out")


@pytest.mark.parametrize("target", ["adapter", "base"])
def test_neither_the_adapter_nor_the_base_is_written_over(tiny_checkpoint: Path, tmp_path: Path, target: str):
    base = Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))
    adapter = write_adapter(base, tmp_path / "adapter")
    for folder in (base, adapter):
        (folder / EXPORT).write_text(json.dumps({"files": {name: {} for name in contents(folder)}}))

    with pytest.raises(InputError, match=f"is the {target} itself"):
        export(adapter, tmp_path / target, merge="bf16", overwrite=True)


def test_a_failure_amid_writing_leaves_what_was_there(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = export(run, tmp_path / "out").folder
    before = contents(out)

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_merged, "_write_card", fail)
    with pytest.raises(OSError, match="No space left"):
        export(run, out, merge="bf16", overwrite=True)

    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_byte_that_the_disk_lost_is_noticed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_card = export_merged._write_card

    def spoil(folder: Path, *args: Any) -> None:
        write_card(folder, *args)
        content = bytearray((folder / WHOLE).read_bytes())
        content[-1] ^= 1
        (folder / WHOLE).write_bytes(content)

    monkeypatch.setattr(export_merged, "_write_card", spoil)

    with pytest.raises(CheckpointError, match=r"out/model\.safetensors: what the disk holds is not what was written"):
        export(run, tmp_path / "out", merge="bf16")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_told_before_anything_is_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))

    for merge in (None, "bf16"):
        with pytest.raises(CaptionCrafterError, match=r"needs about 5\d\.\d MB and the disk has 0\.0 MB free"):
            export(run, tmp_path / "out", merge=merge)  # pyright: ignore[reportArgumentType]
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_finished_gives_its_best_so_far_and_says_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    unfinished = Path(shutil.copytree(run, tmp_path / "run"))
    manifest = json.loads((unfinished / runs.MANIFEST).read_text())
    (unfinished / runs.MANIFEST).write_text(json.dumps({key: manifest[key] for key in manifest if key != "result"}))

    export(unfinished, tmp_path / "out")

    assert "its training is not finished; this is its best adapter so far" in capsys.readouterr().err


def test_a_run_without_an_adapter_is_refused(run: Path, tmp_path: Path):
    begun = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(begun / "adapter")

    with pytest.raises(DataError, match="no adapter yet"):
        export(begun, tmp_path / "out")


def test_a_folder_that_is_neither_run_nor_adapter_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="neither a run nor an adapter"):
        export(tmp_path, tmp_path / "out")


def test_of_several_seeds_one_has_to_be_named(tmp_path: Path):
    (tmp_path / runs.SEEDS).write_text(json.dumps({"runs": {"1": {}, "2": {}}}))

    with pytest.raises(InputError, match=r"seed-1, .*seed-2"):
        export(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("name", ["no-such", "a/b/c"])
def test_a_base_that_is_no_name_is_refused(run: Path, tmp_path: Path, name: str):
    with pytest.raises(InputError, match="is neither a folder, nor a hub name"):
        export(run, tmp_path / "out", base=name)


def test_offline_nothing_is_begun_that_was_to_be_published(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(InputError, match="--push needs the network, and HF_HUB_OFFLINE is set"):
        export(run, tmp_path / "out", push=Repository("someone/mine"))

    assert not (tmp_path / "out").exists()


def test_a_base_of_this_machine_is_not_published(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("captioncrafter.model.publishing.check_can_publish", lambda name: None)

    with pytest.raises(InputError, match="is a folder of this machine, which nobody who fetches the adapter has"):
        export(run, tmp_path / "out", push=Repository("someone/mine"))
