"""The command line as a user meets it: words in; status, stdout and stderr out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from captioncrafter.stages.train import train
from command_line import status_of
from tiny import picture, tiny_recipe, write_tiny_dataset

VERBS = ("quickstart", "prepare", "plan", "train", "evaluate", "compare", "caption", "report", "export", "doctor")


@pytest.fixture(scope="module")
def run(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    dataset = write_tiny_dataset(folder / "data")
    train(tiny_recipe(tiny_checkpoint, dataset, features={"folder": str(folder / "cache")}), folder / "run")
    return folder / "run"


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]):
    assert status_of("--help") == 0

    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]):
    assert status_of(verb, "--help") == 0

    assert "--help" in capsys.readouterr().out


def test_no_words_at_all_show_the_help(capsys: pytest.CaptureFixture[str]):
    assert status_of() == 0

    assert "quickstart" in capsys.readouterr().out


def test_help_needs_neither_torch_nor_transformers():
    code = (
        "import sys\nfrom captioncrafter.cli import main\n"
        "try: main(['train', 'miniature', '--help'])\nexcept SystemExit: pass\n"
        "loaded = {'torch', 'transformers', 'peft', 'datasets', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_the_help_of_train_shows_the_recipes_own_values(capsys: pytest.CaptureFixture[str]):
    assert status_of("train", "flickr8k-flan-t5-xl", "--help") == 0

    assert "Salesforce/blip2-flan-t5-xl" in capsys.readouterr().out


def test_an_unknown_recipe_ends_2_and_names_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert status_of("train", "miniatur") == 2

    assert 'Did you mean "miniature"?' in capsys.readouterr().err


def test_a_typo_in_a_recipe_ends_2_with_file_key_and_nearest_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    mine = tmp_path / "mine.toml"
    mine.write_text("[lora]\nrnak = 8\n")

    assert status_of("train", mine) == 2

    shown = capsys.readouterr().err
    assert f'{mine}: unknown key "lora.rnak". Did you mean "rank"?' in shown
    assert "Traceback" not in shown


def test_an_override_out_of_bounds_ends_2_naming_the_option(capsys: pytest.CaptureFixture[str]):
    assert status_of("train", "miniature", "--lora.rank", "0") == 2

    assert "rank" in capsys.readouterr().err


def test_an_unknown_option_ends_2(capsys: pytest.CaptureFixture[str]):
    assert status_of("train", "miniature", "--lora.rnak", "4") == 2

    assert "--lora.rank" in capsys.readouterr().err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]):
    assert status_of("train", "no-such", "--debug") == 2

    assert "Traceback" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]):
    from captioncrafter import __version__

    assert status_of("--version") == 0

    assert capsys.readouterr().out == f"captioncrafter {__version__}\n"


def test_prepare_ends_3_when_an_image_was_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = tmp_path / "source"
    (source / "Images").mkdir(parents=True)
    for number in range(8):
        (source / "Images" / f"{number}.png").write_bytes(picture(number))
    (source / "Images" / "broken.png").write_bytes(picture(9)[:60])
    lines = [f"{name}.png,a dog" for name in (*range(8), "broken")]
    (source / "captions.txt").write_text("image,caption\n" + "\n".join(lines) + "\n")

    assert status_of("prepare", source, "--out", tmp_path / "out", "--json") == 3

    assert json.loads(capsys.readouterr().out)["images_set_aside"][0]["image"] == "broken.png"


def test_train_says_where_the_adapter_is(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    dataset = write_tiny_dataset(tmp_path / "data")
    mine = tmp_path / "mine.toml"
    mine.write_text(
        f'[model]\nbase = "{tiny_checkpoint}"\nprecision = "fp32"\ndevice = "cpu"\n[data]\npath = "{dataset}"\n'
    )
    out = tmp_path / "run"

    assert status_of("train", mine, "--out", out, "--training.epochs", "1", "--json") == 0

    told = json.loads(capsys.readouterr().out)
    assert Path(told["adapter"]) == out / "adapter"
    assert (out / "adapter" / "adapter_model.safetensors").is_file()


def test_evaluate_writes_scores_and_the_report_into_the_run(run: Path, capsys: pytest.CaptureFixture[str]):
    assert status_of("evaluate", "--run", run, "--split", "validation", "--base", "--json") == 0

    told = json.loads(capsys.readouterr().out)
    assert told["metrics"] == json.loads((run / "scores.json").read_text())["metrics"]
    assert told["base"]["metrics"].keys() == told["metrics"].keys()
    assert (run / "report.html").is_file()


def test_evaluate_shows_all_seven_metrics(run: Path, capsys: pytest.CaptureFixture[str]):
    assert status_of("evaluate", "--run", run, "--split", "validation") == 0

    shown = capsys.readouterr().out
    for metric in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr"):
        assert metric in shown


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate",),
        ("evaluate", "predictions.jsonl"),
        ("evaluate", "--references", "references.jsonl"),
        ("evaluate", "predictions.jsonl", "--run", "runs/mine"),
        ("evaluate", "--run", "runs/mine", "--references", "references.jsonl"),
        ("evaluate", "p.jsonl", "--references", "r.jsonl", "--base"),
        ("evaluate", "--run", "no/such/run"),
        ("caption",),
        ("caption", "no/such/photo.jpg"),
        ("report", "no/such/run"),
        ("prepare", "no/such/folder", "--out", "out"),
    ],
)
def test_wrong_words_end_2_with_one_message(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)

    assert status_of(*words) == 2

    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err


def test_a_broken_image_is_named_and_the_rest_captioned(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a photo")

    assert status_of("caption", photos, "--adapter", run / "adapter") == 3

    shown = capsys.readouterr()
    assert [json.loads(line)["image_id"] for line in shown.out.splitlines()] == ["0.png", "1.png", "2.png"]
    assert "broken.jpg" in shown.err


def test_decoding_options_are_checked_before_the_model_is_loaded(photos: Path, capsys: pytest.CaptureFixture[str]):
    assert status_of("caption", photos, "--base", "no/such/base", "--num-beams", "0") == 2

    assert "num_beams" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--temperature", "0.5"), "temperature needs --sample"),
        (("--no-sample", "--seed", "3"), "seed needs --sample"),
        (("--num-beams", "1", "--length-penalty", "2"), "length_penalty needs a beam search"),
    ],
)
def test_a_decoding_option_without_effect_ends_2(
    photos: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
):
    assert status_of("caption", photos, *words) == 2

    assert said in capsys.readouterr().err


def test_no_sample_goes_before_an_adapter_that_samples(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    adapter = Path(shutil.copytree(run / "adapter", tmp_path / "adapter"))
    facts = json.loads((adapter / "captioning.json").read_text())
    facts["decoding"] |= {"sample": True, "temperature": 50.0, "num_beams": 1}
    (adapter / "captioning.json").write_text(json.dumps(facts))

    assert status_of("caption", photos, "--adapter", adapter, "--no-sample") == 0
    greedy = capsys.readouterr().out
    assert status_of("caption", photos, "--adapter", run / "adapter") == 0
    assert greedy == capsys.readouterr().out


def test_captions_of_another_adapter_in_out_end_2(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "captions.jsonl"
    assert status_of("caption", photos, "--adapter", run / "adapter", "--out", out) == 0

    assert status_of("caption", photos, "--out", out) == 2

    assert "holds captions of another base" in capsys.readouterr().err


def test_a_folder_as_out_ends_2(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert status_of("caption", photos, "--out", tmp_path) == 2

    assert "a folder, and --out takes the file to write" in capsys.readouterr().err


def test_sidecar_captions_stand_beside_the_images(run: Path, photos: Path):
    assert status_of("caption", photos, "--adapter", run / "adapter", "--sidecar") == 0

    assert sorted(file.name for file in photos.glob("*.txt")) == ["0.txt", "1.txt", "2.txt"]


def test_a_reader_that_closes_the_pipe_ends_the_command_quietly(run: Path, photos: Path):
    command = [sys.executable, "-m", "captioncrafter", "caption", str(photos), "--adapter", str(run / "adapter")]

    with subprocess.Popen(
        [*command, "--images-per-batch", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()

    assert process.returncode == 141
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("set_before", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_waiting_threads_sleep_soon_unless_the_user_says_how_they_wait(
    monkeypatch: pytest.MonkeyPatch, set_before: dict[str, str], spins: str | None
):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that the test leaves nothing behind
        monkeypatch.delenv(name)
    for name, value in set_before.items():
        monkeypatch.setenv(name, value)

    status_of("--version")

    assert os.environ.get("GOMP_SPINCOUNT") == spins
