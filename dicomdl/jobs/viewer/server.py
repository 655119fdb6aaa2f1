"""The server of the viewer: pages and pictures for browsers on this machine alone.

It listens on 127.0.0.1, on a random port by default. Every path begins with a random token, so that
other users of the machine and other pages in the browser, which cannot know it, get nothing.
Requests for another host name are refused, which a page of elsewhere could make this address have.
"""

import hmac
import importlib.resources
import json
import os
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

import numpy as np

from dicomdl.arrays import Values
from dicomdl.errors import DicomdlError, StorageError, UsageError
from dicomdl.index.index import Index
from dicomdl.jobs.viewer.opened import OpenStacks
from dicomdl.printing import printable
from dicomdl.storage.publishing import read_whole
from dicomdl.values.presets import presets

HOST: Final = "127.0.0.1"
_TOKEN_BYTES: Final = 24
_SCRIPT: Final = "text/javascript; charset=utf-8"
_FILES: Final = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", _SCRIPT),
    "solid.js": ("solid.js", _SCRIPT),
}
_NIIVUE: Final = "niivue.js"
_JSON: Final = "application/json"
_BYTES: Final = "application/octet-stream"
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class _Reply(NamedTuple):
    """A body, its type, and further headers."""

    body: bytes | memoryview
    kind: str = _JSON
    headers: dict[str, str] = {}  # noqa: RUF012  # never changed
    status: HTTPStatus = HTTPStatus.OK


class ViewServer:
    """A server that shows the stacks of an index.

    Parameters
    ----------
    index
        The index.
    port
        The port; 0 for a free one.
    niivue
        A file of NiiVue for 3D (niivue.umd.js of its package); None for planes alone.

    Attributes
    ----------
    url
        The address of the page, with the token.

    Raises
    ------
    StorageError
        The port cannot be listened on, or the file cannot be read.
    UsageError
        The file is not that of NiiVue.
    """

    def __init__(
        self, index: Index, port: int = 0, niivue: str | os.PathLike[str] | None = None
    ) -> None:
        self._niivue = None if niivue is None else _niivue_of(niivue)
        self._stacks = OpenStacks(index)
        self._token = secrets.token_urlsafe(_TOKEN_BYTES)
        try:
            self._server = _Server((HOST, port), self)
        except (OSError, OverflowError) as error:
            raise StorageError(
                f"no server can listen on {HOST}, port {port}: {error}", port=port
            ) from error
        self.port = int(self._server.server_address[1])
        self.url = f"http://{HOST}:{self.port}/{self._token}/"
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Answer requests in a thread, until `close`."""
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the server is closed or the program is interrupted."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(0.5)

    def close(self) -> None:
        """Stop answering."""
        if self._thread is not None:
            self._server.shutdown()
        self._server.server_close()

    def reply(self, host: str, target: str) -> _Reply:
        """Return the reply to a GET request."""
        if host not in (f"{HOST}:{self.port}", f"localhost:{self.port}"):
            return _refused(HTTPStatus.FORBIDDEN, "this server answers for 127.0.0.1 alone")
        parts = urlsplit(target)
        token, _, path = parts.path.lstrip("/").partition("/")
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            return _refused(HTTPStatus.NOT_FOUND, "there is no such page")
        if path in _FILES:
            name, kind = _FILES[path]
            return _Reply(importlib.resources.files(__package__).joinpath(name).read_bytes(), kind)
        if path == _NIIVUE and self._niivue is not None:
            return _Reply(self._niivue, _SCRIPT)
        query = {
            name: values[-1]
            for name, values in parse_qs(parts.query, keep_blank_values=True).items()
        }
        try:
            return self._answer(path.split("/"), query)
        except DicomdlError as error:
            notes = getattr(error, "__notes__", ())
            words = "; ".join([str(error), *notes])
            return _refused(HTTPStatus.UNPROCESSABLE_ENTITY, printable(words))
        except (ValueError, KeyError):
            return _refused(HTTPStatus.NOT_FOUND, "there is no such picture")

    def _answer(self, path: list[str], query: dict[str, str]) -> _Reply:
        match path:
            case ["stacks.json"]:
                windows = [(name, w.center, w.width) for name, w in presets().items()]
                facts = {"presets": windows, "has_solid": self._niivue is not None}
                return _json({"stacks": self._stacks.listed(), **facts})
            case ["stack", number, "facts.json"]:
                return _json(self._stacks.get(int(number)).facts())
            case ["stack", number, "names.json"]:
                return _json(dict(self._stacks.get(int(number)).names(int(query["source"]))))
            case ["stack", number, "picture"]:
                opened = self._stacks.get(int(number))
                return _array(opened.picture(query["plane"], int(query["number"])))
            case ["stack", number, "labels"]:
                opened = self._stacks.get(int(number))
                plane, picture = query["plane"], int(query["number"])
                return _array(opened.labels(int(query["source"]), plane, picture))
            case ["stack", number, "volume.nii"]:
                return _Reply(self._stacks.get(int(number)).solid(), _BYTES)
            case ["stack", number, "labels", name]:
                source = int(name.removesuffix(".nii"))
                return _Reply(self._stacks.get(int(number)).solid_labels(source), _BYTES)
            case _:
                raise UsageError("there is no such page")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], viewer: ViewServer) -> None:
        self.viewer = viewer
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that a browser drops."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        reply = self.server.viewer.reply(self.headers.get("Host", ""), self.path)
        self.send_response(reply.status)
        headers = {"Content-Type": reply.kind, "Content-Length": str(len(reply.body))}
        for name, value in (_HEADERS | headers | reply.headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def version_string(self) -> str:
        return "dicomdl"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: paths hold the token."""


def _niivue_of(path: str | os.PathLike[str]) -> bytes:
    """Return the script of NiiVue, which defines ``niivue`` for a page."""
    script = read_whole(os.fspath(path))
    if b".niivue=" not in script:
        raise UsageError(
            f"{os.fspath(path)!r} is not the script of NiiVue for pages: expected the file "
            "dist/niivue.umd.js of its package @niivue/niivue"
        )
    return script


def _json(value: Any) -> _Reply:
    return _Reply(json.dumps(value, allow_nan=False).encode())


def _array(values: Values) -> _Reply:
    """Return an array as its bytes, little endian, with shape and dtype as headers."""
    plain = values.astype(values.dtype.newbyteorder("<"), copy=False)
    headers = {"X-Shape": ",".join(map(str, values.shape)), "X-Dtype": np.dtype(values.dtype).name}
    return _Reply(plain.tobytes(), _BYTES, headers)


def _refused(status: HTTPStatus, words: str) -> _Reply:
    return _json({"error": words})._replace(status=status)
