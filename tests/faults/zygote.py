"""A process that has imported everything once and forks a child for every command that is asked of it.

A child is a process of its own: it has its signals, its exit status, its two output files, and the faults planted in
it. Started by `forks.Forks`, which sends one JSON object a line. A fault is done just before the `nth` call of a
moment: the call of a function, or any change that Python makes to a file of the run.
"""

import functools
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO

from PIL import Image

MOMENTS = {
    "extraction": "captioncrafter.features.extract:pixel_values",
    "preflight": "captioncrafter.training.preflight:check",
    "batch": "captioncrafter.training.step:caption_loss",
    "validation": "captioncrafter.stages.validation:decode",
    "save": "captioncrafter.training.checkpoint:save_file",
    "adapter": "captioncrafter.model.lora:save_adapter",
}
"""Functions by whose calls a run's course is told; `batch` is a part of a step where a step has several."""

_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}
_WARM = (
    "captioncrafter.stages.train",
    "torch.distributed",
    "torch.distributed.rendezvous",
    "transformers.models.blip_2.modeling_blip_2",
    "transformers.models.blip_2.processing_blip_2",
    "transformers.models.blip.image_processing_pil_blip",
    "transformers.models.t5.modeling_t5",
    "transformers.generation",
    "peft",
    "datasets",
    "safetensors.torch",
    "captioncrafter.cli.verbs",
)


def serve() -> None:
    """Answers every line of stdin: forks a child, or waits for one."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for module in _WARM:
        importlib.import_module(module)
    Image.init()
    importlib.import_module("captioncrafter.cli.main")._parse(["train", "miniature"])
    gc.freeze()
    _answer(answers, {"ready": os.getpid()})
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _answer(answers, {"status": _waited(request["wait"], request["patience_s"])})
        else:
            _answer(answers, {"process": _forked(request)})


def _answer(answers: TextIO, value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def _waited(process: int, patience_s: float) -> int | None:
    """How the child ended, a signal as its negative number; None when it had to be killed for taking too long."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def _forked(request: dict[str, Any]) -> int:
    process = os.fork()
    if process == 0:
        _live(request)
    return process


def _live(request: dict[str, Any]) -> NoReturn:
    status = 1
    try:
        for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
            os.dup2(os.open(request[name], os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
        # A shell that starts the tests in the background has them ignore SIGINT.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(request["environment"])
        for name in request["without"]:
            _remove_guard(name)
        for fault in request["faults"]:
            _plant(**fault)
        from captioncrafter.cli.main import main

        main(request["arguments"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - what Python itself does with it at the end of a process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _plant(*, at: str, nth: int, do: str, **what: Any) -> None:
    act = functools.partial(_ACTIONS[do], **what)
    if at in MOMENTS:
        _before_call(MOMENTS[at], nth, act)
    else:
        _before_change(at, nth, act)


def _before_call(place: str, nth: int, act: Callable[[], object]) -> None:
    module, name = place.split(":")
    owner = importlib.import_module(module)
    original, calls = getattr(owner, name), iter(range(1, sys.maxsize))

    @functools.wraps(original)
    def called(*given: Any, **named: Any) -> Any:
        if next(calls) == nth:
            act()
        return original(*given, **named)

    setattr(owner, name, called)


def _before_change(folder: str, nth: int, act: Callable[[], object]) -> None:
    count = 0

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal count
        writes = event == "open" and isinstance(given[1], str) and given[1][:1] in "wax"
        if (writes or event in _CHANGES) and str(given[0]).startswith(folder):
            count += 1
            if count == nth:
                act()

    sys.addaudithook(hook)


def _send(number: int) -> None:
    os.kill(os.getpid(), number)


def _delete(paths: list[str]) -> None:
    for path in paths:
        for file in Path("/").glob(path.lstrip("/")):
            file.unlink()


def _truncate(paths: list[str], size: int) -> None:
    for path in paths:
        for file in Path("/").glob(path.lstrip("/")):
            os.truncate(file, size)


def _flip(paths: list[str]) -> None:
    for path in paths:
        for file in Path("/").glob(path.lstrip("/")):
            # In place, as a disk does it: the mapping that a run holds on to sees it.
            with file.open("r+b") as opened:
                opened.seek(-1, os.SEEK_END)
                last = opened.read(1)[0]
                opened.seek(-1, os.SEEK_END)
                opened.write(bytes([last ^ 1]))


def _limit_file_size(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _let_pass(seconds: float) -> None:
    clock = time.monotonic
    time.monotonic = lambda: clock() + seconds


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True)


_ACTIONS: dict[str, Callable[..., None]] = {
    "send": _send,
    "delete": _delete,
    "truncate": _truncate,
    "flip": _flip,
    "limit_file_size": _limit_file_size,
    "let_pass": _let_pass,
    "run": _run,
}


def _remove_guard(name: str) -> None:
    guards = importlib.import_module("faults.guards")
    guards.REMOVALS[name]()


if __name__ == "__main__":
    serve()
