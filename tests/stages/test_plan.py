"""What a recipe needs, told before anything large is read, and held to what real phases took."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import measured_step
from captioncrafter.errors import CheckpointError, InputError
from captioncrafter.model import checkpoint
from captioncrafter.model.hardware import Arithmetic
from captioncrafter.recipe import Recipe
from captioncrafter.stages import remedies
from captioncrafter.stages.caption_lengths import CaptionLengths, caption_lengths
from captioncrafter.stages.phases import Rehearsals
from captioncrafter.stages.plan import plan, size_bytes
from middling import write_middling_checkpoint
from tiny import tiny_recipe, write_tiny_checkpoint, write_tiny_dataset, write_tiny_opt_checkpoint


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    write_middling_checkpoint(folder / "mid")
    write_tiny_checkpoint(folder / "small")
    return folder


@pytest.mark.parametrize(
    ("phase", "preset", "images", "recomputes"),
    [
        ("training", "efficient", 2, False),
        ("training", "fast", 8, False),
        ("training", "efficient", 8, True),
        ("features", "efficient", 8, False),
    ],
)
def test_the_prediction_is_within_15_percent_of_the_measured_peak(phase, preset, images, recomputes, checkpoints: Path):
    tokens = measured_step.CAPTIONS * measured_step.TOKENS
    lengths = CaptionLengths(100, 10, measured_step.CAPTIONS, tokens, tokens, measured_step.PROMPT_TOKENS)
    training = {"images_per_step": images, "images_per_batch": images, "gradient_checkpointing": recomputes}
    options = Recipe.model_validate(
        {"lora": {"preset": preset}, "training": training, "features": {"images_per_batch": images}}
    )
    config = checkpoint.load_config(checkpoint.find(str(checkpoints / "mid")))

    phases = Rehearsals(config, "cpu", lengths).phases(options, Arithmetic(measured_step.FP32.dtype))

    measured = _measured(checkpoints, phase, preset, images, recomputes)
    assert next(one.bytes for one in phases if one.name == phase) == pytest.approx(measured, rel=0.15)


def _measured(folder: Path, *words: object) -> int:
    """Bytes by which a process grew, its allocator giving back at once what is freed."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, measured_step.__file__, str(folder), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_the_full_size_fits_24_gb(published_files: Path):
    options = Recipe.model_validate({"model": {"base": str(published_files)}})

    large = plan(options, gpu_memory="24GB")

    assert large.fits
    assert large.flags == []
    assert large.precision == "bfloat16"


@pytest.mark.parametrize("preset", ["fast", "efficient", "quality", "full-bridge"])
@pytest.mark.parametrize("write", [write_tiny_checkpoint, write_tiny_opt_checkpoint])
def test_every_preset_of_every_family_has_a_plan(write, preset, tmp_path: Path):
    base = write(tmp_path / "base")
    options = tiny_recipe(base, write_tiny_dataset(tmp_path / "data"), lora={"preset": preset})

    found = plan(options)

    assert [phase.name for phase in found.phases] == ["features", "checks", "training", "validation"]
    assert all(phase.working_bytes > 0 and phase.flop > 0 for phase in found.phases)
    assert found.fits
    assert found.times is not None


def test_pixels_that_vary_leave_no_features(tiny_checkpoint: Path, tmp_path: Path):
    options = tiny_recipe(tiny_checkpoint, write_tiny_dataset(tmp_path / "data"), data={"augment": "crop"})

    found = plan(options)

    assert [phase.name for phase in found.phases] == ["checks", "training", "validation"]
    assert found.cache_bytes == 0


def test_captions_are_counted_where_the_data_is_there(tiny_checkpoint: Path, tmp_path: Path):
    options = tiny_recipe(tiny_checkpoint, write_tiny_dataset(tmp_path / "data"))

    found = caption_lengths(options, checkpoint.find(str(tiny_checkpoint)))

    assert (found.images, found.validation_images, found.captions_per_image) == (6, 4, 5)
    assert 0 < found.mean_tokens <= found.longest_tokens
    assert found.assumed == ()


def test_what_is_usual_is_assumed_and_told_where_the_data_is_not_there(tiny_checkpoint: Path, tmp_path: Path):
    options = tiny_recipe(tiny_checkpoint, tmp_path / "none")

    found = plan(options)

    assert found.lengths.images == 6000
    assert "usual captions" in found.lengths.assumed[0]


def test_only_the_configuration_is_read(tiny_checkpoint: Path, tmp_path: Path):
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(tiny_checkpoint / "config.json", bare)

    found = plan(tiny_recipe(bare, write_tiny_dataset(tmp_path / "data")))

    assert found.fits
    assert "tokens a word" in found.lengths.assumed[0]


def test_a_hub_name_that_cannot_be_had_is_named():
    with pytest.raises(CheckpointError, match=r"no-such/base: not in the hub cache .*HF_HUB_OFFLINE is set"):
        plan(Recipe.model_validate({"model": {"base": "no-such/base"}}))


def test_what_the_flags_say_fits(checkpoints: Path, tmp_path: Path):
    options = tiny_recipe(
        checkpoints / "mid", tmp_path / "none", training={"images_per_step": 8, "images_per_batch": 8}
    )
    options = remedies.changed(options, {"model.precision": "auto"})
    assert options is not None

    tight = plan(options, gpu_memory="950MB")

    assert not tight.fits
    assert tight.flags
    assert tight.flags[0] == "--training.images-per-batch"
    changes = {"training.images_per_batch": int(tight.flags[1])}
    assert plan(remedies.changed(options, changes) or options, gpu_memory="950MB").fits


def _needs(peaks):
    return lambda trial: {"features": trial.features.images_per_batch, "training": peaks(trial), "validation": 1}


OPEN: dict[str, object] = {"images_per_step": 8, "images_per_batch": None}


def at_once(images: int, **sections: object) -> Recipe:
    return Recipe.model_validate({"training": {"images_per_batch": images}} | sections)


def test_a_smaller_batch_is_tried_before_all_else():
    options = at_once(8)

    found = remedies.cheapest(options, _needs(lambda trial: 10 * trial.training.images_per_batch), 45)

    assert found == {"training.images_per_batch": 4}


def test_recomputing_comes_before_a_smaller_adapter_and_that_before_coarser_weights():
    def peaks(trial: Recipe) -> int:
        saved = 10 * trial.training.gradient_checkpointing + 20 * (trial.lora.preset == "fast")
        return 100 - saved - 30 * (trial.model.precision == "int8")

    def keys(limit: int) -> set[str]:
        return set(remedies.cheapest(Recipe(), _needs(peaks), limit) or ())

    assert keys(90) == {"training.gradient_checkpointing"}
    assert keys(80) == {"lora.preset"}
    assert keys(60) == {"model.precision", "training.gradient_checkpointing"}
    assert remedies.cheapest(Recipe(), _needs(peaks), 10) is None


def test_recomputing_comes_before_single_images_at_once():
    def peaks(trial: Recipe) -> int:
        return (8 if trial.training.gradient_checkpointing else 25) * trial.training.images_per_batch

    found = remedies.cheapest(at_once(8), _needs(peaks), 33)

    assert found == {"training.gradient_checkpointing": True, "training.images_per_batch": 4}


def test_over_coarse_weights_recomputing_comes_before_pairs_of_images():
    options = at_once(8, model={"precision": "nf4"})

    def peaks(trial: Recipe) -> int:
        return (4 if trial.training.gradient_checkpointing else 10) * trial.training.images_per_batch

    assert remedies.cheapest(options, _needs(peaks), 40) == {"training.images_per_batch": 4}
    assert remedies.cheapest(options, _needs(peaks), 35) == {"training.gradient_checkpointing": True}


def test_an_adapter_on_the_q_former_is_given_up_before_one_on_the_encoder():
    options = Recipe.model_validate({"lora": {"preset": "quality"}})
    sizes = {"quality": 9, "efficient": 8, "fast": 7}

    def needs(trial: Recipe) -> dict[str, int]:
        return {"checks": sizes[trial.lora.preset]}

    found = [remedies.cheapest(options, needs, limit) for limit in (8, 7)]

    assert found == [{"lora.preset": "efficient"}, {"lora.preset": "fast"}]
    assert remedies.warnings(found[0] or {}) == [
        "lora.preset = efficient leaves the Q-Former as it is, which may score lower"
    ]


def test_room_goes_to_the_largest_batch_that_divides_the_step_and_fits():
    needs = _needs(lambda trial: 10 * trial.training.images_per_batch)

    assert remedies.with_larger_batches(at_once(8), needs, 200) == {"training.images_per_batch": 16}
    assert remedies.with_larger_batches(at_once(8), needs, 150) == {}


def test_a_plan_for_a_gpu_has_as_many_at_once_as_train_would_take(checkpoints: Path, tmp_path: Path):
    options = tiny_recipe(checkpoints / "mid", tmp_path / "none", training=OPEN, model={"precision": "bf16"})

    roomy, tight = (plan(options, gpu_memory=memory) for memory in ("24GB", "950MB"))

    assert roomy.images_at_once == 8
    assert roomy.room is None
    assert tight.fits
    assert tight.flags == []
    assert tight.images_at_once in (2, 4)
    assert next(phase.images for phase in tight.phases if phase.name == "training") == tight.images_at_once


def test_where_not_even_a_few_at_once_fit_recomputing_is_what_helps(checkpoints: Path, tmp_path: Path):
    options = tiny_recipe(checkpoints / "mid", tmp_path / "none", training=OPEN, model={"precision": "bf16"})
    fewest = plan(options, gpu_memory="1MB").peak_bytes

    tight = plan(options, gpu_memory=f"{(fewest - 10**6) // 10**6}MB")

    assert not tight.fits
    assert tight.flags == ["--training.gradient-checkpointing"]


def test_a_plan_for_a_cpu_has_the_usual_number_at_once(tiny_checkpoint: Path, tmp_path: Path):
    options = tiny_recipe(tiny_checkpoint, tmp_path / "none", training=OPEN | {"images_per_step": 30})

    assert plan(options).images_at_once == 6


def test_a_plan_for_a_gpu_tells_the_room_it_leaves(tiny_checkpoint: Path, tmp_path: Path):
    training: dict[str, object] = {"images_per_step": 32, "images_per_batch": 8}
    options = tiny_recipe(tiny_checkpoint, write_tiny_dataset(tmp_path / "data"), training=training)

    room = plan(options, gpu_memory="24GB").room

    assert room is not None
    assert room.flags == ["--training.images-per-batch", "32"]
    assert room.peak_bytes < 24e9


def test_times_are_told_for_a_rate_that_is_given(tiny_checkpoint: Path, tmp_path: Path):
    options = tiny_recipe(tiny_checkpoint, write_tiny_dataset(tmp_path / "data"))

    slow, fast = (plan(options, gpu_memory="8GB", gpu_tflops=rate).times for rate in (1e-6, 2e-6))

    assert slow is not None
    assert fast is not None
    assert slow.epoch_s == pytest.approx(2 * fast.epoch_s)
    with pytest.raises(InputError, match="--gpu-tflops 0 is no rate"):
        plan(options, gpu_tflops=0.0)


@pytest.mark.parametrize("write", [write_tiny_checkpoint, write_tiny_opt_checkpoint])
def test_the_context_of_a_caption_is_counted_once_and_each_further_token_alike(write, tmp_path: Path):
    config = checkpoint.load_config(checkpoint.find(str(write(tmp_path / "base"))))
    rehearsals = Rehearsals(config, "cuda", CaptionLengths(100, 10, 5, 75, 135, 3))

    one, two, ten = (
        rehearsals.captioning(Recipe.model_validate({"decoding": {"max_new_tokens": count}}), Arithmetic(torch.float32))
        for count in (1, 2, 10)
    )

    assert ten.flop - one.flop == 9 * (two.flop - one.flop)
    assert two.flop - one.flop < one.flop / 2


def test_captioning_with_the_whole_model_is_told_where_it_is_too_much(tiny_checkpoint: Path, tmp_path: Path):
    options = tiny_recipe(tiny_checkpoint, write_tiny_dataset(tmp_path / "data"))

    found = plan(options, gpu_memory="8GB")

    assert found.captioning_precision == "fp32"
    assert found.captioning_bytes > sum(part.bytes for part in found.parts)


def test_batches_of_other_phases_are_halved_where_those_are_too_much():
    found = remedies.cheapest(Recipe(), _needs(lambda trial: 1), 9)

    assert found == {"features.images_per_batch": 8}


def test_an_adapter_that_needs_exact_weights_is_never_offered_coarse_ones():
    options = Recipe.model_validate({"lora": {"init": "pissa"}})

    found = remedies.cheapest(options, _needs(lambda trial: 9 if trial.model.precision == "auto" else 1), 5)

    assert found is None


def test_changes_become_words_for_train():
    words = remedies.flags({"training.images_per_batch": 2, "training.gradient_checkpointing": True})

    assert words == ["--training.images-per-batch", "2", "--training.gradient-checkpointing"]


@pytest.mark.parametrize(("text", "size"), [("8GB", 8e9), ("8 gib", 8 * 2**30), ("23.5G", 23.5e9), ("512MB", 512e6)])
def test_sizes_are_read_as_people_write_them(text: str, size: float):
    assert size_bytes(text) == int(size)


@pytest.mark.parametrize("text", ["8", "GB", "-3GB", "8TBB", "nanGB", "infGB"])
def test_anything_else_is_no_size(text: str):
    with pytest.raises(InputError, match="is no size"):
        size_bytes(text)
