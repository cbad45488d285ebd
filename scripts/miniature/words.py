"""The words of captions that tell photos apart, and how they are found in what a network makes of a photo."""

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from .model import WIDTH


def telling_words(captions: Sequence[Sequence[str]]) -> list[str]:
    """Words in the captions of enough photos to be learned, and of few enough to tell one from another."""
    photos = Counter(word for texts in captions for word in {word for text in texts for word in text.split()})
    return sorted(word for word, count in photos.items() if 40 <= count <= len(captions) / 2)


def named_in(captions: Sequence[str], words: Sequence[str]) -> Float[Tensor, " word"]:
    """1 for each of the words that stands in some caption, else 0."""
    said = {word for text in captions for word in text.split()}
    return torch.tensor([float(word in said) for word in words])


class WordReader(torch.nn.Module):
    """Finds words in vectors of a photo, its patches or its queries: it has a word unless none of them has it.

    Word detectors by noisy-or, after Fang et al. (2015).
    """

    def __init__(self, words: int) -> None:
        super().__init__()
        self.detectors = torch.nn.Linear(WIDTH, words)
        torch.nn.init.constant_(self.detectors.bias, -8.0)

    def forward(self, vectors: Float[Tensor, "photo vector width"], named: Float[Tensor, "photo word"]) -> Tensor:
        """Negative log-likelihood of the photo's words and of the absence of the others, in nats a photo."""
        absence = self.found(vectors)
        return (named * -torch.log(-torch.expm1(-absence)) + (1 - named) * absence).sum(1).mean()

    def found(self, vectors: Float[Tensor, "photo vector width"]) -> Float[Tensor, "photo word"]:
        """How surely each word is there: minus the logarithm of the probability that no vector has it."""
        return functional.softplus(self.detectors(vectors)).sum(1).clamp(min=1e-4)


def average_precision(found: Float[Tensor, "photo word"], named: Float[Tensor, "photo word"]) -> float:
    """Mean over the words that some photo has: the precision at each photo that has it, surest photos first."""
    order = found.argsort(dim=0, descending=True)
    right = named.gather(0, order)
    precision = right.cumsum(0) / torch.arange(1, len(named) + 1, device=named.device)[:, None]
    counts = named.sum(0)
    return float(((precision * right).sum(0) / counts)[counts > 0].mean())
