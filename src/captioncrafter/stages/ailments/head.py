"""The output head: flan-T5's is not its embedding, and many tools tie the two in silence."""

from typing import Any

from captioncrafter.model.cut import is_decoder_only
from captioncrafter.model.weights import StoredTensor
from captioncrafter.stages.ailments.finding import Record

HEAD, EMBEDDING = "language_model.lm_head.weight", "language_model.shared.weight"
_SAMPLES, _SAMPLE_BYTES = 16, 4096


def examine_head(record: Record, config: Any, stored: dict[str, StoredTensor], *, readable: bool, again: str) -> None:
    """Whether the stored head is what the configuration asks for; `readable` when the bytes are on this disk."""
    if is_decoder_only(config) or record.has("missing-shard", "damaged-shard", "lfs-pointer"):
        return
    own = not getattr(config.text_config, "scale_decoder_outputs", True)
    record.facts["head"] = "its own" if own else "the embedding"
    if own and HEAD not in stored:
        record.error(
            "head-lost",
            HEAD,
            "its configuration asks for an output head of its own, and none is stored: some tool tied it to the "
            "embedding and left it out. Captions would be garbage",
            again,
        )
        return
    if own and EMBEDDING not in stored:
        record.error("missing-weights", EMBEDDING, "the embedding is not stored, only the head", again)
        return
    if HEAD not in stored or EMBEDDING not in stored or not readable:
        return
    same = _same_bytes(stored[HEAD], stored[EMBEDDING])
    if own and same:
        record.error(
            "head-tied",
            HEAD,
            "the same bytes as the embedding, where its configuration asks for a head of its own: some tool tied the "
            "two before saving. Captions would be garbage",
            again,
        )
    elif not own and not same:
        record.error(
            "head-scaled",
            HEAD,
            "a head of its own, while the configuration calls it tied: the decoder's output would be scaled down for "
            "an embedding",
            "Where its source says that the head is not tied (flan-T5's is not): set text_config.tie_word_embeddings "
            "to false in config.json.",
        )


def _same_bytes(one: StoredTensor, other: StoredTensor) -> bool:
    """Compares samples spread over both: enough to tell a copy from anything else."""
    size = one.end - one.start
    if (one.dtype, one.shape, size) != (other.dtype, other.shape, other.end - other.start):
        return False
    steps = [size * number // _SAMPLES for number in range(_SAMPLES)]
    with one.file.open("rb") as first, other.file.open("rb") as second:
        for at in steps:
            first.seek(one.start + at)
            second.seek(other.start + at)
            length = min(_SAMPLE_BYTES, size - at)
            if first.read(length) != second.read(length):
                return False
    return True
