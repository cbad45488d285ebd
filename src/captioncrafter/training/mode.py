"""Which parts of the model are in training mode: those in which something trains, and no others."""

from captioncrafter import recipe
from captioncrafter.model import lora
from captioncrafter.model.cut import is_decoder_only
from captioncrafter.model.stock import Tuned


def training_mode(tuned: Tuned, training: recipe.Training) -> None:
    """Dropout is on where something trains; a frozen part stays in eval mode, or the Q-Former's dropout would be on."""
    tuned.eval()
    model = tuned.get_base_model()
    trained = [lora.layer_of(name) for name in lora.trainable(tuned)]
    for part in _parts(model.config):
        if any(name.startswith(f"{part}.") or name == part for name in trained):
            model.get_submodule(part).train()
    if training.gradient_checkpointing:
        # Reentrant checkpointing fails over a frozen base: no input of a block requires a gradient.
        language_model = model.language_model
        renamed = getattr(language_model, "activation_checkpointing_enable", None)  # since transformers 5.23
        (renamed or language_model.gradient_checkpointing_enable)({"use_reentrant": False})


def evaluation_mode(tuned: Tuned) -> None:
    """Dropout is off everywhere."""
    tuned.eval()


def _parts(config: object) -> tuple[str, ...]:
    front = ("vision_model", "qformer", "language_projection")
    if is_decoder_only(config):
        return (*front, "language_model")
    return (*front, "language_model.encoder", "language_model.decoder", "language_model.lm_head")
