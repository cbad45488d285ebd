"""What `captioncrafter quickstart` prints of its result: for people, and as one JSON object."""

import json
import shlex
from pathlib import Path

import pytest

from captioncrafter.stages import quickstart as stage
from captioncrafter.stages.evaluate import Evaluated
from captioncrafter.stages.quickstart import QuickstartResult
from command_line import status_of


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose name a shell would take apart, where the quick start is said to have run."""
    folder = tmp_path / "my run"

    def done(*_: object) -> QuickstartResult:
        metrics = {"CIDEr": {"value": 0.5, "low": 0.4, "high": 0.6}}
        scored = Evaluated({"images": 1, "metrics": metrics, "grounding": None, "diversity": {}}, [])
        scenes = [{"image": "scene-1.png", "base": "red ring", "tuned": "a red ring"}]
        return QuickstartResult(scored, scored, scenes, [{"image": "sea.jpg", "base": "waves"}], folder / "report.html")

    monkeypatch.setattr(stage, "quickstart", done)
    return folder


def test_scenes_and_photos_are_in_the_json(out: Path, capsys: pytest.CaptureFixture[str]):
    status_of("quickstart", "--out", out, "--json")

    printed = json.loads(capsys.readouterr().out)
    assert [row["image"] for row in printed["captions"] + printed["photos"]] == ["scene-1.png", "sea.jpg"]


def test_scenes_stand_with_both_captions_and_photos_with_the_base_s(out: Path, capsys: pytest.CaptureFixture[str]):
    status_of("quickstart", "--out", out)

    printed = capsys.readouterr().out
    assert all(text in printed for text in ("red ring", "a red ring", "sea.jpg", "waves"))


def test_the_advised_commands_give_scenes_to_the_adapter_and_photos_to_the_base(
    out: Path, capsys: pytest.CaptureFixture[str]
):
    status_of("quickstart", "--out", out)

    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if " caption " in line]
    assert [line[line.index("caption") + 1 :] for line in lines] == [
        [f"{out}/pictures/scene-*.png", "--adapter", f"{out}/adapter"],
        [f"{out}/pictures/*.jpg"],
    ]
