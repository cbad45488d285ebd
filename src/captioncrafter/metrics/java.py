"""The reference scorers of coco-caption, METEOR 1.5 and the PTB tokenizer, in one live Java process.

Their jars are those inside the installed pycocoevalcap. The process starts when first asked (METEOR's tables take
seconds to load), serves every evaluation of this process, is started again if it died, and ends with us: it reads
our pipe, and the end of the pipe is its end. A forked child has none until it asks for its own.
"""

import atexit
import importlib.util
import os
import queue
import signal
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata, resources
from pathlib import Path
from typing import IO

from captioncrafter import events
from captioncrafter.errors import InputError, ScorerError
from captioncrafter.metrics.java_runtime import find_java, java_version

ANSWER_TIMEOUT_S = 300.0
"""The longest wait for the next line; METEOR scores some thousand captions a second once it is loaded."""

_LAST_WORDS = 12
_GOODBYE_S = 5.0
# METEOR's tables, some 340 MB, stay; whatever else a question makes is garbage at once. A small young generation and a
# heap no larger than it must be save a quarter of the memory, and the serial collector half of it, at the same speed.
_MEMORY = ("-XX:+UseSerialGC", "-Xmx2g", "-Xmn16m", "-XX:MinHeapFreeRatio=10", "-XX:MaxHeapFreeRatio=20")
# What the class writes begins so; the rest is Java's own warnings.
_MARK = "="
_JARS = ("meteor/meteor-1.5.jar", "tokenizer/stanford-corenlp-3.4.1.jar")


class _Killed(ScorerError):
    """A signal ended the process, so that the same question may well be answered by another."""


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
        _scorers.add(self)

    def ask(self, verb: str, lines: Sequence[str]) -> list[str]:
        """The answer to `verb` (TOKENIZE or METEOR) over `lines`, none of which may hold a line break.

        A process that is killed amid the question (by the system for want of memory, say) is replaced and asked
        again, once. Raises `ScorerError`, with the process's last words, when it ends or is silent for `timeout_s`.
        """
        with self._lock:
            try:
                return self._ask(verb, lines)
            except _Killed as killed:
                events.warn(f"{killed}\nIt is started again.")
                return self._ask(verb, lines)

    def _ask(self, verb: str, lines: Sequence[str]) -> list[str]:
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

    def disown(self) -> None:
        """Leaves the process to the one we were forked from: no pipe of it stays open here, no lock stays taken."""
        process, self.process = self.process, None
        self._lock = threading.Lock()
        self._readers = []
        if process is None:
            return
        process.poll()  # it is no child of ours: for this object it has ended
        nothing = os.open(os.devnull, os.O_RDWR)
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None
            # Not `close`: it waits for a lock that a thread of the parent may have held.
            with suppress(ValueError):  # closed already
                os.dup2(nothing, pipe.fileno(), inheritable=False)
        os.close(nothing)
        _disowned.append(process)

    def _start(self) -> subprocess.Popen[bytes]:
        self.close()
        command = [self.java, *_MEMORY, "-Djava.awt.headless=true", "-cp", _class_path(), "CaptionScorer"]
        # In a session of its own Ctrl-C does not reach it: training stops in its own time, after the validation.
        self.process = process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._lines, self._last_words = lines, words = queue.Queue(), deque(maxlen=_LAST_WORDS)

        def take(line: str) -> None:
            if line.startswith(_MARK):
                lines.put(line.removeprefix(_MARK))
            else:
                words.append(line)

        assert process.stdout is not None and process.stderr is not None
        self._readers = [
            _drain(process.stdout, take, at_end=lines.put),
            _drain(process.stderr, words.append),
        ]
        return process

    def _next_line(self) -> str:
        try:
            line = self._lines.get(timeout=self.timeout_s)
        except queue.Empty:
            raise self._failure(f"said nothing for {self.timeout_s:.0f} s") from None
        if line is None:
            raise self._ended()
        return line

    def _ended(self) -> ScorerError:
        process = self.process
        if process is not None:  # else we closed it ourselves
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(_GOODBYE_S)
                if status < 0:
                    return self._failure(f"was killed by {signal.Signals(-status).name}", _Killed)
        return self._failure("stopped")

    def _failure(self, what: str, kind: type[ScorerError] = ScorerError) -> ScorerError:
        self.close()  # first, so that its last words are all here
        words = "\n  ".join(self._last_words) or "nothing"
        return kind(f"the Java scorer {what}. Its last words:\n  {words}\nJava used: {self.java}")


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


_scorers: "weakref.WeakSet[CaptionScorer]" = weakref.WeakSet()
_disowned: list[subprocess.Popen[bytes]] = []
"""Kept, since the end of such an object would close pipes, which waits for locks of threads that are gone."""
_chosen: str | None = None
_shared: dict[str | None, CaptionScorer] = {}
_shared_lock = threading.Lock()


def _close_all() -> None:
    for scorer in list(_scorers):
        scorer.close()


def _disown_all() -> None:
    global _shared_lock  # noqa: PLW0603
    _shared_lock = threading.Lock()
    for scorer in list(_scorers):
        scorer.disown()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)


def choose(java: str | None) -> None:
    """From now on `java` runs what names no Java of its own; None is back to looking for one.

    Raises `InputError` when it is no Java of version 8 or later.
    """
    global _chosen  # noqa: PLW0603
    _chosen = java if java is None else find_java(java)


def shared(java: str | None = None) -> CaptionScorer:
    """The scorer that this whole process shares (one for each `java` named)."""
    java = java or _chosen
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
