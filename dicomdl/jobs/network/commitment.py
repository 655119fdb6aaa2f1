"""Storage commitment (PS3.4 annex J): a server says which instances it keeps safely.

It is asked by N-ACTION, and answers later by N-EVENT-REPORT: on the same association, or on one
that it opens to the AE title, host and port which its administrator has entered for this side. Both
are waited for. Only an answer with the UID of the request, from the title that was asked, counts.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dicomdl.errors import NetworkError
from dicomdl.jobs.network.associations import Context, associated, pynetdicom
from dicomdl.jobs.network.listening import Listener, listening
from dicomdl.jobs.network.outgoing import Outgoing
from dicomdl.jobs.network.peers import LISTENING_PORT, Peer, Timeouts
from dicomdl.jobs.network.sent import SendLedger
from dicomdl.jobs.network.statuses import SUCCESS, checked, sentence

# Instances per request: an answer of this many is 0.2 MB.
_MOST_INSTANCES: Final = 1000
_REQUEST: Final = 1
_NO_ANSWER: Final = (
    "the server has not answered in time: its administrator enters AE title, host and port of this "
    "side, or it answers later"
)
_NOT_LISTENED: Final = (
    "; with TLS, its answer on a new connection needs a certificate and its key: "
    "TLS(certificate=, key=)"
)


@dataclass(frozen=True, slots=True)
class Commitment:
    """How storage commitment is asked for.

    Attributes
    ----------
    port
        The port on which the server may answer; 0 for the same association alone.
    wait_s
        How long its answer is waited for, in seconds.
    host
        The address that the port binds; all of the machine by default.
    """

    port: int = LISTENING_PORT
    wait_s: float = 60.0
    host: str = ""


def ask_to_commit(
    peer: Peer,
    items: Sequence[Outgoing],
    ledger: SendLedger,
    how: Commitment,
    timeouts: Timeouts | None = None,
) -> None:
    """Ask a server to commit to instances, and record its answer in the ledger.

    Parameters
    ----------
    peer
        The server.
    items
        Instances that it has stored.
    ledger
        Where the answers are recorded.
    how
        Where, and how long, the answer is waited for.
    timeouts
        How long the server may take for each message.

    Raises
    ------
    StorageError
        The port cannot be listened on.
    """
    new = [item for item in items if not ledger.is_committed(item)]
    ledger.committed(item for item in items if ledger.is_committed(item))
    answers = _Answers()
    with _answered_at(peer, how, answers) as hindered:
        for start in range(0, len(new), _MOST_INSTANCES):
            part = new[start : start + _MOST_INSTANCES]
            try:
                failures = _asked(peer, part, answers, how, timeouts)
                if failures is None:
                    why = _NO_ANSWER + (hindered[-1] if hindered else "")
                    failures = dict.fromkeys((item.instance for item in part), why)
            except NetworkError as error:
                failures = dict.fromkeys((item.instance for item in part), str(error))
            ledger.committed(item for item in part if item.instance not in failures)
            for item in part:
                if item.instance in failures:
                    ledger.not_committed(item, failures[item.instance])


class _Answers:
    """Answers of servers by the UID of their request, as they come on several threads."""

    def __init__(self) -> None:
        self._come = threading.Condition()
        self._answers = dict[str, tuple[set[str], dict[str, str]]]()

    def add(self, event: Any) -> tuple[int, None]:
        """Take an answer; return the status of ours."""
        told = event.event_information
        done = {
            str(each.ReferencedSOPInstanceUID) for each in _items(told, "ReferencedSOPSequence")
        }
        failed = {
            str(each.ReferencedSOPInstanceUID): sentence(int(each.FailureReason), "N-ACTION")
            for each in _items(told, "FailedSOPSequence")
        }
        with self._come:
            self._answers[str(told.TransactionUID)] = done, failed
            self._come.notify_all()
        return SUCCESS, None

    def wait(self, transaction: str, limit_s: float) -> tuple[set[str], dict[str, str]] | None:
        """Return what was committed, and {instance: why} of the others; None for no answer."""
        with self._come:
            self._come.wait_for(lambda: transaction in self._answers, limit_s)
            return self._answers.pop(transaction, None)


@contextlib.contextmanager
def _answered_at(peer: Peer, how: Commitment, answers: _Answers) -> Iterator[list[str]]:
    """Listen for answers on a port of our own, if there is one.

    Yields what kept answers from coming there, in words.
    """
    hindered: list[str] = []
    if how.port and peer.tls is not None and not peer.tls.certificate:
        hindered.append(_NOT_LISTENED)
    if not how.port or hindered:
        # Without a certificate of its own, no server can speak TLS.
        yield hindered
        return
    net = pynetdicom()
    listener = Listener(peer.own_title, how.port, how.host, (peer.title,), peer.tls)
    contexts = [Context(net.sop_class.Verification), Context(_push_model(net))]
    handlers = [(net.evt.EVT_N_EVENT_REPORT, answers.add)]
    with listening(
        listener, contexts, handlers, lambda words: hindered.append(f"; meanwhile {words}")
    ):
        yield hindered


def _asked(
    peer: Peer,
    items: Sequence[Outgoing],
    answers: _Answers,
    how: Commitment,
    timeouts: Timeouts | None,
) -> dict[str, str] | None:
    """Ask for some instances; return {instance: why} of those that are not committed.

    None means that no answer came.
    """
    net = pynetdicom()
    model = _push_model(net)
    request, transaction = _request(items)
    handlers = [(net.evt.EVT_N_EVENT_REPORT, answers.add)]
    with associated(peer, [Context(model)], handlers=handlers, timeouts=timeouts) as association:
        instance = net.sop_class.StorageCommitmentPushModelInstance
        answer, _ = association.send_n_action(request, _REQUEST, model, instance)
        checked(answer, "N-ACTION", peer)
        # The server may answer on this association while it is open.
        found = answers.wait(transaction, how.wait_s)
    if found is None:
        return None
    done, failed = found
    missing = (item.instance for item in items if item.instance not in done)
    return {each: failed.get(each, "the answer of the server leaves it out") for each in missing}


def _request(items: Sequence[Outgoing]) -> tuple[Any, str]:
    """Return the data set of a request, and its UID."""
    from pydicom.dataset import Dataset
    from pydicom.uid import generate_uid

    request = Dataset()
    # A UID from a random number (PS3.5 B.2).
    request.TransactionUID = generate_uid(prefix=None)
    request.ReferencedSOPSequence = []
    for item in items:
        referenced = Dataset()
        referenced.ReferencedSOPClassUID = item.sop_class
        referenced.ReferencedSOPInstanceUID = item.instance
        request.ReferencedSOPSequence.append(referenced)
    return request, str(request.TransactionUID)


def _items(told: Any, keyword: str) -> Any:
    return told.get(keyword) or ()


def _push_model(net: Any) -> str:
    return str(net.sop_class.StorageCommitmentPushModel)
