"""An experiment tracker beside the run's own log, through accelerate."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from captioncrafter import recipe, runs
from captioncrafter.training.processes import Processes


class Tracker:
    """Sends the numbers of each row to the recipe's tracker; to nowhere when there is none."""

    def __init__(self, accelerator: Any = None) -> None:
        self._accelerator = accelerator

    @classmethod
    @contextmanager
    def opened(cls, tracking: recipe.Tracking, run: runs.Run, processes: Processes) -> Iterator["Tracker"]:
        """A tracker for the length of the block, on the main process only."""
        if tracking.tracker == "none" or not processes.is_main:
            yield cls()
            return
        from accelerate import Accelerator

        accelerator = Accelerator(log_with=tracking.tracker, project_dir=str(run.path))
        accelerator.init_trackers(tracking.project)
        try:
            yield cls(accelerator)
        finally:
            # Not `end_training`, which ends the processes' group too.
            for tracker in accelerator.trackers:
                tracker.finish()

    def log(self, row: dict[str, Any]) -> None:
        """One row of the run's log, its numbers named `kind/name`."""
        if self._accelerator is not None:
            numbers = {key: value for key, value in row.items() if key not in ("kind", "step", "best")}
            named = {f"{row['kind']}/{key}": value for key, value in numbers.items()}
            self._accelerator.log(named, step=row["step"])
