"""Writes a dataset folder that `datasets.load_from_disk` reads, in one pass, without the images ever being in memory.

`Dataset.save_to_disk` would need a copy of all images in a cache first. The record batches are written here instead,
and `datasets` itself writes the files that describe them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import xxhash

from captioncrafter import events, storage
from captioncrafter.data.dataset import FEATURES, without_progress_bars
from captioncrafter.data.images import image_hash, read_image_file
from captioncrafter.data.inspection import Inspected
from captioncrafter.errors import DataError

_SHARD_BYTES = 500 * 1000**2
_BATCH_BYTES = 16 * 1000**2
_BATCH_IMAGES = 100

Row = dict[str, Any]


def write_splits(folder: Path, splits: Mapping[str, Sequence[Inspected]]) -> None:
    """Fills `folder` with the images (their bytes as they are), ids and captions of `splits`.

    An empty split is left out: `load_from_disk` of datasets 5.2 fails on one that `save_to_disk` wrote, which a user
    would meet after changing the dataset. Raises `DataError` when an image file changed since it was inspected.
    """
    written = {split: images for split, images in splits.items() if images}
    with without_progress_bars():
        datasets.DatasetDict({split: _described_only(split) for split in written}).save_to_disk(folder)
    with events.progress("images written", sum(map(len, written.values()))) as bar:
        for split, images in written.items():
            shards = _write_shards(folder / split, images, bar)
            _point_to(folder / split, shards, images)


def _described_only(split: str) -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {column: [] for column in FEATURES}, features=FEATURES, split=datasets.NamedSplit(split)
    )


def _write_shards(folder: Path, images: Sequence[Inspected], bar: events.Progress) -> list[str]:
    shards = list(_by_size(images, _SHARD_BYTES, len(images)))
    names = [f"data-{number:05d}-of-{len(shards):05d}.arrow" for number in range(len(shards))]
    schema = FEATURES.arrow_schema
    for name, shard in zip(names, shards, strict=True):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
            for batch in _by_size(shard, _BATCH_BYTES, _BATCH_IMAGES):
                stream.write_batch(pa.RecordBatch.from_pylist([_row(image) for image in batch], schema=schema))
                bar.advance(len(batch))
    return names


def _by_size(images: Sequence[Inspected], most_bytes: int, most_images: int) -> Iterator[Sequence[Inspected]]:
    """Runs of images that hold no more than this each; an image that is larger by itself stands alone."""
    start, size = 0, 0
    for position, image in enumerate(images):
        if position > start and (size + image.size > most_bytes or position - start == most_images):
            yield images[start:position]
            start, size = position, 0
        size += image.size
    yield images[start:]


def _row(image: Inspected) -> Row:
    example = image.example
    data = read_image_file(example.file, example.image_id)
    if image_hash(data) != image.content:
        raise DataError(f"{example.file}: changed while the dataset was being made. Prepare it again.")
    return {
        "image": {"bytes": data, "path": example.file.name},
        "image_id": example.image_id,
        "captions": list(example.captions),
    }


def _point_to(folder: Path, shards: Sequence[str], images: Iterable[Inspected]) -> None:
    """Names the shards in the description that `datasets` wrote for no rows, with a fingerprint of these images.

    `datasets` caches what `map` computes under that fingerprint.
    """
    digest = xxhash.xxh3_64()
    for image in images:
        digest.update(f"{image.example.image_id}\0{image.content}\0{image.example.captions!r}\0".encode())
    state = storage.read_json(folder / "state.json")
    state |= {"_data_files": [{"filename": name} for name in shards], "_fingerprint": digest.hexdigest()}
    storage.write_json(folder / "state.json", state)
