"""What a run tells of its training: rows in its log and the tracker, lines on the terminal, warnings of a collapse."""

from typing import Any

from captioncrafter import events, runs
from captioncrafter.training.batches import Schedule
from captioncrafter.training.collapse import Validation, signs_of_collapse
from captioncrafter.training.processes import Processes
from captioncrafter.training.tracking import Tracker
from captioncrafter.training.window import Window


class Journal:
    """Owns the log of a run and the sums that its next row needs; only the main process writes."""

    def __init__(self, run: runs.Run, schedule: Schedule, processes: Processes, tracker: Tracker) -> None:
        self.run, self.schedule, self.processes, self.tracker = run, schedule, processes, tracker
        self.window = Window()

    def begin(self) -> None:
        """Forgets whatever was logged before."""
        self._keep(before=-1)

    def go_on(self, step: int, window: dict[str, Any], *, every_steps: int) -> None:
        """Takes up the log after `step` with the sums of `window`; rows of later steps go, lost ones are warned of."""
        self.window = Window(**window)
        self._keep(before=step)
        newest = step - step % every_steps
        if self.processes.is_main and newest and all(row["step"] < newest for row in self.run.log()):
            events.warn(f"{self.run.path / runs.LOG}: rows of steps before {step} are gone from it.")

    def log_steps(self, step: int, rate: float) -> str:
        """The row of the steps since the last one; gives the note that stands beside the progress."""
        row: dict[str, float | int | str | bool] = {
            "kind": "step",
            "step": step,
            "epoch": self.schedule.epoch_after(step),
            **self.window.take(),
            "learning_rate": rate,
            "grad_norm": self.window.norm,
        }
        self._log(row)
        return f"loss {row['loss']:.3f}" if "loss" in row else ""

    def log_validation(self, step: int, found: Validation, *, best: bool) -> None:
        """The row and the line of a validation after `step`; signs of a collapse are warned of once training began."""
        epoch = self.schedule.epoch_after(step)
        self._log(
            {
                "kind": "validation",
                "step": step,
                "epoch": epoch,
                "CIDEr": found.cider,
                "best": best,
                "shuffled_CIDEr": found.shuffled_cider,
                "distinct": found.distinct,
                "copied": found.copied,
                "mean_length": found.mean_length,
            }
        )
        mark = " (best so far)" if best else ""
        before = " before training" if step == 0 else ""
        events.say(
            f"epoch {epoch:.2f}, step {step}{before}: CIDEr {100 * found.cider:.1f}, "
            f"with images shuffled {100 * found.shuffled_cider:.1f}{mark}"
        )
        if step > 0:
            for sign in signs_of_collapse(found):
                events.warn(f"step {step}: {sign}")

    def _keep(self, *, before: int) -> None:
        if self.processes.is_main:
            self.run.keep_log(lambda row: row["step"] <= before)

    def _log(self, row: dict[str, float | int | str | bool]) -> None:
        if self.processes.is_main:
            self.run.append_log(row)
            self.tracker.log(row)
