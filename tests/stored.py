"""Parts of a feature store, written as extraction writes them."""

from pathlib import Path

import torch
from torch import Tensor

from captioncrafter.features.key import FeatureKey
from captioncrafter.features.store import FeatureStore

KEY = FeatureKey({"some": "facts"})


def drawn(images: int, *, seed: int = 0) -> Tensor:
    return torch.randn(images, 2, 4, generator=torch.Generator().manual_seed(seed))


def stored(root: Path, names: str, features: Tensor, *, stored_as: str = "float32") -> Path:
    """Adds one part, an image for each letter of `names`; gives its file."""
    store = FeatureStore.open(root, KEY)
    before = set(store.folder.glob("*.safetensors"))
    store.add(list(names), features, stored_as=stored_as)
    (file,) = set(store.folder.glob("*.safetensors")) - before
    return file
