"""What the next row of the log tells of the steps before it: their loss, their speed, the last gradient's norm."""

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Window:
    """Loss and speed since the last row of the log; `norm` is of the newest step that was not set aside.

    The losses are added up in the order of their steps, so that the sum is the same whenever it is looked at.
    """

    loss: float = 0.0
    tokens: int = 0
    captions: int = 0
    norm: float = 0.0
    started: float = field(default_factory=time.monotonic)
    timed_captions: int = 0

    def add(self, loss: float, norm: float, tokens: int, captions: int) -> None:
        """One more step: its summed loss in nats over so many tokens of so many captions, its gradient's norm."""
        self.loss += loss
        self.norm = norm
        self.tokens += tokens
        self.captions += captions
        self.timed_captions += captions

    def leave_out(self, seconds: float) -> None:
        """Time that went into other things than steps."""
        self.started += seconds

    def take(self) -> dict[str, float]:
        """Mean loss in nats per token and captions a second since the last call; no loss when every step was skipped.

        Speed is of this process's own time: after a resume, of the steps since.
        """
        now = time.monotonic()
        row = {"loss": self.loss / self.tokens} if self.tokens else {}
        row["captions_per_s"] = self.timed_captions / max(now - self.started, 1e-9)
        self.loss, self.tokens, self.captions, self.timed_captions, self.started = 0.0, 0, 0, 0, now
        return row

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint has to hold of it."""
        return {"loss": self.loss, "tokens": self.tokens, "captions": self.captions, "norm": self.norm}
