"""Associations with a DICOM server: opened, released, and what goes wrong as errors with sentences.

pynetdicom writes the cause of a failed connection to its log alone. Here the server is asked once
more by a plain connection, which says whether the name, the port, the certificate or the server
itself is at fault. A socket that stalls in the middle of a message ends by a time limit of its own.
"""

import contextlib
import copy
import functools
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from dicomdl.errors import AssociationRejected, NetworkError
from dicomdl.extras import import_extra
from dicomdl.headers.uids import RETIRED_STORAGE
from dicomdl.jobs.network.peers import Peer, Timeouts

# Presentation contexts have odd numbers from 1 to 255 (PS3.8 9.3.2.2).
MOST_CONTEXTS: Final = 128
# (result source, reason) of an A-ASSOCIATE-RJ (PS3.8 table 9-21).
_REASONS: Final = {
    (1, 1): "it gives no reason",
    (1, 2): "it does not know the application context",
    (1, 3): "it does not know the AE title of this side, {own_title}: its administrator enters it",
    (1, 7): "its AE title is not {title}: ask its administrator",
    (2, 1): "it gives no reason",
    (2, 2): "it does not know the version of the protocol",
    (3, 1): "it is congested for the moment",
    (3, 2): "it has no room for a further association",
}
_TRANSIENT: Final = 2
_POLL_S: Final = 0.02


class Context(NamedTuple):
    """What one presentation context proposes.

    Attributes
    ----------
    sop_class
        UID of a SOP class.
    syntaxes
        UIDs of transfer syntaxes; the default ones of pynetdicom where there are none.
    receives
        Whether the server may send objects of the class on this association, as C-GET does.
    """

    sop_class: str
    syntaxes: tuple[str, ...] = ()
    receives: bool = False


def pynetdicom() -> Any:
    """Return the module pynetdicom.

    Raises
    ------
    MissingExtra
        It is not installed.
    """
    return import_extra("pynetdicom", "DICOM over a network", "net")


@functools.cache
def storage_classes() -> tuple[str, ...]:
    """Return the UIDs of all storage SOP classes, with retired ones that archives still hold.

    pynetdicom ends the association at an object of a class that it does not know.
    """
    net = pynetdicom()
    current = [str(each.abstract_syntax) for each in net.AllStoragePresentationContexts]
    retired = [uid for uid in RETIRED_STORAGE if uid not in current]
    for number, uid in enumerate(retired):
        service = net.service_class.StorageServiceClass
        net.sop_class.register_uid(uid, f"RetiredStorage{number}", service)
    return (*current, *retired)


def portions(contexts: Sequence[Context]) -> Iterator[Sequence[Context]]:
    """Yield contexts in portions that one association can propose."""
    for start in range(0, len(contexts), MOST_CONTEXTS):
        yield contexts[start : start + MOST_CONTEXTS]


@contextlib.contextmanager
def associated(
    peer: Peer,
    contexts: Sequence[Context],
    *,
    handlers: Iterable[tuple[Any, ...]] = (),
    timeouts: Timeouts | None = None,
) -> Iterator[Any]:
    """Open an association, and release it when the block ends.

    It is aborted when the block raises.

    Parameters
    ----------
    peer
        The server.
    contexts
        Up to 128 presentation contexts; see `portions`.
    handlers
        Handlers of pynetdicom's events, as ``(event, function)`` or ``(event, function, list)``.
    timeouts
        How long the server may take.

    Yields
    ------
    pynetdicom.association.Association
        The association; its `accepted_contexts` are those that the server took.

    Raises
    ------
    AssociationRejected
        The server refused the association, or all contexts.
    NetworkError
        The server cannot be reached, is not whom its certificate has to name, or gave no answer.
    MissingExtra
        pynetdicom is not installed.
    """
    association = opened(peer, contexts, handlers=handlers, timeouts=timeouts)
    try:
        yield association
    except BaseException:
        if association.is_established:
            association.abort()
        raise
    if association.is_established:
        association.release()


def opened(
    peer: Peer,
    contexts: Sequence[Context],
    *,
    handlers: Iterable[tuple[Any, ...]] = (),
    timeouts: Timeouts | None = None,
) -> Any:
    """Open an association, as `associated` does, that the caller releases."""
    timeouts = timeouts or Timeouts()
    net = pynetdicom()
    entity = net.AE(peer.own_title)
    entity.connection_timeout = timeouts.connect_s
    entity.acse_timeout = entity.dimse_timeout = timeouts.answer_s
    entity.network_timeout = timeouts.answer_s
    secured = None if peer.tls is None else (peer.tls.client_context(), peer.host)
    try:
        association = entity.associate(
            peer.host,
            peer.port,
            contexts=[presentation(context) for context in contexts],
            ae_title=peer.title,
            max_pdu=0,
            ext_neg=_roles(net, contexts),
            tls_args=secured,
            evt_handlers=[*prompt_links(timeouts.answer_s), *handlers],
        )
    except OSError as error:
        # The name of the host is unknown.
        raise _unreachable(peer, error) from None
    if not association.is_established:
        raise _refusal(association, peer, timeouts)
    association._reactor_checkpoint = _Checkpoint(association.is_alive)
    return association


class _Checkpoint:
    """Where the thread of an association pauses, while another one asks and reads the answers.

    pynetdicom looks whether the thread has arrived there by a flag, which it leaves set for a
    moment when it goes on. It then took an answer that the other thread waited for, up to the time
    limit. Here `clear` returns when the thread waits.
    """

    def __init__(self, is_alive: Callable[[], bool]) -> None:
        self._is_alive = is_alive
        self._changed = threading.Condition()
        self._is_open, self._waiting = True, 0

    def set(self) -> None:
        """Let the thread go on."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Stop the thread, and wait until it has stopped or ended."""
        with self._changed:
            self._is_open = False
            while not self._waiting and self._is_alive():
                self._changed.wait(_POLL_S)

    def wait(self) -> None:
        """Wait on the thread of the association while it is stopped."""
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_open)
            self._waiting -= 1


def accepts(association: Any, sop_class: str, syntax: str) -> bool:
    """Whether the server takes objects of a SOP class in a transfer syntax."""
    return any(
        context.abstract_syntax == sop_class and syntax in context.transfer_syntax
        for context in association.accepted_contexts
    )


def prompt_links(limit_s: float) -> list[tuple[Any, ...]]:
    """Return handlers of pynetdicom's events that keep connections from waiting for nothing.

    A message that stops in the middle ends its connection after `limit_s` seconds. Short messages
    are sent, and acknowledged, at once: TCP gathers them otherwise, and waits for 40 ms twice per
    file, since each side waits for the acknowledgement of the other.
    """
    event = pynetdicom().evt
    return [(event.EVT_CONN_OPEN, _set_up, [limit_s]), (event.EVT_PDU_SENT, _acknowledge_at_once)]


def _set_up(event: Any, limit_s: float) -> None:
    """Give the socket of a connection a limit; those of pynetdicom hold between messages."""
    link = event.assoc.dul.socket
    if link is not None and link.socket is not None:
        link.socket.settimeout(limit_s)
        link.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _acknowledge_at_once(event)


def _acknowledge_at_once(event: Any) -> None:
    """Let the system acknowledge what comes without a delay, which holds until data are sent.

    Other systems than Linux have no such option.
    """
    link, option = event.assoc.dul.socket, getattr(socket, "TCP_QUICKACK", None)
    if option is not None and link is not None and link.socket is not None:
        # The other side may have ended the connection.
        with contextlib.suppress(OSError):
            link.socket.setsockopt(socket.IPPROTO_TCP, option, 1)


def presentation(context: Context) -> Any:
    """Return a presentation context of pynetdicom.

    pynetdicom copies all of them per association, which takes seconds for 170 SOP classes in 48
    transfer syntaxes. These copies share the list of transfer syntaxes, which nothing changes.
    """
    return _presentation_class()(context)


@functools.cache
def _presentation_class() -> Any:
    from pynetdicom import DEFAULT_TRANSFER_SYNTAXES
    from pynetdicom.presentation import PresentationContext

    class Presentation(PresentationContext):
        """A presentation context that is copied without its lists."""

        def __init__(self, context: Context) -> None:
            super().__init__()
            self.abstract_syntax = context.sop_class
            self.transfer_syntax = list(context.syntaxes or DEFAULT_TRANSFER_SYNTAXES)

        def __deepcopy__(self, memo: object) -> Any:
            return copy.copy(self)

    return Presentation


def _roles(net: Any, contexts: Sequence[Context]) -> list[Any]:
    """Return the selection of roles for objects that the server sends.

    Both roles are asked for: servers refuse the role of a receiver alone.
    """
    classes = dict.fromkeys(context.sop_class for context in contexts if context.receives)
    return [net.build_role(each, scu_role=True, scp_role=True) for each in classes]


# --- why there is no association ------------------------------------------------------------------


def _refusal(association: Any, peer: Peer, timeouts: Timeouts) -> NetworkError:
    answer = association.acceptor.primitive
    # pynetdicom leaves a rejection in its queue where the connection ended before it looked.
    rejection = answer or association.dul.peek_next_pdu()
    if getattr(rejection, "result", None):
        return _rejection(peer, rejection.result, rejection.result_source, rejection.diagnostic)
    if getattr(answer, "result", None) == 0:
        return AssociationRejected(
            f"{peer} accepts none of the SOP classes and transfer syntaxes that were proposed",
            **{"result": 0, "source": 0, "reason": 0, "is_transient": False},
        )
    try:
        _ask_plainly(peer, timeouts.connect_s)
    except (OSError, ssl.SSLError) as error:
        return _unreachable(peer, error)
    return NetworkError(
        f"{peer} took the connection, and then ended it or gave no answer in "
        f"{timeouts.answer_s:g} s: is it a DICOM server, and is TLS the same on both sides?",
        is_transient=True,
    )


def _rejection(peer: Peer, result: int, source: int, reason: int) -> AssociationRejected:
    words = _REASONS.get((source, reason), "for a reason that the standard does not define")
    numbers = f"result {result}, source {source}, reason {reason}, PS3.8 table 9-21"
    return AssociationRejected(
        f"{peer} rejected the association: "
        f"{words.format(own_title=peer.own_title, title=peer.title)} ({numbers})",
        result=result,
        source=source,
        reason=reason,
        is_transient=result == _TRANSIENT,
    )


def _ask_plainly(peer: Peer, limit_s: float) -> None:
    """Connect without DICOM, for the error that this raises."""
    with socket.create_connection((peer.host, peer.port), limit_s) as link:
        if peer.tls is not None:
            with peer.tls.client_context().wrap_socket(link, server_hostname=peer.host) as secured:
                # A server that refuses the certificate of a client says so behind the handshake.
                secured.settimeout(1.0)
                with contextlib.suppress(TimeoutError):
                    secured.recv(1)


def _unreachable(peer: Peer, error: OSError) -> NetworkError:
    """Return the error for a connection that failed, in words of what to look at."""
    if isinstance(error, ssl.SSLCertVerificationError):
        words = f"its certificate is not trusted: {error.verify_message}"
    elif isinstance(error, ssl.SSLError):
        words = (
            f"TLS failed ({(error.reason or 'no reason').replace('_', ' ').lower()}): the server "
            "speaks no TLS on this port, or refuses the certificate of this side"
        )
    elif isinstance(error, socket.gaierror):
        words = "the name of the host is unknown"
    elif isinstance(error, TimeoutError):
        words = "no answer: a wrong address, or a firewall"
    elif isinstance(error, ConnectionRefusedError):
        words = "nothing listens on this port"
    else:
        words = (error.strerror or type(error).__name__).lower()
    is_transient = not isinstance(error, ssl.SSLError)
    return NetworkError(f"{peer} cannot be reached: {words}", is_transient=is_transient)
