"""A server of HTTP on loopback whose answers a test gives, for DICOMweb servers that misbehave.

`answer` gets each request and returns an `Answer`, or writes to the socket by itself and returns
None. Each request is logged.
"""

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    """What comes back. `claims` is the Content-Length, by default that of the body."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    claims: int | None = None


def as_json(value: Any, kind: str = "application/dicom+json") -> Answer:
    """Return an answer of JSON."""
    return Answer(200, json.dumps(value).encode(), {"Content-Type": kind})


def multipart(
    *parts: bytes, kind: str = "application/octet-stream", boundary: str = "b-1"
) -> Answer:
    """Return an answer of several parts."""
    body = b"".join(
        f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode() + part + b"\r\n" for part in parts
    )
    about = f'multipart/related; type="{kind.partition(";")[0]}"; boundary="{boundary}"'
    return Answer(200, body + f"--{boundary}--\r\n".encode(), {"Content-Type": about})


@dataclass
class WebServer:
    """The server, its log, and the sockets of requests that a test answers by itself."""

    answer: Callable[[Asked, socket.socket], Answer | None]
    log: list[Asked] = field(default_factory=list)
    port: int = 0
    tls: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        """The root of the server."""
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    def paths(self) -> list[str]:
        """Return the paths of all requests."""
        return [asked.path for asked in self.log]


def _handler(server: WebServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self._body()
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, parts.path, parts.query, headers, body)
            server.log.append(asked)
            found = server.answer(asked, self.connection)
            if found is None:
                self.close_connection = True
                return
            self.send_response(found.status)
            for name, value in found.headers.items():
                self.send_header(name, value)
            claims = len(found.body) if found.claims is None else found.claims
            self.send_header("Content-Length", str(claims))
            self.end_headers()
            self.wfile.write(found.body)
            self.close_connection = self.close_connection or claims != len(found.body)

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", "0")))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        do_GET = do_POST = _serve

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


class _Threads(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextlib.contextmanager
def serving(
    answer: Callable[[Asked, socket.socket], Answer | None], tls: ssl.SSLContext | None = None
) -> Iterator[WebServer]:
    """Serve on a free port of loopback until the block ends."""
    server = WebServer(answer, tls=tls)
    with _Threads(("127.0.0.1", 0), _handler(server)) as http:
        if tls is not None:
            http.socket = tls.wrap_socket(http.socket, server_side=True)
        server.port = http.server_address[1]
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
