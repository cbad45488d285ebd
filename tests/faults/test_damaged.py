"""Files of an interrupted run, flipped, cut or deleted: exact continuation or a clear refusal."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from faults.course import Course, Trial, cache_of, send
from faults.forks import Ended
from faults.harm import HARMS

FILES = {
    "newest weights": "run/checkpoints/step-000019/weights.safetensors",
    "newest optimizer": "run/checkpoints/step-000019/optimizer.safetensors",
    "newest state": "run/checkpoints/step-000019/state.json",
    "best weights": "run/checkpoints/best/weights.safetensors",
    "best state": "run/checkpoints/best/state.json",
    "every weights": "run/checkpoints/*/weights.safetensors",
    "every optimizer": "run/checkpoints/*/optimizer.safetensors",
    "every state": "run/checkpoints/*/state.json",
    "adapter weights": "run/adapter/adapter_model.safetensors",
    "adapter config": "run/adapter/adapter_config.json",
    "adapter captioning": "run/adapter/captioning.json",
    "adapter card": "run/adapter/README.md",
    "recipe": "run/recipe.json",
    "manifest": "run/manifest.json",
    "log": "run/log.jsonl",
    "features": "run-cache/features/*/*.safetensors",
    "features key": "run-cache/features/*/key.json",
}
UNHASHED = {"log": "log.jsonl", "manifest": "manifest.json"}
"""What these say is of no consequence to the model: a digit that changed in them is not noticed."""

SAMPLED = {
    ("newest weights", "middle_byte"),
    ("every state", "cut_short"),
    ("adapter weights", "middle_byte"),
}


@pytest.fixture(scope="module")
def stopped(course: Course) -> tuple[Path, Ended]:
    """A run stopped after step 19, whose best validation is behind it, and how that ended."""
    out = course.folder / "stopped" / "run"
    out.parent.mkdir()
    ended = course.start(out, faults=[send(signal.SIGTERM, at="batch", nth=32)]).end()
    assert ended.status == 143, ended.said
    return out, ended


def after(course: Course, stopped: tuple[Path, Ended], out: Path, pattern: str, name: str) -> Trial:
    """A copy of the stopped run, harmed and gone on with."""
    source, ended = stopped
    shutil.copytree(source, out)
    shutil.copytree(cache_of(source), cache_of(out))
    files = list(out.parent.glob(pattern))
    assert files, sorted(out.rglob("*"))
    for file in files:
        HARMS[name](file)
    return course.gone_on(out, ended)


@pytest.mark.parametrize("file", ["weights.safetensors", "state.json"])
@pytest.mark.faults
def test_damage_to_the_best_checkpoint_costs_no_step(course: Course, stopped: tuple[Path, Ended], out: Path, file: str):
    progress = json.loads((stopped[0] / "checkpoints/step-000019/state.json").read_text())["progress"]
    assert progress["best_step"] < 19

    trial = after(course, stopped, out, f"run/checkpoints/step-{progress['best_step']:06d}/{file}", "middle_byte")

    assert trial.continued() == []
    assert "going on after step 19" in trial.second.said
    assert f"{file} is not as it was written; the weights of this best validation are whole" in trial.second.said


CASES = [
    pytest.param(what, name, id=f"{what}-{name}", marks=() if (what, name) in SAMPLED else pytest.mark.faults)
    for what in FILES
    for name in HARMS
]


@pytest.mark.parametrize(("what", "name"), CASES)
def test_a_damaged_file_is_passed_over_or_refused(
    course: Course, stopped: tuple[Path, Ended], out: Path, what: str, name: str
):
    trial = after(course, stopped, out, FILES[what], name)

    unexplained = [line for line in trial.complaints() if not (what in UNHASHED and line.startswith(UNHASHED[what]))]
    assert unexplained == [], trial.second.said
