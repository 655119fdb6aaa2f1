"""A process that asks stores for another one, which was forked and cannot ask them itself.

obstore runs its requests on threads of its own, which a fork does not copy: in a child of a process
that has used it, every request hangs (0.12.1). Workers of a DataLoader are such children by default
on Linux before Python 3.14. They send their requests to a new process over a pipe, up to
`BATCH` at once, and get the bytes over another.
"""

import functools
import json
import queue
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from dicomdl.errors import StorageError
from dicomdl.storage._store_options import declare, declared, keep_query, query_of
from dicomdl.storage._stores import ChangedObject, Fetched, Listed, ObjectState, client_of
from dicomdl.storage.children import Answer, Child, Death

BATCH: Final = 64
_LENGTH: Final = struct.Struct("<Q")
_WORKER: Final = "dicomdl.storage._relay:answering"


class RelayedClient:
    """A client whose requests another process makes."""

    def __init__(self, relay: "Relay") -> None:
        self._relay = relay

    def get(self, url: str, start: int, stop: int, etag: str) -> Fetched:
        """Return bytes of an object."""
        reply, data = self._relay.ask("get", url, start, stop, etag)
        return Fetched(data, ObjectState(*reply))

    def head(self, url: str) -> ObjectState:
        """Return the state of an object."""
        return ObjectState(*self._relay.ask("head", url)[0])

    def whole(self, url: str, most: int) -> Any:
        """Return all bytes of an object; None if there are more than `most`."""
        is_there, data = self._relay.ask("whole", url, most)
        return data if is_there else None

    def level(self, url: str) -> tuple[list[Listed], list[str]]:
        """Return the objects directly below a prefix, and the prefixes one level below it."""
        (objects, prefixes), _ = self._relay.ask("level", url)
        return _as_listed(objects), list(prefixes)

    def below(self, url: str) -> Iterator[list[Listed]]:
        """Yield all objects below a prefix."""
        yield _as_listed(self._relay.ask("below", url)[0])


def _as_listed(objects: Sequence[Any]) -> list[Listed]:
    return [Listed(url, ObjectState(*state)) for url, state in objects]


class Relay:
    """The process that makes the requests of this one, and the thread that talks to it."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[list[Any], Future[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def ask(self, method: str, url: str, *rest: Any) -> tuple[Any, memoryview]:
        """Return the answer to one request, and its bytes; raise the error of the other process."""
        future: Future[tuple[Any, memoryview]] = Future()
        self._waiting.put(([method, url, query_of(url), *rest], future))
        return future.result()

    def _serve(self) -> None:
        child: Child | None = None
        while True:
            batch = [self._waiting.get()]
            while len(batch) < BATCH and not self._waiting.empty():
                batch.append(self._waiting.get())
            try:
                if child is None or not child.is_alive:
                    child = Child(_WORKER, declared())
                child.send(json.dumps([call for call, _ in batch]).encode())
                answer = child.receive()
            except StorageError as error:
                answer = Death(str(error), 0)
            if isinstance(answer, Death):
                child = None
                for _, future in batch:
                    future.set_exception(OSError(5, f"the process that asks stores {answer}"))
            else:
                _deliver(answer, [future for _, future in batch])


def _deliver(answer: bytes, futures: Sequence["Future[Any]"]) -> None:
    (length,) = _LENGTH.unpack_from(answer)
    begin = _LENGTH.size + length
    view = memoryview(answer)
    replies = json.loads(answer[_LENGTH.size : begin])
    for future, (reply, count) in zip(futures, replies, strict=True):
        if isinstance(reply, dict):
            future.set_exception(_as_error(reply))
        else:
            future.set_result((reply, view[begin : begin + count]))
        begin += count


def _as_error(reply: Mapping[str, Any]) -> Exception:
    return ChangedObject() if "changed" in reply else OSError(reply["errno"], reply["text"])


# --- in the other process -------------------------------------------------------------------------


def answering(options: Mapping[str, Mapping[str, Any]]) -> Answer:
    """Return the function by which the other process answers a batch of requests."""
    for root, chosen in options.items():
        declare([root], chosen)
    pool = ThreadPoolExecutor(BATCH)

    def answer(message: bytes) -> list[Any]:
        replies = list(pool.map(_replied, json.loads(message)))
        head = json.dumps([[reply, len(data)] for reply, data in replies]).encode()
        return [_LENGTH.pack(len(head)), head, *(data for _, data in replies)]

    return answer


def _replied(call: Sequence[Any]) -> tuple[Any, Any]:
    method, url, query, *rest = call
    keep_query(url, query)
    try:
        client = client_of(url)
        if method == "get":
            found = client.get(url, *rest)
            return list(found.state), found.data
        if method == "whole":
            data = client.whole(url, *rest)
            return data is not None, b"" if data is None else data
        if method == "below":
            return [[*each] for page in client.below(url) for each in page], b""
        return list(getattr(client, method)(url)), b""
    except ChangedObject:
        return {"changed": True}, b""
    except OSError as error:
        return {"errno": error.errno or 5, "text": error.strerror or ""}, b""


@functools.cache
def relayed() -> RelayedClient:
    """Return the client of a forked process."""
    return RelayedClient(Relay())
