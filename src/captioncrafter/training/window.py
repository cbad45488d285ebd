"""What the steps since the last row of the log had in common: their loss and their speed."""

import time
from dataclasses import dataclass


@dataclass
class Window:
    """Loss and speed since the last row of the log."""

    loss: float = 0.0
    tokens: int = 0
    captions: int = 0
    started: float = 0.0

    def add(self, loss: float, tokens: int, captions: int) -> None:
        """One more step: its summed loss in nats over so many tokens of so many captions."""
        self.loss += loss
        self.tokens += tokens
        self.captions += captions

    def leave_out(self, seconds: float) -> None:
        """Time that went into other things than steps."""
        if self.started:
            self.started += seconds

    def take(self) -> dict[str, float]:
        """Mean loss in nats per token and captions a second since the last call."""
        now = time.monotonic()
        row = {"loss": self.loss / self.tokens}
        if self.started:
            row["captions_per_s"] = self.captions / (now - self.started)
        self.loss, self.tokens, self.captions, self.started = 0.0, 0, 0, now
        return row
