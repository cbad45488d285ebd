"""The loop learns, keeps the best adapter, and goes on after any stop as if there had been none."""

import json
import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import captioncrafter
from captioncrafter import runs
from captioncrafter.errors import CaptionCrafterError
from captioncrafter.model import lora
from captioncrafter.model.stock import Tuned
from captioncrafter.training import loop
from captioncrafter.training.batches import Schedule
from captioncrafter.training.collapse import Validation
from captioncrafter.training.guard import Stopped
from tiny import flip_byte
from trainees import ALONE, Beginning, decoder_of, refuse_more_than, write_without_dropout

EVERY = {"patience": 0, "every_epochs": 1.0}
CIDERS = [0.9, 0.3, 0.5, 0.4]
"""Of the validations of three epochs, the one before training first: the best adapter is that of step 6."""

# Nine steps of two batches; a checkpoint after 2, 3, 4, 6, 8, 9 and a row of the log after 3, 6, 9: between two rows.
UNEVEN = {
    "epochs": 3.0,
    "images_per_step": 2,
    "images_per_batch": 1,
    "log_every_steps": 3,
    "checkpoint_every_steps": 2,
    "keep_checkpoints": 100,
}
EACH = {"log_every_steps": 1, "checkpoint_every_steps": 1}

# Of a run without dropout (whose draws differ between processors) over the bundled miniature (whose weights no
# library draws). The kernels of torch 2.13 for AVX2, AVX-512 and neither gave losses within 4e-6 of each other; the
# tolerance leaves room for other processors and versions.
GOLDEN = [11.04164, 12.68657, 11.02637, 10.23652, 10.54887, 8.742836, 8.527800, 8.711671, 9.033302]


class Killed(BaseException):
    """Ends a run as a kill does: nothing is written any more."""


def fit(
    start: Beginning,
    out: Path,
    *,
    ciders: list[float] = CIDERS,
    shuffled: float = 0.0,
    before: Callable[[Tuned], object] | None = None,
    validating: Callable[[int, Tuned], object] | None = None,
    source: Callable[..., Tensor] | None = None,
    stop_after_s: float | None = None,
    dropout: float = 0.05,
    validation: dict[str, object] = EVERY,
    tracker: str = "none",
    **training: object,
) -> loop.FitResult:
    """Trains in `out`; validation number n gives the n-th of `ciders`, then the last one on."""
    options = start.options(
        dropout=dropout, training=UNEVEN | training, validation=validation, tracking={"tracker": tracker}
    )
    tuned = start.tuned(options)
    if before is not None:
        before(tuned)
    out.mkdir(exist_ok=True)

    def validate() -> Validation:
        number = len(log_of(out, "validation"))
        if validating is not None:
            validating(number, tuned)
        return Validation(ciders[min(number, len(ciders) - 1)], shuffled, distinct=0.7, copied=0.1, mean_length=9.0)

    return loop.fit(
        start.trainee(tuned, source),
        options,
        runs.Run(out),
        validate,
        save_best=lambda folder: save_weights(tuned, folder),
        processes=ALONE,
        stop_after_s=stop_after_s,
    )


def save_weights(tuned: Tuned, folder: Path) -> None:
    with runs.replacing_folder(folder) as temporary:
        save_file({name: p.detach() for name, p in lora.trainable(tuned).items()}, temporary / "weights.safetensors")


def checkpoint_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:06d}"


def weights_after(run: Path, step: int) -> dict[str, Tensor]:
    return load_file(checkpoint_of(run, step) / "weights.safetensors")


def progress_after(run: Path, step: int) -> dict[str, Any]:
    return json.loads((checkpoint_of(run, step) / "state.json").read_text())["progress"]


def kept(run: Path) -> dict[str, Tensor]:
    return load_file(run / "adapter" / "weights.safetensors")


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def log_of(run: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in runs.Run(run).log() if row["kind"] == kind]


def assert_same_end(run: Path, other: Path, step: int = 9) -> None:
    """Bit for bit: weights, moments, progress, the adapter kept, and every row of the log but for its speed."""
    assert equal(weights_after(run, step), weights_after(other, step))
    moments = (load_file(checkpoint_of(one, step) / "optimizer.safetensors") for one in (run, other))
    assert equal(*moments)
    assert progress_after(run, step) == progress_after(other, step)
    assert equal(kept(run), kept(other))
    rows, others = (
        [{key: value for key, value in row.items() if key != "captions_per_s"} for row in runs.Run(one).log()]
        for one in (run, other)
    )
    assert rows == others


def at_batch(number: int, action: Callable[[], object]) -> Callable[[Tuned], None]:
    """Does `action` when batch `number` (from 0, two a step) reaches the decoder."""

    def listen(tuned: Tuned) -> None:
        seen = []

        def count(*anything: object) -> None:
            seen.append(None)
            if len(seen) == number + 1:
                action()

        decoder_of(tuned).register_forward_pre_hook(count)

    return listen


def send(number: int) -> Callable[..., None]:
    return lambda *anything: os.kill(os.getpid(), number)


def kill(*anything: object) -> None:
    raise Killed


@pytest.fixture(scope="module")
def start(tiny_checkpoint: Path) -> Beginning:
    return Beginning(tiny_checkpoint)


@pytest.fixture(scope="module")
def uninterrupted(start: Beginning, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of nine steps without a stop."""
    out = tmp_path_factory.mktemp("uninterrupted")
    fit(start, out)
    return out


def test_the_loss_falls(start: Beginning, tmp_path: Path):
    whole = {"images_per_step": 6, "images_per_batch": 6, "log_every_steps": 1, "checkpoint_every_steps": 100}
    fit(start, tmp_path, epochs=20.0, learning_rate=3e-2, validation={"every_epochs": 20.0}, **whole)

    losses = [row["loss"] for row in log_of(tmp_path, "step")]
    assert len(losses) == 20
    assert losses[-1] < 0.7 * losses[0]


def test_the_losses_of_a_small_run_are_those_they_have_always_been(tmp_path: Path):
    miniature = Path(captioncrafter.__file__).parent / "assets" / "miniature"
    still = Beginning(write_without_dropout(miniature, tmp_path / "still"))

    fit(still, tmp_path / "run", dropout=0.0, log_every_steps=1, learning_rate=1e-3)

    assert [row["loss"] for row in log_of(tmp_path / "run", "step")] == pytest.approx(GOLDEN, rel=1e-4)


def test_steps_and_epochs_are_logged(uninterrupted: Path):
    steps, validations = log_of(uninterrupted, "step"), log_of(uninterrupted, "validation")

    assert [row["step"] for row in steps] == [3, 6, 9]
    assert [(row["step"], row["epoch"]) for row in validations] == [(0, 0.0), (3, 1.0), (6, 2.0), (9, 3.0)]
    assert [row["best"] for row in validations] == [False, True, True, False]


def test_a_row_holds_the_mean_over_the_tokens_of_its_steps(start: Beginning, uninterrupted: Path, tmp_path: Path):
    fit(start, tmp_path, log_every_steps=1)
    schedule = Schedule(start.images.lengths, 2, 3.0, seed=0)
    tokens = [sum(start.images.lengths[image] for image in schedule.images_of(step)) for step in range(3)]

    singly = [row["loss"] for row in log_of(tmp_path, "step")[:3]]

    mean = sum(loss * count for loss, count in zip(singly, tokens, strict=True)) / sum(tokens)
    assert log_of(uninterrupted, "step")[0]["loss"] == pytest.approx(mean, rel=1e-6)


def test_only_the_weights_of_the_adapter_change(start: Beginning, uninterrupted: Path):
    fresh = lora.trainable(start.tuned(start.options()))

    after = weights_after(uninterrupted, 9)

    assert after.keys() == fresh.keys()
    assert not any(torch.equal(after[name], fresh[name]) for name in after)


def test_the_same_run_again_ends_the_same(start: Beginning, uninterrupted: Path, tmp_path: Path):
    fit(start, tmp_path)

    assert_same_end(tmp_path, uninterrupted)


def test_the_best_adapter_by_cider_is_kept(start: Beginning, tmp_path: Path):
    result = fit(start, tmp_path)

    assert (result.best_step, result.best_cider, result.steps, result.stopped_early) == (6, 0.5, 9, False)
    assert equal(kept(tmp_path), weights_after(tmp_path, 6))


def test_of_equal_ciders_the_first_is_kept(start: Beginning, tmp_path: Path):
    assert fit(start, tmp_path, ciders=[0.0, 0.3]).best_step == 3


def test_training_stops_after_so_many_validations_without_gain(start: Beginning, tmp_path: Path):
    result = fit(start, tmp_path, ciders=[0.0, 0.5, 0.4, 0.3, 0.9], validation={"patience": 2}, epochs=10.0)

    assert (result.best_step, result.steps, result.stopped_early) == (3, 9, True)


def test_a_gain_gives_patience_anew(start: Beginning, tmp_path: Path):
    result = fit(start, tmp_path, ciders=[0.0, 0.5, 0.4, 0.6, 0.5, 0.4], validation={"patience": 2}, epochs=10.0)

    assert (result.best_step, result.steps) == (9, 15)


def test_gradient_checkpointing_gives_the_same_weights_under_dropout(
    start: Beginning, uninterrupted: Path, tmp_path: Path
):
    fit(start, tmp_path, gradient_checkpointing=True)

    for name, tensor in weights_after(uninterrupted, 9).items():
        torch.testing.assert_close(weights_after(tmp_path, 9)[name], tensor, rtol=1e-5, atol=1e-7)


def test_validation_never_changes_the_randomness_of_training(start: Beginning, uninterrupted: Path, tmp_path: Path):
    def draw(number: int, tuned: Tuned) -> None:
        torch.manual_seed(number)
        torch.rand(7)

    fit(start, tmp_path, validating=draw, validation={"patience": 0, "every_epochs": 0.34})

    assert len(log_of(tmp_path, "validation")) == 10
    assert equal(weights_after(tmp_path, 9), weights_after(uninterrupted, 9))


def test_validation_sees_the_adapter_in_eval_mode(start: Beginning, tmp_path: Path):
    modes = []

    fit(start, tmp_path, validating=lambda number, tuned: modes.append(any(m.training for m in tuned.modules())))

    assert modes == [False] * 4


def test_after_validation_dropout_is_on_again(start: Beginning, tmp_path: Path):
    modes = []

    def listen(tuned: Tuned) -> None:
        decoder_of(tuned).register_forward_pre_hook(lambda decoder, *_: modes.append(decoder.training))

    fit(start, tmp_path, before=listen)

    assert modes == [True] * 18


def test_the_logged_speed_leaves_validation_out(start: Beginning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]

    def tick() -> float:
        clock[0] += 1
        return clock[0]

    def take_long(number: int, tuned: Tuned) -> None:
        clock[0] += 10_000

    monkeypatch.setattr("time.monotonic", tick)
    fit(start, tmp_path, validating=take_long, **EACH)

    assert min(row["captions_per_s"] for row in log_of(tmp_path, "step")[1:]) > 0.1


def test_a_run_leaves_the_global_random_state_and_no_thread(start: Beginning, tmp_path: Path):
    state, threads = torch.get_rng_state(), threading.active_count()

    fit(start, tmp_path / "whole", epochs=1.0)
    with pytest.raises(Killed):
        fit(start, tmp_path / "killed", epochs=1.0, before=at_batch(3, kill))

    assert torch.equal(torch.get_rng_state(), state)
    assert threading.active_count() == threads


@pytest.mark.parametrize("batch", [0, 7, 10])
def test_a_run_stopped_in_a_step_goes_on_as_if_it_had_not_been(
    start: Beginning, uninterrupted: Path, tmp_path: Path, batch: int
):
    with pytest.raises(Stopped, match=f"stopped after step {batch // 2 + 1} of 9") as stopped:
        fit(start, tmp_path, before=at_batch(batch, send(signal.SIGTERM)))
    assert stopped.value.exit_code == 143

    fit(start, tmp_path)

    assert_same_end(tmp_path, uninterrupted)


def test_a_stop_during_the_last_validation_lets_the_run_end(start: Beginning, uninterrupted: Path, tmp_path: Path):
    result = fit(start, tmp_path, validating=lambda number, tuned: number == 3 and os.kill(os.getpid(), signal.SIGTERM))

    assert result.steps == 9
    assert_same_end(tmp_path, uninterrupted)


@pytest.mark.parametrize("at_validation", [0, 1])
def test_a_run_stopped_in_validation_goes_on_as_if_it_had_not_been(
    start: Beginning, uninterrupted: Path, tmp_path: Path, at_validation: int
):
    def stop(number: int, tuned: Tuned) -> None:
        if number == at_validation:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        fit(start, tmp_path, validating=stop)
    result = fit(start, tmp_path)

    assert (result.best_step, result.best_cider) == (6, 0.5)
    assert_same_end(tmp_path, uninterrupted)


@pytest.mark.parametrize(("batch", "last"), [(2, None), (5, 2), (11, 4), (17, 8)])
def test_a_killed_run_goes_on_from_its_last_checkpoint(
    start: Beginning, uninterrupted: Path, tmp_path: Path, batch: int, last: int | None
):
    with pytest.raises(Killed):
        fit(start, tmp_path, before=at_batch(batch, kill))
    found = [int(path.name.removeprefix("step-")) for path in tmp_path.glob("checkpoints/step-*")]
    assert max(found, default=None) == last

    fit(start, tmp_path)

    assert_same_end(tmp_path, uninterrupted)


@pytest.mark.parametrize("at_validation", [1, 3])
def test_a_run_killed_in_validation_goes_on_as_if_it_had_not_been(
    start: Beginning, uninterrupted: Path, tmp_path: Path, at_validation: int
):
    with pytest.raises(Killed):
        fit(start, tmp_path, validating=lambda number, tuned: number == at_validation and kill())

    fit(start, tmp_path)

    assert_same_end(tmp_path, uninterrupted)


def test_a_run_stopped_after_every_step_goes_on_as_if_it_had_not_been(
    start: Beginning, uninterrupted: Path, tmp_path: Path
):
    for step in range(1, 9):
        with pytest.raises(Stopped, match=f"stopped after step {step} of 9"):
            fit(start, tmp_path, stop_after_s=0.0)

    fit(start, tmp_path)

    assert_same_end(tmp_path, uninterrupted)


def test_a_run_out_of_time_is_no_failure_and_says_how_to_go_on(start: Beginning, tmp_path: Path):
    with pytest.raises(Stopped, match="--resume") as stopped:
        fit(start, tmp_path, stop_after_s=0.0)

    assert stopped.value.exit_code == 0
    assert str(tmp_path) in str(stopped.value)


def test_a_run_with_time_enough_is_not_stopped(start: Beginning, tmp_path: Path):
    assert fit(start, tmp_path, stop_after_s=600.0).steps == 9


@pytest.mark.parametrize("where", ["step", "validation"])
def test_a_second_signal_ends_the_run_at_once_and_its_last_checkpoint_is_good(
    start: Beginning, uninterrupted: Path, tmp_path: Path, where: str
):
    def insist(*anything: object) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        if where == "step":
            fit(start, tmp_path, before=at_batch(7, insist))
        else:
            fit(start, tmp_path, validating=lambda number, tuned: number == 2 and insist())
    fit(start, tmp_path)

    assert_same_end(tmp_path, uninterrupted)


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(
    start: Beginning, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(Killed):
        fit(start, tmp_path, before=at_batch(13, kill))
    flip_byte(checkpoint_of(tmp_path, 6) / "optimizer.safetensors", 700)

    fit(start, tmp_path)

    assert "optimizer.safetensors is not as it was written; passed over" in capsys.readouterr().err
    assert_same_end(tmp_path, uninterrupted)


def test_the_best_adapter_is_written_again_where_a_kill_came_before_it(
    start: Beginning, uninterrupted: Path, tmp_path: Path
):
    with pytest.raises(Killed):
        fit(start, tmp_path, before=at_batch(13, kill))
    (tmp_path / "adapter" / "weights.safetensors").unlink()

    with pytest.raises(Stopped):
        fit(start, tmp_path, stop_after_s=0.0)

    assert equal(kept(tmp_path), weights_after(uninterrupted, 6))


def test_a_finished_run_trains_no_step_more(start: Beginning, tmp_path: Path):
    first = fit(start, tmp_path)

    again = fit(start, tmp_path, ciders=[0.9], before=at_batch(0, kill), validating=kill)

    assert again == first


def test_early_stopping_is_remembered_across_a_stop(start: Beginning, tmp_path: Path):
    with pytest.raises(Killed):
        fit(start, tmp_path, ciders=[0.0, 0.5, 0.4], epochs=10.0, before=at_batch(14, kill))

    result = fit(start, tmp_path, ciders=[0.0], validation={"patience": 2}, epochs=10.0)

    assert (result.best_step, result.steps, result.stopped_early) == (3, 9, True)


def test_batches_halved_for_lack_of_memory_stay_so_over_a_stop(
    start: Beginning, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    asked: list[list[int]] = []

    def tight(tuned: Tuned) -> None:
        asked.append(refuse_more_than(tuned, 1))

    fit(start, tmp_path / "whole", images_per_batch=2, before=tight)
    with pytest.raises(Stopped):
        fit(start, tmp_path / "stopped", images_per_batch=2, before=tight, stop_after_s=0.0)
    fit(start, tmp_path / "stopped", images_per_batch=2, before=tight)

    assert asked == [[2, *[1] * 18], [2, 1, 1], [1] * 16]
    assert capsys.readouterr().err.count("out of memory") == 2
    assert progress_after(tmp_path / "stopped", 9)["halvings"] == 1
    assert_same_end(tmp_path / "stopped", tmp_path / "whole")


def bad_image(start: Beginning) -> int:
    """An image of the second step."""
    return Schedule(start.images.lengths, 2, 3.0, seed=0).images_of(1)[0]


def with_a_bad_image(start: Beginning) -> Callable[..., Tensor]:
    features = start.features.clone()
    features[bad_image(start), 0, 0] = float("nan")

    def source(images: Sequence[int], *, step: int) -> Tensor:
        return features[list(images)]

    return source


def test_a_step_that_is_not_finite_stops_the_run_and_names_step_and_images(start: Beginning, tmp_path: Path):
    tuned: list[Tuned] = []

    with pytest.raises(CaptionCrafterError, match=r"step 2: the loss is nan .*Images of this step: picture-") as raised:
        fit(start, tmp_path, source=with_a_bad_image(start), before=tuned.append, **EACH)

    assert start.images.names[bad_image(start)] in str(raised.value)
    assert [path.name for path in tmp_path.glob("checkpoints/*")] == ["step-000001"]
    assert equal(lora.trainable(tuned[0]), weights_after(tmp_path, 1))
    assert all(tensor.isfinite().all() for tensor in weights_after(tmp_path, 1).values())


def test_a_step_that_is_not_finite_can_be_set_aside(
    start: Beginning, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    fit(start, tmp_path, source=with_a_bad_image(start), on_nonfinite="skip", **EACH)

    assert progress_after(tmp_path, 9)["skipped"] == 3  # one an epoch
    assert capsys.readouterr().err.count("Set aside; the weights are as before it.") == 3
    assert equal(weights_after(tmp_path, 2), weights_after(tmp_path, 1))
    moments = (load_file(checkpoint_of(tmp_path, step) / "optimizer.safetensors") for step in (1, 2))
    assert equal(*moments)
    assert not equal(weights_after(tmp_path, 3), weights_after(tmp_path, 2))
    assert all(tensor.isfinite().all() for tensor in weights_after(tmp_path, 9).values())
    assert "NaN" not in (tmp_path / "log.jsonl").read_text()
    assert next(row["step"] for row in log_of(tmp_path, "step") if "loss" not in row) == 2


def test_a_run_that_sets_steps_aside_goes_on_after_a_stop_as_if_it_had_not_been(start: Beginning, tmp_path: Path):
    bad = with_a_bad_image(start)
    fit(start, tmp_path / "whole", source=bad, on_nonfinite="skip")

    for batch in (5, 9):
        with pytest.raises(Stopped):
            before = at_batch(batch % 6, send(signal.SIGTERM))
            fit(start, tmp_path / "stopped", source=bad, on_nonfinite="skip", before=before)
    fit(start, tmp_path / "stopped", source=bad, on_nonfinite="skip")

    assert_same_end(tmp_path / "stopped", tmp_path / "whole")


def test_captions_that_no_longer_tell_images_apart_are_warned_of(
    start: Beginning, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    fit(start, tmp_path, ciders=[0.3, 0.3, 0.5, 0.4], shuffled=0.45)

    said = capsys.readouterr().err
    assert "step 3: the captions score CIDEr 30.0 on their own images and 45.0 on other ones" in said
    assert said.count("they hardly depend on the image") == 3  # not of the base before training


def test_captions_that_tell_images_apart_are_not_warned_of(
    start: Beginning, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    fit(start, tmp_path)

    assert "warning" not in capsys.readouterr().err


def test_what_validation_saw_is_logged(uninterrupted: Path):
    row = log_of(uninterrupted, "validation")[1]

    seen = {name: row[name] for name in ("CIDEr", "shuffled_CIDEr", "distinct", "copied", "mean_length")}
    assert seen == {"CIDEr": 0.3, "shuffled_CIDEr": 0.0, "distinct": 0.7, "copied": 0.1, "mean_length": 9.0}


def test_a_tracker_gets_the_curves(start: Beginning, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(start, tmp_path, tracker="tensorboard", epochs=1.0, log_every_steps=1)

    (file,) = tmp_path.rglob("events.out.tfevents.*")
    curves = EventAccumulator(str(file)).Reload()
    losses = [event.value for event in curves.Scalars("step/loss")]
    assert losses == pytest.approx([row["loss"] for row in log_of(tmp_path, "step")])
    assert "validation/CIDEr" in curves.Tags()["scalars"]
