"""A checkpoint is found and loaded as it lies on disk, or refused with one message."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from captioncrafter.errors import CheckpointError
from captioncrafter.model import checkpoint, weights
from captioncrafter.model.hardware import Arithmetic
from captioncrafter.model.loading import check_head, load_model
from tiny import changed_copy, load_tiny, rewrite_tensors, write_tiny_checkpoint

CPU = torch.device("cpu")
HEAD, EMBEDDING = "language_model.lm_head.weight", "language_model.shared.weight"


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def load(folder: Path):
    return load_model(checkpoint.find(str(folder)), arithmetic=Arithmetic(torch.float32), device=CPU)


def test_a_folder_is_loaded_as_the_stock_class_frozen_and_in_eval_mode(tiny_checkpoint: Path):
    from transformers import Blip2ForConditionalGeneration

    model = load(tiny_checkpoint)

    assert type(model) is Blip2ForConditionalGeneration
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_every_stored_weight_arrives_bit_for_bit(tiny_checkpoint: Path):
    from safetensors.torch import load_file

    stored = load_file(tiny_checkpoint / "model.safetensors")

    loaded = load(tiny_checkpoint).state_dict()

    assert all(torch.equal(loaded[name], tensor) for name, tensor in stored.items())


def test_a_bundled_name_is_found_inside_the_package():
    found = checkpoint.find("miniature")

    assert found.folder.parent.name == "assets"
    assert "miniature" in checkpoint.bundled()


def test_an_unknown_name_is_answered_with_the_nearest_bundled_one():
    with pytest.raises(CheckpointError, match=r'"miniatur" is neither a folder.*Did you mean "miniature"\?'):
        checkpoint.find("miniatur")


@pytest.mark.parametrize("name", ["nobody", "./nowhere", "/no/where", "a/b/c"])
def test_a_name_of_no_folder_and_no_repository_is_refused(name: str):
    with pytest.raises(CheckpointError, match="neither a folder, nor a hub name"):
        checkpoint.find(name)


def test_a_hub_name_that_is_not_cached_is_refused_offline_with_the_way_out():
    with pytest.raises(
        CheckpointError, match=r"nobody/nothing: not in the hub cache.*HF_HUB_OFFLINE is set\. Connect to the network"
    ):
        checkpoint.find("nobody/nothing")


def test_of_a_hub_name_the_configuration_alone_is_enough_where_no_more_is_asked_for(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cached = tmp_path / "models--some--base"
    snapshot = cached / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    shutil.copy(tiny_checkpoint / "config.json", snapshot)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    found = checkpoint.find("some/base", only_config=True)

    assert found == checkpoint.Checkpoint("some/base", "0123abc", snapshot, on_hub=True)


def test_a_name_that_no_hub_would_take_is_refused():
    with pytest.raises(CheckpointError, match="not a hub name"):
        checkpoint.find("no body/nothing")


def test_a_folder_without_configuration_is_refused(copy: Path):
    (copy / "config.json").unlink()

    with pytest.raises(CheckpointError, match=r"no config\.json in"):
        checkpoint.find(str(copy))


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"model_type": "\xff"}'], ids=["cut", "a list", "not UTF-8"])
def test_a_configuration_that_is_no_json_object_is_refused(copy: Path, content: bytes):
    (copy / "config.json").write_bytes(content)

    with pytest.raises(CheckpointError, match=r"config\.json: not a JSON object"):
        checkpoint.find(str(copy))


def test_another_kind_of_model_is_refused_by_its_model_type(tiny_checkpoint: Path, tmp_path: Path):
    other = changed_copy(tiny_checkpoint, tmp_path / "other", "config.json", model_type="blip")

    with pytest.raises(CheckpointError, match='model_type "blip"; CaptionCrafter tunes "blip-2"'):
        checkpoint.find(str(other))


def test_an_instruct_blip_is_refused_with_the_model_to_take(tiny_checkpoint: Path, tmp_path: Path):
    other = changed_copy(tiny_checkpoint, tmp_path / "other", "config.json", model_type="instructblip")

    with pytest.raises(CheckpointError, match=r"Q-Former reads the prompt too: .*Salesforce/blip2-flan-t5-xl"):
        checkpoint.find(str(other))


def test_a_configuration_with_an_impossible_value_is_refused(tiny_checkpoint: Path, tmp_path: Path):
    vision = {"hidden_size": "wide", "model_type": "blip_2_vision_model"}
    other = changed_copy(tiny_checkpoint, tmp_path / "other", "config.json", vision_config=vision)

    with pytest.raises(CheckpointError, match=r"config\.json: not usable .*hidden_size"):
        load(other)


@pytest.mark.parametrize("removed", [1, 1000, 424_000])
def test_truncated_weights_are_refused(copy: Path, removed: int):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-removed])

    with pytest.raises(CheckpointError, match=r"model\.safetensors: .*truncated"):
        load(copy)


def header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>not found</html>", header(b"[]"), header(b'{"a":{}}'), header(b'{"a":3}'), header(b"{nonsense}")],
    ids=["empty", "a page", "a list", "no dtype", "no object", "no JSON"],
)
def test_a_file_that_is_no_safetensors_is_refused(copy: Path, content: bytes):
    (copy / "model.safetensors").write_bytes(content)

    with pytest.raises(CheckpointError, match=r"model\.safetensors: .* Fetch it again\."):
        load(copy)


def test_weights_that_are_there_only_as_a_pickle_are_never_opened(copy: Path):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")

    with pytest.raises(CheckpointError, match=r"only there as pytorch_model\.bin, a pickle file"):
        load(copy)


def test_a_folder_without_weights_is_refused(copy: Path):
    (copy / "model.safetensors").unlink()

    with pytest.raises(CheckpointError, match=r"no model\.safetensors, whole or in parts"):
        load(copy)


def test_a_missing_weight_is_named(copy: Path):
    rewrite_tensors(copy / "model.safetensors", lambda tensors: tensors.pop("query_tokens"))

    with pytest.raises(CheckpointError, match="1 weight is missing or of another shape, query_tokens first"):
        load(copy)


def test_a_weight_of_another_shape_is_named_with_both(copy: Path):
    rewrite_tensors(copy / "model.safetensors", lambda tensors: tensors.update(query_tokens=torch.zeros(1, 4, 32)))

    with pytest.raises(
        CheckpointError, match=r"query_tokens \(1, 4, 32\) for \(1, 3, 32\) first \(in .*model\.safetensors"
    ):
        load(copy)


def test_a_head_of_its_own_stays_its_own(tiny_checkpoint: Path):
    model = load(tiny_checkpoint)

    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight

    assert head.data_ptr() != embedding.data_ptr()
    assert not torch.equal(head, embedding)


def test_a_head_tied_in_silence_is_refused(tiny_checkpoint: Path):
    model = load(tiny_checkpoint)
    model.language_model.lm_head.weight = model.language_model.shared.weight

    with pytest.raises(CheckpointError, match="the output head was tied to the embedding"):
        check_head(model, weights.stored_tensors(tiny_checkpoint), "tiny")


def test_a_head_that_is_not_the_stored_one_is_refused(tiny_checkpoint: Path):
    model = load(tiny_checkpoint)
    model.language_model.lm_head.weight[5, 5] += 1

    with pytest.raises(CheckpointError, match=r"is not the checkpoint's language_model\.lm_head\.weight"):
        check_head(model, weights.stored_tensors(tiny_checkpoint), "tiny")


@pytest.mark.parametrize("lost", [HEAD, EMBEDDING])
def test_an_untied_checkpoint_without_head_or_embedding_is_not_tied_to_fill_the_gap(copy: Path, lost: str):
    rewrite_tensors(copy / "model.safetensors", lambda tensors: tensors.pop(lost))

    with pytest.raises(CheckpointError, match=f"missing or of another shape, {lost} first"):
        load(copy)


def test_a_checkpoint_that_was_tied_loads_tied(tmp_path: Path):
    model = load(write_tiny_checkpoint(tmp_path / "tied", tied=True))

    assert model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


@pytest.mark.parametrize("difference", [{"num_query_tokens": 4}, {"image_token_index": 7}])
def test_a_processor_that_disagrees_with_its_model_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, difference: dict[str, int]
):
    other = changed_copy(tiny_checkpoint, tmp_path / "other", "config.json", **difference)

    with pytest.raises(CheckpointError, match="processor and model disagree"):
        checkpoint.load_processor(checkpoint.find(str(other)))


@pytest.mark.parametrize("file", ["processor_config.json", "tokenizer.json"])
def test_a_damaged_processor_is_refused(copy: Path, file: str):
    (copy / file).write_text("{")

    with pytest.raises(CheckpointError, match="its processor cannot be read"):
        checkpoint.load_processor(checkpoint.find(str(copy)))


def test_a_checkpoint_without_processor_is_refused(copy: Path):
    (copy / "processor_config.json").unlink()

    with pytest.raises(CheckpointError, match="its processor cannot be read"):
        checkpoint.load_processor(checkpoint.find(str(copy)))


def test_the_published_files_load_and_agree(published_files: Path, tmp_path: Path):
    shutil.copytree(published_files.parents[1] / "tokenizers" / "t5", tmp_path / "published")
    shutil.copytree(published_files, tmp_path / "published", dirs_exist_ok=True)
    found = checkpoint.find(str(tmp_path / "published"))

    processor = checkpoint.load_processor(found)

    assert (processor.num_query_tokens, checkpoint.image_token_id(processor)) == (32, 32100)


def test_what_stock_from_pretrained_takes_is_the_hub_name_or_the_whole_path(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tiny_checkpoint.parent)

    here = checkpoint.find(tiny_checkpoint.name)
    hub = checkpoint.Checkpoint("Salesforce/blip2-flan-t5-xl", None, tiny_checkpoint, on_hub=True)

    assert here.loadable_name == str(tiny_checkpoint.resolve())
    assert hub.loadable_name == "Salesforce/blip2-flan-t5-xl"


@pytest.mark.parametrize("change", [lambda t: t[0].add_(1), lambda t: t[-1].add_(1)], ids=["first row", "last row"])
def test_the_quick_fingerprint_tells_other_weights(copy: Path, change: Callable[[torch.Tensor], torch.Tensor]):
    before = weights.quick_fingerprint(copy)

    rewrite_tensors(copy / "model.safetensors", lambda tensors: change(tensors[HEAD]))

    assert weights.quick_fingerprint(copy) != before


def test_loading_leaves_the_logging_of_transformers_as_it_was(tiny_checkpoint: Path):
    import logging

    logger = logging.getLogger("transformers")
    before = logger.level

    load_tiny(tiny_checkpoint)

    assert logger.level == before


XL = "Salesforce/blip2-flan-t5-xl"


def test_without_the_hub_the_configuration_that_ships_stands_in_and_it_is_said(capfd: pytest.CaptureFixture[str]):
    found = checkpoint.find(XL, "0eb0d3b4", only_config=True)

    assert checkpoint.load_config(found).text_config.d_model == 2048
    assert found.loadable_name == XL
    assert f"{XL}: not in the hub cache; its configuration as it came" in capfd.readouterr().err


def test_where_weights_are_needed_no_shipped_file_stands_in():
    with pytest.raises(CheckpointError, match=r"not in the hub cache.*HF_HUB_OFFLINE is set"):
        checkpoint.find(XL)


def test_the_shipped_files_are_the_published_ones(published_files: Path):
    shipped = checkpoint.published_files(XL)
    assert shipped is not None

    assert {file.name: file.read_bytes() for file in shipped.iterdir()} == {
        file.name: file.read_bytes() for file in published_files.iterdir()
    }
