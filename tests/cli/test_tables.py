"""How the next commands are written for the user who reads them."""

import sys
from pathlib import Path

import pytest

from captioncrafter.cli import tables


@pytest.fixture(autouse=True)
def not_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No `captioncrafter` is on the PATH, and the current folder is new."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("script", "called"),
    [
        (".venv/bin/captioncrafter", ".venv/bin/captioncrafter"),
        ("captioncrafter", "./captioncrafter"),
        ("my env/captioncrafter", "'my env/captioncrafter'"),
        ("/opt/env/bin/captioncrafter", "/opt/env/bin/captioncrafter"),
    ],
)
def test_a_script_is_called_by_the_shortest_path_that_leads_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, called: str
):
    monkeypatch.setattr(sys, "argv", [str(tmp_path / script)])

    assert tables.program() == called


@pytest.mark.parametrize(("python", "called"), [("bin/python", "bin/python"), ("python", "./python")])
def test_a_module_is_called_with_the_python_that_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str, called: str
):
    monkeypatch.setattr(sys, "argv", ["/lib/captioncrafter/__main__.py"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / python))

    assert tables.program() == f"{called} -m captioncrafter"


def test_what_is_on_the_path_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = tmp_path / "captioncrafter"
    script.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert tables.program() == "captioncrafter"
