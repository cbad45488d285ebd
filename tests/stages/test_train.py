"""A recipe becomes a run: whole, resumable after any end, and never mixed with another."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file

from captioncrafter import recipe, runs, storage
from captioncrafter.errors import DataError, InputError, PreflightError, RecipeError
from captioncrafter.stages.train import train
from tiny import picture, tiny_recipe, without_key, write_tiny_checkpoint, write_tiny_dataset

ADAPTER = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Path:
    return write_tiny_dataset(folder / "data")


@pytest.fixture(scope="module")
def file(tiny_checkpoint: Path, dataset: Path, folder: Path) -> Path:
    """A recipe file of 24 steps with a checkpoint at each."""
    path = folder / "tiny.toml"
    path.write_text(f"""
[model]
base = "{tiny_checkpoint}"
precision = "fp32"
device = "cpu"
[data]
path = "{dataset}"
[lora]
targets = ["q", "k", "v", "o", "wi_0", "wi_1", "wo"]
[features]
folder = "{folder / "cache"}"
[training]
epochs = 12
images_per_step = 3
images_per_batch = 3
learning_rate = 1e-2
checkpoint_every_steps = 1
log_every_steps = 1
[validation]
patience = 100
[decoding]
num_beams = 1
max_new_tokens = 8
""")
    return path


@pytest.fixture(scope="module")
def finished(file: Path, folder: Path) -> Path:
    """The run of that recipe without a stop."""
    train(recipe.load(str(file)), folder / "run")
    return folder / "run"


def adapter_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / ADAPTER)


def test_the_run_learns_what_it_is_shown(finished: Path):
    rows = runs.Run(finished).log()

    losses = [row["loss"] for row in rows if row["kind"] == "step"]
    ciders = [row["CIDEr"] for row in rows if row["kind"] == "validation"]
    assert losses[-1] < 0.7 * losses[0]
    assert max(ciders) > ciders[0] + 0.3


def test_the_adapter_kept_is_the_one_of_the_best_validation(finished: Path):
    result = runs.Run(finished).manifest()["result"]

    validations = [row for row in runs.Run(finished).log() if row["kind"] == "validation" and row["step"] > 0]
    best = max(validations, key=lambda row: row["CIDEr"])
    assert (result["best_step"], result["best_cider"]) == (best["step"], best["CIDEr"])
    assert [row["step"] for row in validations if row["best"]][-1] == best["step"]


def test_the_run_folder_holds_what_is_needed_to_repeat_and_to_use_it(finished: Path):
    manifest = runs.Run(finished).manifest()

    assert {file.name for file in (finished / "adapter").iterdir()} == {
        ADAPTER,
        "adapter_config.json",
        "captioning.json",
        "README.md",
    }
    assert manifest["data"]["train"]["images"] == 6
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["preflight"]["adapted_layers"] == 36


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_ended_goes_on_to_the_same_adapter_bit_for_bit(
    file: Path, finished: Path, tmp_path: Path, number: signal.Signals
):
    command = [sys.executable, "-m", "captioncrafter", "train", str(file), "--out", str(tmp_path / "run")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if line.startswith("epoch 2.00"))
        process.send_signal(number)
        said += process.stderr.read()
    done = max(row["step"] for row in runs.Run(tmp_path / "run").log())

    result = train(recipe.load(str(file)), tmp_path / "run", resume=True)

    assert process.returncode == (143 if number == signal.SIGTERM else -signal.SIGKILL), said
    assert 4 <= done < 24
    assert vars(result) == runs.Run(finished).manifest()["result"]
    resumed, whole = adapter_of(tmp_path / "run"), adapter_of(finished)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_a_finished_run_is_left_as_it_is(file: Path, finished: Path, capsys: pytest.CaptureFixture[str]):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}

    result = train(recipe.load(str(file)), finished)

    assert vars(result) == runs.Run(finished).manifest()["result"]
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    assert "this run is finished; nothing was done again" in capsys.readouterr().err


def test_a_run_of_another_recipe_is_refused_with_the_differences(file: Path, finished: Path):
    other = recipe.load(str(file)).model_copy(update={"seed": 7})

    with pytest.raises(InputError, match="holds a run of another recipe:\n  seed: 0 in the run, 7 now"):
        train(other, finished, resume=True)


def test_an_unfinished_run_is_gone_on_with_only_when_asked(file: Path, tmp_path: Path):
    options = recipe.load(str(file))
    storage.write_json(tmp_path / "run" / runs.RECIPE, options.model_dump(mode="json"))

    with pytest.raises(InputError, match=r"an unfinished run is already there\. Go on with --resume"):
        train(options, tmp_path / "run")


def test_there_must_be_something_to_resume(file: Path, tmp_path: Path):
    with pytest.raises(InputError, match="nothing to resume"):
        train(recipe.load(str(file)), tmp_path / "run", resume=True)


def test_a_target_that_matches_nothing_stops_before_any_feature_is_computed(
    tiny_checkpoint: Path, dataset: Path, tmp_path: Path
):
    options = tiny_recipe(
        tiny_checkpoint, dataset, lora={"targets": ["q_proj"]}, features={"folder": str(tmp_path / "cache")}
    )

    with pytest.raises(RecipeError, match='"q_proj" matches no layer'):
        train(options, tmp_path / "run")

    assert not (tmp_path / "cache").exists()


def test_a_prompt_with_an_image_placeholder_is_stopped_by_the_preflight(
    tiny_checkpoint: Path, dataset: Path, tmp_path: Path
):
    options = tiny_recipe(tiny_checkpoint, dataset, model={"prompt": "<image> a photo of"})

    with pytest.raises(PreflightError, match="4 <image> positions"):
        train(options, tmp_path / "run")


def test_one_picture_alone_is_not_trained_on(tiny_checkpoint: Path, tmp_path: Path):
    dataset = write_tiny_dataset(tmp_path / "data", train=1)

    with pytest.raises(DataError, match="two different images"):
        train(tiny_recipe(tiny_checkpoint, dataset), tmp_path / "run")


def test_captions_that_are_cut_are_counted(
    tiny_checkpoint: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = tiny_recipe(tiny_checkpoint, dataset, training={"max_caption_tokens": 4, "epochs": 0.5})

    train(options, tmp_path / "run")

    assert runs.Run(tmp_path / "run").manifest()["captions_cut"] == 24
    assert "24 cut to 4 tokens" in capsys.readouterr().err


def test_the_adapter_captions_as_stock_peft_does(finished: Path, tiny_checkpoint: Path):
    from peft import PeftModel
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    from captioncrafter import Captioner
    from captioncrafter.data.images import decode_image

    images = [decode_image(picture(number)) for number in range(4)]
    processor = Blip2Processor.from_pretrained(tiny_checkpoint)
    base = Blip2ForConditionalGeneration.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()
    inputs = processor(images=images, text=["a photo of"] * 4, return_tensors="pt")

    before = base.generate(**inputs, max_new_tokens=8, num_beams=1)
    after = (
        PeftModel.from_pretrained(base, finished / "adapter").eval().generate(**inputs, max_new_tokens=8, num_beams=1)
    )

    stock = [" ".join(text.split()) for text in processor.batch_decode(after, skip_special_tokens=True)]
    assert Captioner.load(adapter=finished / "adapter").caption(images) == stock
    assert not torch.equal(before, after)


def test_the_recipe_of_a_run_reads_back_as_itself(file: Path, finished: Path):
    saved = json.loads((finished / runs.RECIPE).read_text())

    assert recipe.build(saved, source="run") == recipe.load(str(file))


def test_an_old_checkpoint_without_an_image_token_id_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    base = write_tiny_checkpoint(tmp_path / "base")
    without_key(base / "config.json", "image_token_index", "image_token_id")

    result = train(tiny_recipe(base, write_tiny_dataset(tmp_path / "data")), tmp_path / "run")

    assert result.steps > 0
    assert "an old copy, mended in memory. It lacks image_token_index in config.json" in capsys.readouterr().err


def test_captions_that_are_nothing_but_punctuation_are_left_out_and_counted(tiny_checkpoint: Path, tmp_path: Path):
    data = write_tiny_dataset(tmp_path / "data")
    splits = datasets.load_from_disk(str(data))
    dotted = splits["train"].map(lambda row: {"captions": ["...", *row["captions"][1:]]}, keep_in_memory=True)
    datasets.DatasetDict(splits | {"train": dotted}).save_to_disk(tmp_path / "dotted")

    train(tiny_recipe(tiny_checkpoint, tmp_path / "dotted"), tmp_path / "run")

    assert storage.read_json(tmp_path / "run" / runs.MANIFEST)["captions_without_words"] == 6
