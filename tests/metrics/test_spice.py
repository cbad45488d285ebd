"""SPICE through its jar: what it is handed, what is read of its answer, how it fails. A script stands in for Java."""

import hashlib
import json
import math
from pathlib import Path

import pytest

from captioncrafter.errors import DataError, InputError, ScorerError
from captioncrafter.metrics.references import References
from captioncrafter.metrics.spice import Spice
from fake_java import write_fake_java

PREDICTIONS = {"b": "A dog, running!", "a": "two cats"}
REFERENCES = {"a": ["Two cats.", "cats"], "b": ["a dog runs"]}


def answer(**scores: object) -> str:
    """Shell lines that write an answer with these F-scores to where `-out` says, in an order of their own."""
    rows = [{"image_id": image, "scores": {"All": {"f": f}, "Object": {"f": None}}} for image, f in scores.items()]
    return f"cat > \"$6\" <<'JSON'\n{json.dumps(rows)}\nJSON"


def spice(tmp_path: Path, body: str, **options: float) -> Spice:
    jar = tmp_path / "spice" / "spice-1.0.jar"
    jar.parent.mkdir()
    jar.write_bytes(b"a jar")
    java = write_fake_java(tmp_path / "bin", body)
    return Spice(Spice.of(jar, java).jar, java, **options)


def test_the_score_is_the_mean_of_the_images_and_each_image_keeps_its_own(tmp_path: Path):
    card = spice(tmp_path, answer(b=0.25, a=0.5)).score(PREDICTIONS, References(REFERENCES))

    assert card.image_ids == ("a", "b")
    assert card.metrics["SPICE"].per_image.tolist() == [0.5, 0.25]
    assert card.value("SPICE") == 0.375


def test_the_jar_is_called_as_pycocoevalcap_calls_it_from_its_own_folder(tmp_path: Path):
    body = f'echo "$PWD" "$@" > {tmp_path}/called; cp "$4" {tmp_path}/given.json\n' + answer(a=0, b=0)

    spice(tmp_path, body).score(PREDICTIONS, References(REFERENCES))

    folder, *arguments = (tmp_path / "called").read_text().split()
    assert folder == str(tmp_path / "spice")
    assert arguments[:3] == ["-Xmx8G", "-jar", str(tmp_path / "spice" / "spice-1.0.jar")]
    assert (arguments[4], *arguments[6:]) == ("-out", "-subset", "-silent")


def test_the_jar_is_given_tokenized_captions(tmp_path: Path):
    body = f'cp "$4" {tmp_path}/given.json\n' + answer(a=0, b=0)

    spice(tmp_path, body).score(PREDICTIONS, References(REFERENCES))

    assert json.loads((tmp_path / "given.json").read_text()) == [
        {"image_id": "a", "test": "two cats", "refs": ["two cats", "cats"]},
        {"image_id": "b", "test": "a dog running", "refs": ["a dog runs"]},
    ]


def test_the_description_tells_the_jar_by_its_content(tmp_path: Path):
    told = spice(tmp_path, "exit 1").describe()

    assert told == {"jar": "spice-1.0.jar", "sha256": hashlib.sha256(b"a jar").hexdigest(), "Java": "17.0.1"}


def test_a_jar_that_fails_is_reported_with_its_last_words(tmp_path: Path):
    with pytest.raises(ScorerError, match=r"ended with status 3(?s:.*)no models here(?s:.*)JAVA_HOME"):
        spice(tmp_path, "echo no models here >&2; exit 3").score(PREDICTIONS, References(REFERENCES))


@pytest.mark.parametrize(
    "body",
    ["true", 'echo "[" > "$6"', 'echo "[1]" > "$6"', answer(a=0.5), answer(a=0.5, b=None), answer(a=0.5, b=math.nan)],
)
def test_an_answer_without_every_image_is_refused(tmp_path: Path, body: str):
    with pytest.raises(ScorerError, match="gave no score of every image"):
        spice(tmp_path, body).score(PREDICTIONS, References(REFERENCES))


def test_a_jar_that_hangs_ends_with_its_last_words(tmp_path: Path):
    with pytest.raises(ScorerError, match=r"took longer than 1 s(?s:.*)parsing"):
        spice(tmp_path, "echo parsing; exec sleep 60", timeout_s=1.0).score(PREDICTIONS, References(REFERENCES))


def test_predictions_of_other_images_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="not of the same images"):
        spice(tmp_path, "exit 1").score({"a": "two cats"}, References(REFERENCES))


def test_a_jar_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"nothing\.jar: no such file"):
        Spice.of(tmp_path / "nothing.jar")
