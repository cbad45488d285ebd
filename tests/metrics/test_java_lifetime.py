"""The Java process from its start to its end: killed, hung, left behind, forked."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest

from captioncrafter.errors import ScorerError
from captioncrafter.metrics import java
from captioncrafter.metrics.java import CaptionScorer
from captioncrafter.metrics.tokenizer import tokenize
from fake_java import ECHO, write_fake_java


@contextmanager
def stopped(scorer: CaptionScorer) -> Iterator[psutil.Process]:
    """The running process, which does nothing any more, as one that hangs; it may be killed."""
    assert scorer.process is not None
    process = psutil.Process(scorer.process.pid)
    process.suspend()
    while not all(map(_is_suspended, Path(f"/proc/{process.pid}/task").glob("*/stat"))):
        time.sleep(0.01)  # the signal comes to one thread after the other, and one on another core may still answer
    yield process


def _is_suspended(thread: Path) -> bool:
    return thread.read_text().rpartition(")")[2].split()[0] == "T"


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_process_that_was_killed_is_started_again(scorer: CaptionScorer):
    scorer.ask("TOKENIZE", ["a dog"])
    assert scorer.process is not None
    scorer.process.kill()
    scorer.process.wait()

    assert scorer.ask("TOKENIZE", ["A cat"]) == ["a cat"]


def test_a_process_killed_amid_a_question_is_replaced_and_asked_again(
    scorer: CaptionScorer, capsys: pytest.CaptureFixture[str]
):
    scorer.ask("TOKENIZE", ["a dog"])

    with ThreadPoolExecutor(1) as pool, stopped(scorer) as process:
        answer = pool.submit(scorer.ask, "TOKENIZE", ["A cat"])
        time.sleep(0.2)
        asked = not answer.done()
        process.kill()

    assert asked
    assert answer.result() == ["a cat"]
    assert "warning: the Java scorer was killed by SIGKILL" in capsys.readouterr().err


def test_a_process_killed_twice_by_the_same_question_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    scorer = CaptionScorer(write_fake_java(tmp_path, "read request; echo 'reading' >&2; kill -SEGV $$"))

    with pytest.raises(ScorerError, match=r"was killed by SIGSEGV. Its last words:\n  reading"):
        scorer.ask("TOKENIZE", ["a dog"])

    assert capsys.readouterr().err.count("warning: ") == 1


def test_a_java_that_hangs_times_out_and_the_next_question_is_answered(scorer: CaptionScorer):
    scorer.ask("TOKENIZE", ["a dog"])
    scorer.timeout_s = 0.5

    with stopped(scorer) as process, pytest.raises(ScorerError, match="said nothing for 0 s"):
        scorer.ask("TOKENIZE", ["a cat"])
    scorer.timeout_s = java.ANSWER_TIMEOUT_S

    assert not process.is_running()
    assert scorer.ask("TOKENIZE", ["Two men"]) == ["two men"]


def test_a_closed_scorer_answers_again(scorer: CaptionScorer):
    scorer.ask("TOKENIZE", ["a dog"])
    scorer.close()

    assert scorer.ask("TOKENIZE", ["A cat"]) == ["a cat"]


def test_closing_twice_does_nothing(scorer: CaptionScorer):
    scorer.ask("TOKENIZE", ["a dog"])
    scorer.close()

    scorer.close()

    assert scorer.process is None


def test_the_process_is_in_a_session_that_ctrl_c_does_not_reach(scorer: CaptionScorer):
    scorer.ask("TOKENIZE", ["a dog"])

    assert scorer.process is not None
    assert os.getsid(scorer.process.pid) != os.getsid(0)


def test_a_hung_process_times_out_with_its_last_words(tmp_path: Path):
    hung = "read request; echo 'loading the tables' >&2; printf '=2\\n=half an answer\\n'; exec sleep 60"
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


FORK = (
    "import os, sys, time; from captioncrafter.metrics.java import CaptionScorer, shared\n"
    "shared().ask('TOKENIZE', ['a dog']); ours = shared().process.pid; child = os.fork()\n"
)


def test_a_forked_child_starts_its_own_and_leaves_the_parents_alone():
    code = FORK + (
        "if child == 0: print(shared().ask('TOKENIZE', ['A Cat']), shared().process.pid == ours)\n"
        "if child == 0: sys.exit()\n"
        "_, status = os.waitpid(child, 0)\n"
        "print(status, shared().ask('TOKENIZE', ['Two Men']), shared().process.pid == ours)"
    )

    ended = run_python(code)

    assert ended.stdout.splitlines() == ["['a cat'] False", "0 ['two men'] True"]


def test_a_child_forked_amid_a_question_is_not_kept_waiting(tmp_path: Path):
    slow = ECHO.replace("read line;", 'read line; if [ "$verb" = SLOW ]; then exec sleep 60; fi;')
    code = (
        "import os, sys, threading, time; from captioncrafter.metrics.java import shared\n"
        "threading.Thread(target=shared(sys.argv[1]).ask, args=('SLOW', ['a']), daemon=True).start()\n"
        "while shared(sys.argv[1]).process is None: time.sleep(0.01)\n"
        "time.sleep(0.2); child = os.fork()\n"
        "if child == 0: print(shared(sys.argv[1]).ask('FAST', ['b']), flush=True); sys.exit()\n"
        "sys.exit(os.waitpid(child, 0)[1])"
    )

    ended = run_python(code, write_fake_java(tmp_path, slow))

    assert (ended.returncode, ended.stdout) == (0, "['b']\n")


def test_a_forked_child_does_not_keep_a_killed_parents_process():
    code = FORK + ("if child == 0: time.sleep(60); os._exit(0)\nprint(ours, child, flush=True); input()")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as python:
        assert python.stdout is not None
        orphan, child = (psutil.Process(int(word)) for word in python.stdout.readline().split())

        python.kill()

        orphan.wait(timeout=30)
        assert child.is_running()
        child.kill()
    assert not orphan.is_running()


def test_a_spawned_worker_tokenizes():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(tokenize, ["A Dog."]).result() == ["a dog"]


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
