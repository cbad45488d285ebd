"""Numbers of a step on their way from a GPU, which is still computing when they are asked for."""

import torch
from jaxtyping import Float
from torch import Tensor


class Arriving:
    """A few numbers of a step; reading them waits for that step, and for nothing that was queued after it.

    A plain copy would queue behind all that the GPU has been given meanwhile: the next step, which is what looking one
    step late is to leave running.
    """

    def __init__(self, numbers: Float[Tensor, " number"]) -> None:
        self._numbers, self._event = _sent(numbers) if numbers.device.type == "cuda" else (numbers, None)

    def read(self) -> list[float]:
        """The numbers."""
        if self._event is not None:
            self._event.synchronize()
        return self._numbers.tolist()


def _sent(numbers: Tensor) -> tuple[Tensor, torch.cuda.Event]:
    """Where in page-locked memory the numbers will be, and what has happened once they are."""
    place = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    place.copy_(numbers, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(numbers.device))
    return place, arrived
