"""`fetch` and `find_series`: what users call, and how an address becomes an archive."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from dicomdl.errors import UsageError
from dicomdl.headers.uids import TRANSFER_SYNTAXES
from dicomdl.jobs._progress import progress_bar
from dicomdl.jobs.fetch_ledger import FOLDER, Ledger
from dicomdl.jobs.network.archive import Archive
from dicomdl.jobs.network.dimse_archive import DimseArchive
from dicomdl.jobs.network.fetching import Fetched, Fetching, require_folder
from dicomdl.jobs.network.finding import FoundSeries, found_in, require_some
from dicomdl.jobs.network.peers import (
    LISTENING_PORT,
    TLS,
    Service,
    Timeouts,
    checked_port,
    parse_server,
)
from dicomdl.jobs.network.placing import Placing
from dicomdl.jobs.network.query import Query, query
from dicomdl.jobs.network.web_archive import WebArchive
from dicomdl.jobs.network.writing import Writers
from dicomdl.jobs.scan import scan
from dicomdl.storage.leases import lease

_MOST_JOBS: Final = 16


@dataclass(frozen=True, slots=True)
class Access:
    """How an archive is reached.

    Attributes
    ----------
    tls
        Certificates, for ``dicom+tls://`` and ``https://``; those of the system by default. "move"
        with TLS needs an own certificate and its key, and listens with TLS, too.
    own_title
        AE title of this side, for DIMSE; ``$DICOMDL_AE_TITLE`` or ``DICOMDL`` by default.
    timeouts
        How long the archive may take, by either protocol; `Timeouts()` by default.
    transfer_syntax
        UID that files are asked for in; "" for the one that they are stored in.
    method
        How files come by DIMSE: "get" over the same association; "move" over one that the archive
        opens to `port`, for which its administrator has entered title, host and port.
    port
        Where "move" listens.
    """

    tls: TLS | None = None
    own_title: str | None = None
    timeouts: Timeouts | None = None
    transfer_syntax: str = ""
    method: Literal["get", "move"] = "get"
    port: int = LISTENING_PORT


def find_series(archive: str, *, access: Access | None = None, **conditions: Any) -> FoundSeries:
    """Find the series of an archive (QIDO-RS, or C-FIND) without fetching them.

    Parameters
    ----------
    archive
        ``https://host/dicom-web`` of a DICOMweb server, or ``dicom://TITLE@host:port`` or
        ``dicom+tls://TITLE@host:port`` of a DIMSE one. Credentials of a DICOMweb server come from
        the environment or a file, never from the address.
    access
        Certificates, titles and time limits.
    **conditions
        At least one of ``patient``, ``study``, ``series``, ``accession``, ``modality`` and
        ``description``, each a text or several of which one has to fit; ``accessions``, a CSV file
        of accession numbers, ``list.csv`` or ``list.csv:column``; and ``dates``, a Study Date or a
        range of them, ``"20200101-20201231"``. A description may have ``*`` and ``?`` and is
        compared in any case.

    Returns
    -------
    FoundSeries
        The series, without a patient's identity.

    Raises
    ------
    UsageError
        There is no condition, or one is malformed.
    NetworkError
        The archive cannot be asked.

    Examples
    --------
    >>> import dicomdl
    >>> found = dicomdl.find_series(
    ...     "dicom://ORTHANC@127.0.0.1:4242", modality="CT", description="*thorax*"
    ... )  # doctest: +SKIP
    """
    asked = query(**_checked(conditions))
    opened = _connector(archive, access or Access())()
    try:
        return found_in(opened, asked)
    finally:
        opened.close()


def fetch(
    archive: str,
    folder: str | os.PathLike[str],
    *,
    index: str | os.PathLike[str] | None = None,
    jobs: int = 4,
    tries: int = 4,
    access: Access | None = None,
    progress: bool = True,
    **conditions: Any,
) -> Fetched:
    """Copy series of an archive (WADO-RS, C-GET or C-MOVE) into a folder.

    Files lie at ``folder/StudyInstanceUID/SeriesInstanceUID/SOPInstanceUID.dcm``, as they are
    stored in the archive: nothing is compressed anew. Each appears complete or not at all. A second
    call asks for what is missing. A ledger beside the files records what was asked, found, fetched
    and refused, and what failed and why; `scan` makes a problem of what was promised and is not
    there.

    Parameters
    ----------
    archive
        As for `find_series`.
    folder
        The folder, which is created if it is absent.
    index
        Folder of an index of `folder`, which is written or brought up to date in the end.
    jobs
        Series that are fetched at once, 1 to 16.
    tries
        How often something is asked for that does not come, with growing pauses.
    access
        Certificates, titles, time limits, method and transfer syntax.
    progress
        Show a progress bar.
    **conditions
        As for `find_series`.

    Returns
    -------
    Fetched
        The counts. `Fetched.ok` is false if something is missing: call again.

    Raises
    ------
    UsageError
        A condition is malformed, nothing meets the conditions, or another process fetches into the
        folder.
    NetworkError
        The archive cannot be asked for what it has.
    StorageError
        The disk is full, or the folder cannot be written, or the port of C-MOVE cannot be listened
        on. What is there is complete.

    Examples
    --------
    >>> import dicomdl
    >>> fetched = dicomdl.fetch(
    ...     "https://pacs.example/dicom-web", "study", study="1.2.3.4", index="study.index"
    ... )  # doctest: +SKIP
    """
    asked = query(**_checked(conditions))
    if not 1 <= jobs <= _MOST_JOBS or tries < 1:
        raise UsageError(f"jobs is 1 to {_MOST_JOBS}, and tries at least 1", jobs=jobs, tries=tries)
    connect = _connector(archive, access or Access())
    target = require_folder(folder)
    with lease(os.path.join(target, FOLDER, "lease")) as is_mine:
        if not is_mine:
            raise UsageError(f"another process fetches into {target!r}: wait for it", path=target)
        # Every series comes to the one port of C-MOVE.
        at_once = 1 if access is not None and access.method == "move" else jobs
        fetched = _fetched(connect, target, asked, (at_once, tries), progress=progress)
    if index is None:
        return fetched
    made = scan(target, index, progress=progress)
    return fetched.with_index(made)


def _fetched(
    connect: Callable[[], Archive],
    target: str,
    asked: Query,
    limits: tuple[int, int],
    *,
    progress: bool,
) -> Fetched:
    """Find, and fetch what was found."""
    jobs, tries = limits
    finder = connect()
    try:
        found = found_in(finder, asked)
    finally:
        finder.close()
    require_some(found)
    ledger = Ledger(target)
    ledger.begin(found.archive, asked.asked)
    bar = progress_bar(total=found.instances, unit="files", desc="fetching", shown=progress)
    with bar, Placing(target).open() as placing, Writers().open() as writers:
        fetching = Fetching(connect, placing, writers, ledger, tries, tick=bar.update)
        try:
            fetching.run(found.series, jobs)
        finally:
            ledger.close()
    return fetching.result(found)


def _checked(conditions: dict[str, Any]) -> dict[str, Any]:
    """Return conditions; raise UsageError for one that does not exist."""
    known = (
        *("patient", "study", "series", "accession", "accessions"),
        *("modality", "description", "dates"),
    )
    for name in conditions:
        if name not in known:
            raise UsageError(f"{name} is no condition: expected {', '.join(known)}")
    return conditions


def _connector(address: str, access: Access) -> Callable[[], Archive]:
    """Return a function that opens a connection to the archive at an address.

    Raises
    ------
    UsageError
        It is no such address, or has credentials; a transfer syntax is unknown; TLS lacks the
        certificate that C-MOVE needs.
    """
    syntax = access.transfer_syntax
    if syntax and syntax not in TRANSFER_SYNTAXES:
        raise UsageError(f"{syntax!r} is no transfer syntax: name its UID", transfer_syntax=syntax)
    # Here, so that an address with credentials is refused before anything is made.
    peer = parse_server(address, own_title=access.own_title, tls=access.tls)
    if isinstance(peer, Service):
        session = peer.session(access.timeouts)
        return lambda: WebArchive(session, syntax or "*")
    port = checked_port(access.port) if access.method == "move" else None
    if port is not None and peer.tls is not None:
        # The archive connects to this side, which is a server then.
        peer.tls.server_context()
    return lambda: DimseArchive(peer, access.timeouts or Timeouts(), syntax, port)
