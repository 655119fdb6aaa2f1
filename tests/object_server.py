"""A server of objects on loopback: S3, GCS and Azure as far as reading goes, and plain HTTP.

It answers GET and HEAD with ranges and If-Match, ListObjectsV2 (S3, GCS) and List Blobs (Azure). It
checks no signature. Each request is logged. `fault` chooses what goes wrong: it gets the request
and returns one of `FAULTS`, or "" for none.
"""

import asyncio
import bisect
import contextlib
import hashlib
import re
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

FAULTS = (
    *("cut", "hang", "wrong range", "no range", "short", "no length", "other bytes"),
    *("301", "401", "403", "404", "412", "416", "429", "500", "503"),
)
MODIFIED = "Wed, 01 Jan 2025 00:00:00 GMT"


@dataclass(frozen=True)
class Request:
    """One request; `start` and `stop` are those of its range, None without one."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    start: int | None = None
    stop: int | None = None


class Sharing:
    """Bytes of an object that begins by itself and continues as another one does."""

    def __init__(self, head: bytes, whole: bytes) -> None:
        self.head, self._whole = head, whole

    def __len__(self) -> int:
        return len(self._whole)

    def __getitem__(self, part: slice) -> bytes:
        own = self.head[part]
        first = max(part.start or 0, len(self.head))
        return own + self._whole[first : part.stop]


@dataclass
class ObjectServer:
    """Objects by path, such as "bucket/folder/name.dcm", and how they are served."""

    objects: dict[str, Any] = field(default_factory=dict)
    fault: Callable[[Request], str] = lambda request: ""
    delay_s: float = 0.0
    etags: bool = True
    # Appended to the ETag: a change makes all objects other ones.
    version: str = ""
    weak: bool = False
    log: list[Request] = field(default_factory=list)
    sent_bytes: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    port: int = 0
    # The context of an https server.
    tls: ssl.SSLContext | None = None
    _etags: dict[int, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The root of the server."""
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    def put_folder(self, folder: Path, bucket: str) -> None:
        """Serve all files below a folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.objects[f"{bucket}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()

    def gets(self) -> list[Request]:
        """Return the requests for bytes of objects."""
        return [each for each in self.log if each.method == "GET" and "list-type" not in each.query]

    def clear(self) -> None:
        """Forget the requests so far."""
        self.log.clear()
        self.sent_bytes = self.most_in_flight = 0

    def etag(self, data: Any) -> str:
        """Return the ETag of an object, with quotes."""
        if id(data) not in self._etags:
            start = data.head if isinstance(data, Sharing) else data
            self._etags[id(data)] = hashlib.md5(start, usedforsecurity=False).hexdigest()
        return f'{"W/" if self.weak else ""}"{self._etags[id(data)]}{self.version}"'

    def answer(self, request: Request) -> tuple[bytes, str]:
        """Return the bytes of the answer, and what the connection does after them."""
        fault = self.fault(request)
        if fault == "hang":
            return b"", "hang"
        if fault.isdigit():
            return _reply(int(fault), {}, b""), ""
        if "list-type=2" in request.query or "comp=list" in request.query:
            return _reply(200, {"Content-Type": "application/xml"}, self._listing(request)), ""
        data = self.objects.get(request.path.lstrip("/"))
        if data is None:
            return _reply(404, {}, b""), ""
        headers = {"Last-Modified": MODIFIED, "Accept-Ranges": "bytes"}
        if self.etags:
            headers["ETag"] = self.etag(data)
            wanted = request.headers.get("if-match", "*")
            if wanted not in ("*", self.etag(data)) or (self.weak and wanted != "*"):
                return _reply(412, {}, b""), ""
        return self._object(request, data, headers, fault)

    def _object(
        self, request: Request, data: Any, headers: dict[str, str], fault: str
    ) -> tuple[bytes, str]:
        if request.method == "HEAD":
            return _reply(200, {**headers, "Content-Length": str(len(data))}, b""), ""
        if request.start is None or request.stop is None or fault == "no range":
            return _reply(200, headers, data[: len(data)]), ""
        if request.start >= len(data):
            return _reply(416, {"Content-Range": f"bytes */{len(data)}"}, b""), ""
        stop = min(request.stop, len(data))
        shift = 1 if fault == "wrong range" else 0
        headers["Content-Range"] = f"bytes {request.start + shift}-{stop - 1 + shift}/{len(data)}"
        if fault == "no length":
            headers["Content-Range"] = f"bytes {request.start}-{stop - 1}/{len(data) + 7}"
        body = data[request.start : stop]
        if fault == "other bytes":
            body = bytes(len(body))
        if fault == "short":
            body = body[: len(body) // 2]
        whole = _reply(206, headers, body)
        return (
            (whole[: len(whole) - len(body) // 2 - 1], "close") if fault == "cut" else (whole, "")
        )

    def _listing(self, request: Request) -> bytes:
        given = {name: values[0] for name, values in parse_qs(request.query).items()}
        bucket, delimiter = request.path.strip("/"), given.get("delimiter", "")
        base = f"{bucket}/{given.get('prefix', '')}"
        keys = sorted(key for key in self.objects if key.startswith(base))
        after = given.get("continuation-token", given.get("marker", ""))
        objects: list[str] = []
        prefixes: list[str] = []
        most, last = int(given.get("max-keys", 1000)), ""
        for key in keys[bisect.bisect_right(keys, after) :]:
            rest = key[len(base) :]
            if delimiter and delimiter in rest:
                prefix = base + rest.split(delimiter)[0] + delimiter
                if prefix not in prefixes and not after.startswith(prefix):
                    prefixes.append(prefix)
            else:
                objects.append(key)
            last = key
            if len(objects) + len(prefixes) == most:
                break
        truncated = bool(last) and last != keys[-1]
        as_xml = _azure_xml if "comp" in given else _listing_xml
        return as_xml(self, bucket, objects, prefixes, last if truncated else "")


def _listing_xml(
    server: ObjectServer, bucket: str, objects: list[str], prefixes: list[str], token: str
) -> bytes:
    inside = len(bucket) + 1
    parts = ['<?xml version="1.0"?><ListBucketResult>', f"<Name>{bucket}</Name>"]
    parts.append(f"<IsTruncated>{'true' if token else 'false'}</IsTruncated>")
    if token:
        parts.append(f"<NextContinuationToken>{escape(token)}</NextContinuationToken>")
    for key in objects:
        data = server.objects[key]
        etag = escape(server.etag(data), {'"': "&quot;"})
        parts.append(
            f"<Contents><Key>{escape(key[inside:])}</Key><ETag>{etag}</ETag><Size>{len(data)}"
            "</Size><LastModified>2025-01-01T00:00:00.000Z</LastModified></Contents>"
        )
    for prefix in prefixes:
        parts.append(f"<CommonPrefixes><Prefix>{escape(prefix[inside:])}</Prefix></CommonPrefixes>")
    return "".join([*parts, "</ListBucketResult>"]).encode()


def _azure_xml(
    server: ObjectServer, bucket: str, objects: list[str], prefixes: list[str], marker: str
) -> bytes:
    inside = len(bucket) + 1
    parts = ['<?xml version="1.0"?><EnumerationResults><Blobs>']
    for key in objects:
        data = server.objects[key]
        # Azure lists ETags without quotes.
        parts.append(
            f"<Blob><Name>{escape(key[inside:])}</Name><Properties><Etag>"
            f"{server.etag(data).replace(chr(34), '')}</Etag><Last-Modified>{MODIFIED}"
            f"</Last-Modified><Content-Length>{len(data)}</Content-Length>"
            "<Content-Type>application/dicom</Content-Type></Properties></Blob>"
        )
    for prefix in prefixes:
        parts.append(f"<BlobPrefix><Name>{escape(prefix[inside:])}</Name></BlobPrefix>")
    return "".join(
        [*parts, f"</Blobs><NextMarker>{escape(marker)}</NextMarker></EnumerationResults>"]
    ).encode()


def _reply(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
    if "Content-Length" not in headers:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class _Connection(asyncio.Protocol):
    def __init__(self, server: ObjectServer) -> None:
        self._server, self._buffer = server, b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
            self._serve(_parsed(head.decode("latin-1")))

    def _serve(self, request: Request) -> None:
        server = self._server
        server.log.append(request)
        server.in_flight += 1
        server.most_in_flight = max(server.most_in_flight, server.in_flight)
        if server.delay_s:
            asyncio.get_running_loop().call_later(server.delay_s, self._finish, request)
        else:
            self._finish(request)

    def _finish(self, request: Request) -> None:
        server = self._server
        server.in_flight -= 1
        data, then = server.answer(request)
        if then == "hang":
            return
        server.sent_bytes += len(data)
        self._transport.write(data)
        if then == "close":
            self._transport.close()


def _parsed(head: str) -> Request:
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    parts = urlsplit(target)
    match = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("range", ""))
    start, stop = (int(match[1]), int(match[2]) + 1) if match else (None, None)
    return Request(method, unquote(parts.path), parts.query, headers, start, stop)


async def _listen(server: ObjectServer) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(
        lambda: _Connection(server), "127.0.0.1", 0, backlog=512, ssl=server.tls
    )
    server.port = listening.sockets[0].getsockname()[1]
    return listening


@contextlib.contextmanager
def serving(server: ObjectServer) -> Iterator[ObjectServer]:
    """Serve on a thread until the block ends."""
    loop = asyncio.new_event_loop()
    listening = loop.run_until_complete(_listen(server))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(listening.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _put_copies(server: ObjectServer, folder: Path, bucket: str, copies: int) -> None:
    """Serve copies of a series of files under UIDs of their own, which share their pixels."""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        head = data[: data.index(b"\xe0\x7f\x10\x00")]
        uids = set(re.findall(rb"UI[^\0]\0((?:[0-9]+\.)+[0-9]{7,})", head))
        for number in range(copies):
            own = head
            for uid in uids:
                if not uid.startswith(b"1.2.840.10008"):
                    own = own.replace(uid, uid[:-6] + b"%06d" % (100_000 + number))
            server.objects[f"{bucket}/set/{number}/{path.name}"] = Sharing(own, data)


def main(folder: str, bucket: str, copies: str = "0") -> None:
    """Serve a folder as a bucket; print the port, and counts for each line of standard input."""
    server = ObjectServer()
    server.put_folder(Path(folder), bucket)
    if int(copies):
        _put_copies(server, Path(folder) / "stack", bucket, int(copies))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(_listen(server))
    print(server.port, flush=True)

    def answer() -> None:
        line = sys.stdin.readline()
        if not line:
            loop.stop()
            return
        name, _, value = line.strip().partition("=")
        if name == "delay_s":
            server.delay_s = float(value)
        print(len(server.gets()), server.sent_bytes, server.most_in_flight, flush=True)
        server.clear()

    loop.add_reader(sys.stdin.fileno(), answer)
    loop.run_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
