"""What all sections of a recipe are made of."""

from pydantic import BaseModel, ConfigDict

MAX_SEED = 2**32 - 1


class Section(BaseModel):
    """A group of options: unknown keys, other types and infinities are refused, values do not change after checking."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, strict=True, allow_inf_nan=False)
