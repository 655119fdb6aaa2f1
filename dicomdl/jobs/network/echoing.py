"""Whether a DICOM server answers: C-ECHO (PS3.4 annex A), the first thing to ask."""

import time
from dataclasses import dataclass

from dicomdl.jobs.network.associations import Context, Timeouts, associated, pynetdicom
from dicomdl.jobs.network.peers import Peer
from dicomdl.jobs.network.statuses import checked


@dataclass(frozen=True, slots=True)
class Echo:
    """The answer of a server.

    Attributes
    ----------
    peer
        The server.
    association_ms, answer_ms
        The time until the association was open, and from the question to its answer.
    implementation
        The name of its software, as far as it tells one.
    """

    peer: Peer
    association_ms: float
    answer_ms: float
    implementation: str


def echo(peer: Peer, *, timeouts: Timeouts | None = None) -> Echo:
    """Ask a DICOM server for an answer.

    Parameters
    ----------
    peer
        The server.
    timeouts
        How long it may take.

    Returns
    -------
    Echo
        Its answer.

    Raises
    ------
    NetworkError
        It cannot be reached, rejects the association, or answers with a failure.
    """
    verification = pynetdicom().sop_class.Verification
    begin = time.perf_counter()
    with associated(peer, [Context(verification)], timeouts=timeouts) as association:
        opened = time.perf_counter()
        checked(association.send_c_echo(), "C-ECHO", peer)
        answered = time.perf_counter()
        name = association.acceptor.implementation_version_name
    return Echo(peer, (opened - begin) * 1e3, (answered - opened) * 1e3, str(name or ""))
