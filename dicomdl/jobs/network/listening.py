"""A DICOM server of ours: a port with TLS, the AE titles that may come, limits and a clean end.

pynetdicom greets a TLS client in the thread that accepts all connections, so that one silent client
would keep out the others. Here each greets in a thread of its own, within a time limit.
"""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dicomdl.errors import StorageError
from dicomdl.jobs.network.associations import Context, presentation, prompt_links, pynetdicom
from dicomdl.jobs.network.peers import LISTENING_PORT, OWN_TITLE, TLS, checked_port, checked_title

Tell = Callable[[str], None]


def silent(words: str) -> None:
    """Tell nobody."""
    del words


_GREETING_S: Final = 10.0
_POLL_S: Final = 0.05
# An association that runs when the server ends may finish its instance for so long.
_FAREWELL_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a server of ours listens, and to whom.

    Attributes
    ----------
    title
        Its AE title.
    port, host
        Its port, 0 for a free one, and the address that it binds; all of the machine by default.
    allowed
        AE titles that may open associations; all without any.
    tls
        Certificate and key of TLS; None for a plain port. With `ca_file`, clients need a
        certificate.
    most_associations
        Associations at once; further ones are rejected for the moment.
    idle_s
        An association without a message for so long is ended, in seconds.
    by_its_title_alone
        Whether an association has to name `title`; one that names another is taken otherwise.
    """

    title: str = OWN_TITLE
    port: int = LISTENING_PORT
    host: str = ""
    allowed: tuple[str, ...] = ()
    tls: TLS | None = None
    most_associations: int = 10
    idle_s: float = 60.0
    by_its_title_alone: bool = False

    def __post_init__(self) -> None:
        checked_title(self.title)
        if self.port:
            checked_port(self.port)
        for title in self.allowed:
            checked_title(title)


@contextlib.contextmanager
def listening(
    listener: Listener,
    contexts: Sequence[Context],
    handlers: Iterable[tuple[Any, ...]],
    tell: Tell = silent,
) -> Iterator[int]:
    """Listen while the block runs; yields the port.

    When the block ends, no further association is taken. Those that are open may finish for 5 s,
    and are aborted then.

    Parameters
    ----------
    listener
        Where and to whom.
    contexts
        The SOP classes and transfer syntaxes that are accepted.
    handlers
        Handlers of pynetdicom's events.
    tell
        Takes a sentence about each client that was turned away.

    Raises
    ------
    StorageError
        The port cannot be listened on.
    UsageError
        A certificate or key cannot be used.
    MissingExtra
        pynetdicom is not installed.
    """
    net = pynetdicom()
    entity = net.AE(listener.title)
    entity.maximum_pdu_size = 0
    entity.maximum_associations = listener.most_associations
    entity.require_calling_aet = [checked_title(title) for title in listener.allowed]
    entity.require_called_aet = listener.by_its_title_alone
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = listener.idle_s
    rejected = (net.evt.EVT_REJECTED, lambda event: tell(_rejection(event)))
    server = _started(
        entity, listener, contexts, [*prompt_links(listener.idle_s), rejected, *handlers], tell
    )
    try:
        yield int(server.server_address[1])
    finally:
        _end(server)


def _rejection(event: Any) -> str:
    title, host = event.assoc.requestor.ae_title.strip(), event.assoc.requestor.address
    return f"an association of {title} at {host} was rejected: its title or number is not allowed"


def _started(
    entity: Any,
    listener: Listener,
    contexts: Sequence[Context],
    handlers: list[tuple[Any, ...]],
    tell: Tell,
) -> Any:
    secured = None if listener.tls is None else listener.tls.server_context()
    try:
        server = entity.make_server(
            (listener.host, listener.port),
            contexts=[presentation(context) for context in contexts],
            evt_handlers=handlers,
            ssl_context=secured,
            server_class=_server_class(tell),
        )
    except OSError as error:
        # A port below 1024 belongs to the administrator on most systems.
        raise StorageError(
            f"port {listener.port} cannot be listened on: {error.strerror or error}",
            port=listener.port,
            errno=error.errno,
        ) from None
    threading.Thread(target=server.serve_forever, args=(_POLL_S,), daemon=True).start()
    return server


def _server_class(tell: Tell) -> Any:
    """Return the class of servers; it is made here, because pynetdicom is imported at first use."""
    from pynetdicom.transport import AssociationServer, ThreadedAssociationServer

    class Server(ThreadedAssociationServer):
        """A server that greets TLS clients in threads of their own."""

        daemon_threads = True
        block_on_close = False

        def get_request(self) -> tuple[socket.socket, Any]:
            """Take a connection, and leave its greeting to its thread."""
            assert self.socket is not None
            link, address = self.socket.accept()
            link.settimeout(_GREETING_S)
            if self.ssl_context is not None:
                link = self.ssl_context.wrap_socket(
                    link, server_side=True, do_handshake_on_connect=False
                )
            return link, address

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            """Greet a client, and begin its association."""
            if isinstance(request, ssl.SSLSocket):
                try:
                    request.do_handshake()
                except OSError as error:
                    words = getattr(error, "reason", None) or type(error).__name__
                    tell(f"a client at {client_address[0]} failed at TLS: {words}")
                    self.shutdown_request(request)
                    return
            super().process_request_thread(request, client_address)

        def shutdown(self) -> None:
            """End the server, which no entity lists."""
            super(AssociationServer, self).shutdown()
            self.server_close()

    return Server


def _end(server: Any) -> None:
    server.shutdown()
    end = time.monotonic() + _FAREWELL_S
    while server.active_associations and time.monotonic() < end:
        time.sleep(_POLL_S)
    for association in server.active_associations:
        association.abort()
