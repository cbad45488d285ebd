"""Commands as processes of their own, without the seconds that importing torch takes: forks of one warm process."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ZYGOTE = Path(__file__).with_name("zygote.py")
_TESTS = _ZYGOTE.parents[1]
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status, or the negative number of a signal; what it said on stderr."""

    status: int | None
    said: str
    seconds: float


@dataclass(frozen=True)
class Started:
    """A process at work."""

    forks: "Forks"
    process: int
    stderr: Path
    since: float = field(default_factory=time.monotonic)

    def signal(self, number: int) -> None:
        """Sends a signal; the process may have ended already, its id is its own until `end` was called."""
        os.kill(self.process, number)

    def frozen(self) -> "Started":
        """Waits until a SIGSTOP has come to the process; gives it."""
        until = time.monotonic() + _PATIENCE_S
        while Path(f"/proc/{self.process}/stat").read_text().rpartition(") ")[2][0] != "T":
            assert time.monotonic() < until, self.stderr.read_text(errors="replace")
            time.sleep(0.02)
        return self

    def end(self, patience_s: float = _PATIENCE_S) -> Ended:
        """Waits for the process; status None says that it had to be killed after `patience_s`."""
        status = self.forks.ask({"wait": self.process, "patience_s": patience_s})["status"]
        return Ended(status, self.stderr.read_text(errors="replace"), time.monotonic() - self.since)


class Forks:
    """The warm process, from which every command is forked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join([str(_TESTS), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        }
        self.server = subprocess.Popen(
            [sys.executable, str(_ZYGOTE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ready(self) -> None:
        """Returns once everything is imported."""
        self._answer()

    def close(self) -> None:
        """Ends the warm process."""
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()

    def start(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        faults: Sequence[Mapping[str, Any]] = (),
        without: Sequence[str] = (),
    ) -> Started:
        """Starts `captioncrafter ARGUMENTS` with faults planted in it and guards removed from it."""
        self.count += 1
        stderr = self.folder / f"{self.count}.stderr"
        request = {
            "arguments": list(arguments),
            "environment": dict(environment or {}),
            "faults": list(map(dict, faults)),
            "without": list(without),
            "stdin": os.devnull,
            "stdout": str(self.folder / f"{self.count}.stdout"),
            "stderr": str(stderr),
        }
        return Started(self, self.ask(request)["process"], stderr)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sends one request to the warm process and gives its answer."""
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.server.stdout is not None
        answer = self.server.stdout.readline()
        assert answer, "the warm process has ended; what it said is above"
        return json.loads(answer)
