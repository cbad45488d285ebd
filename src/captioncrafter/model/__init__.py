"""BLIP-2 as Hugging Face ships it: loading, inputs, the loss, LoRA."""
