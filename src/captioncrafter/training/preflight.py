"""What must be true before the first step, checked on the run's own model, images and captions.

Every check here is a mistake that a public recipe makes in silence: training that never sees the image, captions that
leak into the encoder, an adapter on the wrong layers, a head that is not the checkpoint's. A failure stops the run
with the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from captioncrafter.errors import PreflightError
from captioncrafter.model import lora, weights
from captioncrafter.model.captioning import caption_loss
from captioncrafter.model.loading import check_head
from captioncrafter.model.prefix import context_of
from captioncrafter.model.prompts import Prompt
from captioncrafter.model.stock import Blip2, Tuned
from captioncrafter.training.packing import TokenIds, pack
from captioncrafter.training.probe import Probe

# Float16 features against the stock model's float32 ones moved the loss by under 1e-4 of it on the checkpoints tested;
# bfloat16 arithmetic rounds logits to 8 bits, and another batch shape rounds otherwise. That error of a logit does not
# shrink with the loss: below a nat the tolerance stays what it is at one, or a base sure of its answers is refused (the
# miniature on questions: 0.0189 and 0.0181 nats a token).
_LOSS_TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 3e-2}
# Storing in bfloat16 moved features by 1.7e-3 of their norm, in float16 by 2e-4; another image moved those of the
# miniature by 0.7 and more. In bfloat16 another batch size rounds otherwise in each of the 39 layers of ViT-g: 0.035 by
# calculation (2⁻⁸ times the root of 78 sublayers), hence the room.
_FEATURE_TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 0.15}


@dataclass(frozen=True)
class Subject:
    """What is about to be trained.

    `stock_loss` is the stock model's on the probe, in nats a token, before the adapter was attached. `exact_start` says
    whether the adapter's kind leaves the base bit for bit as it was.
    """

    tuned: Tuned
    target_layers: tuple[str, ...]
    stored: dict[str, weights.StoredTensor]
    name: str
    stock_loss: float
    exact_start: bool
    device: torch.device

    @property
    def model(self) -> Blip2:
        """The stock model inside the adapter's wrapper."""
        return self.tuned.get_base_model()

    @property
    def dtype(self) -> torch.dtype:
        """What the language model computes in."""
        return self.model.get_output_embeddings().weight.dtype


def check(subject: Subject, probe: Probe) -> dict[str, float | int]:
    """Runs every check on a freshly attached adapter; gives what was measured, for the manifest.

    `probe` needs two images or more. Raises `PreflightError` naming the first check that fails and its reason. The
    model is left in eval mode, with no gradients.
    """
    subject.tuned.eval()
    measured: dict[str, float | int] = {}
    for one in (
        _only_the_meant_layers_train,
        _head_is_the_checkpoints,
        _features_are_the_models,
        _loss_is_the_stock_models,
        _adapter_starts_as_the_base,
        _image_matters,
    ):
        measured |= one(subject, probe)
    return measured


def check_inputs(
    prompts: Sequence[Prompt], captions: Sequence[Sequence[TokenIds]], *, queries: int, image_token: int
) -> None:
    """Holds what the language model will read against what it must, before anything large is loaded.

    Row i of `captions` answers row i of `prompts`. Raises `PreflightError` when a prompt has not exactly as many
    `<image>` ids (`image_token`) as the model has `queries`, all in front: with fewer, the image is dropped in silence;
    and when a caption stands in a prompt: the answer in the question.
    """
    for prompt, answers in zip(prompts, captions, strict=True):
        is_image = prompt.input_ids == image_token
        if int(is_image.sum()) != queries or not bool(is_image[:queries].all()):
            raise PreflightError(
                f"preflight: the prompt has {int(is_image.sum())} <image> positions and the model {queries} queries: "
                "the language model would not see the image. The checkpoint's processor_config.json has "
                "num_query_tokens."
            )
        words = prompt.words.tolist()
        for ids in answers:
            if len(ids) > 2 and _contains(words, ids[:-1]):  # one word alone is no caption copied
                raise PreflightError(
                    f"preflight: a caption stands in the encoder's input (prompt {prompt.text!r}): the model "
                    "would learn to copy it. The prompt must not hold captions."
                )


def _contains(row: list[int], part: list[int]) -> bool:
    return any(row[at : at + len(part)] == part for at in range(len(row) - len(part) + 1))


def _only_the_meant_layers_train(subject: Subject, probe: Probe) -> dict[str, float | int]:
    """Every layer that the recipe means has something to train, and no other has."""
    del probe
    names = lora.trainable(subject.tuned)
    wrong = sorted({lora.layer_of(name) for name in names} ^ set(subject.target_layers))
    if wrong:
        raise PreflightError(
            f"preflight: what trains is not what lora.targets names: {len(wrong)} layers differ, {wrong[0]} first."
        )
    return {
        "adapted_layers": len(subject.target_layers),
        "trainable_parameters": sum(p.numel() for p in names.values()),
    }


def _head_is_the_checkpoints(subject: Subject, probe: Probe) -> dict[str, float | int]:
    """The output head is the checkpoint's own where it has one; raises `CheckpointError`."""
    del probe
    check_head(subject.model, subject.stored, subject.name)
    return {}


def _features_are_the_models(subject: Subject, probe: Probe) -> dict[str, float | int]:
    """What is stored for each image is what the frozen prefix makes of its pixels now."""
    largest = float(probe.difference.max())
    if not largest <= _FEATURE_TOLERANCE[subject.dtype]:
        raise PreflightError(
            f"preflight: stored features are not this model's of these images: they differ by {largest:.2g} of their "
            "norm. Delete the features folder and try again."
        )
    return {"feature_difference": largest}


def _loss_is_the_stock_models(subject: Subject, probe: Probe) -> dict[str, float | int]:
    """Packed captions over stored features cost what the stock forward says from the pixels, a caption a row."""
    ours = _packed_loss(subject, probe)
    stock = subject.stock_loss
    if not abs(ours - stock) <= _LOSS_TOLERANCE[subject.dtype] * max(1.0, stock):
        raise PreflightError(
            f"preflight: the training step's loss is {ours:.5f} nats a token and the stock model's {stock:.5f} on the "
            "same images and captions: the model computes otherwise here. Please report it, with your versions."
        )
    return {"loss": ours, "stock_loss": stock}


@torch.no_grad()
def _packed_loss(subject: Subject, probe: Probe) -> float:
    model, device = subject.model, subject.device
    prompts = probe.stacked_prompts(model).to(device)
    context = context_of(model, probe.features.to(device), probe.cut, prompts)
    return float(caption_loss(model, context, probe.packed(model).to(device))) / probe.tokens


@torch.no_grad()
def _adapter_starts_as_the_base(subject: Subject, probe: Probe) -> dict[str, float | int]:
    """Where B is zero at first, the adapter changes nothing yet: the loss is the base's to the last bit.

    Kinds of adapters that start otherwise were held to the base's loss above.
    """
    if not subject.exact_start:
        return {}
    with_adapter = _packed_loss(subject, probe)
    with subject.tuned.disable_adapter():
        base = _packed_loss(subject, probe)
    if with_adapter != base:
        raise PreflightError(
            f"preflight: the fresh adapter changes the base model's loss ({base:.6f} to {with_adapter:.6f}): it does "
            "not start at zero, so it is not the base that training starts from."
        )
    return {}


def _image_matters(subject: Subject, probe: Probe) -> dict[str, float | int]:
    """Other images, another loss; and the loss reaches the features: what a model that never sees cannot do.

    Held image by image: the sum would be the same where all captions are, and one image takes the least memory.
    """
    own_loss, swapped_loss, squares, differs = 0.0, 0.0, 0.0, False
    features = probe.features.to(subject.device, torch.float32)
    for row in range(len(features)):
        seen = features[row : row + 1].clone().requires_grad_()
        own = _image_loss(subject, probe, row, seen)
        (gradient,) = torch.autograd.grad(own / probe.tokens, seen, allow_unused=True)
        with torch.no_grad():
            swapped = _image_loss(subject, probe, row, features[row - 1 :][:1])
        own_loss += float(own.detach()) / probe.tokens
        swapped_loss += float(swapped) / probe.tokens
        squares += 0.0 if gradient is None else float(gradient.square().sum())
        differs = differs or not torch.equal(own.detach(), swapped)
    if not squares > 0 or not differs:
        raise PreflightError(
            f"preflight: the image does not matter: the loss is {own_loss:.6f} with the right images and "
            f"{swapped_loss:.6f} with swapped ones. Training would learn captions without looking."
        )
    return {"swapped_loss": swapped_loss, "feature_gradient_norm": squares**0.5}


def _image_loss(subject: Subject, probe: Probe, row: int, features: Float[Tensor, "1 ..."]) -> Float[Tensor, ""]:
    """The summed loss of the captions of image `row`, from `features` of any image."""
    model, device = subject.model, subject.device
    stacked = probe.stacked_prompts(model)
    prompts = replace(stacked, words=stacked.words[row : row + 1], mask=stacked.mask[row : row + 1])
    captions = pack(probe.captions[row : row + 1], model.config, prompts).to(device)
    return caption_loss(model, context_of(model, features, probe.cut, prompts.to(device)), captions)
