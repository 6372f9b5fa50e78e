"""An object store on a loopback port with the parts of Google's JSON API that clients here use.

gcsfs, TensorStore and google-cloud-storage need objects with generations, preconditions, ranges
and pages.

    python tests/helpers/fake_gcs.py 9000 bucket        runs alone until it is killed

Written from the API's reference (cloud.google.com/storage/docs/json_api). TensorStore needs
`x-goog-generation` on downloads and `ifGenerationMatch`, which no public emulator offers.
"""

import base64
import collections
import contextlib
import json
import re
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c

Blob = collections.namedtuple("Blob", "data generation crc32c")

_ROUTES = (  # method, path, handler; below /upload or /download, the path names the object
    ("GET", r"/b/([^/]+)", "get_bucket"),
    ("GET", r"/b/([^/]+)/o", "list_objects"),
    ("POST", r"/b/([^/]+)/o", "upload"),
    ("POST|PUT", r"/resumable/([^/]+)/(\d+)", "upload_part"),
    ("POST", r"/b/([^/]+)/o/([^/]+)/(?:rewriteTo|copyTo)/b/([^/]+)/o/([^/]+)", "copy"),
    ("GET", r"/b/([^/]+)/o/([^/]+)", "get_object"),
    ("DELETE", r"/b/([^/]+)/o/([^/]+)", "delete"),
)


class Refused(Exception):
    """An HTTP status and its message."""


class Server(socketserver.ThreadingTCPServer):
    """Serves `buckets` until it is closed.

    Attributes:
      buckets: {bucket: {name: Blob}}, which tests may read and damage.
      requests: (method, kind, object name) of every request so far.
      latency: seconds that each request waits before its answer.
      refuse: called with (method, kind, object name); a status other than 0 becomes the answer.
    """

    allow_reuse_address = daemon_threads = True
    request_queue_size = 512

    def __init__(self, *buckets, port=0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.buckets = {name: {} for name in buckets}
        self.requests, self.uploads = [], {}
        self.latency, self.refuse = 0.0, lambda method, kind, name: 0
        self.lock = threading.RLock()

    def handle_error(self, request, client_address):
        """Ignores clients that hang up, but not errors of this server."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, bucket, name, data, if_generation=None):
        data = bytes(data)
        with self.lock:
            held = self.buckets[bucket].get(name)
            if if_generation not in (None, str(held.generation if held else 0)):
                raise Refused(412, "At least one of the pre-conditions you specified did not hold.")
            checksum = base64.b64encode(google_crc32c.Checksum(data).digest()).decode()
            self.buckets[bucket][name] = Blob(data, time.time_ns(), checksum)


def environment(url):
    """The variables that make every client of a process use the server at `url`."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks Google what kind of bucket it is
    }


@contextlib.contextmanager
def serving(*buckets):
    """A server in a thread of this process."""
    with Server(*buckets) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *_):
        pass

    def do_GET(self):
        address = urlsplit(self.path)
        self.query = {k: v[0] for k, v in parse_qs(address.query, keep_blank_values=True).items()}
        path = re.sub(r"^(/upload|/download)?(/storage/v1)?", "", address.path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            for methods, pattern, kind in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in methods.split("|"):
                    names = [unquote(part) for part in match.groups()]
                    self._handle(kind, names)
                    break
            else:
                raise Refused(501, f"not part of this fake: {self.command} {path}")
        except Refused as refused:
            status, message = refused.args
            self._answer(status, {"error": {"code": status, "message": message}})

    do_POST = do_PUT = do_DELETE = do_GET

    def _handle(self, kind, names):
        server = self.server
        server.requests.append((self.command, kind, names[1] if len(names) > 1 else ""))
        time.sleep(server.latency)
        status = server.refuse(*server.requests[-1])
        if status:
            raise Refused(status, "as the test asked")
        if kind != "upload_part" and names[0] not in server.buckets:
            raise Refused(404, "The specified bucket does not exist.")
        getattr(self, kind)(*names)

    def _answer(self, status, content=b"", **headers):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _resource(self, bucket, name):
        blob = self._blob(bucket, name)
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "id": f"{bucket}/{name}",
            "size": str(len(blob.data)),
            "generation": str(blob.generation),
            "metageneration": "1",
            "crc32c": blob.crc32c,
            "contentType": "application/octet-stream",
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
        }

    def _blob(self, bucket, name):
        try:
            return self.server.buckets[bucket][name]
        except KeyError:
            raise Refused(404, f"No such object: {bucket}/{name}") from None

    def get_bucket(self, bucket):
        self._answer(200, {"kind": "storage#bucket", "name": bucket, "id": bucket})

    def list_objects(self, bucket):
        query, found, prefixes = self.query, [], []
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        first = query.get("pageToken") or query.get("startOffset", "")
        most = int(query.get("maxResults", 1000))
        token = None
        for name in sorted(self.server.buckets[bucket]):
            if not name.startswith(prefix) or name < first:
                continue
            if "endOffset" in query and name >= query["endOffset"]:
                continue
            head, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            group = prefix + head + cut if cut else None
            if group and group in prefixes:
                continue
            if len(found) + len(prefixes) == most:
                token = name
                break
            if group:
                prefixes.append(group)
            else:
                found.append(self._resource(bucket, name))
        answer = {"kind": "storage#objects", "items": found, "prefixes": prefixes}
        self._answer(200, answer | ({"nextPageToken": token} if token else {}))

    def get_object(self, bucket, name):
        blob = self._blob(bucket, name)
        generation = str(blob.generation)
        if self.query.get("ifGenerationNotMatch") == generation:
            return self._answer(304)
        if self.query.get("ifGenerationMatch", generation) != generation:
            raise Refused(412, "conditionNotMet")
        if "/download/" not in self.path and self.query.get("alt") != "media":
            return self._answer(200, self._resource(bucket, name))
        headers = {"x_goog_generation": generation, "x_goog_hash": f"crc32c={blob.crc32c}"}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self._answer(200, blob.data, **headers)
        size = len(blob.data)
        start, last = (int(text) if text else None for text in asked.groups())
        if start is None:
            start, last = max(size - last, 0), size - 1
        last = size - 1 if last is None else min(last, size - 1)
        if start >= size:
            raise Refused(416, "The requested range cannot be satisfied.")
        headers["Content_Range"] = f"bytes {start}-{last}/{size}"
        return self._answer(206, blob.data[start : last + 1], **headers)

    def upload(self, bucket):
        kind, name = self.query["uploadType"], self.query.get("name")
        condition = self.query.get("ifGenerationMatch")
        if kind == "resumable":
            name = name or json.loads(self.body)["name"]
            number = len(self.server.uploads)
            self.server.uploads[number] = (bucket, name, condition, bytearray())
            return self._answer(200, Location=f"{self.server.url}/resumable/{bucket}/{number}")
        data = self.body
        if kind == "multipart":
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
            parts = self.body.split(b"--" + boundary)[1:3]
            contents = [re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1] for part in parts]
            contents = [re.sub(rb"\r?\n\Z", b"", content) for content in contents]
            name, data = name or json.loads(contents[0])["name"], contents[1]
        self.server.put(bucket, name, data, condition)
        return self._answer(200, self._resource(bucket, name))

    def upload_part(self, _, number):
        bucket, name, condition, data = self.server.uploads[int(number)]
        ranges = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(.*)", self.headers["Content-Range"])
        start, total = ranges.groups()
        if start:
            data[int(start) :] = self.body
        if total == "*":
            return self._answer(308, Range=f"bytes=0-{len(data) - 1}")
        if len(data) != int(total):
            raise Refused(400, f"{len(data)} bytes of {total}")
        self.server.put(bucket, name, data, condition)
        return self._answer(200, self._resource(bucket, name))

    def copy(self, bucket, name, bucket2, name2):
        self.server.put(bucket2, name2, self._blob(bucket, name).data)
        resource = self._resource(bucket2, name2)
        self._answer(200, {"kind": "storage#rewriteResponse", "done": True, "resource": resource})

    def delete(self, bucket, name):
        blob = self._blob(bucket, name)
        if self.query.get("ifGenerationMatch", str(blob.generation)) != str(blob.generation):
            raise Refused(412, "conditionNotMet")
        with self.server.lock:
            self.server.buckets[bucket].pop(name, None)
        self._answer(204)


if __name__ == "__main__":
    with Server(*sys.argv[2:], port=int(sys.argv[1])) as alone:
        alone.serve_forever()
