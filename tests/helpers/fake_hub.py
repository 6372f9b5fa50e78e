"""A Hugging Face Hub on 127.0.0.1, with only the routes for pulling and pushing a model.

Files live under a directory: committed files in `OWNER/NAME/COMMIT/...`, large files in
`lfs/SHA256`. Like the Hub's storage, large files are served from another host name (`localhost`),
to which the user's token must never be sent. A client that uses this server as its proxy shows
every request to any other place.
"""

import base64
import hashlib
import json
import shutil
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_aTokenThatNoOtherHubKnows"
USER = "me"
DROP, HALF = 0, 1


class FakeHub(ThreadingHTTPServer):
    """A server that runs inside its `with` block.

    Attributes:
      seen: `(method, path)` of every request, in the order of arrival.
      branches: repository -> branch -> commit.
      commits: per repository, `(branch, message, operations)` of every push.
      faults: `(method, path) -> int | None`, called first. The result is a status to refuse with,
        `DROP` (closes the connection without an answer) or `HALF` (sends half of the answer).
      wrong: errors of this server; leaving the `with` block fails if there are any.
      listed: extra names in the listing of every repository, without files.
    """

    daemon_threads = True

    def __init__(self, root: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        (root / "lfs").mkdir(parents=True)
        self.seen, self.listed, self.wrong = [], [], []
        self.branches, self.commits = {}, {}
        self.faults = lambda method, path: None
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.storage = f"http://localhost:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
        assert not self.wrong, self.wrong

    def handle_error(self, *_):
        self.wrong.append(traceback.format_exc())

    def add(self, repository: str, files: dict[str, bytes], branch: str = "main"):
        """Commits `files` to a branch, which then holds only these."""
        commit = hashlib.sha1(f"{repository} {branch} {sorted(files)}".encode()).hexdigest()
        for name, data in files.items():
            path = self.root / repository / commit / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (self.root / repository / commit).mkdir(parents=True, exist_ok=True)
        self.branches.setdefault(repository, {})[branch] = commit

    def files(self, repository: str, branch: str = "main") -> dict[str, bytes]:
        """The files of a branch, with the contents of large files."""
        folder = self.root / repository / self.branches[repository][branch]
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): self._content(path) for path in found}

    def _content(self, path: Path) -> bytes:
        pointer = large(path)
        return (self.root / "lfs" / pointer["oid"]).read_bytes() if pointer else path.read_bytes()


def large(path: Path) -> dict | None:
    """`oid` and `size` of a file in the large-file storage; None for other files."""
    data = path.read_bytes()
    return json.loads(data.removeprefix(b"lfs:")) if data.startswith(b"lfs:") else None


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, tree=None, body: bytes = b"", **headers):
        if tree is not None:
            body, headers = json.dumps(tree).encode(), {"Content-Type": "application/json"}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, message: str):
        body = json.dumps({"error": message}).encode()
        self.answer(status, body=body, X_Error_Code=code, X_Error_Message=message)

    def handle_any(self):
        hub, url = self.server, urlsplit(self.path)
        path = unquote(url.path)
        hub.seen.append((self.command, path))
        size = int(self.headers.get("Content-Length", 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = b"".join(iter(self.chunk, b""))
        else:
            self.body = self.rfile.read(size)
        if not path.startswith("/"):
            hub.wrong.append(f"a request to {path}")
            return self.refuse(502, "", "there is no other network")
        status = hub.faults(self.command, path)
        if status == DROP:
            self.close_connection = True
            return None
        token = self.headers.get("Authorization")
        if path.startswith("/lfs/"):
            assert token is None, "the user's token went to the storage"
            assert self.headers["Host"].startswith("localhost")
            if status not in (None, HALF):
                return self.refuse(status, "", "the storage says no")
            return self.storage(path.removeprefix("/lfs/"), half=status == HALF)
        if status:
            return self.refuse(status, "", "the Hub says no")
        if path == "/api/agent-harnesses":
            return self.answer(200, {"standardEnvVars": [], "harnesses": {}})
        if token != f"Bearer {TOKEN}":
            return self.refuse(401, "", "Invalid username or password.")
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self.create(json.loads(self.body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.batch(json.loads(self.body))
        return self.repository(url.path, parse_qs(url.query))

    do_GET = do_HEAD = do_POST = do_PUT = do_CONNECT = handle_any

    def chunk(self) -> bytes:
        data = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return data

    def storage(self, oid: str, half: bool):
        path = self.server.root / "lfs" / oid
        if self.command == "PUT":
            assert hashlib.sha256(self.body).hexdigest() == oid
            path.write_bytes(self.body)
            return self.answer(200)
        data = path.read_bytes()
        body = data[: len(data) // 2] if half else data
        self.close_connection = half
        return self.answer(200, body=body, ETag=f'"{oid}"', Content_Length=str(len(data)))

    def create(self, asked: dict):
        repository = f"{asked.get('organization') or USER}/{asked['name']}"
        there = repository in self.server.branches
        if not there:
            self.server.add(repository, {".gitattributes": b"*.safetensors filter=lfs\n"})
        url = f"{self.server.url}/{repository}"
        self.answer(409 if there else 200, {"url": url, "name": repository})

    def batch(self, asked: dict):
        objects = [
            entry | {"actions": {"upload": {"href": f"{self.server.storage}/lfs/{entry['oid']}"}}}
            for entry in asked["objects"]
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def repository(self, path: str, query: dict):
        """`/api/models/OWNER/NAME[/ACTION/REVISION]` and `/OWNER/NAME/resolve/REVISION/FILE`."""
        parts = path.removeprefix("/api/models").strip("/").split("/", 4)
        parts = [unquote(part) for part in parts]  # after the split: a branch may hold a slash
        name, rest = "/".join(parts[:2]), parts[2:]
        branches = self.server.branches.get(name)
        if branches is None:
            return self.refuse(404, "RepoNotFound", "Repository not found")
        action, revision = rest[:2] if rest else ("revision", "main")
        commit = branches.get(revision, revision)
        if commit not in branches.values():
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        folder = self.server.root / name / commit
        if action == "revision":
            self.answer(200, {"id": name, "sha": commit, "siblings": [], "private": False})
        elif action == "tree":
            assert query["recursive"] == ["true"]
            self.answer(200, self.listing(folder))
        elif action == "preupload":
            self.preupload(json.loads(self.body))
        elif action == "commit":
            self.commit(name, revision, folder)
        else:
            assert action == "resolve"
            self.resolve(folder, commit, rest[2])

    def listing(self, folder: Path) -> list[dict]:
        entries = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            data, pointer = path.read_bytes(), large(path)
            entry = {"type": "file", "path": str(path.relative_to(folder)), "oid": git_id(data)}
            entry["size"] = pointer["size"] if pointer else len(data)
            entries.append(entry | ({"lfs": pointer | {"pointerSize": 130}} if pointer else {}))
        extra = {"type": "file", "oid": git_id(b""), "size": 0}
        return entries + [extra | {"path": name} for name in self.server.listed]

    def resolve(self, folder: Path, commit: str, name: str):
        path = folder / name
        if not path.is_file():
            return self.refuse(404, "EntryNotFound", "Entry not found")
        if pointer := large(path):
            location = f"{self.server.storage}/lfs/{pointer['oid']}"
            etag, size = f'"{pointer["oid"]}"', str(pointer["size"])
            linked = {"X_Linked_Etag": etag, "X_Linked_Size": size}
            return self.answer(302, Location=location, X_Repo_Commit=commit, **linked)
        data = path.read_bytes()
        self.answer(
            200,
            body=data,
            ETag=f'"{git_id(data)}"',
            X_Repo_Commit=commit,
            Content_Length=str(len(data)),
        )

    def preupload(self, asked: dict):
        files = [
            {
                "path": entry["path"],
                "uploadMode": "lfs" if entry["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for entry in asked["files"]
        ]
        self.answer(200, {"files": files})

    def commit(self, name: str, branch: str, old: Path):
        lines = [json.loads(line) for line in self.body.splitlines()]
        header, operations = lines[0]["value"], lines[1:]
        commit = hashlib.sha1(self.body).hexdigest()
        folder = shutil.copytree(old, old.with_name(commit))
        for operation in operations:
            kind, value = operation["key"], operation["value"]
            path = folder / value["path"]
            if kind == "file":
                path.write_bytes(base64.b64decode(value["content"]))
            elif kind == "lfsFile":
                assert (self.server.root / "lfs" / value["oid"]).is_file()
                pointer = {"oid": value["oid"], "size": value["size"]}
                path.write_bytes(b"lfs:" + json.dumps(pointer).encode())
            else:
                assert kind == "deletedFile"
                path.unlink()
        self.server.branches[name][branch] = commit
        done = [(line["key"], line["value"]["path"]) for line in operations]
        self.server.commits.setdefault(name, []).append((branch, header["summary"], done))
        url = f"{self.server.url}/{name}/commit/{commit}"
        self.answer(200, {"commitUrl": url, "commitOid": commit})
