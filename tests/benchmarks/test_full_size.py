"""The full-size benchmark, on the published configuration in full and on a narrow one from end to end."""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from captioncrafter.model import checkpoint, weights
from captioncrafter.model.hardware import Arithmetic
from captioncrafter.model.loading import load_model
from captioncrafter.model.memory import meta_model

OURS = (
    "full_size",
    "_contestants",
    "_figures",
    "_machine",
    "_outcome",
    "_parts",
    "_random_checkpoint",
    "_road",
    "_subject",
    "_watch",
)


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        import full_size

        yield full_size
        for name in OURS:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def outcome(bench: ModuleType) -> dict[str, Any]:
    """What the benchmark tells of the narrow model, with as few images and steps as it goes with."""
    with pytest.MonkeyPatch.context() as patch:
        told = io.StringIO()
        patch.setattr(bench, "use_cores", lambda threads: None)
        patch.setattr(bench, "give_back_freed_memory", lambda: None)
        with redirect_stdout(told):
            bench.main(["--size", "small", "--quick", "--device", "cpu", "--json", "--note", "a test"])
    return json.loads(told.getvalue())


def test_the_shipped_configuration_makes_a_model_of_the_published_size(bench: ModuleType):
    config = checkpoint.load_config(checkpoint.find("Salesforce/blip2-flan-t5-xl", only_config=True))

    counts = dict.fromkeys(bench.PARAMETERS, 0)
    for name, parameter in meta_model(config, torch.bfloat16).named_parameters():
        part = name.split(".", 1)[0]
        counts["qformer" if part == "query_tokens" else part] += parameter.numel()

    assert counts == bench.PARAMETERS
    assert sum(counts.values()) == 3_942_446_592


def test_a_model_of_another_size_ends_the_benchmark(bench: ModuleType):
    with bench.random_checkpoint("small") as found, pytest.raises(SystemExit, match="where the published model has"):
        bench._checked_parameters(found, "xl")


def test_weights_are_the_same_each_time_and_lie_on_no_disk(bench: ModuleType):
    with bench.random_checkpoint("small") as found:
        once = weights.fingerprint(found.folder, lambda name: True)
        assert sum(file.stat().st_size for file in found.folder.iterdir() if not file.is_symlink()) < 5e6
    with bench.random_checkpoint("small") as found:
        again = weights.fingerprint(found.folder, lambda name: True)

    assert once == again
    assert not found.folder.exists()


def test_a_model_that_is_loaded_shares_the_weights_in_memory(bench: ModuleType):
    def shared_kib() -> int:
        return int(next(row for row in status.read_text().splitlines() if row.startswith("RssShmem")).split()[1])

    status = Path("/proc/self/status")
    with bench.random_checkpoint("small") as found:
        before = shared_kib()
        model = load_model(found, arithmetic=Arithmetic(torch.bfloat16), device=torch.device("cpu"))
        read = model.language_model.lm_head.weight.float().sum()

        assert read.isfinite()
        assert shared_kib() - before >= model.language_model.lm_head.weight.nbytes / 1024


def test_the_whole_road_is_gone_and_told(outcome: dict[str, Any]):
    names = [row["name"] for row in outcome["rows"]]

    phases = ("features", "checks", "training", "validation")
    assert names == ["naive, bf16", *(f"{way}, bf16: {phase}" for way in ("efficient", "fast") for phase in phases)]
    assert {"ratios", "hardware", "versions", "commit", "baseline"} <= outcome.keys()
    assert outcome["note"] == "a test"
    assert all(row["per_s"] > 0 for row in outcome["rows"] if not row["name"].endswith("checks"))


def test_the_adapter_in_stock_hands_gives_our_logits(outcome: dict[str, Any]):
    for one in outcome["logits"].values():
        assert one["to_stock"] < outcome["logit_tolerance"]
        assert one["to_base"] > 10 * one["to_stock"]


def test_operations_are_those_of_the_formula(outcome: dict[str, Any]):
    counted = outcome["gflop_by_part"]

    positions, queries, width = 32 + 5, 32, 128  # the prompt is read in 5 tokens
    assert counted["language_projection"] == 2 * queries * 32 * width / 1e9
    encoder_layer = 2 * positions * (4 * width * 4 * 32 + 3 * width * 256) + 2 * 2 * 4 * 32 * positions**2
    assert counted["language_model.encoder"] == 2 * encoder_layer / 1e9


def test_another_adapter_than_the_trained_one_ends_the_benchmark(bench: ModuleType, monkeypatch: pytest.MonkeyPatch):
    apart = bench.Agreement(logits=1, to_stock=0.021, to_base=1.0)
    idle = bench.Agreement(logits=1, to_stock=0.001, to_base=0.0)
    done = bench.Done(bench.PROVEN[0], None, None, 0)

    for one in (apart, idle):
        monkeypatch.setattr(bench, "agreement", lambda found, trained, device, one=one: one)
        with pytest.raises(SystemExit, match="not the adapter that was trained"):
            bench._agreed(None, done, torch.device("cpu"))
