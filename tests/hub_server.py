"""A stand-in for the Hugging Face Hub on loopback, for tests of pushing and pulling with the real client.

It speaks the part of the Hub's HTTP interface that `huggingface_hub`, `transformers` and `datasets` use to create a
repository, upload to it, look into it and download from it: models, datasets and Spaces, with commits, branches, tags,
Git LFS and byte ranges. It knows one user, takes any token for writing and none for reading, and forgets all at the end.

    with hub_server(tmp_path) as url:
        subprocess.run([sys.executable, "-c", script], env=hub_environment(url, home=tmp_path / "home"), check=True)

The client reads its endpoint when it is imported, hence the subprocess. Xet, pull requests and private repositories are
left out.
"""

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

USER = "arche"
LFS_SUFFIXES = (".arrow", ".bin", ".gz", ".msgpack", ".npz", ".parquet", ".png", ".pt", ".safetensors", ".zip")
LFS_THRESHOLD = 10 * 2**20  # bytes; larger files go through LFS whatever their name
DATE = "2026-01-01T00:00:00.000Z"
POINTER_SIZE = 135  # bytes of an LFS pointer file, as the Hub reports it

_ACTIONS = "branch|commit|commits|discussions|paths-info|preupload|refs|revision|tag|tree"
# The repository's name is matched lazily, so that `gpt2/tree/main` is read as `gpt2`, `tree`, `main`.
_API = re.compile(rf"/api/(models|datasets|spaces)/([^/]+(?:/[^/]+)??)(?:/({_ACTIONS})(?:/(.*))?)?")
_RESOLVE = re.compile(r"/(datasets/|spaces/)?([^/]+(?:/[^/]+)??)/(?:resolve|raw)/([^/]+)/(.+)")
_LFS_BATCH = re.compile(r"/(datasets/|spaces/)?([^/]+(?:/[^/]+)??)\.git/info/lfs/objects/batch")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class HubError(Exception):
    """Ends a request with `status`; the client turns `code` into its own exception."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.code = status, code


class Blob(NamedTuple):
    """A version of a file; its bytes lie in the store under `oid`."""

    oid: str  # SHA-256 of an LFS file, otherwise git's SHA-1 of a blob
    size: int
    is_lfs: bool

    def describe(self, path: str) -> dict:
        entry = {"type": "file", "path": path, "size": self.size, "oid": self.oid[:40]}
        if self.is_lfs:
            entry["lfs"] = {"oid": self.oid, "size": self.size, "pointerSize": POINTER_SIZE}
        return entry


@dataclass
class Commit:
    oid: str
    title: str
    message: str
    files: dict[str, Blob]


@dataclass
class Repository:
    """The history of one repository. Branches share it in the order of arrival; a ref is the oid of a commit."""

    kind: str  # "models", "datasets" or "spaces"
    name: str
    sdk: str | None = None
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> Commit:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        matches = [commit for key, commit in self.commits.items() if len(oid) >= 7 and key.startswith(oid)]
        if len(matches) != 1:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return matches[0]

    def commit(self, branch: str, files: dict[str, Blob], title: str, message: str = "") -> Commit:
        parent = self.branches.get(branch, "")
        oid = hashlib.sha1(repr((parent, len(self.commits), title, sorted(files.items()))).encode()).hexdigest()
        self.commits[oid] = Commit(oid, title, message, files)
        self.branches[branch] = oid
        return self.commits[oid]

    def describe(self, revision: str = "main") -> dict:
        commit = self.at(revision)
        info = {"_id": hashlib.sha1(self.name.encode()).hexdigest()[:24], "id": self.name, "author": USER}
        info |= {"sha": commit.oid, "createdAt": DATE, "lastModified": DATE, "private": False, "gated": False}
        info |= {"disabled": False, "downloads": 0, "likes": 0, "tags": []}
        if self.kind == "models":
            info["modelId"] = self.name
        if self.sdk is not None:
            info["sdk"] = self.sdk
        info["siblings"] = [{"rfilename": path} for path in sorted(commit.files)]
        return info


class Hub:
    """The server's state: repositories in memory, the bytes of files in a folder."""

    def __init__(self, root: Path):
        self.store = Path(root) / "objects"
        self.store.mkdir(parents=True, exist_ok=True)
        self.lock = threading.RLock()
        self.repositories: dict[tuple[str, str], Repository] = {}

    def repository(self, kind: str, name: str) -> Repository:
        try:
            return self.repositories[kind, name]
        except KeyError:
            raise HubError(404, "Repository not found", "RepoNotFound") from None

    def create(self, kind: str, name: str, sdk: str | None) -> bool:
        """Whether the repository is new. It starts with one commit, as on the Hub."""
        if (kind, name) in self.repositories:
            return False
        repository = self.repositories[kind, name] = Repository(kind, name, sdk)
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
        repository.commit("main", {".gitattributes": self.add(attributes.encode())}, "initial commit")
        return True

    def add(self, content: bytes) -> Blob:
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        (self.store / oid).write_bytes(content)
        return Blob(oid, len(content), is_lfs=False)

    def add_lfs(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            raise HubError(400, "The uploaded bytes do not have the announced SHA-256")
        (self.store / oid).write_bytes(content)

    def lfs_blob(self, oid: str) -> Blob:
        path = self.store / oid
        if not path.is_file():
            raise HubError(400, f"LFS object {oid} was never uploaded")
        return Blob(oid, path.stat().st_size, is_lfs=True)

    def preupload(self, repository: Repository, revision: str, files: list[dict]) -> list[dict]:
        """How each file has to be uploaded, and what lies at its path now: the client skips what would not change."""
        present = repository.at(revision).files
        answer = []
        for file in files:
            is_binary = b"\0" in base64.b64decode(file["sample"])
            is_lfs = is_binary or file["path"].endswith(LFS_SUFFIXES) or file["size"] > LFS_THRESHOLD
            blob = present.get(file["path"])
            mode = "lfs" if is_lfs else "regular"
            answer.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
            answer[-1]["oid"] = blob.oid if blob is not None and blob.is_lfs == is_lfs else None
        return answer

    def commit(self, repository: Repository, branch: str, lines: list[dict]) -> Commit:
        if branch not in repository.branches:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        files = dict(repository.at(branch).files)
        header: dict = {}
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "header":
                header = value
            elif key == "file":
                files[value["path"]] = self.add(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                files[value["path"]] = self.lfs_blob(value["oid"])
            elif key == "deletedFile":
                files.pop(value["path"], None)
            elif key == "deletedFolder":
                files = {
                    path: blob for path, blob in files.items() if not path.startswith(value["path"].rstrip("/") + "/")
                }
            else:
                raise HubError(400, f"Unknown operation in a commit: {key}")
        if header.get("parentCommit", repository.branches[branch]) != repository.branches[branch]:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        return repository.commit(branch, files, header["summary"], header.get("description", ""))


def list_tree(commit: Commit, folder: str, recursive: bool) -> list[dict]:
    """Files and folders below `folder`; git's ids of folders are made up."""
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict] = {}
    for path, blob in sorted(commit.files.items()):
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            parent = prefix + "/".join(parts[:depth])
            oid = hashlib.sha1(f"{commit.oid}/{parent}".encode()).hexdigest()
            entries.setdefault(parent, {"type": "directory", "path": parent, "size": 0, "oid": oid})
        if recursive or len(parts) == 1:
            entries[path] = blob.describe(path)
    if folder and not entries:
        raise HubError(404, f"{folder} does not exist on {commit.oid}", "EntryNotFound")
    return list(entries.values())


class HubHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub  # set by `hub_server` on a subclass

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        # The body is read first: what is left of it would be taken for the connection's next request.
        body = self.read_body()
        try:
            with self.hub.lock:
                self.route(url.path, parse_qs(url.query), body)
        except HubError as error:
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
            self.reply_json({"error": str(error)}, error.status, headers)
        except (KeyError, ValueError) as error:
            self.reply_json({"error": f"Malformed request: {error!r}"}, 400)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815 (the names http.server looks for)

    def route(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        # Uploads to storage carry no token: there the address is the secret. `paths-info` only reads.
        writes = self.command in ("POST", "PUT") and not path.startswith("/lfs/") and "/paths-info/" not in path
        if writes and not self.headers.get("Authorization", "").startswith("Bearer "):
            raise HubError(401, "Invalid username or password.")
        if path == "/api/whoami-v2":
            token = {"accessToken": {"displayName": "test", "role": "write"}}
            self.reply_json({"type": "user", "id": "0", "name": USER, "fullname": USER, "orgs": [], "auth": token})
        elif path == "/api/validate-yaml":
            self.reply_json({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path.startswith("/lfs/"):
            self.lfs_object(path.removeprefix("/lfs/"), body)
        elif match := _LFS_BATCH.fullmatch(path):
            self.lfs_batch(json.loads(body))
        elif match := _API.fullmatch(path):
            kind, name, action, rest = match.groups()
            self.api(self.hub.repository(kind, unquote(name)), action, rest or "", query, body)
        elif match := _RESOLVE.fullmatch(path):
            prefix, name, revision, file = map(unquote, (match[1] or "models/", match[2], match[3], match[4]))
            self.resolve(self.hub.repository(prefix[:-1], name), revision, file)
        else:
            raise HubError(404, f"The stand-in knows no {self.command} {path}")

    def create(self, request: dict) -> None:
        kind = (request.get("type") or "model") + "s"
        name = f"{request.get('organization') or USER}/{request['name']}"
        address = f"{self.endpoint}/{name if kind == 'models' else f'{kind}/{name}'}"
        if self.hub.create(kind, name, request.get("sdk")):
            self.reply_json({"url": address, "name": name})
        else:
            message = "You already created this repo"
            self.reply_json({"error": message, "url": address}, 409, {"X-Error-Message": message})

    def api(self, repository: Repository, action: str | None, rest: str, query: dict, body: bytes) -> None:
        if action in (None, "revision"):
            self.reply_json(repository.describe(unquote(rest) or "main"))
        elif action == "refs":
            refs = {"converts": [], "pullRequests": []}
            for key, kind, names in (("branches", "heads", repository.branches), ("tags", "tags", repository.tags)):
                refs[key] = [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": oid} for n, oid in names.items()]
            self.reply_json(refs)
        elif action == "commits":
            # Newest first. Every commit of the repository: the tests use one branch.
            repository.at(unquote(rest))
            fields = [(c.oid, c.title, c.message) for c in reversed(repository.commits.values())]
            authors = [{"user": USER}]
            self.reply_json(
                [{"id": i, "title": t, "message": m, "authors": authors, "date": DATE} for i, t, m in fields]
            )
        elif action == "discussions":
            self.reply_json({"discussions": [], "count": 0, "start": 0})
        elif action == "tree":
            revision, _, folder = rest.partition("/")
            recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            self.reply_json(list_tree(repository.at(unquote(revision)), unquote(folder), recursive))
        elif action == "paths-info":
            is_json = "json" in self.headers.get("Content-Type", "")
            paths = json.loads(body)["paths"] if is_json else parse_qs(body.decode()).get("paths", [])
            commit = repository.at(unquote(rest))
            entries = {entry["path"]: entry for entry in list_tree(commit, "", recursive=True)}
            self.reply_json([entries[path] for path in paths if path in entries])
        elif action == "preupload":
            files = self.hub.preupload(repository, unquote(rest), json.loads(body)["files"])
            self.reply_json({"files": files})
        elif action == "commit":
            commit = self.hub.commit(repository, unquote(rest), [json.loads(line) for line in body.splitlines()])
            prefix = "" if repository.kind == "models" else f"{repository.kind}/"
            address = f"{self.endpoint}/{prefix}{repository.name}/commit/{commit.oid}"
            self.reply_json({"success": True, "commitUrl": address, "commitOid": commit.oid})
        else:
            self.create_ref(repository, action, unquote(rest), json.loads(body or "{}"))

    def create_ref(self, repository: Repository, action: str, name: str, request: dict) -> None:
        """`tag/REVISION` names the new tag in the body, `branch/NAME` the revision."""
        if action == "tag":
            refs, name, start = repository.tags, request["tag"], name
        else:
            refs, start = repository.branches, request.get("startingPoint") or "main"
        if name in refs:
            raise HubError(409, f"Reference already exists: {name}")
        refs[name] = repository.at(start).oid
        self.reply_json({"success": True})

    def lfs_batch(self, request: dict) -> None:
        objects = []
        for item in request["objects"]:
            objects.append({"oid": item["oid"], "size": item["size"]})
            if not (self.hub.store / item["oid"]).is_file():  # no action: the object is here already
                objects[-1]["actions"] = {"upload": {"href": f"{self.endpoint}/lfs/{item['oid']}"}}
        self.reply_json({"transfer": "basic", "objects": objects})

    def lfs_object(self, oid: str, body: bytes) -> None:
        if not re.fullmatch("[0-9a-f]{64}", oid) or self.command != "PUT":
            raise HubError(404, f"No such LFS object: {oid}")
        self.hub.add_lfs(oid, body)
        self.reply(200, b"")

    def resolve(self, repository: Repository, revision: str, path: str) -> None:
        commit = repository.at(revision)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self.reply_json({"error": "Entry not found"}, 404, headers)
            return
        blob = commit.files[path]
        headers["ETag"] = f'"{blob.oid}"'
        if blob.is_lfs:
            headers |= {"X-Linked-Etag": f'"{blob.oid}"', "X-Linked-Size": str(blob.size)}
        content, status = (self.hub.store / blob.oid).read_bytes(), 200
        if match := _RANGE.fullmatch(self.headers.get("Range", "")):
            first, last = match.groups()
            start = int(first) if first else max(0, blob.size - int(last))
            end = min(int(last), blob.size - 1) if first and last else blob.size - 1
            if start > end:
                self.reply(416, b"", {"Content-Range": f"bytes */{blob.size}"})
                return
            headers["Content-Range"] = f"bytes {start}-{end}/{blob.size}"
            content, status = content[start : end + 1], 206
        self.reply(status, content, headers, "application/octet-stream")

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(chunks)

    def reply_json(self, answer: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.reply(status, json.dumps(answer).encode(), headers)

    def reply(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> None:
        self.send_response(status)
        for key, value in {
            "Content-Type": content_type,
            "Content-Length": str(len(content)),
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        if os.environ.get("HUB_SERVER_LOG"):
            super().log_message(*args)


@contextmanager
def hub_server(root: Path | str) -> Iterator[str]:
    """Serve a new, empty Hub that keeps its files below `root`; gives its address."""
    handler = type("Handler", (HubHandler,), {"hub": Hub(Path(root))})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False  # a client that keeps its connection must not hold up the end of a test
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def hub_environment(url: str, home: Path | str, token: str | None = "hf_stand_in") -> dict[str, str]:
    """The environment of a subprocess that talks to `url` alone and keeps its cache in `home`."""
    dropped = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_")
    proxies = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped) and k.lower() not in proxies}
    settings = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return kept | settings | ({"HF_TOKEN": token} if token is not None else {})
