"""How a miniature in the making tells photos and scenes that it does not learn from."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from captioncrafter.generation.decode import decode
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import cider_of, shuffled
from captioncrafter.model.cut import Cut
from captioncrafter.model.prefix import context_of
from captioncrafter.model.stock import Blip2, Processor
from captioncrafter.recipe import Decoding

from .drawings import Scenes
from .lessons import PROMPT, gathered, prompts_of
from .model import IMAGE_SIZE
from .photos import Photos, whole
from .seeing import model_pixels
from .telling import seen

GREEDY = Decoding(num_beams=1, max_new_tokens=24)
AT_ONCE = 500


class Judge:
    """Holds captions against people's, and scenes of known and of held-out combinations against what they show."""

    def __init__(self, processor: Processor, photos: Photos, known: Scenes, held_out: Scenes) -> None:
        self._references = References(dict(zip(photos.image_ids, photos.captions, strict=True)))
        self._processor, self._photos, self._known, self._held_out = processor, photos, known, held_out

    def told(self, model: Blip2, *, decoding: Decoding = GREEDY, show: int = 3) -> None:
        """Prints how the model does, and some of its captions."""
        said = self._say(model, self._photos.pixels, [PROMPT] * len(self._photos), decoding)
        captions = dict(zip(self._photos.image_ids, said, strict=True))
        cider, blind = (cider_of(some, self._references) for some in (captions, shuffled(captions, seed=0)))
        print(
            f"  CIDEr {100 * cider:.1f}, images shuffled {100 * blind:.1f}, distinct {len(set(said))}; word for word a "
            f"reference: {self._right(model, self._known):.0%} of new scenes, "
            f"{self._right(model, self._held_out):.0%} of held-out ones; right answers: {self._answered(model):.0%}",
            flush=True,
        )
        for caption in said[:show]:
            print(f"    {caption}", flush=True)

    def _right(self, model: Blip2, scenes: Scenes) -> float:
        said = self._say(model, scenes.pixels, [PROMPT] * len(scenes), GREEDY)
        return sum(caption in known for caption, known in zip(said, scenes.captions, strict=True)) / len(scenes)

    def _answered(self, model: Blip2) -> float:
        asked = self._held_out.questions()
        pixels = self._held_out.pixels[[scene for scene, _, _ in asked]]
        said = self._say(model, pixels, [prompt for _, prompt, _ in asked], GREEDY)
        return sum(one in answers for one, (_, _, answers) in zip(said, asked, strict=True)) / len(asked)

    @torch.no_grad()
    def _say(
        self, model: Blip2, pictures: Float[Tensor, "picture channel y x"], prompts: Sequence[str], decoding: Decoding
    ) -> list[str]:
        """A caption or an answer for each picture."""
        told: list[str] = []
        for start in range(0, len(pictures), AT_ONCE):
            shown = model_pixels(self._processor, whole(pictures[start : start + AT_ONCE], IMAGE_SIZE))
            asked = prompts_of(self._processor, prompts[start : start + AT_ONCE]).to(model.device)
            with torch.autocast(model.device.type, torch.bfloat16):
                context = context_of(model, gathered(model, seen(model, shown)), Cut.QFORMER, asked)
                told += decode(model, self._processor, context, decoding)
        return told
