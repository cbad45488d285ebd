"""SPICE (Anderson et al., 2016) by its authors' own jar, which the user brings: no package registry carries it.

Called as pycocoevalcap's spice.py calls it, without the cache of parses, which needs a native library: a cache
changes how long a second call takes and no score.
"""

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captioncrafter import storage
from captioncrafter.errors import InputError, ScorerError
from captioncrafter.metrics.java import find_java, java_version
from captioncrafter.metrics.references import References
from captioncrafter.metrics.scorecard import Scorecard, mean_of, refuse_other_images
from captioncrafter.metrics.tokenizer import tokenize

TIMEOUT_S = 3600.0
"""The longest wait; SPICE parses some ten captions a second."""

_LAST_WORDS = 12


@dataclass(frozen=True)
class Spice:
    """The jar and the Java that runs it, in a process of its own for each call."""

    jar: Path
    java: str
    timeout_s: float = TIMEOUT_S

    @classmethod
    def of(cls, jar: str | Path, java: str | None = None) -> "Spice":
        """Raises `InputError` when there is no such jar, or `java` is no Java (see `find_java`)."""
        path = storage.user_path(str(jar)).resolve()
        if not path.is_file():
            raise InputError(
                f"{jar}: no such file. --spice-jar takes spice-1.0.jar as the authors of SPICE publish it, with its "
                "lib folder (and Stanford CoreNLP's models in it) beside it."
            )
        return cls(path, find_java(java))

    def describe(self) -> dict[str, Any]:
        """Which jar scores, by name and content, and which Java runs it."""
        return {"jar": self.jar.name, "sha256": storage.sha256_of(self.jar), "Java": java_version(self.java)}

    def score(self, predictions: Mapping[str, str], references: References) -> Scorecard:
        """SPICE (its F-score over all tuples) of `predictions`, which must be of exactly the images of `references`.

        Raises `ScorerError` with its last words when it fails, is silent for `timeout_s` or leaves an image out.
        """
        ids = references.image_ids
        refuse_other_images(predictions, ids)
        tokens = tokenize([predictions[image] for image in ids])
        rows = [
            {"image_id": image, "test": caption, "refs": list(references.tokens[image])}
            for image, caption in zip(ids, tokens, strict=True)
        ]
        return Scorecard(ids, {"SPICE": mean_of(np.array(self._values(rows, ids)))})

    def _values(self, rows: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> list[float]:
        with tempfile.TemporaryDirectory(prefix="spice-") as folder:
            given, answer = Path(folder) / "captions.json", Path(folder) / "scores.json"
            given.write_text(json.dumps(rows), encoding="utf-8")
            words = self._run([str(given), "-out", str(answer), "-subset", "-silent"])
            try:
                found = {str(row["image_id"]): row["scores"]["All"]["f"] for row in json.loads(answer.read_bytes())}
                values = [float(found[image]) for image in ids]
                if not np.isfinite(values).all():
                    raise ValueError("a score is no number")
                return values
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise self._failure(f"gave no score of every image ({type(error).__name__}: {error})", words) from error

    def _run(self, arguments: Sequence[str]) -> str:
        """What it said, once it ended well. The jar finds its libraries from its own folder."""
        command = [self.java, "-Xmx8G", "-jar", str(self.jar), *arguments]
        try:
            done = subprocess.run(
                command, cwd=self.jar.parent, capture_output=True, timeout=self.timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise self._failure(f"took longer than {self.timeout_s:.0f} s", _text(error.stdout, error.stderr)) from None
        words = _text(done.stdout, done.stderr)
        if done.returncode:
            raise self._failure(f"ended with status {done.returncode}", words)
        return words

    def _failure(self, what: str, words: str) -> ScorerError:
        last = "\n  ".join(words.splitlines()[-_LAST_WORDS:]) or "nothing"
        return ScorerError(
            f"SPICE ({self.jar}) {what}. Its last words:\n  {last}\nJava used: {self.java}. SPICE 1.0 was made "
            "for Java 8; JAVA_HOME chooses another. Without --spice-jar everything else is scored."
        )


def _text(*outputs: bytes | str | None) -> str:
    return "".join(one.decode("utf-8", "replace") if isinstance(one, bytes) else one or "" for one in outputs)
