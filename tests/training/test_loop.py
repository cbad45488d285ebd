"""The loop learns, keeps the best adapter, and goes on after a stop as if there had been none."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from captioncrafter import runs
from captioncrafter.data.images import decode_image
from captioncrafter.errors import CaptionCrafterError
from captioncrafter.features.extract import extract
from captioncrafter.features.key import FeatureKey
from captioncrafter.features.store import FeatureStore
from captioncrafter.model import lora
from captioncrafter.model.captioning import encode_prompt
from captioncrafter.training import loop
from captioncrafter.training.batches import TrainingImages
from captioncrafter.training.guard import Stopped
from captioncrafter.training.packing import encode_captions
from tiny import captions_of_picture, changed_copy, flip_byte, load_tiny, picture, tiny_recipe

IMAGES = 6
EVERY = {"patience": 0, "every_epochs": 1.0}
Validate = Callable[[], loop.Validation]


def scored(ciders: list[float]) -> Validate:
    """A validation whose CIDEr is the next of `ciders`, the one before training first; the last one stays."""
    left = iter(ciders)

    def validate() -> loop.Validation:
        return loop.Validation(next(left, ciders[-1]), 0.0, 1.0, 5.0)

    return validate


RISING = [number / 100 for number in range(100)]


class Trainee:
    """A checkpoint with its features: what every run of these tests starts from."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self.checkpoint = checkpoint
        _, self.processor, model = load_tiny(checkpoint)
        self.store = FeatureStore.open(folder, FeatureKey({"checkpoint": str(checkpoint)}))
        pictures = {f"hash-{n}": lambda n=n: decode_image(picture(n)) for n in range(IMAGES)}
        extract(model, self.processor, pictures, self.store, images_per_batch=4, stored_as="float32")
        captions = [
            encode_captions(self.processor.tokenizer, captions_of_picture(n), max_tokens=32)[0] for n in range(6)
        ]
        self.images = TrainingImages([f"picture-{n}.png" for n in range(IMAGES)], list(pictures), captions)

    def fit(
        self,
        out: Path,
        validate: Validate | None = None,
        *,
        validation: dict[str, object] = EVERY,
        dropout: float = 0.05,
        tracker: str = "none",
        **training: object,
    ) -> loop.FitResult:
        options = tiny_recipe(
            self.checkpoint,
            Path("unused"),
            training={"epochs": 3.0, "keep_checkpoints": 100, "log_every_steps": 1} | training,
            validation=validation,
            lora={"rank": 2, "dropout": dropout},
            tracking={"tracker": tracker},
        )
        self.tuned = lora.attach(load_tiny(self.checkpoint)[2], options.lora, seed=0)
        out.mkdir(exist_ok=True)
        return loop.fit(
            self.tuned,
            self.images,
            self.store,
            encode_prompt(self.processor, "a photo of"),
            options,
            runs.Run(out),
            validate or scored(RISING),
            save_best=lambda folder: save_weights(self.tuned, folder),
        )


def save_weights(tuned, folder: Path) -> None:
    with runs.replacing_folder(folder) as temporary:
        save_file({name: p.detach() for name, p in lora.trainable(tuned).items()}, temporary / "weights.safetensors")


def weights_after(run: Path, step: int) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:06d}" / "weights.safetensors")


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def log_of(run: Path, kind: str) -> list[dict[str, float]]:
    return [row for row in runs.Run(run).log() if row["kind"] == kind]


@pytest.fixture(scope="module")
def trainee(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainee:
    return Trainee(tiny_checkpoint, tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def without_dropout(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainee:
    folder = tmp_path_factory.mktemp("without-dropout")
    text = json.loads((tiny_checkpoint / "config.json").read_text())["text_config"] | {"dropout_rate": 0.0}
    return Trainee(changed_copy(tiny_checkpoint, folder / "tiny", "config.json", text_config=text), folder / "features")


@pytest.fixture(scope="module")
def uninterrupted(trainee: Trainee, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of six steps without a stop."""
    out = tmp_path_factory.mktemp("uninterrupted")
    trainee.fit(out)
    return out


def test_the_loss_falls(trainee: Trainee, tmp_path: Path):
    trainee.fit(tmp_path, epochs=10.0, learning_rate=3e-2)

    losses = [row["loss"] for row in log_of(tmp_path, "step")]
    assert len(losses) == 20
    assert losses[-1] < 0.7 * losses[0]


def test_every_step_and_every_epoch_is_logged(uninterrupted: Path):
    steps, validations = log_of(uninterrupted, "step"), log_of(uninterrupted, "validation")

    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert [(row["step"], row["epoch"]) for row in validations] == [(0, 0.0), (2, 1.0), (4, 2.0), (6, 3.0)]


def test_only_the_weights_of_the_adapter_change(trainee: Trainee, uninterrupted: Path):
    start = lora.trainable(lora.attach(load_tiny(trainee.checkpoint)[2], tiny_lora(), seed=0))

    after = weights_after(uninterrupted, 6)

    assert after.keys() == start.keys()
    assert not any(torch.equal(after[name], start[name]) for name in after)


def tiny_lora():
    return tiny_recipe(Path("unused"), Path("unused"), lora={"rank": 2}).lora


def test_the_same_run_again_gives_the_same_weights_bit_for_bit(trainee: Trainee, uninterrupted: Path, tmp_path: Path):
    trainee.fit(tmp_path)

    assert equal(weights_after(tmp_path, 6), weights_after(uninterrupted, 6))


def test_the_best_adapter_by_cider_is_kept(trainee: Trainee, tmp_path: Path):
    result = trainee.fit(tmp_path, scored([0.9, 0.2, 0.5, 0.4]))

    assert (result.best_step, result.best_cider, result.steps, result.stopped_early) == (4, 0.5, 6, False)
    assert equal(load_file(tmp_path / "adapter" / "weights.safetensors"), weights_after(tmp_path, 4))


def test_of_equal_ciders_the_first_is_kept(trainee: Trainee, tmp_path: Path):
    assert trainee.fit(tmp_path, scored([0.0, 0.3, 0.3, 0.3])).best_step == 2


def test_training_stops_after_so_many_validations_without_gain(trainee: Trainee, tmp_path: Path):
    result = trainee.fit(tmp_path, scored([0.0, 0.5, 0.4, 0.3, 0.9]), validation={"patience": 2}, epochs=10.0)

    assert (result.best_step, result.steps, result.stopped_early) == (2, 6, True)


def test_a_gain_gives_patience_anew(trainee: Trainee, tmp_path: Path):
    ciders = [0.0, 0.5, 0.4, 0.6, 0.5, 0.4]

    result = trainee.fit(tmp_path, scored(ciders), validation={"patience": 2}, epochs=10.0)

    assert (result.best_step, result.steps) == (6, 10)


def test_a_step_in_several_batches_is_the_step_in_one(without_dropout: Trainee, tmp_path: Path):
    def fit(name: str, size: int) -> dict[str, Tensor]:
        without_dropout.fit(tmp_path / name, dropout=0.0, images_per_step=6, images_per_batch=size, epochs=2.0)
        return weights_after(tmp_path / name, 2)

    whole, halves, singly = fit("whole", 6), fit("halves", 3), fit("singly", 1)

    for name, tensor in whole.items():
        torch.testing.assert_close(halves[name], tensor, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(singly[name], tensor, rtol=1e-3, atol=1e-5)


def test_the_logged_loss_is_the_mean_over_the_tokens_of_the_step(without_dropout: Trainee, tmp_path: Path):
    without_dropout.fit(tmp_path / "one", dropout=0.0, images_per_step=6, images_per_batch=6, epochs=1.0)
    without_dropout.fit(tmp_path / "six", dropout=0.0, images_per_step=6, images_per_batch=1, epochs=1.0)

    one, six = (log_of(tmp_path / name, "step")[0] for name in ("one", "six"))

    assert six["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert six["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


def test_gradient_checkpointing_gives_the_same_weights_under_dropout(
    trainee: Trainee, uninterrupted: Path, tmp_path: Path
):
    trainee.fit(tmp_path, gradient_checkpointing=True)

    for name, tensor in weights_after(uninterrupted, 6).items():
        torch.testing.assert_close(weights_after(tmp_path, 6)[name], tensor, rtol=1e-5, atol=1e-7)


def test_dropout_is_on_while_training(trainee: Trainee, without_dropout: Trainee, tmp_path: Path):
    trainee.fit(tmp_path / "on", dropout=0.0, epochs=1.0)
    without_dropout.fit(tmp_path / "off", dropout=0.0, epochs=1.0)

    on, off = (log_of(tmp_path / name, "step")[0]["loss"] for name in ("on", "off"))

    assert on != off


def test_validation_never_changes_the_randomness_of_training(trainee: Trainee, uninterrupted: Path, tmp_path: Path):
    rising = scored(RISING)

    def drawing() -> loop.Validation:
        torch.manual_seed(1)
        torch.rand(7)
        return rising()

    trainee.fit(tmp_path, drawing, validation={"patience": 0, "every_epochs": 0.5})

    assert len(log_of(tmp_path, "validation")) == 7
    assert equal(weights_after(tmp_path, 6), weights_after(uninterrupted, 6))


def test_validation_sees_the_adapter_in_eval_mode(trainee: Trainee, tmp_path: Path):
    modes: list[bool] = []
    rising = scored(RISING)

    def validate() -> loop.Validation:
        modes.append(any(module.training for module in trainee.tuned.modules()))
        return rising()

    trainee.fit(tmp_path, validate)

    assert modes == [False] * 4


def test_only_the_language_model_is_in_training_mode(trainee: Trainee, tmp_path: Path):
    trainee.fit(tmp_path, epochs=1.0)

    model = trainee.tuned.get_base_model()
    assert model.language_model.training
    assert not any(module.training for part in (model.vision_model, model.qformer) for module in part.modules())


def test_the_logged_speed_leaves_validation_out(trainee: Trainee, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rising, clock = scored(RISING), [0.0]

    def tick() -> float:
        clock[0] += 1
        return clock[0]

    def validate() -> loop.Validation:
        clock[0] += 10_000
        return rising()

    monkeypatch.setattr("time.monotonic", tick)
    trainee.fit(tmp_path, validate)

    speeds = [row["captions_per_s"] for row in log_of(tmp_path, "step")[1:]]
    assert min(speeds) > 1


def test_a_run_leaves_the_global_random_state(trainee: Trainee, tmp_path: Path):
    before = torch.get_rng_state()

    trainee.fit(tmp_path, epochs=1.0)

    assert torch.equal(torch.get_rng_state(), before)


def interrupt(trainee: Trainee, out: Path, *, at_validation: int, number: int = signal.SIGTERM, **training: object):
    """Runs until a signal that comes during validation number `at_validation` (0 is before training)."""
    seen: Iterator[int] = iter(range(100))
    rising = scored(RISING)

    def validate() -> loop.Validation:
        if next(seen) == at_validation:
            os.kill(os.getpid(), number)
        return rising()

    with pytest.raises(Stopped) as stopped:
        trainee.fit(out, validate, **training)
    return stopped.value


@pytest.mark.parametrize("at_validation", [0, 1, 2])
def test_a_stopped_run_goes_on_to_the_same_weights_bit_for_bit(
    trainee: Trainee, uninterrupted: Path, tmp_path: Path, at_validation: int
):
    interrupt(trainee, tmp_path, at_validation=at_validation)

    trainee.fit(tmp_path, scored(RISING[at_validation + 1 :]))

    assert equal(weights_after(tmp_path, 6), weights_after(uninterrupted, 6))
    assert equal(
        load_file(tmp_path / "adapter" / "weights.safetensors"),
        load_file(uninterrupted / "adapter" / "weights.safetensors"),
    )


def test_a_stopped_run_says_how_to_go_on_and_ends_as_shells_expect(trainee: Trainee, tmp_path: Path):
    stopped = interrupt(trainee, tmp_path, at_validation=1, number=signal.SIGINT)

    assert "stopped after step 2 of 6" in str(stopped)
    assert "--resume" in str(stopped)
    assert stopped.exit_code == 130


def test_a_resumed_run_logs_each_step_once(trainee: Trainee, uninterrupted: Path, tmp_path: Path):
    interrupt(trainee, tmp_path, at_validation=1)
    trainee.fit(tmp_path, scored(RISING[2:]))

    for kind, column in (("step", "loss"), ("step", "learning_rate"), ("validation", "CIDEr")):
        resumed, whole = ([row[column] for row in log_of(run, kind)] for run in (tmp_path, uninterrupted))
        assert resumed == whole


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(
    trainee: Trainee, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    interrupt(trainee, tmp_path, at_validation=2)
    flip_byte(tmp_path / "checkpoints" / "step-000004" / "optimizer.safetensors", 700)

    trainee.fit(tmp_path, scored(RISING[2:]))

    assert "optimizer.safetensors is not as it was written; passed over" in capsys.readouterr().err
    assert equal(weights_after(tmp_path, 6), weights_after(uninterrupted, 6))
    assert len(log_of(tmp_path, "step")) == 6


def test_a_run_killed_between_validations_goes_on_from_its_checkpoint(
    trainee: Trainee, uninterrupted: Path, tmp_path: Path
):
    rising = scored(RISING)

    class Killed(BaseException):
        pass

    def validate() -> loop.Validation:
        found = rising()
        if found.cider == RISING[2]:
            raise Killed
        return found

    with pytest.raises(Killed):
        trainee.fit(tmp_path, validate, checkpoint_every_steps=1)
    last = max(path.name for path in (tmp_path / "checkpoints").iterdir())
    trainee.fit(tmp_path, scored(RISING[2:]), checkpoint_every_steps=1)

    assert last == "step-000003"
    assert equal(weights_after(tmp_path, 6), weights_after(uninterrupted, 6))


def test_a_finished_run_trains_no_step_more(trainee: Trainee, tmp_path: Path):
    first = trainee.fit(tmp_path, scored([0.0, 0.5, 0.4, 0.3]))

    again = trainee.fit(tmp_path, scored([0.9]))

    assert again == first


def test_early_stopping_is_remembered_across_a_stop(trainee: Trainee, tmp_path: Path):
    interrupt(trainee, tmp_path, at_validation=2, epochs=10.0)

    result = trainee.fit(tmp_path, scored([0.0]), validation={"patience": 2}, epochs=10.0)

    assert (result.best_step, result.steps, result.stopped_early) == (4, 8, True)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_images(trainee: Trainee, tmp_path: Path):
    with pytest.raises(CaptionCrafterError, match=r"step 2: the loss is .*Images of this step: picture-\d\.png"):
        trainee.fit(tmp_path, learning_rate=1e30, warmup=0.0, checkpoint_every_steps=1)


def test_weights_that_are_not_finite_are_never_saved(trainee: Trainee, tmp_path: Path):
    with pytest.raises(CaptionCrafterError):
        trainee.fit(tmp_path, learning_rate=1e30, warmup=0.0, checkpoint_every_steps=1)

    saved = [load_file(file) for file in tmp_path.rglob("weights.safetensors")]
    assert saved
    assert all(tensor.isfinite().all() for tensors in saved for tensor in tensors.values())


def test_gradients_are_clipped_to_the_recipes_norm(without_dropout: Trainee, tmp_path: Path):
    without_dropout.fit(tmp_path / "loose", dropout=0.0, max_grad_norm=1e9, epochs=1.0)
    without_dropout.fit(tmp_path / "tight", dropout=0.0, max_grad_norm=1e-12, epochs=1.0)

    loose, tight = (log_of(tmp_path / name, "step")[0]["grad_norm"] for name in ("loose", "tight"))

    assert tight == pytest.approx(loose)  # logged before clipping
    assert not equal(weights_after(tmp_path / "loose", 2), weights_after(tmp_path / "tight", 2))


def test_a_tracker_gets_the_curves(trainee: Trainee, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainee.fit(tmp_path, tracker="tensorboard", epochs=1.0)

    (file,) = tmp_path.rglob("events.out.tfevents.*")
    curves = EventAccumulator(str(file)).Reload()
    losses = [event.value for event in curves.Scalars("step/loss")]
    assert losses == pytest.approx([row["loss"] for row in log_of(tmp_path, "step")])
    assert "validation/CIDEr" in curves.Tags()["scalars"]
