"""A server that speaks Google Cloud Storage's JSON interface, as far as it is documented and we use
it: objects with generations and conditions on them, pages of listings, resumable uploads.

No Google server can run here. As the true one it keeps of a part that is not the last whole pieces
of 256 KiB alone, passes over bytes that it has, answers the last part again once an upload has
ended, and shows nothing of an upload before.
"""

import base64
import http.server
import itertools
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import google_crc32c

BUCKET = "bucket"
QUANTUM = 256 << 10
"""Bytes of an upload are kept in such pieces."""


@dataclass
class Stored:
    content: bytes
    generation: int


@dataclass
class Session:
    """A resumable upload."""

    name: str
    wanted: str | None
    content: bytearray = field(default_factory=bytearray)
    ended: Stored | None = None


@dataclass
class Bucket:
    objects: dict[str, Stored] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    count: Iterator[int] = field(default_factory=lambda: itertools.count(1_700_000_000_000_000))


class Refused(Exception):
    """An answer with an error in Google's words."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def do(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(parts.query))
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        if len(self.body) < length and "upload_id" not in self.query:
            return  # the connection broke, and half a request is none
        try:
            with self.bucket.lock:
                self.route(parts.path)
        except Refused as error:
            status, message = error.args
            if self.query.get("alt") == "media":
                self.answer(status, message.encode(), {"Content-Type": "text/html; charset=UTF-8"})
            else:
                self.send(status, {"error": {"code": status, "message": message}})

    do_GET = do_POST = do_PUT = do_DELETE = do

    def route(self, path: str) -> None:
        if "upload_id" in self.query:
            self.part(self.query["upload_id"])
            return
        place = re.fullmatch(r"(/upload|/download)?/storage/v1/b/([^/]+)/o(?:/([^/]*))?", path)
        assert place, path
        lead, bucket, name = place.groups()
        if bucket != BUCKET:
            raise Refused(404, "The specified bucket does not exist.")
        if lead == "/upload":
            self.upload()
        elif name is None:
            self.listing()
        elif self.command == "DELETE":
            self.found(urllib.parse.unquote(name))
            del self.bucket.objects[urllib.parse.unquote(name)]
            self.send(204)
        elif self.query.get("alt") == "media":
            self.media(self.found(urllib.parse.unquote(name)))
        else:
            name = urllib.parse.unquote(name)
            self.send(200, _resource(name, self.found(name)))

    def found(self, name: str) -> Stored:
        stored = self.bucket.objects.get(name)
        if not stored or self.query.get("generation", str(stored.generation)) != str(
            stored.generation
        ):
            raise Refused(404, f"No such object: {BUCKET}/{name}")
        return stored

    def media(self, stored: Stored) -> None:
        first, last = 0, len(stored.content) - 1
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if ranged:
            first = int(ranged[1])
            last = min(last, int(ranged[2] or last))
            if first >= len(stored.content):
                raise Refused(416, "The requested range cannot be satisfied.")
        piece = stored.content[first : last + 1]
        headers = {
            "Content-Type": "application/octet-stream",
            "X-Goog-Generation": str(stored.generation),
        }
        if ranged:
            headers["Content-Range"] = f"bytes {first}-{last}/{len(stored.content)}"
        self.answer(206 if ranged else 200, piece, headers)

    def listing(self) -> None:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter")
        entries: dict[str, bool] = {}
        for name in sorted(self.bucket.objects):
            if name.startswith(prefix):
                rest = name.removeprefix(prefix)
                inner = bool(delimiter) and delimiter in rest
                entries[prefix + rest.split(delimiter)[0] + delimiter if inner else name] = inner
        after = self.query.get("pageToken", "")
        left = [name for name in entries if name > after]
        page = left[: int(self.query.get("maxResults", 1000))]
        told: dict[str, object] = {
            "kind": "storage#objects",
            "prefixes": [name for name in page if entries[name]],
            "items": [_resource(n, self.bucket.objects[n]) for n in page if not entries[n]],
        }
        if len(page) < len(left):
            told["nextPageToken"] = page[-1]
        self.send(200, told)

    def upload(self) -> None:
        wanted = self.query.get("ifGenerationMatch")
        if self.query["uploadType"] == "multipart":
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].strip("'")
            _, meta, media, _ = self.body.split(b"--" + boundary.encode())
            name = json.loads(meta.partition(b"\r\n\r\n")[2])["name"]
            content = media.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
            self.send(200, _resource(name, self.store(name, content, wanted)))
            return
        name = json.loads(self.body)["name"] if self.body else self.query["name"]
        number = f"session-{next(self.bucket.count)}"
        self.bucket.sessions[number] = Session(name, wanted)
        address = f"http://{self.headers['Host']}/upload?upload_id={number}"
        self.answer(200, b"", {"Location": address})

    def store(self, name: str, content: bytes, wanted: str | None) -> Stored:
        there = self.bucket.objects.get(name)
        if wanted is not None and int(wanted) != (there.generation if there else 0):
            raise Refused(412, "At least one of the pre-conditions you specified did not hold.")
        stored = self.bucket.objects[name] = Stored(content, next(self.bucket.count))
        return stored

    def part(self, number: str) -> None:
        session = self.bucket.sessions.get(number)
        if session is None:
            raise Refused(404, "No such upload.")
        if self.command == "DELETE":
            del self.bucket.sessions[number]
            self.answer(499, b"", {})
            return
        first, total = re.fullmatch(
            r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", self.headers["Content-Range"]
        ).groups()
        if not session.ended:
            kept = len(session.content)
            if first is not None:
                if int(first) > kept:
                    raise Refused(503, "bytes are missing before these")
                session.content += self.body[kept - int(first) :]
            if total == "*" or len(session.content) < int(total):
                del session.content[len(session.content) // QUANTUM * QUANTUM :]
                end = {"Range": f"bytes=0-{len(session.content) - 1}"} if session.content else {}
                self.answer(308, b"", end)
                return
            session.ended = self.store(session.name, bytes(session.content), session.wanted)
        self.send(200, _resource(session.name, session.ended))

    def send(self, status: int, value: object = None) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        self.answer(status, body, {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing."""


def _resource(name: str, stored: Stored) -> dict[str, str]:
    crc = google_crc32c.Checksum(stored.content).digest()
    return {
        "kind": "storage#object",
        "name": name,
        "bucket": BUCKET,
        "size": str(len(stored.content)),
        "generation": str(stored.generation),
        "crc32c": base64.b64encode(crc).decode(),
    }


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        """A client that went away is what the proxy is for."""


@contextmanager
def gcs_server() -> Iterator[tuple[int, Bucket]]:
    """The port of a server with one empty bucket, and that bucket from behind."""
    bucket = Bucket()
    handler = type("_OfBucket", (_Handler,), {"bucket": bucket})
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1], bucket
        finally:
            server.shutdown()
            thread.join()
