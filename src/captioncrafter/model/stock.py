"""Names for the Hugging Face objects that pass through our functions.

Their libraries annotate attributes as unions that no checker can follow (`Tensor | Module`, `dict | config | None`),
so for the checker these are `Any`; the comments say what they are.
"""

from typing import Any

Blip2 = Any
"""A `transformers.Blip2ForConditionalGeneration`, unmodified."""

Processor = Any
"""A `transformers.Blip2Processor`: image processor and tokenizer of a checkpoint."""

Tuned = Any
"""A `peft.PeftModel` around a `Blip2`."""
