"""A receiver of files: a C-STORE server (PS3.4 annex B) that fills a folder, and keeps an index.

The bytes of a data set are written as they came, behind a file meta information with the transfer
syntax of the association. An instance is acknowledged when its file is complete. What cannot be
kept is refused with a status: 0xA700 for a full disk, 0xA900 for a data set of other UIDs than the
request, 0xC000 for one that cannot be read (PS3.4 B.2.3).
"""

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from dicomdl.errors import DicomdlError, HeaderError, StorageError, UsageError
from dicomdl.headers.uids import EXPLICIT_LITTLE, TRANSFER_SYNTAXES, is_lossy
from dicomdl.jobs.network.associations import Context, pynetdicom, storage_classes
from dicomdl.jobs.network.listening import Listener, Tell, listening, silent
from dicomdl.jobs.network.placing import Identity, Placed, Placing, identity_of, is_full
from dicomdl.jobs.network.statuses import (
    CANNOT_UNDERSTAND,
    DATA_SET_MISMATCH,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    SUCCESS,
)
from dicomdl.jobs.scan import scan

MOST_BYTES: Final = 4 * 2**30
_EACH: Final = 1000
_POLL_S: Final = 0.2
# The command of a C-STORE request, which comes before the data set.
_COMMAND_BYTES: Final = 2**16
_TELLS: Final = {
    "too_large": "the instance is larger than the limit",
    "disk_full": "the disk is full",
    "not_written": "the file could not be written",
    "unreadable": "the data set could not be read",
    "other_uids": "the data set has other UIDs than the request",
}


@dataclass(frozen=True, slots=True)
class Counts:
    """What a receiver took.

    Attributes
    ----------
    new, present, differs
        Instances that are new; that were there with the same bytes; that were there with other
        bytes and are kept twice.
    refused
        {reason: number} of instances that were not kept.
    associations
        Associations that were open.
    """

    new: int = 0
    present: int = 0
    differs: int = 0
    refused: tuple[tuple[str, int], ...] = ()
    associations: int = 0

    @property
    def ok(self) -> bool:
        """Whether every instance was kept."""
        return not self.refused

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain values for JSON."""
        return {
            "new": self.new,
            "present": self.present,
            "differs": self.differs,
            "refused": dict(self.refused),
            "associations": self.associations,
        }

    def __str__(self) -> str:
        parts = [f"{self.new:,} new"]
        parts += [f"{self.present:,} were there"] if self.present else []
        parts += [f"{self.differs:,} were there with other bytes"] if self.differs else []
        parts += [f"{number:,} refused: {_TELLS[reason]}" for reason, number in self.refused]
        return ", ".join(parts)


class Receiver:
    """A C-STORE server that puts what it takes into a folder; it answers C-ECHO, too.

    Parameters
    ----------
    folder
        The folder, which is created if it is absent.
    listener
        Where it listens, and to whom.
    most_bytes
        The largest data set; a larger one ends its association as soon as it is known.
    tell
        Takes a sentence about each association that ended, or was turned away.
    kept
        Called with the UIDs and the place of each instance that was kept.

    Attributes
    ----------
    port
        The port, while it is open.
    ended
        Set when an association has ended.
    """

    def __init__(
        self,
        folder: str,
        listener: Listener,
        *,
        most_bytes: int = MOST_BYTES,
        tell: Tell = silent,
        kept: Callable[[Identity, Placed], None] | None = None,
    ) -> None:
        self.port = 0
        self.ended = threading.Event()
        self._placing = Placing(folder)
        self._listener, self._most_bytes = listener, most_bytes
        self._tell, self._kept = tell, kept
        self._lock = threading.Lock()
        self._outcomes, self._refused = Counter[str](), Counter[str]()
        # Bytes of the message that an association receives, and what it kept.
        self._coming = dict[Any, int]()
        self._of_association = dict[Any, int]()
        self._associations = 0

    @property
    def folder(self) -> str:
        """The folder, as an absolute path."""
        return self._placing.folder

    @property
    def counts(self) -> Counts:
        """What was taken until now."""
        with self._lock:
            outcomes = {name: self._outcomes[name] for name in ("new", "present", "differs")}
            refused = tuple(sorted(self._refused.items()))
            return Counts(**outcomes, refused=refused, associations=self._associations)

    @contextlib.contextmanager
    def open(self) -> Iterator["Receiver"]:
        """Receive while the block runs.

        Raises
        ------
        StorageError
            The folder cannot be written, or the port cannot be listened on.
        """
        event = pynetdicom().evt
        handlers = [
            (event.EVT_ESTABLISHED, self._on_established),
            (event.EVT_PDU_RECV, self._on_part),
            (event.EVT_C_STORE, self._on_store),
            (event.EVT_CONN_CLOSE, self._on_end),
        ]
        with (
            self._placing.open(),
            listening(self._listener, accepted_contexts(), handlers, self._tell) as self.port,
        ):
            yield self

    # --- events, on the threads of their associations

    def _on_established(self, event: Any) -> None:
        with self._lock:
            self._associations += 1
            self._of_association[event.assoc] = 0

    def _on_part(self, event: Any) -> None:
        """End an association whose message grows beyond the limit."""
        items = getattr(event.pdu, "presentation_data_value_items", ())
        if not items:
            return
        size = sum(len(item.presentation_data_value) for item in items)
        total = self._coming.get(event.assoc, 0) + size
        self._coming[event.assoc] = total
        if total > self._most_bytes + _COMMAND_BYTES:
            self._refuse("too_large")
            self._coming.pop(event.assoc, None)
            event.assoc.abort()

    def _on_store(self, event: Any) -> int:
        self._coming.pop(event.assoc, None)
        try:
            reason, status = self._take(event)
        except Exception as error:
            # An error here would be a status that no standard defines.
            self._tell(f"an instance could not be kept: {type(error).__name__}")
            reason, status = "not_written", PROCESSING_FAILURE
        if reason:
            self._refuse(reason)
        return status

    def _take(self, event: Any) -> tuple[str, int]:
        """Keep an instance; return why it was not kept, or "", and the status of the answer."""
        request = event.request
        if request.DataSet is None or request.DataSet.getbuffer().nbytes > self._most_bytes:
            return "too_large", OUT_OF_RESOURCES
        data = event.encoded_dataset()
        try:
            identity = identity_of(data)
        except HeaderError:
            return "unreadable", CANNOT_UNDERSTAND
        asked = _plain(request.AffectedSOPClassUID), _plain(request.AffectedSOPInstanceUID)
        if asked != (identity.sop_class, identity.instance):
            return "other_uids", DATA_SET_MISMATCH
        try:
            placed = self._placing.put(data, identity)
        except StorageError as error:
            full = is_full(error)
            self._tell(str(error))
            return ("disk_full", OUT_OF_RESOURCES) if full else ("not_written", PROCESSING_FAILURE)
        with self._lock:
            self._outcomes[placed.outcome] += 1
            self._of_association[event.assoc] = self._of_association.get(event.assoc, 0) + 1
        if self._kept is not None:
            self._kept(identity, placed)
        return "", SUCCESS

    def _refuse(self, reason: str) -> None:
        with self._lock:
            self._refused[reason] += 1

    def _on_end(self, event: Any) -> None:
        self._coming.pop(event.assoc, None)
        with self._lock:
            taken = self._of_association.pop(event.assoc, None)
        if taken is not None:
            title, host = event.assoc.requestor.ae_title.strip(), event.assoc.requestor.address
            self._tell(f"{title} at {host} sent {taken:,} instances")
            self.ended.set()


def receive(
    folder: str | os.PathLike[str],
    *,
    index: str | os.PathLike[str] | None = None,
    listener: Listener | None = None,
    most_bytes: int = MOST_BYTES,
    each: int = _EACH,
    stop: threading.Event | None = None,
    tell: Tell = silent,
) -> Counts:
    """Receive files by C-STORE into a folder, until it is stopped, and keep an index of them.

    Parameters
    ----------
    folder
        The folder. Files lie below it by their UIDs, each whole or not at all.
    index
        An index of the folder, which is brought up to date when an association has ended, after
        `each` files, and in the end; none by default.
    listener
        Port, AE titles, TLS; see `Listener`.
    most_bytes
        The largest data set.
    each
        Files after which the index is brought up to date while an association lasts.
    stop
        Ends the receiver when it is set; so does a KeyboardInterrupt.
    tell
        Takes a sentence about each association, refusal and scan.

    Returns
    -------
    Counts
        What was received.

    Raises
    ------
    StorageError
        The folder cannot be written, or the port cannot be listened on.
    UsageError
        A title, port, limit or certificate cannot be used.
    MissingExtra
        pynetdicom is not installed.

    Examples
    --------
    >>> import dicomdl
    >>> counts = dicomdl.receive("incoming", index="incoming.index")  # doctest: +SKIP
    """
    if most_bytes < 1 or each < 1:
        raise UsageError(f"most_bytes={most_bytes}, each={each}: expected numbers of at least 1")
    stop = stop or threading.Event()
    receiver = Receiver(os.fspath(folder), listener or Listener(), most_bytes=most_bytes, tell=tell)
    indexing = _Indexing(receiver, None if index is None else os.fspath(index), each, tell)
    with contextlib.suppress(KeyboardInterrupt), receiver.open():
        tell(f"receiving at port {receiver.port} into {receiver.folder}")
        while not stop.is_set():
            if receiver.ended.wait(_POLL_S) or indexing.is_behind():
                receiver.ended.clear()
                indexing.update()
    indexing.update()
    return receiver.counts


class _Indexing:
    """The index of a receiver's folder."""

    def __init__(self, receiver: Receiver, index: str | None, each: int, tell: Tell) -> None:
        self._receiver, self._index, self._each, self._tell = receiver, index, each, tell
        self._done = 0

    def is_behind(self) -> bool:
        """Whether many files are not in the index."""
        return self._index is not None and self._files() - self._done >= self._each

    def update(self) -> None:
        """Bring the index up to date, if there are new files."""
        files = self._files()
        if self._index is None or files == self._done:
            return
        try:
            found = scan(self._receiver.folder, self._index, progress=False)
        except DicomdlError as error:
            # The next files bring the next try; what was received is safe.
            self._tell(f"the index could not be brought up to date: {error}")
            return
        self._done = files
        self._tell(f"the index has {len(found):,} frames")

    def _files(self) -> int:
        counts = self._receiver.counts
        return counts.new + counts.differs


def accepted_contexts() -> list[Context]:
    """Return all storage SOP classes in all transfer syntaxes, and C-ECHO.

    The first of several syntaxes in one context is taken: Explicit VR, then what loses nothing, so
    that no sender compresses an image with losses because this side would take that.
    """
    net = pynetdicom()
    syntaxes = dict.fromkeys([*TRANSFER_SYNTAXES, *map(str, net.ALL_TRANSFER_SYNTAXES)])
    ordered = sorted(syntaxes, key=lambda uid: (uid != EXPLICIT_LITTLE, is_lossy(uid)))
    return [
        Context(net.sop_class.Verification),
        *(Context(each, tuple(ordered)) for each in storage_classes()),
    ]


def _plain(uid: Any) -> str:
    return str(uid or "").rstrip("\0 ")
