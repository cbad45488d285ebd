"""What a training step starts from, in miniature: an adapter over a tiny checkpoint, its images and their features."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from captioncrafter import recipe
from captioncrafter.data.images import decode_image
from captioncrafter.features.extract import pixel_values
from captioncrafter.model import lora
from captioncrafter.model.cut import Cut
from captioncrafter.model.prefix import features_at
from captioncrafter.model.prompts import encode_prompt, stacked
from captioncrafter.model.stock import Tuned
from captioncrafter.training.batches import Schedule, TrainingImages
from captioncrafter.training.feed import Feed
from captioncrafter.training.loop import Trainee
from captioncrafter.training.packing import encode_captions
from captioncrafter.training.processes import Processes
from captioncrafter.training.step import Stepper
from tiny import captions_of_picture, changed_copy, load_tiny, picture, tiny_recipe

MakeStepper = Callable[..., Stepper]
Gradients = dict[str, Tensor]

CPU = torch.device("cpu")
ALONE = Processes(CPU)
IMAGES = 6
PROMPT = "a photo of"


def write_without_dropout(checkpoint: Path, folder: Path) -> Path:
    """A copy of a tiny checkpoint whose language model and Q-Former drop nothing."""
    import json

    config = json.loads((checkpoint / "config.json").read_text())
    text = config["text_config"] | {"dropout_rate": 0.0, "dropout": 0.0}
    qformer = config["qformer_config"] | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return changed_copy(checkpoint, folder, "config.json", text_config=text, qformer_config=qformer)


class Beginning:
    """A checkpoint and images before a cut; every adapter is attached to a fresh copy of the same model."""

    def __init__(self, checkpoint: Path, cut: Cut = Cut.QFORMER, *, prompts: Sequence[str] = (PROMPT,)) -> None:
        self.found, self.processor, self.model = load_tiny(checkpoint)
        self.cut = cut
        texts = [prompts[number % len(prompts)] for number in range(IMAGES)]
        self.prompts = [encode_prompt(self.processor, text) for text in texts]
        self.captions = [self._ids(number, text) for number, text in enumerate(texts)]
        self.images = TrainingImages([f"picture-{n}.png" for n in range(IMAGES)], self.captions, self.prompts)
        self.pixels = pixel_values(self.processor, [decode_image(picture(number)) for number in range(IMAGES)])
        together = stacked(self.prompts, pad_id=self.model.config.text_config.pad_token_id)
        self.features = features_at(self.model, self.pixels, cut, together)

    def _ids(self, number: int, prompt: str) -> list[list[int]]:
        """Of one picture's captions as many as make it longer or shorter than others."""
        captions = captions_of_picture(number)[: 2 + number % 4]
        return encode_captions(self.processor.tokenizer, captions, self.model.config, prompt=prompt, max_tokens=32)[0]

    def source(self, images: Sequence[int], *, step: int) -> Tensor:
        """The features of `images`, the same in every step; behind T5's encoder no wider than their prompts."""
        del step
        rows = self.features[list(images)]
        return rows[:, : max(len(self.prompts[image]) for image in images)] if self.cut is Cut.ENCODER else rows

    def options(self, *, dropout: float = 0.05, preset: str = "efficient", **sections: dict[str, object]):
        """A recipe for this checkpoint, with a small adapter."""
        adapter: dict[str, object] = {"rank": 2, "dropout": dropout, "preset": preset}
        return tiny_recipe(self.found.folder, Path("unused"), lora=adapter, **sections)

    def tuned(self, options: recipe.Recipe) -> Tuned:
        """A fresh adapter on a copy of the model."""
        return lora.attach(copy.deepcopy(self.model), options.lora, seed=options.seed)

    def trainee(self, tuned: Tuned, source=None) -> Trainee:
        """What the loop trains."""
        return Trainee(tuned, self.cut, self.images, source or self.source, CPU)

    def stepper(self, options: recipe.Recipe, *, source=None, processes: Processes = ALONE) -> Stepper:
        """A fresh adapter about to take its first step; its `feed` has to be closed."""
        tuned = self.tuned(options)
        training = options.training
        schedule = Schedule(self.images.lengths, training.images_per_step, training.epochs, options.seed)
        feed = Feed(self.images, schedule, source or self.source, self.model.config, pinned=False)
        return Stepper(tuned, self.cut, feed, options, CPU, processes)


def gradients(stepper: Stepper) -> Gradients:
    """A copy of the gradients, by the names of their parameters."""
    return {name: p.grad.clone() for name, p in stepper.parameters.items() if p.grad is not None}


def weights(stepper: Stepper) -> Gradients:
    """A copy of what trains."""
    return {name: p.detach().clone() for name, p in stepper.parameters.items()}


def close(one: Gradients, other: Gradients) -> None:
    """Fails unless two sets of tensors are equal up to rounding."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-6)


def equal(one: Gradients, other: Gradients) -> bool:
    """Whether two sets of tensors are the same bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def decoder_of(tuned: Tuned):
    """The decoder that every step runs once a batch."""
    return tuned.get_base_model().language_model.get_decoder()


def rows_in(keywords: dict[str, Tensor]) -> int:
    """Images in a call of the decoder, T5's or OPT's."""
    return len(keywords["input_ids"] if "input_ids" in keywords else keywords["inputs_embeds"])


def refuse_more_than(tuned: Tuned, images: int) -> list[int]:
    """Lets memory run out in the decoder for more than so many images at once; gives the list of what it was asked."""
    asked: list[int] = []

    def refuse(decoder: object, arguments: object, keywords: dict[str, Tensor]) -> None:
        del decoder, arguments
        asked.append(rows_in(keywords))
        if asked[-1] > images:
            raise torch.OutOfMemoryError(f"out of memory. Tried to allocate {asked[-1]} GiB.\nMore words.")

    decoder_of(tuned).register_forward_pre_hook(refuse, with_kwargs=True)
    return asked
