"""CLIPScore and RefCLIPScore (Hessel et al., 2021): how near captions are to their images, in CLIP's own space.

An extra that loads when asked: the model is named by the user, and another CLIP gives other numbers. Computed in
float32 (the authors' on a GPU in float16, which differs in the third digit).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from captioncrafter import storage
from captioncrafter.errors import CheckpointError
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import Scorecard, mean_of, refuse_other_images
from captioncrafter.model import checkpoint, weights

CLIP_METRICS = ("CLIPScore", "RefCLIPScore")
PREFIX = "A photo depicts "
WEIGHT = 2.5

# The paper's model is OpenAI's ViT-B/32. Its main branch has a pickle alone; this commit holds the same weights as
# safetensors, as the hub's own converter made them.
PINNED = {"openai/clip-vit-base-patch32": "c237dc49a33fc61debc9276459120b7eac67e7ef"}

_IMAGES_AT_ONCE = 64
_TEXTS_AT_ONCE = 256

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Clip:
    """A CLIP in memory, with the processors of its checkpoint."""

    name: str
    revision: str | None
    folder: Path
    model: Any
    tokenizer: Any
    image_processor: Any

    @classmethod
    def load(cls, name: str, revision: str | None, device: torch.device) -> "Clip":
        """The CLIP of a folder or a hub name; without a `revision`, a hub name that is known has its pinned one.

        Raises `CheckpointError` saying why it cannot be loaded. Safetensors only.
        """
        from huggingface_hub.errors import StrictDataclassError
        from transformers import AutoImageProcessor, CLIPModel, CLIPTokenizer

        folder = storage.user_path(name)
        on_hub = not folder.is_dir()
        if on_hub:
            folder = checkpoint.fetch(name, revision or PINNED.get(name), option="evaluation.clip_model")
        weights.stored_tensors(folder)  # says what to do about weights that are a pickle
        # Without these files transformers makes a tokenizer that knows three words (5.23), and says nothing.
        if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
            raise _not_a_clip(name, "it has neither tokenizer.json nor vocab.json")
        try:
            with checkpoint.quiet_transformers():
                loaded: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
                tokenizer = CLIPTokenizer.from_pretrained(folder)
                image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        except (OSError, ValueError, TypeError, RuntimeError, KeyError, AttributeError, StrictDataclassError) as error:
            raise _not_a_clip(name, (str(error) or type(error).__name__).splitlines()[0]) from error
        model, told = loaded
        # What a checkpoint lacks transformers draws at random, with a warning alone.
        if told["missing_keys"]:
            raise _not_a_clip(name, f"it has no {min(told['missing_keys'])}")
        # The folder of a download is named by its commit.
        return cls(name, folder.name if on_hub else None, folder, model.to(device).eval(), tokenizer, image_processor)

    def describe(self) -> dict[str, Any]:
        """What tells this CLIP from every other."""
        return {"model": self.name, "revision": self.revision, "weights": weights.quick_fingerprint(self.folder)}

    @torch.inference_mode()
    def embed_images(self, images: Iterable[Image.Image]) -> Float[np.ndarray, "image width"]:
        """A unit vector for each image."""
        parts = []
        for batch in _batches(images, _IMAGES_AT_ONCE):
            pixels = self.image_processor(batch, return_tensors="pt")["pixel_values"].to(self.model.device)
            parts.append(self.model.get_image_features(pixel_values=pixels).pooler_output)
        return _unit(parts)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "text width"]:
        """A unit vector for each text after the prefix; what is longer than CLIP reads is cut, as in the paper."""
        parts = []
        longest = self.model.config.text_config.max_position_embeddings
        for batch in _batches(texts, _TEXTS_AT_ONCE):
            tokens = self.tokenizer(
                [PREFIX + text for text in batch],
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            ).to(self.model.device)
            found = self.model.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            parts.append(found.pooler_output)
        return _unit(parts)


@dataclass(frozen=True)
class ClipScorer:
    """Scores captions of the images of `references`; images and references are embedded once, when first needed."""

    clip: Clip
    references: References
    decode: Callable[[str], Image.Image]
    """The image of an id, as RGB."""

    def score(self, predictions: Mapping[str, str]) -> Scorecard:
        """Both metrics of `predictions`, which must be of exactly the images of the references."""
        ids = self.references.image_ids
        refuse_other_images(predictions, ids)
        captions = self.clip.embed_texts([predictions[image] for image in ids])
        clip_score = WEIGHT * np.maximum((self._images * captions).sum(1), 0.0)
        nearest = np.array([np.max(self._texts[image] @ caption) for image, caption in zip(ids, captions, strict=True)])
        values = (clip_score, _harmonic_mean(clip_score, np.maximum(nearest, 0.0)))
        return Scorecard(ids, {name: mean_of(one) for name, one in zip(CLIP_METRICS, values, strict=True)})

    @cached_property
    def _images(self) -> Float[np.ndarray, "image width"]:
        return self.clip.embed_images(map(self.decode, self.references.image_ids))

    @cached_property
    def _texts(self) -> dict[str, Float[np.ndarray, "text width"]]:
        """The references' vectors, by image."""
        captions = self.references.captions
        found = iter(self.clip.embed_texts([text for texts in captions.values() for text in texts]))
        return {image: np.stack([next(found) for _ in texts]) for image, texts in captions.items()}


def _not_a_clip(name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{name}: cannot be loaded as a CLIP ({reason}). CLIPScore needs the folder or hub name of a CLIPModel with "
        "safetensors, tokenizer and preprocessor, for example openai/clip-vit-base-patch32."
    )


def _harmonic_mean(one: Float[np.ndarray, " image"], other: Float[np.ndarray, " image"]) -> Float[np.ndarray, " image"]:
    """Zero where either is."""
    total = one + other
    return np.divide(2 * one * other, total, out=np.zeros_like(total), where=total > 0)


def _unit(parts: Sequence[torch.Tensor]) -> Float[np.ndarray, "item width"]:
    found = torch.cat(list(parts)).double()
    return (found / found.norm(dim=1, keepdim=True)).cpu().numpy()


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    each = iter(items)
    while batch := list(islice(each, size)):
        yield batch
