"""Files to a DICOMweb service by STOW-RS (PS3.18 10.5): several per request, as they are stored."""

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from dicomdl.errors import DicomdlError, NetworkError
from dicomdl.jobs.network.outgoing import Outgoing, on_disk
from dicomdl.jobs.network.sent import SendLedger
from dicomdl.jobs.network.statuses import sentence
from dicomdl.storage import json_texts
from dicomdl.storage.dicomweb import Session, WebError
from dicomdl.storage.sources import Source, opened

# Files and bytes of one request, unless a file alone has more.
_MOST_FILES: Final = 64
_MOST_BYTES: Final = 64 * 2**20
_CHUNK_BYTES: Final = 2**20
_REFERENCED, _FAILED = "00081199", "00081198"
_INSTANCE, _WARNING, _REASON = "00081155", "00081196", "00081197"


def stow(
    session: Session,
    items: Sequence[Outgoing],
    record: SendLedger,
    tick: Callable[[int], object],
) -> None:
    """Send files to a DICOMweb service.

    Parameters
    ----------
    session
        A session of the service.
    items
        The files.
    record
        Where it is recorded what became of them.
    tick
        Called with the number of files of each request.

    Raises
    ------
    NetworkError
        The service refuses the first request as a whole.
    """
    is_first = True
    for part in _parts(_readable(items, record, tick)):
        try:
            _post(session, part, record)
        except WebError as error:
            words = f"{session.base} took no files: {error.strerror}"
            if is_first:
                raise NetworkError(
                    words, is_transient=error.status in (0, 429, 502, 503, 504)
                ) from None
            for item in part:
                record.failed(item, words)
        is_first = False
        tick(len(part))


def _readable(
    items: Sequence[Outgoing], record: SendLedger, tick: Callable[[int], object]
) -> Iterator[Outgoing]:
    """Yield the files that can be opened, and record the others: a request cannot leave one out."""
    for item in items:
        try:
            with opened(item.source):
                pass
        except (DicomdlError, OSError) as error:
            record.failed(item, f"it cannot be read: {error}".splitlines()[0])
            tick(1)
        else:
            yield item


def _parts(items: Iterable[Outgoing]) -> Iterator[list[Outgoing]]:
    """Yield the files in portions for one request each."""
    part, total = list[Outgoing](), 0
    for item in items:
        size = item.source.size
        if part and (len(part) == _MOST_FILES or total + size > _MOST_BYTES):
            yield part
            part, total = [], 0
        part.append(item)
        total += size
    if part:
        yield part


def _post(session: Session, part: Sequence[Outgoing], record: SendLedger) -> None:
    boundary = secrets.token_hex(16)
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    body = session.post("/studies", kind, _multipart(part, boundary))
    stored, failed = _answer(body.data)
    for item in part:
        if item.instance in stored:
            record.stored(item, stored[item.instance])
        else:
            silent = f"the service answered {body.status} without naming the instance"
            record.failed(item, failed.get(item.instance, silent))


def _multipart(part: Sequence[Outgoing], boundary: str) -> Iterator[bytes]:
    """Yield the body of a request (RFC 2046 5.1)."""
    for item in part:
        yield f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        with on_disk(item) as path, opened(Source(path)) as handle:
            for start in range(0, handle.size, _CHUNK_BYTES):
                yield handle.read_at(start, _CHUNK_BYTES)
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def _answer(data: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """Return {instance: warning or ""} of what was stored, and {instance: why} of the others.

    What is malformed names nothing.
    """
    try:
        told = json_texts.parsed(data)
        told = told[0] if isinstance(told, list) else told
        stored = {
            _value(each, _INSTANCE): _words(_value(each, _WARNING))
            for each in _items(told, _REFERENCED)
        }
        failed = {
            _value(each, _INSTANCE): _words(_value(each, _REASON)) for each in _items(told, _FAILED)
        }
    except (ValueError, TypeError, AttributeError, LookupError):
        return {}, {}
    return stored, {uid: words or "without a reason" for uid, words in failed.items()}


def _items(told: Any, tag: str) -> list[Any]:
    return list(told.get(tag, {}).get("Value", ()))


def _value(element: Any, tag: str) -> Any:
    values = element.get(tag, {}).get("Value", ())
    return values[0] if values else ""


def _words(status: Any) -> str:
    return sentence(int(status), "C-STORE") if status != "" else ""
