"""How the best adapter is chosen: captions of the validation images as the adapter stands, scored by CIDEr."""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from captioncrafter import recipe
from captioncrafter.data.splits import CaptionedImage, CaptionedImages
from captioncrafter.features.extract import pixel_values
from captioncrafter.features.key import feature_name
from captioncrafter.features.store import FeatureStore
from captioncrafter.generation.decode import decode
from captioncrafter.metrics.diversity import distinct_captions, mean_length, novel_captions
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import cider_of, shuffled
from captioncrafter.model.prefix import context_of
from captioncrafter.model.prompts import stacked
from captioncrafter.model.stock import Blip2
from captioncrafter.stages.base import Base
from captioncrafter.training.collapse import Validation
from captioncrafter.training.processes import Processes


def validation(
    base: Base,
    model: Blip2,
    images: CaptionedImages,
    known: Collection[str],
    store: FeatureStore | None,
    options: recipe.Recipe,
    processes: Processes,
) -> Callable[[], Validation]:
    """A call that captions the validation images, each process its share of the batches, and scores them on one.

    `known` are the training captions, as they were written.
    """
    chosen = list(images)[: options.validation.images]
    references = References({image.image_id: list(image.captions) for image in chosen})
    decoding = options.decoding.model_copy(update={"num_beams": options.validation.num_beams, "sample": False})

    people = [image.captions[0] for image in chosen]
    of_people = {"people_distinct": distinct_captions(people), "people_copied": 1 - novel_captions(people, known)}

    def validate() -> Validation:
        mine = captions_of(base, model, chosen, store, decoding, processes)
        found = {name: text for part in processes.everywhere(mine) for name, text in part.items()}
        predictions = {image.image_id: found[image.image_id] for image in chosen}
        shuffled_predictions = shuffled(predictions, seed=options.evaluation.seed)
        texts = list(predictions.values())
        return Validation(
            cider=cider_of(predictions, references),
            shuffled_cider=cider_of(shuffled_predictions, references),
            distinct=distinct_captions(texts),
            copied=1 - novel_captions(texts, known),
            mean_length=mean_length(texts),
            **of_people,
        )

    return validate


def captions_of(
    base: Base,
    model: Blip2,
    images: Sequence[CaptionedImage],
    store: FeatureStore | None,
    decoding: recipe.Decoding,
    processes: Processes | None = None,
) -> dict[str, str]:
    """Captions by image id, from stored features where there are such; with several processes, of this one's share."""
    size = decoding.images_per_batch
    batches: Sequence[Sequence[CaptionedImage]] = [images[at : at + size] for at in range(0, len(images), size)]
    captions: dict[str, str] = {}
    for batch in processes.share(batches) if processes is not None else batches:
        prompts = [base.prompt_of(image) for image in batch]
        rows = stacked(prompts, pad_id=model.config.text_config.pad_token_id).to(base.device)
        with torch.no_grad():
            context = context_of(model, _features(base, batch, store).to(base.device), base.cut, rows)
        texts = decode(model, base.processor, context, decoding)
        captions.update(zip((image.image_id for image in batch), texts, strict=True))
    return captions


def _features(base: Base, batch: Sequence[CaptionedImage], store: FeatureStore | None) -> Tensor:
    if store is None:
        return pixel_values(base.processor, [image.decode() for image in batch])
    return store.rows([feature_name(image.content, base.prompt_of(image), base.cut) for image in batch])
