"""One training at a time in a run folder.

The lock is the kernel's, on a file in the folder: whatever ends the process that holds it, a kill too, lets go of it.
The file names that process and is of no other use; one that a kill left behind keeps nobody out.
"""

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from captioncrafter import events
from captioncrafter.errors import InputError
from captioncrafter.training.processes import Processes

LOCK = ".lock"
_NOTHING_CAN_BE_WRITTEN = {errno.EROFS, errno.EACCES, errno.EPERM}


class InUseError(InputError):
    """Another training is at work in the folder."""

    of_all_processes = True


@contextmanager
def held(folder: Path, processes: Processes) -> Iterator[None]:
    """Within, no other training works in `folder`; it is made, and is gone again where nothing was put into it.

    The main process holds the lock for all. Raises `InUseError` in each of them where another training has it.
    """
    with ExitStack() as at_end:
        holder = processes.broadcast(_taken(folder, at_end) if processes.is_main else None)
        if holder is not None:
            raise InUseError(
                f"{folder}: another training is at work there ({holder}). Wait until it has ended, stop it and give "
                "this command with --resume, or choose another --out."
            )
        yield


def _taken(folder: Path, at_end: ExitStack) -> str | None:
    """Takes the lock until `at_end`; gives who has it where that is another process."""
    if folder.exists() and not folder.is_dir():
        return None  # said in full where the run is opened
    for made in [path for path in (*reversed(folder.parents), folder) if not path.exists()]:
        at_end.callback(_attempted, made.rmdir)
    folder.mkdir(parents=True, exist_ok=True)
    file, access = folder / LOCK, os.O_RDONLY
    while True:
        try:
            descriptor = os.open(file, access | os.O_CREAT, 0o666)
        except OSError as error:
            if error.errno in _NOTHING_CAN_BE_WRITTEN:
                return None  # a finished run may lie there to be read; training would fail at its first file
            raise
        at_end.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _named(descriptor)
        except OSError as error:
            if error.errno == errno.EBADF and access == os.O_RDONLY:
                # NFS locks only what is open for writing (flock(2)); elsewhere that would be in the way of whoever
                # makes the disk read-only.
                access = os.O_RDWR
                continue
            events.warn(f"{file}: not locked ({error.strerror}): nothing keeps a second training out of the folder.")
            break
        if _is_at(file, descriptor):
            break  # else whoever had it removed the file after it was opened here
    at_end.callback(_attempted, file.unlink)
    file.write_text(f"{os.getpid()} {socket.gethostname()}", encoding="utf-8")
    return None


def _attempted(removal: Callable[[], object]) -> None:
    with suppress(OSError):
        removal()


def _named(descriptor: int) -> str:
    process, _, host = os.pread(descriptor, 300, 0).decode(errors="replace").partition(" ")
    if not process:
        return "which has just begun"
    return f"process {process}" if host == socket.gethostname() else f"process {process} on {host}"


def _is_at(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
