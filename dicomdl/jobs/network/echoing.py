"""Whether a DICOM server answers: C-ECHO (PS3.4 annex A), the first thing to ask.

DICOMweb has no such question: there one study is looked for (QIDO-RS, PS3.18 10.6).
"""

import time
from dataclasses import dataclass

from dicomdl.errors import NetworkError
from dicomdl.jobs.network.associations import Context, associated, pynetdicom
from dicomdl.jobs.network.peers import Peer, Service, Timeouts
from dicomdl.jobs.network.statuses import checked
from dicomdl.storage.dicomweb import WebError


@dataclass(frozen=True, slots=True)
class Echo:
    """The answer of a server.

    Attributes
    ----------
    peer
        The server.
    association_ms, answer_ms
        The time until the association was open, and from the question to its answer. DICOMweb has
        no association: 0.
    implementation
        The name of its software, as far as it tells one.
    """

    peer: Peer | Service
    association_ms: float
    answer_ms: float
    implementation: str


def echo(peer: Peer | Service, *, timeouts: Timeouts | None = None) -> Echo:
    """Ask a DICOM server for an answer.

    Parameters
    ----------
    peer
        The server.
    timeouts
        How long the server may take.

    Returns
    -------
    Echo
        Its answer.

    Raises
    ------
    NetworkError
        It cannot be reached, rejects the association, or answers with a failure.
    """
    if isinstance(peer, Service):
        return _looked_for(peer, timeouts)
    verification = pynetdicom().sop_class.Verification
    begin = time.perf_counter()
    with associated(peer, [Context(verification)], timeouts=timeouts) as association:
        opened = time.perf_counter()
        checked(association.send_c_echo(), "C-ECHO", peer)
        answered = time.perf_counter()
        name = association.acceptor.implementation_version_name
    return Echo(peer, (opened - begin) * 1e3, (answered - opened) * 1e3, str(name or ""))


def _looked_for(service: Service, timeouts: Timeouts | None) -> Echo:
    session = service.session(timeouts)
    begin = time.perf_counter()
    try:
        session.json("/studies", [("limit", "1")])
    except WebError as error:
        raise NetworkError(
            f"{service}: {error.strerror}", is_transient=error.is_transient
        ) from None
    return Echo(service, 0.0, (time.perf_counter() - begin) * 1e3, "")
