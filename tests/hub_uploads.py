"""What the stand-in for the hub does with uploads: who asks, new repositories, large files by hash, commits.

As huggingface_hub asks for it where hf_xet is not used: git-lfs for large files, everything else inside the commit.
"""

import base64
import json
from http.server import BaseHTTPRequestHandler
from typing import Any

TOKEN = "hf_token_of_someone"
READER = "hf_token_that_only_reads"
"""A token with which nothing can be written."""


def answer(handler: Any, repositories: dict[str, Any], large: dict[str, bytes], new: Any) -> None:
    """Answers a request to write; `new` makes a repository, `large` holds files by their sha256."""
    path = handler.path.split("?")[0].strip("/")
    body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    token = (handler.headers.get("Authorization") or "").removeprefix("Bearer ")
    if handler.command == "PUT":
        large[path.removeprefix("large/")] = body
        return _json(handler, {})
    if path == "api/validate-yaml":
        return _json(handler, {"errors": [], "warnings": []})
    if token != TOKEN:
        return handler._refuse("Forbidden", 403 if token == READER else 401)
    if path == "api/repos/create":
        return _create(handler, json.loads(body), repositories, new)
    name = path.removeprefix("api/models/").split(".git/")[0]
    name = "/".join(name.split("/")[:2])
    if path.endswith("objects/batch"):
        return _json(handler, {"transfer": "basic", "objects": _places(handler, json.loads(body), large)})
    if "/preupload/" in path:
        files = json.loads(body)["files"]
        modes = ("lfs" if file["path"].endswith(".safetensors") else "regular" for file in files)
        told = [{"path": f["path"], "uploadMode": m, "shouldIgnore": False} for f, m in zip(files, modes, strict=True)]
        return _json(handler, {"files": told})
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            repositories[name].files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            repositories[name].files[value["path"]] = large[value["oid"]]
    commit = repositories[name].commit
    return _json(handler, {"commitUrl": f"{_address(handler)}/{name}/commit/{commit}", "commitOid": commit})


def whoami(handler: Any) -> None:
    """Tells whose token it is."""
    token = (handler.headers.get("Authorization") or "").removeprefix("Bearer ")
    if token not in (TOKEN, READER):
        return handler._refuse("Unauthorized", 401)
    return _json(handler, {"type": "user", "name": "someone", "auth": {"type": "access_token"}})


def _create(handler: Any, asked: dict[str, Any], repositories: dict[str, Any], new: Any) -> None:
    name = f"{asked['organization']}/{asked['name']}"
    url = f"{_address(handler)}/{name}"
    if name in repositories:
        return _json(handler, {"error": "You already created this model repo", "url": url}, 409)
    repositories[name] = new({}, private=asked.get("visibility") == "private" or bool(asked.get("private")))
    return _json(handler, {"url": url})


def _places(handler: Any, asked: dict[str, Any], large: dict[str, bytes]) -> list[dict[str, Any]]:
    """Where each large file goes; nowhere what is there already."""
    places = []
    for one in asked["objects"]:
        upload = {"upload": {"href": f"{_address(handler)}/large/{one['oid']}"}}
        places.append(one | ({} if one["oid"] in large else {"actions": upload}))
    return places


def _address(handler: BaseHTTPRequestHandler) -> str:
    return f"http://{handler.headers['Host']}"


def _json(handler: Any, value: Any, status: int = 200) -> None:
    content = json.dumps(value).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
