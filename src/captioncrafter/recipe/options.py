"""Every option with its default, unit and bounds; nowhere else does a default stand.

Those of `[evaluation]` are in `evaluation`. Imports no torch.
"""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from captioncrafter.recipe.evaluation import Evaluation
from captioncrafter.recipe.section import MAX_SEED, Section

Precision = Literal["auto", "bf16", "fp32", "int8", "nf4"]

Part = Literal["language_model", "language_model.encoder", "language_model.decoder", "qformer", "vision_model"]


class Model(Section):
    """Which BLIP-2 is tuned, and how it is held."""

    base: str = Field(
        default="Salesforce/blip2-flan-t5-xl",
        min_length=1,
        description="Hub name, folder, or the name of a bundled checkpoint (miniature).",
    )
    revision: str | None = Field(
        default=None, description="Commit of a hub checkpoint; pins what is downloaded. A folder has none."
    )
    precision: Precision = Field(
        default="auto",
        description="Arithmetic of the frozen weights; auto is bf16 where the hardware has it, else fp32. int8 and nf4 "
        "hold the language model in 8 and 4 bits (extra: quant). No fp16: T5 overflows in it. LoRA weights and "
        "optimizer are always fp32.",
    )
    device: str = Field(default="auto", description="auto (the accelerator, else the CPU), cpu, cuda, cuda:1, mps.")
    prompt: str = Field(
        default="a photo of",
        description="Text the language model reads after the image, in training and in captioning alike.",
    )

    @field_validator("precision", mode="before")
    @classmethod
    def _no_fp16(cls, value: object) -> object:
        if value in ("fp16", "float16"):
            raise ValueError(
                "float16 makes T5 overflow (NaN from its first feed-forward, transformers#9295): take bf16, or fp32 "
                "where the hardware has no bf16"
            )
        return value


class Scenes(Section):
    """Drawn scenes in place of a dataset: nothing to download, another seed gives other scenes."""

    train: int = Field(default=1200, ge=2, description="Scenes to train on.")
    validation: int = Field(
        default=100, ge=2, description="Scenes of held-out combinations for choosing the best adapter."
    )
    test: int = Field(default=300, ge=2, description="Scenes of held-out combinations for the final scores.")
    seed: int = Field(default=7, ge=0, le=MAX_SEED, description="What is drawn.")
    task: Literal["captions", "questions"] = Field(
        default="captions", description="Caption the scenes, or answer questions about them."
    )
    style: Literal["terse", "house"] = Field(default="house", description="How the captions are worded.")
    questions_per_scene: int = Field(
        default=4, ge=1, le=5, description="Questions about each scene, each of another kind."
    )
    image_size: int = Field(default=224, ge=32, le=1024, description="Pixels along a side.")


class Data(Section):
    """The captioned images: a folder that `captioncrafter prepare` wrote, or drawn scenes."""

    path: str | None = Field(default=None, description="Dataset folder.")
    scenes: Scenes | None = Field(default=None, description="Drawn scenes; instead of a folder.")
    train_images: int | None = Field(default=None, ge=1, description="Train on the first n images only.")
    captions_per_image: int | None = Field(
        default=None, ge=1, description="Train on the first n captions of each image only."
    )
    augment: Literal["none", "crop"] = Field(
        default="none",
        description="crop shows another part of each training image (80 % of it or more) every time; then no features "
        "are stored and the whole model runs in every step.",
    )

    @model_validator(mode="after")
    def _not_both(self) -> "Data":
        if self.path is not None and self.scenes is not None:
            raise ValueError("path and scenes exclude each other: give one of them")
        return self


class Lora(Section):
    """The adapter: which layers get one, how large it is, and how it starts."""

    preset: Literal["fast", "efficient", "quality", "full-bridge"] = Field(
        default="efficient",
        description="What is tuned: fast is the decoder (cheapest), efficient the language model, quality the Q-Former "
        "too, full-bridge also the projection between them, which is trained whole.",
    )
    rank: int = Field(default=16, ge=1, le=1024, description="LoRA rank.")
    alpha: float = Field(
        default=32.0, gt=0, description="LoRA alpha; the update is scaled by alpha / rank (use_rslora: by its root)."
    )
    dropout: float = Field(default=0.05, ge=0, lt=1, description="Dropout before the LoRA matrices.")
    parts: tuple[Part, ...] | None = Field(
        default=None,
        strict=False,  # a file has lists, which are no tuples
        min_length=1,
        description="Parts of the model in which targets are looked for, instead of the preset's.",
    )
    targets: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        default=None,
        strict=False,
        min_length=1,
        description="Layer names within the parts, whole or as a dotted end (EncDecAttention.q); by default the "
        "queries and values of attention.",
    )
    pattern: str | None = Field(
        default=None,
        min_length=1,
        description="A regular expression that matches full layer names, in place of parts and targets.",
    )
    train_projection: bool | None = Field(
        default=None, description="Train the projection into the language model whole; by default as the preset says."
    )
    init: Literal["kaiming", "gaussian", "orthogonal", "pissa", "pissa_niter_16", "olora", "mica"] = Field(
        default="kaiming",
        description="How the LoRA matrices start. pissa (pissa_niter_16: its fast approximation), olora and mica take "
        "them from the base's weights.",
    )
    use_rslora: bool = Field(default=False, description="Scale the update by alpha / √rank: steadier at high ranks.")
    use_dora: bool = Field(
        default=False, description="DoRA: learn the magnitude of each output apart; better at low ranks, and slower."
    )

    @model_validator(mode="after")
    def _one_way_to_name_layers(self) -> "Lora":
        if self.pattern is None:
            return self
        if self.parts is not None or self.targets is not None:
            raise ValueError("pattern excludes parts and targets: give either")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f'pattern "{self.pattern}" is not a regular expression ({error})') from None
        return self

    @model_validator(mode="after")
    def _possible_start(self) -> "Lora":
        if self.init == "orthogonal" and self.rank % 2:
            raise ValueError(f"init orthogonal needs an even rank, not {self.rank}")
        if self.init == "mica" and self.use_dora:
            raise ValueError("init mica and use_dora exclude each other")
        return self

    @property
    def in_words(self) -> str:
        """Where the adapter goes, as the recipe says it."""
        if self.pattern is not None:
            return f"layers that match {self.pattern}"
        named = ", ".join(self.targets) if self.targets else ""
        inside = ", ".join(self.parts) if self.parts else f"the parts of preset {self.preset}"
        return f"{named} of {inside}" if named else inside


class Features(Section):
    """What the frozen half makes of each image: computed once, kept on disk, shared by every run that fits."""

    folder: str | None = Field(
        default=None,
        description="Where features are kept; by default CAPTIONCRAFTER_CACHE, else ~/.cache/captioncrafter.",
    )
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = Field(
        default="auto",
        description="How features are stored; auto is float16 where their range allows it, else bfloat16.",
    )
    images_per_batch: int = Field(default=32, ge=1, description="Images through the vision half at once.")


_USUAL_IMAGES_PER_BATCH = 8


class Training(Section):
    """The optimisation, in images: an image brings all its captions, packed into one row."""

    epochs: float = Field(default=3.0, gt=0, description="Passes over the training images.")
    images_per_step: int = Field(default=32, ge=1, description="Images behind one update of the weights.")
    images_per_batch: int | None = Field(
        default=None,
        ge=1,
        description="Images computed at once; several batches make a step. By default as many as a GPU's memory holds, "
        f"the whole step at best; elsewhere {_USUAL_IMAGES_PER_BATCH}. Which units dropout leaves out depends on it.",
    )
    learning_rate: float = Field(default=1e-4, gt=0, description="Peak learning rate of AdamW.")
    warmup: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the steps over which the learning rate rises; then cosine."
    )
    weight_decay: float = Field(default=0.05, ge=0, description="AdamW's weight decay.")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's decay of the gradient's mean.")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="AdamW's decay of the gradient's square.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the target spread over the vocabulary."
    )
    max_caption_tokens: int = Field(default=32, ge=2, description="Longer captions are cut here; how many is said.")
    gradient_checkpointing: bool = Field(
        default=False, description="Recompute activations: less memory, about a third slower."
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        default="stop",
        description="When a loss or gradient is not finite: stop the run, or set the step aside and go on.",
    )
    log_every_steps: int = Field(default=10, ge=1, description="Steps between rows of log.jsonl.")
    checkpoint_every_steps: int = Field(
        default=200, ge=1, description="Steps between checkpoints; one is written at each validation too."
    )
    keep_checkpoints: int = Field(default=2, ge=1, description="Newest checkpoints kept.")

    @model_validator(mode="after")
    def _whole_batches(self) -> "Training":
        if self.images_per_batch is not None and self.images_per_step % self.images_per_batch:
            raise ValueError(
                f"images_per_step ({self.images_per_step}) must be a multiple of "
                f"images_per_batch ({self.images_per_batch})"
            )
        return self

    def batch_sizes(self, most: int) -> list[int]:
        """Numbers of images at once that divide the step, `most` at most, the largest first."""
        return [size for size in range(most, 0, -1) if self.images_per_step % size == 0]

    @property
    def usual_batch(self) -> int:
        """The images computed at once: as stated, or where that is left open and no GPU's memory has a say."""
        return self.images_per_batch or self.batch_sizes(_USUAL_IMAGES_PER_BATCH)[0]

    def at_once(self, images: int) -> "Training":
        """The same with so many images computed at once."""
        return self.model_copy(update={"images_per_batch": images})


class Validation(Section):
    """How the best adapter is chosen: captions of the validation images, scored by CIDEr."""

    every_epochs: float = Field(default=1.0, gt=0, description="Epochs between validations.")
    images: int | None = Field(default=None, ge=2, description="Validate on the first n images only.")
    num_beams: int = Field(
        default=1, ge=1, description="Beam width while validating; 1 is greedy, which ranks adapters well."
    )
    patience: int = Field(
        default=2, ge=0, description="Stop after this many validations without a better CIDEr; 0 goes on to the end."
    )


class Decoding(Section):
    """How captions are generated."""

    num_beams: int = Field(default=5, ge=1, le=64, description="Beam width; 1 is greedy.")
    max_new_tokens: int = Field(default=30, ge=1, description="Longest caption, in tokens.")
    length_penalty: float = Field(default=1.0, description="Above 0 favours longer captions in beam search.")
    repetition_penalty: float = Field(default=1.0, gt=0, description="Above 1 discourages repeated tokens.")
    no_repeat_ngram_size: int = Field(default=0, ge=0, description="No n-gram of this size occurs twice; 0 allows all.")
    sample: bool = Field(default=False, description="Draw tokens instead of searching for the likeliest caption.")
    temperature: float = Field(default=1.0, gt=0, description="Sharpness of sampling; below 1 is sharper.")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Sample among the likeliest tokens that hold this probability."
    )
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="What sampling draws.")
    images_per_batch: int = Field(default=16, ge=1, description="Images captioned at once.")


class Tracking(Section):
    """Where curves go besides the run folder."""

    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = Field(
        default="none", description="An experiment tracker, through accelerate (extra: track)."
    )
    project: str = Field(default="captioncrafter", min_length=1, description="The tracker's project name.")


class Recipe(Section):
    """A whole fine-tuning: model, data, adapter, optimisation, validation, decoding."""

    seed: int = Field(
        default=0, ge=0, le=MAX_SEED, description="Initialisation of the adapter, order of the data, dropout."
    )
    model: Model = Model()
    data: Data = Data()
    lora: Lora = Lora()
    features: Features = Features()
    training: Training = Training()
    validation: Validation = Validation()
    decoding: Decoding = Decoding()
    evaluation: Evaluation = Evaluation()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _adapter_fits_precision(self) -> "Recipe":
        check_adapter(self.lora, self.model.precision)
        return self


def check_adapter(lora: Lora, precision: str) -> None:
    """Raises `ValueError` for an adapter that PEFT 0.21 breaks over quantised weights, or that fits no others."""
    if precision in ("int8", "nf4") and lora.init not in ("kaiming", "gaussian"):
        raise ValueError(
            f'lora.init "{lora.init}" needs unquantised weights, but model.precision is {precision}: '
            "take kaiming or gaussian, or bf16"
        )
    if precision == "int8" and lora.use_dora:
        raise ValueError("lora.use_dora fails with model.precision int8 (bitsandbytes): take nf4 or bf16")
