"""Whether the captions still tell images apart: what each validation looks at besides CIDEr."""

from dataclasses import dataclass

_FEW_DISTINCT = 0.2
_MOSTLY_COPIED = 0.9
_GROUNDED = 1.2


@dataclass(frozen=True)
class Validation:
    """What one look at the validation images gave; CIDEr as a fraction, lengths in words, shares of 1.

    `copied` is the share of captions that stand word for word in the training captions. The `people_…` are the same of
    the first reference of each image: answers of one word repeat by nature.
    """

    cider: float
    shuffled_cider: float
    distinct: float
    copied: float
    mean_length: float
    people_distinct: float = 1.0
    people_copied: float = 0.0


def signs_of_collapse(found: Validation) -> list[str]:
    """What speaks for captions that no longer tell images apart, each as a sentence; empty when nothing does."""
    signs = []
    if found.distinct < _FEW_DISTINCT * found.people_distinct:
        signs.append(f"only {100 * found.distinct:.0f} % of the validation captions are distinct.")
    if found.copied > _MOSTLY_COPIED + found.people_copied / 2:
        signs.append(f"{100 * found.copied:.0f} % of the validation captions stand word for word in the training ones.")
    if found.cider < _GROUNDED * found.shuffled_cider:
        signs.append(
            f"the captions score CIDEr {100 * found.cider:.1f} on their own images and "
            f"{100 * found.shuffled_cider:.1f} on other ones: they hardly depend on the image."
        )
    return signs
