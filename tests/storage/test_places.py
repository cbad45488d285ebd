"""Where files lie that a person named, or nobody did."""

from pathlib import Path

import pytest

from captioncrafter import storage


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CAPTIONCRAFTER_CACHE", "~/features")

    assert storage.cache_folder() == Path.home() / "features"


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CAPTIONCRAFTER_CACHE")

    assert storage.cache_folder() == Path.home() / ".cache" / "captioncrafter"


def test_a_path_that_a_person_wrote_begins_at_their_home():
    assert storage.user_path("~/photos") == Path.home() / "photos"


def test_the_home_of_an_unknown_user_stays_as_it_was_written():
    assert storage.user_path("~nobody-of-this-name/photos") == Path("~nobody-of-this-name/photos")
