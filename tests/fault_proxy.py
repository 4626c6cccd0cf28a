"""A proxy before an HTTP server that breaks chosen requests as networks and stores do.

==========  ==================================================================================
fault       what happens to a request
==========  ==================================================================================
busy        answered with 503 SlowDown; the server never sees it
forbidden   answered with 403 likewise
cut         the connection is reset in the midst of the request's body
reset       the connection is reset in the midst of the answer's body
unheard     the server does it, and the connection is reset before the answer
blackhole   nobody answers until the client gives up
==========  ==================================================================================
"""

import re
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

REFUSALS = {
    "busy": (
        "503 Slow Down",
        b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>busy</Message></Error>",
    ),
    "forbidden": ("403 Forbidden", b""),
}


@dataclass
class Fault:
    """What breaks, and which requests."""

    kind: str
    request: str = ".*"
    """Pattern that is searched in ``METHOD /path?query``."""
    times: int = 1
    every: int = 1
    """Of the requests that fit, one of so many."""
    body_bytes: int = 1000
    """Bytes of a body that pass before it breaks."""
    done: int = 0
    met: int = 0


@dataclass
class FaultProxy:
    """The plan of a running proxy and what passed through it."""

    server_port: int
    port: int = 0
    faults: list[Fault] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    """``METHOD /path?query`` of each request, with the fault after it, in order of arrival."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def plan(self, *faults: Fault) -> None:
        """Break these from now on, and nothing else."""
        with self._lock:
            self.faults, self.seen = list(faults), []

    def fault(self, request: str) -> Fault | None:
        """What breaks this request."""
        with self._lock:
            for fault in self.faults:
                if fault.done < fault.times and re.search(fault.request, request):
                    fault.met += 1
                    if fault.met % fault.every:
                        continue
                    fault.done += 1
                    self.seen.append(f"{request} {fault.kind}")
                    return fault
            self.seen.append(request)
            return None


class _Connection(socketserver.StreamRequestHandler):
    proxy: FaultProxy

    def handle(self) -> None:
        head = self._head()
        if not head:
            return
        first, *lines = head.split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines if b": " in line)
        if b"expect" in headers:
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        fault = self.proxy.fault(" ".join(first.decode().split(" ")[:2]))
        kind, length = fault.kind if fault else "", int(headers.get(b"content-length", 0))
        if kind in REFUSALS:
            self.rfile.read(length)
            status, body = REFUSALS[kind]
            lead = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body)}"
            self.wfile.write(f"{lead}\r\n\r\n".encode() + body)
        elif kind == "blackhole":
            self.rfile.read()  # until the client gives up
        elif kind == "cut":
            with self._asked(first, lines) as server:
                server.sendall(self.rfile.read(min(fault.body_bytes, length)))
            self._reset()
        else:
            with self._asked(first, lines) as server:
                self._pass_on(server, length)
                self._answer(server, fault)

    def _head(self) -> bytes:
        lines = []
        while (line := self.rfile.readline()) not in (b"", b"\r\n"):
            lines.append(line.rstrip(b"\r\n"))
        return b"\r\n".join(lines)

    def _asked(self, first: bytes, lines: list[bytes]) -> socket.socket:
        """One connection per request, so that its end is the answer's."""
        server = socket.create_connection(("127.0.0.1", self.proxy.server_port))
        own = [n for n in lines if not n.lower().startswith((b"expect:", b"connection:"))]
        server.sendall(b"\r\n".join([first, *own, b"Connection: close", b"", b""]))
        return server

    def _pass_on(self, server: socket.socket, length: int) -> None:
        while length:
            piece = self.rfile.read(min(length, 1 << 16))
            if not piece:
                return
            server.sendall(piece)
            length -= len(piece)

    def _answer(self, server: socket.socket, fault: Fault | None) -> None:
        answer = server.makefile("rb")
        if fault is None:
            while piece := answer.read1(1 << 16):
                self.wfile.write(piece)
            return
        if fault.kind == "reset":
            while (line := answer.readline()) not in (b"", b"\r\n"):
                self.wfile.write(line)
            self.wfile.write(b"\r\n" + answer.read(fault.body_bytes))
            self.wfile.flush()
        else:
            answer.read()
        self._reset()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads, block_on_close, allow_reuse_address = True, False, True
    request_queue_size = 64

    def handle_error(self, request, client_address) -> None:
        """A client that went away is what this is for."""


@contextmanager
def fault_proxy(server_port: int) -> Iterator[FaultProxy]:
    """A running proxy before a server of this machine; it breaks nothing yet."""
    proxy = FaultProxy(server_port)
    handler = type("_Handler", (_Connection,), {"proxy": proxy})
    with _Server(("127.0.0.1", 0), handler) as server:
        proxy.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            with suppress(OSError):
                server.shutdown()
            thread.join()
