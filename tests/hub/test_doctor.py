"""The doctor at a name on the hub: small files and headers are fetched, weights are not."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hub_layouts import OF_2023, OLD, WHOLE, write_published
from hub_server import Hub, Repository
from patients import ailments, changed_files, contents, write_adapter

Ask = Callable[..., dict[str, Any]]

_PROGRAM = """
import json, sys
from captioncrafter.stages.doctor import doctor
print(json.dumps([doctor(name).to_json() for name in sys.argv[1:]]))
"""


def examined(hub: Hub, home: Path, *names: str) -> list[dict[str, Any]]:
    """What the doctor says of these names, asked in a process of its own with this hub and cache."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    given = {"HF_HOME": str(home), "HF_ENDPOINT": hub.address, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *names], env=kept | given | quiet, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_of_a_name_on_the_hub_small_files_and_headers_are_judged(
    hub: Hub, published: Path, tiny_checkpoint: Path, tmp_path: Path
):
    hub.repositories["doctor/whole"] = Repository.of(published)
    hub.repositories["doctor/torn"] = Repository.of(published)
    shard = "model-00002-of-00002.safetensors"
    hub.repositories["doctor/torn"].files[shard] = hub.repositories["doctor/whole"].files[
        "model-00001-of-00002.safetensors"
    ]
    hub.repositories["doctor/gated"] = Repository.of(published, error=("GatedRepo", 403))
    small = Repository.of(published)
    small.files = {name: content for name, content in small.files.items() if "safetensors" not in name}
    hub.repositories["doctor/small"] = small
    adapter = write_adapter(tiny_checkpoint, tmp_path / "adapter")
    hub.repositories["doctor/adapter"] = Repository.of(adapter)
    names = [f"doctor/{name}" for name in ("whole", "torn", "gated", "nobody", "small", "adapter")]

    whole, torn, gated, nobody, pickled, tuned = examined(hub, tmp_path / "home", *names)

    assert whole["findings"] == []
    assert whole["facts"]["weights"] == "on the hub, not fetched"
    assert whole["facts"]["parameters"]["vision_model"] > 0
    assert "missing-weights" in {finding["ailment"] for finding in torn["findings"]}
    assert ["terms" in gated["findings"][0]["what"], "no such" in nobody["findings"][0]["what"]] == [True, True]
    assert [finding["ailment"] for finding in pickled["findings"]] == ["no-weights"], pickled["findings"]
    assert (tuned["kind"], tuned["findings"]) == ("adapter", [])
    fetched = {path.name for path in (tmp_path / "home").rglob("*.safetensors")}
    assert fetched == {"adapter_model.safetensors"}


@pytest.mark.parametrize("layout", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("kind", ["t5", "opt"])
def test_nothing_is_found_of_a_current_layout(layout: Any, kind: Any, tmp_path: Path):
    assert ailments(write_published(tmp_path / "base", layout, kind)) == {}


@pytest.mark.parametrize("layout", OLD.values(), ids=OLD)
def test_an_old_layout_is_a_note(layout: Any, tmp_path: Path):
    found = ailments(write_published(tmp_path / "base", layout))

    assert {name: finding.severity for name, finding in found.items()} == {"old-layout": "note"}


def test_an_old_layout_that_was_written_down_is_a_current_one(tmp_path: Path):
    folder = write_published(tmp_path / "base", OF_2023)

    before = contents(folder)

    ailments(folder, fix=True)

    assert ailments(folder) == {}
    assert changed_files(before, folder) == {"added_tokens.json", "config.json", "processor_config.json"}
