"""What to do, in full: `options` holds every option, `reading` turns a recipe file into them."""

from captioncrafter.recipe.evaluation import Evaluation
from captioncrafter.recipe.options import (
    Data,
    Decoding,
    Features,
    Lora,
    Model,
    Part,
    Precision,
    Recipe,
    Scenes,
    Tracking,
    Training,
    Validation,
    check_adapter,
)
from captioncrafter.recipe.reading import build, bundled, check_decoding, explain, load, parse
from captioncrafter.recipe.section import MAX_SEED, Section

__all__ = [
    "MAX_SEED",
    "Data",
    "Decoding",
    "Evaluation",
    "Features",
    "Lora",
    "Model",
    "Part",
    "Precision",
    "Recipe",
    "Scenes",
    "Section",
    "Tracking",
    "Training",
    "Validation",
    "build",
    "bundled",
    "check_adapter",
    "check_decoding",
    "explain",
    "load",
    "parse",
]
