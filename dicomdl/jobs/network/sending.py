"""Files to a DICOM server: by C-STORE (PS3.4 annex B), or by STOW-RS to a DICOMweb address.

A presentation context is proposed per pair of SOP class and transfer syntax among the files, so
that each is sent as it is stored: nothing is compressed, decompressed or changed. A server that
takes a pair not is told in a sentence per file. A lost association is opened again for the rest.
"""

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from dicomdl.errors import (
    AssociationRejected,
    DicomdlError,
    NetworkError,
    PeerFailure,
    UsageError,
)
from dicomdl.headers.uids import SOP_CLASSES, TRANSFER_SYNTAXES, image_name
from dicomdl.index.index import Index
from dicomdl.jobs._progress import progress_bar
from dicomdl.jobs.network.associations import (
    Context,
    accepts,
    associated,
    portions,
)
from dicomdl.jobs.network.commitment import Commitment, ask_to_commit
from dicomdl.jobs.network.outgoing import Outgoing, Unsent, on_disk, outgoing
from dicomdl.jobs.network.peers import Peer, Service, Timeouts, parse_server
from dicomdl.jobs.network.sent import SendLedger, Sent
from dicomdl.jobs.network.statuses import SUCCESS, checked, sentence
from dicomdl.jobs.network.stowing import stow

_TRIES: Final = 4
_PAUSE_S: Final = 1.0


def send(
    peer: Peer | Service | str,
    what: Index | str | os.PathLike[str] | Iterable[Any],
    *,
    commit: Commitment | bool = False,
    ledger: str | os.PathLike[str] | None = None,
    timeouts: Timeouts | None = None,
    progress: bool = True,
) -> Sent:
    """Send files to a DICOM server, as they are stored.

    Parameters
    ----------
    peer
        The server: ``dicom://TITLE@host:port`` or ``dicom+tls://...``, the URL of a DICOMweb
        service (``https://host/dicom-web``), or a `Peer` or `Service`, which name certificates,
        too.
    what
        An index with its annotations, a file, a folder, an index folder, or a list of these.
    commit
        Whether the server is asked to commit to what it stored, and how. `Sent.committed` lists the
        files that are safe to delete then. DICOMweb has no such question.
    ledger
        A file that records what was sent; files that it lists are not sent again.
    timeouts
        How long the server may take.
    progress
        Show a progress bar.

    Returns
    -------
    Sent
        What was stored, what failed and why, and what is committed.

    Raises
    ------
    UsageError
        A path does not exist, no file is DICOM, `peer` is no address, or commitment is asked of a
        DICOMweb service.
    NetworkError
        The server cannot be reached, or rejects the association, before the first file is sent.
    MissingExtra
        A package of ``dicomdl[net]`` is not installed.

    Examples
    --------
    >>> import dicomdl
    >>> sent = dicomdl.send("dicom://PACS@pacs.example:104", "seg.dcm")  # doctest: +SKIP
    >>> sent.stored, sent.failed  # doctest: +SKIP
    (1, {})
    """
    if isinstance(peer, str):
        peer = parse_server(peer)
    if isinstance(peer, Service) and commit:
        raise UsageError("DICOMweb has no storage commitment: ask the server by DIMSE")
    record = SendLedger(None if ledger is None else os.fspath(ledger), str(peer))
    try:
        items = _to_send(what, record)
        if not (items or record.sent.failed):
            raise UsageError("there is nothing to send: what is given holds no DICOM file")
        new = [item for item in items if not record.has(item)]
        with progress_bar(total=len(new), unit="file", desc="sending", shown=progress) as bar:
            if isinstance(peer, Service):
                stow(peer.session(timeouts), new, record, bar.update)
            else:
                _Storing(peer, record, bar.update, timeouts).store(new)
        if commit and not isinstance(peer, Service):
            how = commit if isinstance(commit, Commitment) else Commitment()
            kept = [item for item in items if item.source.path not in record.sent.failed]
            ask_to_commit(peer, kept, record, how, timeouts)
    finally:
        record.close()
    return record.sent


def _to_send(what: Any, record: SendLedger) -> list[Outgoing]:
    found = []
    for each in outgoing(what):
        if isinstance(each, Unsent):
            record.failed(each, each.why)
        else:
            found.append(each)
    return found


class _Storing:
    """C-STORE of files to one server."""

    def __init__(
        self, peer: Peer, record: SendLedger, tick: Any, timeouts: Timeouts | None
    ) -> None:
        self._peer, self._record, self._tick, self._timeouts = peer, record, tick, timeouts
        # Whether an association was ever open, and whether the present one was.
        self._has_begun = self._is_open = False

    def store(self, items: Sequence[Outgoing]) -> None:
        """Store files, over as many associations as their kinds need."""
        kinds = defaultdict[Context, list[Outgoing]](list)
        for item in items:
            kinds[Context(item.sop_class, (item.syntax,))].append(item)
        for contexts in portions(sorted(kinds)):
            self._store_kinds(contexts, [item for kind in contexts for item in kinds[kind]])

    def _store_kinds(self, contexts: Sequence[Context], items: list[Outgoing]) -> None:
        """Store files of some kinds; a lost association is opened again for the rest.

        A file at which two associations were lost is left out: some servers end at one.
        """
        refused, lost_at = 0, ""
        while items:
            self._is_open = False
            try:
                with associated(self._peer, contexts, timeouts=self._timeouts) as association:
                    self._is_open = self._has_begun = True
                    self._store_over(association, items)
                return
            except NetworkError as error:
                refused = 0 if self._is_open else refused + 1
                if self._is_open and items[0].source.path == lost_at:
                    self._fail(items[:1], str(error))
                    del items[0]
                elif not self._is_open and self._gives_up(error, refused):
                    self._fail(items, str(error))
                    return
                lost_at = items[0].source.path if self._is_open and items else ""
                time.sleep(_PAUSE_S * 2 ** max(0, refused - 1))

    def _gives_up(self, error: NetworkError, refused: int) -> bool:
        """Whether a server that refused an association is not asked again.

        The error is raised where nothing was sent.
        """
        no_context = isinstance(error, AssociationRejected) and error.result == 0
        if refused < _TRIES and error.is_transient and self._has_begun:
            return False
        if not self._has_begun and not no_context:
            raise error
        return True

    def _fail(self, items: list[Outgoing], why: str) -> None:
        for item in items:
            self._record.failed(item, why)
            self._tick(1)

    def _store_over(self, association: Any, items: list[Outgoing]) -> None:
        """Store files over an association, and take them off the list one by one."""
        while items:
            item = items[0]
            if not accepts(association, item.sop_class, item.syntax):
                self._record.failed(item, _refused_kind(self._peer, item))
            else:
                self._store_one(association, item)
            items.pop(0)
            self._tick(1)

    def _store_one(self, association: Any, item: Outgoing) -> None:
        """Store a file and record what became of it; raise NetworkError for a lost association."""
        try:
            with on_disk(item) as path, _as_stored():
                answer = association.send_c_store(path)
            status = checked(answer, "C-STORE", self._peer)
        except PeerFailure as error:
            self._record.failed(item, str(error))
        except NetworkError:
            raise
        except RuntimeError as error:
            # pynetdicom: the association ended before the file was sent.
            raise NetworkError(
                f"{self._peer} ended the association between two files", is_transient=True
            ) from error
        except (DicomdlError, OSError, ValueError, AttributeError) as error:
            self._record.failed(item, f"it cannot be read: {error}".splitlines()[0])
        else:
            self._record.stored(item, sentence(status, "C-STORE") if status != SUCCESS else "")


@contextlib.contextmanager
def _as_stored() -> Iterator[None]:
    """Let pynetdicom send the bytes of files in chunks, as they are, in place of decoded ones."""
    from pynetdicom import _config

    before, _config.STORE_SEND_CHUNKED_DATASET = _config.STORE_SEND_CHUNKED_DATASET, True
    try:
        yield
    finally:
        _config.STORE_SEND_CHUNKED_DATASET = before


def _refused_kind(peer: Peer, item: Outgoing) -> str:
    known = TRANSFER_SYNTAXES.get(item.syntax)
    named = SOP_CLASSES.get(item.sop_class)
    what = named.name if named else image_name(item.sop_class) or item.sop_class
    how = known.name if known else item.syntax
    return f"{peer} takes no {what} in {how}: convert the file, or ask its administrator"
