"""Teach BLIP-2 to caption your images.

```python
from captioncrafter import Captioner

captioner = Captioner.load(adapter="runs/flickr8k/adapter")
print(captioner.caption(["photo.jpg"])[0])
```
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from captioncrafter.generation.captioner import Captioner as Captioner

__all__ = ["Captioner", "__version__"]


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import, so `import captioncrafter` leaves them until a model is asked for.
    if name == "Captioner":
        from captioncrafter.generation.captioner import Captioner

        return Captioner
    raise AttributeError(f"module 'captioncrafter' has no attribute {name!r}")
