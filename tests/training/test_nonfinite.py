"""A step that is not finite stops the run or is set aside; the weights stay as they were either way."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from captioncrafter.errors import CaptionCrafterError
from captioncrafter.model import lora
from captioncrafter.model.stock import Tuned
from captioncrafter.training.batches import Schedule
from captioncrafter.training.guard import Stopped
from captioncrafter.training.loop import _Loop
from loops import (
    EACH,
    assert_same_end,
    at_batch,
    checkpoint_of,
    fit,
    log_of,
    progress_after,
    send,
    weights_after,
)
from trainees import Beginning, equal


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
    assert f"The state before it is kept in {tmp_path / 'checkpoints' / 'step-000001'}" in str(raised.value)
    assert [path.name for path in tmp_path.glob("checkpoints/*")] == ["step-000001"]
    assert equal(lora.trainable(tuned[0]), weights_after(tmp_path, 1))
    assert all(tensor.isfinite().all() for tensor in weights_after(tmp_path, 1).values())


def test_the_state_before_a_step_that_is_not_finite_is_kept_where_no_checkpoint_was_due(
    start: Beginning, tmp_path: Path
):
    bad = with_a_bad_image(start)
    fit(start, tmp_path / "whole", source=bad, on_nonfinite="skip")

    with pytest.raises(CaptionCrafterError, match="The state before it is kept in"):
        fit(start, tmp_path / "stopped", source=bad)
    assert progress_after(tmp_path / "stopped", 1)["step"] == 1
    fit(start, tmp_path / "stopped", source=bad, on_nonfinite="skip")

    assert_same_end(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize("every", [2, 100])
def test_the_state_before_it_is_kept_where_a_device_is_looked_at_a_step_late(
    start: Beginning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
):
    check = _Loop._check
    monkeypatch.setattr(_Loop, "_check", lambda self, *, keep=None: check(self, keep=0 if keep is None else 1))
    bad, seldom = with_a_bad_image(start), {"checkpoint_every_steps": every, "log_every_steps": every}
    fit(start, tmp_path / "whole", source=bad, on_nonfinite="skip", **seldom)

    with pytest.raises(CaptionCrafterError, match=r"step 2: .*kept in .*step-000001"):
        fit(start, tmp_path / "stopped", source=bad, **seldom)
    fit(start, tmp_path / "stopped", source=bad, on_nonfinite="skip", **seldom)

    assert_same_end(tmp_path / "stopped", tmp_path / "whole")


def test_the_checkpoint_that_was_due_stays_beside_the_state_before_it(start: Beginning, tmp_path: Path):
    def source(images: Sequence[int], *, step: int) -> Tensor:
        return start.features[list(images)] * (float("nan") if step == 3 else 1.0)

    with pytest.raises(CaptionCrafterError, match=r"step 4: .*kept in .*step-000003"):
        fit(
            start,
            tmp_path,
            source=source,
            checkpoint_every_steps=2,
            keep_checkpoints=1,
            validation={"every_epochs": 3.0},
        )

    assert sorted(path.name for path in tmp_path.glob("checkpoints/step-*")) == ["step-000002", "step-000003"]


def test_a_state_that_cannot_be_kept_hides_nothing_of_why_the_run_stops(start: Beginning, tmp_path: Path):
    (tmp_path / "checkpoints").write_text("in the way")

    with pytest.raises(
        CaptionCrafterError, match=r"step 2: the loss is nan .*could not be written .*there is none before it"
    ):
        fit(start, tmp_path, source=with_a_bad_image(start))


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


def test_the_norm_of_a_row_whose_steps_were_all_set_aside_is_the_same_after_a_stop(start: Beginning, tmp_path: Path):
    bad = with_a_bad_image(start)
    fit(start, tmp_path / "whole", source=bad, on_nonfinite="skip", **EACH)

    with pytest.raises(Stopped, match="stopped after step 1 "):
        fit(start, tmp_path / "stopped", source=bad, on_nonfinite="skip", stop_after_s=0.0, **EACH)
    fit(start, tmp_path / "stopped", source=bad, on_nonfinite="skip", **EACH)

    assert_same_end(tmp_path / "stopped", tmp_path / "whole")
