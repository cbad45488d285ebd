"""What must be true before the first step, checked on the run's own model, images and captions.

Every check here is a mistake that a public recipe makes in silence: training that never sees the image, captions that
leak into the encoder, an adapter on the wrong layers, a head that is not the checkpoint's. A failure stops the run
with the reason.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from captioncrafter.errors import PreflightError
from captioncrafter.model import lora, weights
from captioncrafter.model.captioning import (
    IGNORE,
    Prompt,
    caption_logits,
    encode_prompt,
    encoder_inputs,
    query_outputs,
    summed_loss,
)
from captioncrafter.model.checkpoint import check_head
from captioncrafter.model.stock import Blip2, Processor, Tuned
from captioncrafter.training.packing import TokenIds, pack

# Float16 features against the stock model's float32 ones moved the loss by under 1e-4 of it on the checkpoints tested;
# bfloat16 arithmetic rounds logits to 8 bits, and another batch shape rounds otherwise.
_LOSS_TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 3e-2}
# Storing in bfloat16 moved features by 1.7e-3 of their norm, in float16 by 2e-4; another image moved those of the
# miniature by 0.7 and more. In bfloat16 another batch size rounds otherwise in each of the 39 layers of ViT-g: 0.035 by
# calculation (2⁻⁸ times the root of 78 sublayers), hence the room.
_FEATURE_TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 0.15}


@dataclass(frozen=True)
class Probe:
    """Some training images as the checks see them: pixels, stored features, token ids of their captions."""

    pixels: Float[Tensor, "image channel row column"]
    features: Float[Tensor, "image query width"]
    captions: list[list[TokenIds]]


@dataclass(frozen=True)
class Subject:
    """What is about to be trained."""

    tuned: Tuned
    processor: Processor
    prompt: Prompt
    target_layers: tuple[str, ...]
    stored: dict[str, weights.StoredTensor]
    name: str

    @property
    def model(self) -> Blip2:
        """The stock model inside the adapter's wrapper."""
        return self.tuned.get_base_model()


def check(subject: Subject, probe: Probe) -> dict[str, float | int]:
    """Runs every check on a freshly attached adapter; gives what was measured, for the manifest.

    `probe` needs two images or more. Raises `PreflightError` naming the first check that fails and its reason. The
    model is left in eval mode, with no gradients.
    """
    subject.tuned.eval()
    measured: dict[str, float | int] = {}
    for one in (
        _image_positions_are_exact,
        _captions_stay_out_of_the_encoder,
        _only_the_meant_layers_train,
        _head_is_the_checkpoints,
        _features_are_the_models,
        _loss_is_the_stock_models,
        _adapter_starts_as_the_base,
        _image_matters,
    ):
        measured |= one(subject, probe)
    return measured


def _image_positions_are_exact(subject: Subject, probe: Probe) -> dict[str, float | int]:
    """As many `<image>` ids as the model has queries, all in front: with fewer, the image is dropped in silence."""
    model, prompt = subject.model, subject.prompt
    config = model.config
    expected = config.num_query_tokens
    is_image = prompt.input_ids == (config.image_token_index or encode_prompt(subject.processor, "").input_ids[0])
    if int(is_image.sum()) != expected or not bool(is_image[:expected].all()):
        raise PreflightError(
            f"preflight: the prompt has {int(is_image.sum())} <image> positions and the model {expected} queries: the "
            "language model would not see the image. The checkpoint's processor_config.json has num_query_tokens."
        )
    inputs = encoder_inputs(model, probe.features.to(model.device), prompt.to(model.device))
    length = len(prompt.input_ids)
    if inputs.shape[1] != length:
        raise PreflightError(f"preflight: the encoder sees {inputs.shape[1]} positions where the prompt has {length}.")
    return {"image_positions": expected}


def _captions_stay_out_of_the_encoder(subject: Subject, probe: Probe) -> dict[str, float | int]:
    """The encoder reads image and prompt; a caption there is the answer in the question."""
    words = subject.prompt.input_ids[subject.prompt.image_positions :].tolist()
    for captions in probe.captions:
        for ids in captions:
            if len(ids) > 2 and _contains(words, ids[:-1]):  # one word alone is no caption copied
                raise PreflightError(
                    f"preflight: a caption stands in the encoder's input (prompt {subject.prompt.text!r}): the model "
                    "would learn to copy it. The prompt must not hold captions."
                )
    return {}


def _contains(row: list[int], part: list[int]) -> bool:
    return any(row[at : at + len(part)] == part for at in range(len(row) - len(part) + 1))


def _only_the_meant_layers_train(subject: Subject, probe: Probe) -> dict[str, float | int]:
    """Every target layer carries an adapter, and nothing else trains."""
    del probe
    names = lora.trainable(subject.tuned)
    reached = {lora.layer_of(name) for name in names if ".lora_" in name}
    stray = {name for name in names if ".lora_" not in name}
    wrong = sorted((reached ^ set(subject.target_layers)) | stray)
    if wrong:
        raise PreflightError(
            f"preflight: what trains is not what lora.targets names: {len(wrong)} layers differ, {wrong[0]} first."
        )
    return {"adapted_layers": len(reached), "trainable_parameters": sum(p.numel() for p in names.values())}


def _head_is_the_checkpoints(subject: Subject, probe: Probe) -> dict[str, float | int]:
    """The output head is the checkpoint's own where it has one; raises `CheckpointError`."""
    del probe
    check_head(subject.model, subject.stored, subject.name)
    return {}


def _features_are_the_models(subject: Subject, probe: Probe) -> dict[str, float | int]:
    """What is stored for each image is what the frozen half makes of its pixels now."""
    model = subject.model
    expected = query_outputs(model, probe.pixels.to(model.device)).float().cpu()
    difference = (probe.features.float().cpu() - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    largest = float(difference.max())
    if not largest <= _FEATURE_TOLERANCE[model.vision_model.dtype]:
        raise PreflightError(
            f"preflight: stored features are not this model's of these images: they differ by {largest:.2g} of their "
            "norm. Delete the features folder and try again."
        )
    return {"feature_difference": largest}


def _loss_is_the_stock_models(subject: Subject, probe: Probe) -> dict[str, float | int]:
    """Packed captions over stored features cost what the stock forward says from the pixels, a caption a row."""
    with torch.no_grad():
        ours = float(_packed_loss(subject, probe.features, probe))
    stock = float(_stock_loss(subject, probe))
    tolerance = _LOSS_TOLERANCE[subject.model.language_model.dtype]
    if not abs(ours - stock) <= tolerance * abs(stock):
        raise PreflightError(
            f"preflight: the training step's loss is {ours:.5f} nats a token and the stock model's {stock:.5f} on the "
            "same images and captions: the model computes otherwise here. Please report it, with your versions."
        )
    return {"loss": ours, "stock_loss": stock}


@torch.no_grad()
def _stock_loss(subject: Subject, probe: Probe) -> Float[Tensor, ""]:
    model, device = subject.model, subject.model.device
    captions = [ids for image in probe.captions for ids in image]
    labels = torch.full((len(captions), max(map(len, captions))), IGNORE)
    for row, ids in enumerate(captions):
        labels[row, : len(ids)] = torch.tensor(ids)
    owners = torch.tensor([image for image, ids in enumerate(probe.captions) for _ in ids])
    prompt = encode_prompt(subject.processor, subject.prompt.text).input_ids
    ids = prompt.expand(len(captions), -1).to(device)
    return model(
        pixel_values=probe.pixels[owners].to(device, model.vision_model.dtype),
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        labels=labels.to(device),
    ).loss


def _packed_loss(subject: Subject, features: Float[Tensor, "image query width"], probe: Probe) -> Float[Tensor, ""]:
    return _image_losses(subject, features, probe).sum() / sum(len(ids) for image in probe.captions for ids in image)


def _image_losses(
    subject: Subject, features: Float[Tensor, "image query width"], probe: Probe
) -> Float[Tensor, " image"]:
    """The summed loss of each image's captions."""
    model = subject.model
    text = model.config.text_config
    captions = pack(probe.captions, start_id=text.decoder_start_token_id, pad_id=text.pad_token_id).to(model.device)
    logits = caption_logits(model, features.to(model.device), subject.prompt.to(model.device), captions)
    return torch.stack(
        [summed_loss(row[None], labels[None]) for row, labels in zip(logits, captions.labels, strict=True)]
    )


@torch.no_grad()
def _adapter_starts_as_the_base(subject: Subject, probe: Probe) -> dict[str, float | int]:
    """B is zero at first, so the adapter changes nothing yet: the loss is the base's to the last bit."""
    with_adapter = _packed_loss(subject, probe.features, probe)
    with subject.tuned.disable_adapter():
        base = _packed_loss(subject, probe.features, probe)
    if not torch.equal(with_adapter, base):
        raise PreflightError(
            f"preflight: the fresh adapter changes the base model's loss ({float(base):.6f} to "
            f"{float(with_adapter):.6f}): it does not start at zero, so it is not the base that training starts from."
        )
    return {}


def _image_matters(subject: Subject, probe: Probe) -> dict[str, float | int]:
    """Other images, another loss; and the loss reaches the features: what a model that never sees cannot do.

    Held image by image: the sum would be the same where all captions are.
    """
    tokens = sum(len(ids) for image in probe.captions for ids in image)
    features = probe.features.to(subject.model.device, torch.float32).requires_grad_()
    own = _image_losses(subject, features, probe)
    (gradient,) = torch.autograd.grad(own.sum() / tokens, features, allow_unused=True)
    with torch.no_grad():
        swapped = _image_losses(subject, features.roll(1, dims=0), probe)
    own_loss, swapped_loss = float(own.detach().sum() / tokens), float(swapped.sum() / tokens)
    if gradient is None or not float(gradient.norm()) > 0 or torch.equal(own.detach(), swapped):
        raise PreflightError(
            f"preflight: the image does not matter: the loss is {own_loss:.6f} with the right images and "
            f"{swapped_loss:.6f} with swapped ones. Training would learn captions without looking."
        )
    return {"swapped_loss": swapped_loss, "feature_gradient_norm": float(gradient.norm())}
