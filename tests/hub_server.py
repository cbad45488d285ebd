"""A stand-in for the Hugging Face hub on 127.0.0.1, and the real client in processes of its own.

The server answers what huggingface_hub asks for: facts of a repository, the list of its files, and the files, in ranges
too; what is uploaded is `hub_uploads`'. It notes what it was asked, and can be told to misbehave.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hub_uploads

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """Files by name, and how the hub treats who asks: `error` is its code (GatedRepo, RepoNotFound) and status.

    The first reader of a file in `cut_short` gets as many bytes of it before the connection breaks; of one in `held`,
    every reader gets half and then waits for the server's end. `promised` are hashes that differ from the files' own.
    """

    files: dict[str, bytes]
    error: tuple[str, int] | None = None
    cut_short: dict[str, int] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    promised: dict[str, str] = field(default_factory=dict)
    commit: str = COMMIT
    private: bool = False

    @classmethod
    def of(cls, folder: Path, **how: Any) -> "Repository":
        """The repository with the files of a folder."""
        return cls({file.name: file.read_bytes() for file in sorted(folder.iterdir())}, **how)

    def etag(self, name: str) -> str:
        """As the hub gives it: the sha256 of a large file, git's hash of a small one."""
        content = self.files[name]
        if name.endswith(".safetensors"):
            return self.promised.get(name) or hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """The server; `asked` are the requests it saw: method, file and where the range began, or None."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[tuple[str, str, int | None]] = []
        self.large: dict[str, bytes] = {}
        self.ending = threading.Event()
        hub = self

        class Handler(_Handler):
            of = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator["Hub"]:
        """Within, it answers."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.ending.set()
            self._server.shutdown()
            self._server.server_close()

    def fetched(self, repository: str) -> list[str]:
        """Names of the files of a repository whose content was asked for, in order."""
        start = f"{repository}/"
        return [
            path.removeprefix(start) for method, path, _ in self.asked if method == "GET" and path.startswith(start)
        ]


class _Handler(BaseHTTPRequestHandler):
    of: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        hub_uploads.answer(self, self.of.repositories, self.of.large, Repository)

    def do_PUT(self) -> None:
        hub_uploads.answer(self, self.of.repositories, self.of.large, Repository)

    def _answer(self) -> None:
        words = urlsplit(self.path).path.strip("/").split("/")
        if words == ["api", "whoami-v2"]:
            return hub_uploads.whoami(self)
        listing = words[:2] == ["api", "models"]
        owner_and_name = "/".join(words[2:4] if listing else words[:2])
        repository = self.of.repositories.get(owner_and_name)
        if repository is None:
            return self._refuse("RepoNotFound", 401)
        if repository.error is not None:
            return self._refuse(*repository.error)
        revision = words[5] if listing and len(words) > 5 else words[3] if not listing and len(words) > 3 else "main"
        if revision not in ("main", repository.commit):
            return self._refuse("RevisionNotFound", 404)
        if listing:
            return self._json(_tree(repository) if words[4:5] == ["tree"] else _facts(owner_and_name, repository))
        return self._file(repository, "/".join(words[4:]), owner_and_name)

    def _refuse(self, code: str, status: int) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"stand-in: {code}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, repository: Repository, name: str, owner_and_name: str) -> None:
        content = repository.files.get(name)
        if content is None:
            return self._refuse("EntryNotFound", 404)
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else None
        self.of.asked.append((self.command, f"{owner_and_name}/{name}", start))
        part = content[start or 0 :]
        self.send_response(200 if start is None else 206)
        self.send_header("X-Repo-Commit", repository.commit)
        self.send_header("ETag", f'"{repository.etag(name)}"')
        self.send_header("Content-Length", str(len(part)))
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return None
        if name in repository.held:
            self.wfile.write(part[: len(part) // 2])
            self.of.ending.wait()
            self.close_connection = True
        elif (cut := repository.cut_short.pop(name, None)) is not None:
            self.wfile.write(part[:cut])
            self.close_connection = True
        else:
            self.wfile.write(part)
        return None


def _facts(name: str, repository: Repository) -> dict[str, Any]:
    siblings = [{"rfilename": file} for file in repository.files]
    return {"id": name, "modelId": name, "sha": repository.commit, "private": False, "tags": [], "siblings": siblings}


def _tree(repository: Repository) -> list[dict[str, Any]]:
    entries = []
    for name, content in repository.files.items():
        entry = {"type": "file", "path": name, "size": len(content), "oid": repository.etag(name)[:40]}
        if name.endswith(".safetensors"):
            entry["lfs"] = {"oid": repository.etag(name), "size": len(content), "pointerSize": 134}
        entries.append(entry)
    return entries


_CLIENT = """
import json, sys
from pathlib import Path
from captioncrafter.errors import CaptionCrafterError
from captioncrafter.model import checkpoint, hub, publishing
for line in sys.stdin:
    name, options = json.loads(line)
    try:
        if folder := options.pop("local_dir", None):
            from huggingface_hub import snapshot_download
            answer = {"folder": snapshot_download(name, local_dir=folder)}
        elif folder := options.pop("publish", None):
            publishing.check_can_publish(name)
            answer = {"url": publishing.publish(Path(folder), name, **options)}
        elif file := options.pop("file", None):
            answer = {"folder": str(hub.fetch_file(name, None, file))}
        else:
            answer = {"folder": str(checkpoint.find(name, **options).folder)}
    except CaptionCrafterError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
"""


class Client:
    """A process with the real client and its own hub cache, asked by one name after another."""

    def __init__(self, home: Path, endpoint: str, **variables: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        given = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint}
        quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CLIENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=kept | quiet | given | variables,
            text=True,
        )

    def ask(self, name: str, **options: Any) -> None:
        """Sends a request whose answer `answer` reads."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, options]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, str]:
        """The answer to what was asked."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def folder(self, name: str, **options: Any) -> Path:
        """Where `checkpoint.find` finds it, or with `local_dir` where the hub's client puts a copy."""
        self.ask(name, **options)
        return Path(self.answer()["folder"])

    def error(self, name: str, **options: Any) -> str:
        """The message of the `CheckpointError` that `checkpoint.find` raises."""
        self.ask(name, **options)
        return self.answer()["error"]

    def said(self, name: str) -> list[str]:
        """Lines on stderr so far that begin with a name; a bar that is redrawn is a line for each time."""
        self._said.seek(0)
        lines = self._said.read().decode().splitlines()
        assert not [line for line in lines if "Fetching" in line or "Downloading" in line], "a bar in a log"
        return [line for line in lines if line.startswith(name)]

    def end(self) -> None:
        """Ends the process at once."""
        self.process.kill()
        self.process.communicate()
        self._said.close()


@contextmanager
def clients(home: Path, endpoint: str, settings: Sequence[dict[str, str]]) -> Iterator[list[Client]]:
    """A client for each of the settings, started side by side."""
    started = [Client(home, endpoint, **variables) for variables in settings]
    try:
        yield started
    finally:
        for client in started:
            client.end()
