"""CLIPScore, worked out again by hand from what transformers' own CLIPModel gives."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captioncrafter.errors import CheckpointError, DataError
from captioncrafter.metrics.clip_score import Clip, ClipScorer
from captioncrafter.metrics.references import References
from clip import write_tiny_clip
from tiny import picture, rewrite_tensors

PREDICTIONS = {"0": "a red dog", "1": "two cats"}
CAPTIONS = {"0": ["a dog", "red dog in the park"], "1": ["two cats", "cats", "a cat and a cat"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Clip:
    return Clip.load(str(folder), None, torch.device("cpu"))


def image_of(image_id: str) -> Image.Image:
    return Image.open(io.BytesIO(picture(int(image_id), size=48))).convert("RGB")


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return max(float(torch.nn.functional.cosine_similarity(one, other, dim=-1)), 0.0)


@pytest.fixture(scope="module")
def text_of(folder: Path):
    """The vector that stock transformers gives a single text."""
    from transformers import CLIPModel, CLIPTokenizer

    model, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)

    def embed(text: str) -> torch.Tensor:
        with torch.no_grad():
            return model.get_text_features(**tokenizer(text, return_tensors="pt")).pooler_output[0]

    return embed


@pytest.fixture(scope="module")
def picture_of(folder: Path):
    """The vector that stock transformers gives a single image."""
    from transformers import CLIPImageProcessorPil, CLIPModel

    model, processor = CLIPModel.from_pretrained(folder), CLIPImageProcessorPil.from_pretrained(folder)

    def embed(image_id: str) -> torch.Tensor:
        with torch.no_grad():
            pixels = processor(image_of(image_id), return_tensors="pt")["pixel_values"]
            return model.get_image_features(pixel_values=pixels).pooler_output[0]

    return embed


def test_clip_score_is_two_and_a_half_times_the_cosine_of_image_and_caption(clip: Clip, text_of, picture_of):
    card = ClipScorer(clip, References(CAPTIONS), image_of).score(PREDICTIONS)

    expected = [2.5 * cosine(picture_of(n), text_of(f"A photo depicts {text}")) for n, text in PREDICTIONS.items()]
    assert min(expected) > 0
    assert card.metrics["CLIPScore"].per_image == pytest.approx(expected, abs=1e-6)
    assert card.value("CLIPScore") == pytest.approx(np.mean(expected), abs=1e-6)


def test_ref_clip_score_is_the_harmonic_mean_with_the_nearest_reference(clip: Clip, text_of):
    card = ClipScorer(clip, References(CAPTIONS), image_of).score(PREDICTIONS)

    for row, (image, text) in enumerate(PREDICTIONS.items()):
        score = card.metrics["CLIPScore"].per_image[row]
        caption = text_of(f"A photo depicts {text}")
        nearest = max(cosine(caption, text_of(f"A photo depicts {other}")) for other in CAPTIONS[image])
        expected = 2 * score * nearest / (score + nearest)
        assert card.metrics["RefCLIPScore"].per_image[row] == pytest.approx(expected, abs=1e-6)


def test_a_caption_that_points_away_from_its_image_scores_zero_not_less(folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "clip"))
    rewrite_tensors(copy / "model.safetensors", lambda tensors: tensors["visual_projection.weight"].neg_())
    away = Clip.load(str(copy), None, torch.device("cpu"))

    card = ClipScorer(away, References(CAPTIONS), image_of).score(PREDICTIONS)

    assert card.metrics["CLIPScore"].per_image.tolist() == [0, 0]
    assert card.metrics["RefCLIPScore"].per_image.tolist() == [0, 0]


def test_padding_to_the_longest_caption_changes_nothing(clip: Clip):
    alone = clip.embed_texts(["a"])
    beside = clip.embed_texts(["a", "a dog in"])

    assert beside[0] == pytest.approx(alone[0], abs=1e-6)


def test_a_caption_longer_than_clip_reads_is_cut(clip: Clip):
    assert clip.embed_texts(["dog " * 100]) == pytest.approx(clip.embed_texts(["dog " * 90]))


def test_images_are_looked_at_once_for_several_captioners(clip: Clip):
    seen: list[str] = []

    def look(image: str) -> Image.Image:
        seen.append(image)
        return image_of(image)

    scorer = ClipScorer(clip, References(CAPTIONS), look)
    scorer.score(PREDICTIONS)
    scorer.score({"0": "a", "1": "b"})

    assert seen == ["0", "1"]


def test_predictions_of_other_images_are_refused(clip: Clip):
    with pytest.raises(DataError, match="not of the same images"):
        ClipScorer(clip, References(CAPTIONS), image_of).score({"0": "a red dog"})


def test_the_description_names_the_weights(clip: Clip, folder: Path):
    told = clip.describe()

    assert told["model"] == str(folder)
    assert len(told["weights"]) == 32


def test_the_papers_preprocessor_as_the_hub_has_it_gives_the_papers_pixels(folder: Path, tmp_path: Path):
    """Its file is of 2021: it names a feature extractor, and one number for each size."""
    copy = Path(shutil.copytree(folder, tmp_path / "clip"))
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    told = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 32, "crop_size": 32, "resample": 3}
    told |= {f"do_{step}": True for step in ("resize", "center_crop", "normalize")}
    told |= {"image_mean": mean, "image_std": deviation}
    (copy / "preprocessor_config.json").write_text(json.dumps(told))
    image = Image.open(io.BytesIO(picture(3, size=48))).convert("RGB").crop((0, 0, 48, 40))

    found = Clip.load(str(copy), None, torch.device("cpu")).image_processor([image], return_tensors="np")

    smaller = image.resize((int(32 * 48 / 40), 32), Image.Resampling.BICUBIC).crop((3, 0, 35, 32))
    expected = (np.asarray(smaller, np.float32) / 255 - np.float32(mean)) / np.float32(deviation)
    assert found["pixel_values"][0] == pytest.approx(expected.transpose(2, 0, 1), abs=1e-6)


def test_a_hub_name_that_cannot_be_fetched_is_refused_with_the_way_out():
    with pytest.raises(CheckpointError, match=r"not in the hub cache.*folder of a copy as evaluation\.clip_model"):
        Clip.load("openai/clip-vit-base-patch32", None, torch.device("cpu"))


def test_a_checkpoint_of_another_kind_is_refused(tiny_checkpoint: Path):
    with pytest.raises(CheckpointError, match="cannot be loaded as a CLIP"):
        Clip.load(str(tiny_checkpoint), None, torch.device("cpu"))


def test_a_clip_that_lacks_a_tensor_is_refused(folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "clip"))
    rewrite_tensors(copy / "model.safetensors", lambda tensors: tensors.pop("text_projection.weight"))

    with pytest.raises(CheckpointError, match=r"it has no text_projection\.weight"):
        Clip.load(str(copy), None, torch.device("cpu"))


def test_a_clip_without_its_tokenizer_is_refused(folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "clip"))
    for file in copy.glob("tokenizer*"):
        file.unlink()

    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor vocab\.json"):
        Clip.load(str(copy), None, torch.device("cpu"))


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "clip"))
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")

    with pytest.raises(CheckpointError, match="a pickle file, which can run code"):
        Clip.load(str(copy), None, torch.device("cpu"))


def test_the_configuration_of_a_clip_without_sense_is_refused(folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "clip"))
    (copy / "config.json").write_text(json.dumps({"model_type": "clip", "text_config": {"hidden_size": "wide"}}))

    with pytest.raises(CheckpointError, match="cannot be loaded as a CLIP"):
        Clip.load(str(copy), None, torch.device("cpu"))
